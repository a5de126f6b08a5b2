"""The ledger against a plain model of it, under any order of steps by any number of hands.

Two bridges, two workers, two couriers, the in-flight sync and an operator take steps in an order that chance chooses.
Each step names whose it is (the holder, the run's nonce, the delivery), and may come when that is overtaken long since.
Messages are brought twice and late, answers are lost and steps repeated, and leases and holds run out. After each step
the ledger must have answered what the model says, must be as the model is, and must have kept its promises.

``MR_CELERY_WALK_EXAMPLES`` sets the number of walks; a failure prints how to repeat it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mr_celery.job import Job
from mr_celery.ledger import ENDINGS, DeliveryKey, Record, Route, RunKey
from mr_celery.ledger.ledger import MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from support.ledgers import LATER, Books, admit, fake_books, sent

T = TypeVar("T")

JOBS = (1, 2, 3)
SLOT_STATES = ("admitted", "claimed", "sent", "running")
IN_FLIGHT = (*SLOT_STATES, "finished")
OVER = ("closed", "aborted")

MUST_NOT = Outcome.failed("it must not run again")
TOO_OFTEN = Outcome.failed("it was lost too often")
NOT_STARTED = Outcome.failed("nobody started it")
TIME_LIMIT = Outcome.failed("time limit")
REFUSED = Outcome.failed("the server refused it")

ROUTES = [
    Route("t.one", "celery", max_attempts=2),
    Route("t.two", "slow", max_attempts=3),
    Route("t.once", "celery", max_attempts=3, on_lost="fail"),
]
BUDGET = 2
"""How often a message that nobody started is sent again."""

WORKERS = ("one worker", "another worker")


@dataclass(frozen=True)
class Run:
    """An execution of a handler, by the message that started it and the worker that has it."""

    key: RunKey
    nonce: str
    holder: str

    @property
    def outcome(self) -> Outcome:
        """What this execution, and no other one, ends with."""
        return Outcome("done", self.nonce)


@dataclass(frozen=True)
class Question:
    """A moment at which the server was asked for a list: in the ledger's time, and in the model's."""

    at: float
    moment: int


# -- the model -------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """What the model knows of one job in one of its lives."""

    id: int
    route: Route
    state: str = ""
    due: bool = False
    attempt: int = 0
    task: str = ""
    nonce: str = ""
    retries: int = 0
    resends: int = 0
    held: bool = False
    run: str = ""
    holder: str = ""
    outcome: Outcome | None = None
    finished_by: int | None = None
    number: int = 0
    carrier: str = ""
    parts: set[str] = field(default_factory=set)
    kept: Outcome | None = None
    redeliveries: int = 0
    claimed_at: int = -1
    ended_at: int = -1


class Model:
    """The picture of the job's life in plain Python: a method for each step of the ledger, with its answer."""

    def __init__(self) -> None:
        self.jobs: dict[int, Entry] = {}
        self.moment = 0

    def _in(self, job_id: int, *states: str) -> Entry | None:
        entry = self.jobs.get(job_id)
        return entry if entry is not None and entry.state in states else None

    def _claim(self, entry: Entry, *, due: bool) -> None:
        entry.state, entry.due, entry.claimed_at = "claimed", due, self.moment

    def _begin(self, entry: Entry, *, due: bool) -> None:
        entry.attempt += 1
        entry.task = f"mr-{entry.id}-{entry.attempt}-{entry.nonce}"
        entry.retries, entry.resends, entry.held = 0, 0, False
        self._claim(entry, due=due)

    def _record(self, entry: Entry, outcome: Outcome, *, due: bool = True) -> None:
        entry.state, entry.outcome, entry.due = "finished", outcome, due

    def _lay_down(self, entry: Entry, *, due: bool) -> None:
        entry.carrier, entry.due = "", due

    def _end(self, entry: Entry, state: str) -> None:
        entry.state, entry.outcome, entry.ended_at = state, None, self.moment

    def admit(self, job_id: int, route: Route, question: Question, *, room: bool) -> str:
        entry = self.jobs.get(job_id)
        if entry is not None and entry.state in OVER:
            if entry.ended_at >= question.moment:
                return "known"
        elif entry is not None:
            if entry.state == "admitted" or entry.claimed_at >= question.moment:
                return "known"
            entry.claimed_at = self.moment
            return "again"
        if not room:
            return "full"
        self.jobs[job_id] = Entry(job_id, route, "admitted")
        return "admitted"

    def drop(self, job_id: int) -> bool:
        if self._in(job_id, "admitted") is None:
            return False
        del self.jobs[job_id]
        return True

    def settle_later(self, job_id: int) -> bool:
        entry = self._in(job_id, "admitted")
        if entry is not None:
            entry.due = False
        return entry is not None

    def claimed(self, job_id: int) -> bool:
        entry = self._in(job_id, "admitted")
        if entry is not None:
            self._begin(entry, due=False)
        return entry is not None

    def adopt(self, job_id: int, route: Route, question: Question) -> str:
        entry = self.jobs.get(job_id)
        if entry is not None and not (entry.state in OVER and entry.ended_at < question.moment):
            return "known"
        if entry is not None and entry.state == "closed" and entry.kept is not None:
            entry.redeliveries += 1
            if entry.redeliveries > MOST_REDELIVERIES:
                return "known"
            entry.carrier = ""
            self._record(entry, entry.kept)
            return "redelivered"
        self.jobs[job_id] = entry = Entry(job_id, route)
        self._begin(entry, due=False)
        return "adopted"

    def sent(self, message: RunKey) -> str:
        entry = self.jobs.get(message.job_id)
        if entry is None:
            return ""
        if entry.state == "claimed" and entry.task == message.task_id:
            entry.state, entry.due = "sent", False
        return entry.state

    def start(self, run: Run) -> tuple[str, int]:
        message = run.key
        entry = self.jobs.get(message.job_id)
        if entry is None:
            return "unknown", 0
        if entry.task != message.task_id:
            return "superseded", 0
        waiting = entry.state in ("claimed", "sent") and message.retries >= entry.retries
        goes_on = entry.state == "running" and (message.retries > entry.retries or entry.run == run.nonce)
        if not (waiting or goes_on):
            return entry.state, 0
        entry.state, entry.due, entry.retries = "running", False, message.retries
        entry.run, entry.holder = run.nonce, run.holder
        return "", entry.attempt

    def hold(self, messages: Sequence[RunKey], holder: str) -> dict[int, str]:
        lost: dict[int, str] = {}
        for message in messages:
            entry = self.jobs.get(message.job_id)
            if entry is None or entry.task != message.task_id:
                lost[message.job_id] = "superseded" if entry else "unknown"
            elif entry.state in ("finished", "closed") and entry.finished_by is None:
                lost[message.job_id] = "ended"
            elif entry.state in OVER:
                lost[message.job_id] = entry.state
            elif entry.state == "running":
                entry.due = entry.due and entry.holder != holder
            elif entry.state == "finished":
                entry.due = entry.due and not (entry.carrier == "run" and entry.holder == holder)
            else:
                entry.held = True
                entry.due = entry.due and entry.state == "claimed"
        return lost

    def _again(self, run: Run, retries: int) -> bool:
        entry = self._in(run.key.job_id, "running")
        if entry is None or (entry.task, entry.run) != (run.key.task_id, run.nonce):
            return False
        entry.state, entry.due, entry.retries, entry.held = "sent", False, retries, False
        return True

    def retry(self, run: Run) -> bool:
        return self._again(run, run.key.retries + 1)

    def give_back(self, run: Run) -> bool:
        return self._again(run, run.key.retries)

    def finish(self, run: Run, *, deliver_here: bool) -> str:
        entry, retries = self.jobs.get(run.key.job_id), run.key.retries
        if entry is None:
            return "unknown"
        if entry.task != run.key.task_id or (entry.state == "running" and entry.retries != retries):
            return "superseded"
        if entry.state == "finished" and entry.finished_by != retries:
            return "superseded"
        if entry.state == "finished":
            return "finished" if entry.carrier == "run" else "carried"
        if entry.state != "running":
            return entry.state
        entry.finished_by, entry.number, entry.carrier = retries, int(deliver_here), "run" if deliver_here else ""
        self._record(entry, run.outcome, due=not deliver_here)
        return "finished"

    def fail(self, message: RunKey, ended_in: str | None, *, unstarted: bool) -> bool:
        entry = self._in(message.job_id, "claimed", "sent", *(() if unstarted else ("running",)))
        if entry is None or entry.task != message.task_id:
            return False
        if ended_in is not None and entry.retries != message.retries:
            return False
        if ended_in is not None and entry.state == "running" and entry.holder != ended_in:
            return False
        self._record(entry, TIME_LIMIT)
        return True

    def lose(self, message: RunKey, died_in: str | None) -> str:
        entry, died = self.jobs.get(message.job_id), died_in is not None
        if entry is None or entry.task != message.task_id:
            return "kept"
        if died and (entry.retries, entry.holder) != (message.retries, died_in):
            return "kept"
        if died and entry.state == "finished" and entry.carrier == "run":
            self._lay_down(entry, due=True)
        if entry.state != "running" or not (died or entry.due):
            return "kept"
        if entry.route.on_lost == "fail" or entry.attempt >= entry.route.max_attempts:
            self._record(entry, MUST_NOT if entry.route.on_lost == "fail" else TOO_OFTEN)
            return "failed"
        self._begin(entry, due=True)
        return "again"

    def resend(self, message: RunKey, *, counted: bool) -> str:
        entry = self._in(message.job_id, "claimed", "sent")
        if entry is None or entry.task != message.task_id:
            return "kept"
        entry.held = False
        entry.resends += counted
        if counted and entry.resends > BUDGET:
            self._record(entry, NOT_STARTED)
            return "failed"
        self._claim(entry, due=True)
        return "again"

    def requeue(self, job_id: int) -> str | None:
        entry = self._in(job_id, "claimed", "sent", "running")
        if entry is None:
            return None
        ended, entry.route = entry.task, replace(entry.route, max_attempts=entry.route.max_attempts + 1)
        self._begin(entry, due=entry.state != "running")
        return ended

    def abort(self, job_id: int) -> str | None:
        entry = self._in(job_id, "claimed", "sent", "running", "finished")
        if entry is None:
            return None
        self._end(entry, "aborted")
        return entry.task

    def take(self, state: str) -> list[int]:
        taken = [job_id for job_id, entry in self.jobs.items() if entry.state == state and entry.due]
        for job_id in taken:
            self.jobs[job_id].due = False
        return sorted(taken)

    def collect(self) -> list[DeliveryKey]:
        taken = [self.jobs[job_id] for job_id in self.take("finished")]
        for entry in taken:
            entry.number += 1
            entry.carrier = "courier"
        return [DeliveryKey(entry.id, entry.task, entry.number) for entry in taken]

    def _carried(self, key: DeliveryKey) -> Entry | None:
        entry = self._in(key.job_id, "finished")
        if entry is None or not entry.carrier or (entry.task, entry.number) != (key.task_id, key.number):
            return None
        return entry

    def carry(self, key: DeliveryKey) -> bool:
        entry = self._carried(key)
        if entry is not None:
            entry.due = False
        return entry is not None

    def delivered_part(self, key: DeliveryKey, part: str) -> bool:
        entry = self._carried(key)
        if entry is not None:
            entry.due = False
            entry.parts.add(part)
        return entry is not None

    def undelivered(self, key: DeliveryKey, *, wait: bool) -> bool:
        entry = self._carried(key)
        if entry is not None:
            self._lay_down(entry, due=not wait)
        return entry is not None

    def replace_outcome(self, key: DeliveryKey) -> bool:
        entry = self._carried(key)
        if entry is not None:
            self._lay_down(entry, due=True)
            self._record(entry, REFUSED)
        return entry is not None

    def close(self, key: DeliveryKey, how: str) -> bool:
        entry = self._in(key.job_id, "finished")
        if entry is None or entry.task != key.task_id:
            return False
        if how == "delivered":
            entry.kept = entry.outcome
        self._end(entry, "closed")
        return True

    def lost(self) -> list[int]:
        return sorted(job_id for job_id, entry in self.jobs.items() if entry.state == "running" and entry.due)


# -- the walk --------------------------------------------------------------------------------------------------

INDEX = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 8])
"""Which of several: mostly the last or the likely one."""

LOST = st.sampled_from([False, False, False, True])
"""Whether the answer to a step gets lost."""

SELDOM = st.sampled_from([False, False, False, True])

ENDS = st.sampled_from(["well", "well", "well", "well", "dead", "dead", "again", "overlapping", "overtaken"])
"""How a run goes on: it ends, dies, asks for a retry, or its retry starts before it has ended, or before it dies."""

Step = Callable[[], Any]
Then = Callable[[Any], None]


def pick(among: Sequence[T], index: int) -> T:
    """One of them: by a small index, one of the last."""
    return among[-1 - index % len(among)]


class Walk(RuleBasedStateMachine):
    """Steps of all hands in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.books: Books = fake_books(self.patch)
        self.ledger = self.books.ledger
        self.model = Model()
        self.records: dict[int, Record] = {}
        self.lives: Counter[int] = Counter()
        self.life_of: dict[str, int] = {}
        self.begun: dict[tuple[int, int], set[str]] = {}
        self.closed: set[tuple[int, int]] = set()
        self.going: dict[int, set[str]] = {job_id: set() for job_id in JOBS}
        self.questions: list[Question] = []
        self.messages: list[RunKey] = []
        self.runs: list[Run] = []
        self.delivering: list[Run] = []
        self.deliveries: list[DeliveryKey] = []
        self.unanswered: list[tuple[Step, Then]] = []
        self.nonces = iter(range(10**6))

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(paths=st.tuples(*[st.lists(ENDS, max_size=10)] * len(JOBS)))
    def begin_anywhere(self, paths: tuple[list[str], ...]) -> None:
        self.ask()
        for job_id, path in zip(JOBS, paths, strict=True):
            for end in path:
                self.go_on(job_id, end)

    def in_state(self, *states: str) -> bool:
        """Whether a job is in one of the states; ``unknown``: the ledger does not know it."""
        return any(self.state(job_id) in states for job_id in JOBS)

    def state(self, job_id: int) -> str:
        entry = self.model.jobs.get(job_id)
        return entry.state if entry is not None else "unknown"

    def job(self, index: int, *states: str) -> int:
        """One of the jobs: by index 0 one in one of the states, where there is one."""
        likely = sorted(JOBS, key=lambda job_id: self.state(job_id) in states)
        return pick(likely, index)

    # -- taking steps ----------------------------------------------------------------------------------------------

    def do(self, step: Step, then: Then = lambda answer: None, *, lost: bool) -> None:
        """Take a step. If its answer is lost, it is taken again some time, by the one who waits for the answer."""
        answer = step()
        if lost:
            self.unanswered.append((step, then))
        else:
            then(answer)

    def agree(self, expected: object, answer: object, *, replaces: int | None = None) -> Any:
        """Both the model and the ledger have taken a step: they must have given the same answer.

        Args:
            expected: the model's answer.
            answer: the ledger's answer.
            replaces: the job of which this very step may replace the outcome.
        """
        assert answer == expected
        before = self.records
        self.records = {job_id: record for job_id in JOBS if (record := self.ledger.read(job_id)) is not None}
        for job_id, record in self.records.items():
            earlier = before.get(job_id)
            if earlier is not None and earlier.outcome is not None and record.outcome is not None:
                assert record.outcome == earlier.outcome or (replaces == job_id and answer)
        for job_id, entry in self.model.jobs.items():
            if entry.attempt and not entry.nonce:
                self.learn_nonce(entry, self.records[job_id])
        for job_id, record in self.records.items():
            if record.task_id:
                assert self.life_of.setdefault(record.task_id, self.lives[job_id]) == self.lives[job_id]
        return answer

    def learn_nonce(self, entry: Entry, record: Record) -> None:
        """A new life has begun: its task ids are none of an earlier one."""
        entry.nonce, entry.task = record.task_id.split("-")[3], record.task_id
        assert record.task_id == f"mr-{entry.id}-1-{entry.nonce}"
        assert record.task_id not in self.life_of

    def message(self, job_id: int) -> RunKey:
        """A message for the job's present attempt."""
        record = self.records[job_id]
        return RunKey(job_id, record.task_id, record.retries)

    @precondition(lambda self: self.unanswered)
    @rule(index=INDEX, lost=LOST)
    def repeat_a_step_whose_answer_was_lost(self, index: int, lost: bool) -> None:
        step, then = self.unanswered.pop(-1 - index % len(self.unanswered))
        self.do(step, then, lost=lost)

    # -- time ------------------------------------------------------------------------------------------------------

    @rule()
    def ask(self) -> None:
        """The server is asked for a list; what it answers comes later."""
        self.model.moment += 1
        self.questions.append(Question(self.books.now(), self.model.moment))
        self.model.moment += 1

    def time_passes(self, state: str) -> None:
        """The times of all jobs of a state have come."""
        self.books.make_due(state)
        for entry in self.model.jobs.values():
            entry.due = entry.due or entry.state == state

    @rule(state=st.sampled_from(IN_FLIGHT))
    def much_time_passes(self, state: str) -> None:
        self.time_passes(state)

    @precondition(lambda self: self.in_state("closed"))
    @rule(index=INDEX)
    def the_kept_outcome_is_outgrown(self, index: int) -> None:
        job_id = self.job(index, "closed")
        self.books.redis.delete(self.books.key(f"outcome:{job_id}"))
        if job_id in self.model.jobs:
            self.model.jobs[job_id].kept = None

    @precondition(lambda self: self.in_state(*OVER))
    @rule(index=INDEX, indeed=SELDOM)
    def history_is_over(self, index: int, indeed: bool) -> None:
        job_id = self.job(index, *OVER)
        entry = self.model.jobs.get(job_id)
        if indeed and entry is not None and entry.state in OVER:
            self.books.redis.delete(self.books.key(f"job:{job_id}"), self.books.key(f"outcome:{job_id}"))
            del self.model.jobs[job_id]
            self.agree(None, None)

    # -- two bridges -------------------------------------------------------------------------------------------------

    @rule(job=INDEX, route=st.sampled_from(ROUTES), now=st.booleans(), asked=INDEX, full=SELDOM, lost=LOST)
    def admit(self, job: int, route: Route, now: bool, asked: int, full: bool, lost: bool) -> None:
        if now:
            self.ask()
        self.admitting(self.job(job, "unknown", *OVER), route, pick(self.questions, asked), room=not full, lost=lost)

    def admitting(self, job_id: int, route: Route, question: Question, *, room: bool, lost: bool) -> None:
        limit = None if room else 0

        def step() -> Any:
            expected = self.model.admit(job_id, route, question, room=room)
            job = Job({"id": job_id, "prompt": "x"})
            answer = admit(self.ledger, job, route, asked_at=question.at, total_limit=limit, settle_seconds=LATER)
            if answer == "admitted":
                self.lives[job_id] += 1
            return self.agree(expected, answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("admitted"))
    @rule(index=INDEX, lost=LOST)
    def claim(self, index: int, lost: bool) -> None:
        """The server gave the job to a bridge, or lists it as running."""
        self.claiming(self.job(index, "admitted"), lost=lost)

    def claiming(self, job_id: int, *, lost: bool) -> None:
        def step() -> Any:
            expected = self.model.claimed(job_id)
            task_id = self.ledger.claimed(job_id, wait_seconds=LATER)
            self.agree(expected, task_id is not None)
            assert task_id is None or task_id == self.records[job_id].task_id
            return task_id

        def publish(task_id: str | None) -> None:
            if task_id is not None:
                self.messages.append(RunKey(job_id, task_id))

        self.do(step, publish, lost=lost)

    @precondition(lambda self: self.in_state("admitted"))
    @rule(index=INDEX, lost=LOST)
    def drop(self, index: int, lost: bool) -> None:
        job_id = self.job(index, "admitted")
        self.do(lambda: self.agree(self.model.drop(job_id), self.ledger.drop(job_id)), lost=lost)

    @precondition(lambda self: self.in_state("admitted"))
    @rule(index=INDEX)
    def settle_later(self, index: int) -> None:
        job_id = self.job(index, "admitted")
        self.agree(self.model.settle_later(job_id), self.ledger.settle_later(job_id, LATER))

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, lost=LOST)
    def sent(self, index: int, lost: bool) -> None:
        message = pick(self.messages, index)

        def step() -> Any:
            answer = sent(self.ledger, message.job_id, message.task_id, wait_seconds=LATER)
            return self.agree(self.model.sent(message), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("claimed"))
    @rule(late=st.booleans())
    def publish_what_is_due(self, late: bool) -> None:
        """A reaper finds jobs that are to be sent."""
        if late:
            self.time_passes("claimed")
        expected = self.model.take("claimed")
        for job_id in self.agree(expected, sorted(self.ledger.take("claimed", hold_seconds=LATER))):
            self.messages.append(self.message(job_id))

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, counted=st.booleans(), lost=LOST)
    def resend(self, index: int, counted: bool, lost: bool) -> None:
        message = pick(self.messages, index)

        def step() -> Any:
            answer = self.ledger.resend(
                message.job_id,
                message.task_id,
                why="not started",
                budget=BUDGET if counted else None,
                wait_seconds=0,
                exhausted=NOT_STARTED,
            )
            return self.agree(self.model.resend(message, counted=counted), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("running"))
    @rule(late=st.booleans(), lost=LOST)
    def look_for_lost_runs(self, late: bool, lost: bool) -> None:
        """A reaper finds runs whose lease has run out; each is lost at once, or when the answer to that is known."""
        if late:
            self.time_passes("running")
        for job_id in self.agree(self.model.lost(), sorted(self.ledger.lost(lease=LATER))):
            self.do(self.losing(self.message(job_id)), lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX)
    def come_late_to_a_lost_run(self, index: int) -> None:
        """A reaper that was slow says that a run is lost: which it may not be any more."""
        self.losing(pick(self.messages, index))()

    def losing(self, message: RunKey, died_in: str | None = None) -> Step:
        """A worker saw the process of a run die; or, without a worker, its lease has run out."""

        def step() -> Any:
            answer = self.ledger.lose(
                message.job_id,
                message.task_id,
                retries=None if died_in is None else message.retries,
                holder=died_in or "",
                why="gone",
                must_not=MUST_NOT,
                too_often=TOO_OFTEN,
            )
            if answer != "kept":
                self.going[message.job_id].clear()
            return self.agree(self.model.lose(message, died_in), answer)

        return step

    # -- two workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, worker=st.sampled_from(WORKERS), lost=LOST)
    def start(self, index: int, worker: str, lost: bool) -> None:
        """A message is brought to a worker: for the first time, once more, or late."""
        run = Run(pick(self.messages, index), f"run {next(self.nonces)}", worker)

        def step() -> Any:
            before = self.records.get(run.key.job_id)
            expected = self.model.start(run)
            started = self.ledger.start(run.key, node="n", holder=run.holder, lease=LATER, nonce=run.nonce)
            self.agree(expected, (started.refusal, started.attempt))
            if started.job is not None:
                self.check_a_start(run, before)
            return started.job is not None

        def go(is_mine: bool) -> None:
            if is_mine:
                self.runs.append(run)

        self.do(step, go, lost=lost)

    def check_a_start(self, run: Run, before: Record | None) -> None:
        """No job runs twice at the same time, nor more often than it may, nor after it was closed."""
        job_id, life = run.key.job_id, self.lives[run.key.job_id]
        assert before is not None
        if before.state == "running" and run.key.retries > before.retries:
            self.going[job_id].clear()  # the run that published this retry is on its way to its end
        assert self.going[job_id] <= {run.nonce}
        self.going[job_id] = {run.nonce}
        assert self.life_of[run.key.task_id] == life
        assert (job_id, life) not in self.closed
        begun = self.begun.setdefault((job_id, life), set())
        begun.add(run.key.task_id)
        assert len(begun) <= before.route.max_attempts
        assert before.outcome is None

    @precondition(lambda self: self.messages)
    @rule(indices=st.lists(INDEX, min_size=1, max_size=3), worker=st.sampled_from(WORKERS))
    def hold(self, indices: list[int], worker: str) -> None:
        """A worker holds what it has: runs of its own, and copies of messages that another one runs."""
        held = list({message.job_id: message for message in (pick(self.messages, index) for index in indices)}.values())
        pairs = [(message.job_id, message.task_id) for message in held]
        answer = self.ledger.hold(pairs, holder=worker, lease=LATER, wait_seconds=LATER)
        self.agree(self.model.hold(held, worker), answer)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, deliver_here=st.booleans(), lost=LOST)
    def finish(self, index: int, deliver_here: bool, lost: bool) -> None:
        """A handler ends: in time, or long after its run was given up."""
        run = pick(self.runs, index)
        job_id = run.key.job_id

        def step() -> Any:
            before = self.model.jobs.get(job_id)
            recorded = before is not None and before.state == "running"
            running = before.run if before is not None else ""
            expected = self.model.finish(run, deliver_here=deliver_here)
            answer = self.ledger.finish(run.key, run.outcome, deliver_seconds=LATER if deliver_here else 0)
            self.going[job_id].discard(run.nonce)
            if answer == "finished" and recorded:
                assert running == run.nonce
            return self.agree(expected, answer)

        def deliver(answer: str) -> None:
            if answer == "finished" and deliver_here:
                self.deliveries.append(DeliveryKey(job_id, run.key.task_id, 1))
                self.delivering.append(run)

        self.runs.remove(run)
        self.do(step, deliver, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX)
    def publish_a_retry(self, index: int) -> None:
        """A handler has asked Celery for a retry, which a worker may have before the ledger hears of it."""
        run = pick(self.runs, index)
        self.messages.append(replace(run.key, retries=run.key.retries + 1))

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, lost=LOST)
    def retry(self, index: int, lost: bool) -> None:
        """A handler ends by asking for a retry; the new message is at the broker already."""
        run = pick(self.runs, index)
        self.runs.remove(run)
        self.messages.append(replace(run.key, retries=run.key.retries + 1))

        def step() -> Any:
            self.going[run.key.job_id].discard(run.nonce)
            answer = self.ledger.retry(run.key, nonce=run.nonce, wait_seconds=LATER)
            return self.agree(self.model.retry(run), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, lost=LOST)
    def give_back(self, index: int, lost: bool) -> None:
        """A handler gives its message back to the broker."""
        run = pick(self.runs, index)
        self.runs.remove(run)

        def step() -> Any:
            self.going[run.key.job_id].discard(run.nonce)
            answer = self.ledger.give_back(run.key, nonce=run.nonce, wait_seconds=LATER)
            return self.agree(self.model.give_back(run), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, lost=LOST)
    def die(self, index: int, lost: bool) -> None:
        """A worker sees the process of a run die: it may have published a retry which runs already."""
        run = pick(self.runs, index)
        self.runs.remove(run)

        def step() -> Any:
            going = self.going[run.key.job_id].copy()
            answer = self.losing(run.key, run.holder)()
            assert answer == "kept" or going <= {run.nonce}
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.delivering)
    @rule(index=INDEX, lost=LOST)
    def die_while_delivering(self, index: int, lost: bool) -> None:
        """A worker sees a process die whose run has ended, and whose outcome was recorded."""
        run = pick(self.delivering, index)
        self.delivering.remove(run)

        def step() -> Any:
            answer = self.losing(run.key, run.holder)()
            assert answer == "kept"
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, worker=st.sampled_from(WORKERS), died=st.booleans(), lost=LOST)
    def end_at_the_fence(self, index: int, worker: str, died: bool, lost: bool) -> None:
        """A process dies, or a time limit ends it, before it has asked whether it may start its message.

        Not in the worker that runs another copy of it: those two the steps do not tell apart.
        """
        message = pick(self.messages, index)

        def step() -> Any:
            entry, going = self.model.jobs.get(message.job_id), self.going[message.job_id].copy()
            if entry is not None and entry.holder == worker:
                return None
            answer = self.losing(message, worker)() if died else self.failing(message, worker)()
            assert answer in ("kept", False) or not going
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, indeed=st.booleans(), lost=LOST)
    def run_out_of_time(self, index: int, indeed: bool, lost: bool) -> None:
        """A time limit ends a run: it may have published a retry which runs already."""
        if not indeed:
            return
        run = pick(self.runs, index)
        self.runs.remove(run)

        def step() -> Any:
            going = self.going[run.key.job_id].copy()
            answer = self.failing(run.key, run.holder)()
            assert not answer or going <= {run.nonce}
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, worker=st.sampled_from(WORKERS), indeed=st.booleans(), lost=LOST)
    def expire(self, index: int, worker: str, indeed: bool, lost: bool) -> None:
        """A message comes to a worker too late to be started, or somebody revoked its task."""
        if not indeed:
            return
        message = pick(self.messages, index)

        def step() -> Any:
            going = self.going[message.job_id].copy()
            answer = self.failing(message, worker, unstarted=True)()
            assert not (answer and going)
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, indeed=SELDOM, lost=LOST)
    def fail(self, index: int, indeed: bool, lost: bool) -> None:
        """A bridge ends an attempt that nobody can run."""
        if indeed:
            self.do(self.failing(pick(self.messages, index)), lost=lost)

    def failing(self, message: RunKey, ended_in: str | None = None, *, unstarted: bool = False) -> Step:
        """A run ended in a worker, or a message did not start there; or, without a worker, the whole attempt ended."""

        def step() -> Any:
            answer = self.ledger.fail(
                message.job_id,
                message.task_id,
                TIME_LIMIT,
                unstarted=unstarted,
                retries=None if ended_in is None else message.retries,
                holder=ended_in or "",
            )
            if answer:
                self.going[message.job_id].clear()
            return self.agree(self.model.fail(message, ended_in, unstarted=unstarted), answer)

        return step

    # -- two couriers ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.in_state("finished"))
    @rule(late=st.booleans(), lost=LOST)
    def collect(self, late: bool, lost: bool) -> None:
        if late:
            self.time_passes("finished")

        def step() -> list[DeliveryKey]:
            taken = sorted(self.ledger.collect(9, hold_seconds=LATER), key=lambda key: key.job_id)
            self.agree(self.model.collect(), taken)
            return taken

        self.do(step, self.deliveries.extend, lost=lost)

    @precondition(lambda self: self.deliveries)
    @rule(
        index=INDEX,
        what=st.sampled_from(["carry", "artifact:0", "review:0", "put off", "due again", "replace"]),
        lost=LOST,
    )
    def deliver(self, index: int, what: str, lost: bool) -> None:
        """A courier writes down how far it is: in time, or after it was overtaken."""
        key = pick(self.deliveries, index)

        def step() -> Any:
            before = self.records.get(key.job_id)
            if what == "carry":
                expected = self.model.carry(key)
                answer = self.ledger.carry(key, hold_seconds=LATER)
            elif what in ("put off", "due again"):
                expected = self.model.undelivered(key, wait=what == "put off")
                wait = LATER if what == "put off" else 0
                answer = self.ledger.undelivered(key, "503", wait_seconds=wait)
            elif what == "replace":
                expected = self.model.replace_outcome(key)
                answer = self.ledger.replace_outcome(key, REFUSED)
            else:
                expected = self.model.delivered_part(key, what)
                answer = self.ledger.delivered_part(key, what, "7", hold_seconds=LATER)
            self.agree(expected, answer, replaces=key.job_id if what == "replace" else None)
            if before is None or (before.state, before.task_id, before.deliveries) != (
                "finished",
                key.task_id,
                key.number,
            ):
                assert not answer
                assert self.records.get(key.job_id) == before
            return answer

        self.do(step, lost=lost)

    @precondition(lambda self: self.deliveries)
    @rule(index=INDEX, how=st.sampled_from(["delivered", "delivered", "superseded"]), lost=LOST)
    def close(self, index: int, how: str, lost: bool) -> None:
        """The server took an outcome: who writes that down may have been overtaken, for it is true all the same."""
        key = pick(self.deliveries, index)

        def step() -> Any:
            answer = self.ledger.close(key.job_id, key.task_id, how)
            if answer:
                assert self.life_of[key.task_id] == self.lives[key.job_id]
                self.closed.add((key.job_id, self.lives[key.job_id]))
            return self.agree(self.model.close(key, how), answer)

        self.do(step, lost=lost)

    # -- the sync and the operator -----------------------------------------------------------------------------------

    @precondition(lambda self: self.in_state("claimed", "sent", "running", "finished"))
    @rule(index=INDEX, indeed=SELDOM, lost=LOST)
    def abort(self, index: int, indeed: bool, lost: bool) -> None:
        if not indeed:
            return
        job_id = self.job(index, "claimed", "sent", "running", "finished")

        def step() -> Any:
            answer = self.ledger.abort(job_id, "operator")
            if answer:
                self.going[job_id].clear()
            return self.agree(self.model.abort(job_id), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("claimed", "sent", "running"))
    @rule(index=INDEX, indeed=SELDOM)
    def requeue(self, index: int, indeed: bool) -> None:
        if not indeed:
            return
        job_id = self.job(index, "claimed", "sent", "running")
        answer = self.ledger.requeue(job_id, "operator", wait_seconds=LATER)
        self.going[job_id].clear()
        self.agree(self.model.requeue(job_id), answer)

    @precondition(lambda self: self.in_state("unknown", *OVER))
    @rule(job=INDEX, route=st.sampled_from(ROUTES), now=st.booleans(), asked=INDEX, lost=LOST)
    def adopt(self, job: int, route: Route, now: bool, asked: int, lost: bool) -> None:
        """The server lists a job as running, of which the ledger does not know, or that it has closed."""
        if now:
            self.ask()
        job_id, question = self.job(job, "closed"), pick(self.questions, asked)

        def step() -> Any:
            before = self.records.get(job_id)
            kept = self.books.redis.exists(self.books.key(f"outcome:{job_id}"))
            expected = self.model.adopt(job_id, route, question)
            listed = Job({"id": job_id, "prompt": "x"})
            answer = self.ledger.adopt(listed, route, asked_at=question.at, wait_seconds=LATER)
            if answer == "adopted":
                assert before is None or before.state == "aborted" or (before.state == "closed" and not kept)
                self.lives[job_id] += 1
            elif answer == "redelivered":
                self.closed.discard((job_id, self.lives[job_id]))
            return self.agree(expected, answer)

        self.do(step, lost=lost)

    # -- on towards the end ------------------------------------------------------------------------------------------

    @rule(index=INDEX, end=ENDS)
    def one_goes_on(self, index: int, end: str) -> None:
        self.go_on(self.job(index, *IN_FLIGHT), end)

    def go_on(self, job_id: int, end: str) -> None:
        """What usually comes next for a job, so that walks get far; a run goes on as ``end`` says."""
        entry, state = self.model.jobs.get(job_id), self.state(job_id)
        if entry is None or state in OVER:
            self.ask()
            self.admitting(job_id, ROUTES[job_id % len(ROUTES)], self.questions[-1], room=True, lost=False)
        elif state == "admitted":
            self.claiming(job_id, lost=False)
        elif state in ("claimed", "sent"):
            self.messages.append(self.message(job_id))
            self.start(0, worker=WORKERS[0], lost=False)
        elif state == "running":
            mine = [index for index, run in enumerate(reversed(self.runs)) if run.nonce == entry.run]
            if mine and end == "well":
                self.finish(mine[0], deliver_here=job_id % 2 == 0, lost=False)
            elif mine and end == "dead":
                self.die(mine[0], lost=False)
            elif mine and end == "again":
                self.retry(mine[0], lost=False)
            elif mine:
                self.publish_a_retry(mine[0])
                self.start(0, worker=WORKERS[1], lost=False)
                if end == "overtaken":
                    self.die(mine[0] + 1, lost=False)
        elif entry.due:
            self.collect(late=False, lost=False)
        elif self.deliveries:
            self.deliveries.sort(key=lambda key: key.job_id == job_id)
            self.close(0, how="delivered", lost=False)

    # -- what must be so after each step -----------------------------------------------------------------------------

    @invariant()
    def the_ledger_is_as_the_model_is(self) -> None:
        now = self.books.now()
        assert self.records.keys() == self.model.jobs.keys()
        for job_id, entry in self.model.jobs.items():
            record = self.records[job_id]
            assert (
                record.state,
                record.route,
                record.task_id,
                record.attempt,
                record.retries,
                record.resends,
                record.held,
                record.outcome,
                record.deliveries,
                set(record.parts),
            ) == (
                entry.state,
                entry.route,
                entry.task,
                entry.attempt,
                entry.retries,
                entry.resends,
                entry.held,
                entry.outcome,
                entry.number,
                entry.parts,
            )
            fences = self.books.redis.hmget(self.books.key(f"job:{job_id}"), "run", "holder", "carrier")
            assert [(each or b"").decode() for each in fences] == [entry.run, entry.holder, entry.carrier]
            if entry.state in IN_FLIGHT:
                score = self.books.score(entry.state, job_id)
                assert score is not None
                assert (score <= now) == entry.due

    @invariant()
    def a_job_is_in_the_set_of_its_state_and_in_no_other(self) -> None:
        expected = {job_id: record.state for job_id, record in self.records.items() if record.state in IN_FLIGHT}
        assert self.ledger.in_flight() == expected
        for state in IN_FLIGHT:
            members = {int(member) for member in self.books.redis.zrange(self.books.key(state), 0, -1)}
            assert members == {job_id for job_id, each in expected.items() if each == state}

    @invariant()
    def what_waits_and_what_ended_is_listed_where_operators_look(self) -> None:
        def members(name: str) -> set[int]:
            return {int(member) for member in self.books.redis.zrange(self.books.key(name), 0, -1)}

        def in_state(*states: str) -> set[int]:
            return {job_id for job_id, record in self.records.items() if record.state in states}

        assert members("waiting") == in_state("claimed", "sent")
        assert members("undelivered") == in_state("finished")
        ended = {how: members(f"ended:{how}") for how in ENDINGS}
        assert set().union(*ended.values()) >= in_state(*OVER)
        assert not set().union(*ended.values()) & in_state(*IN_FLIGHT)
        assert ended["aborted"] >= in_state("aborted")

    @invariant()
    def the_slots_taken_are_those_of_the_jobs_from_admitted_to_running(self) -> None:
        for queue in {route.queue for route in ROUTES}:
            members = {int(member) for member in self.books.redis.smembers(self.books.key(f"load:{queue}"))}
            assert members == {
                job_id
                for job_id, record in self.records.items()
                if record.state in SLOT_STATES and record.route.queue == queue
            }


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=int(os.environ.get("MR_CELERY_WALK_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
