"""The ledger compared with a plain model of it, under any order of steps by any number of processes.

Two bridges, two workers, two couriers, callers with references, the in-flight sync and an operator take steps in a
random order. Each step names its caller (the holder, the run's nonce, the delivery), and may come after another one
has taken over. Messages arrive twice and late, replies are lost, steps are repeated, and leases expire. Keys are lost,
one at a time, and repaired. After each step, the ledger's reply and state must match the model, and its guarantees
must hold.

Each run takes the same walks. ``MR_CELERY_FUZZ=50`` takes 50 times as many, with a new seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mr_celery.job import Job
from mr_celery.ledger import ENDINGS, AttemptKey, DeliveryKey, Record, Route, RunKey
from mr_celery.ledger.transitions import MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from support.fuzzing import walks
from support.ledgers import LATER, LedgerKit, admit, fake_kit, sent

T = TypeVar("T")

JOBS = (1, 2, 3)
SLOT_STATES = ("admitted", "claimed", "sent", "running")
IN_FLIGHT = (*SLOT_STATES, "deferred", "finished")
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
"""Number of times that a message which no worker started is sent again."""

WORKERS = ("one worker", "another worker")


@dataclass(frozen=True)
class Run:
    """An execution of a handler, by the message that started it and the worker that has it."""

    key: RunKey
    nonce: str
    holder: str

    @property
    def outcome(self) -> Outcome:
        """The unique result of this execution."""
        return Outcome("done", self.nonce)


@dataclass(frozen=True)
class Question:
    """The time at which the server was asked for a list, by the ledger's clock and by the model's."""

    at: float
    moment: int


# -- the model -------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """The model's state of one job in one of its lives."""

    id: int
    route: Route
    state: str = ""
    due: bool = False
    attempt: int = 0
    task: str = ""
    nonce: str = ""
    retries: int = 0
    next_retries: int = 0
    resends: int = 0
    copies: int = 0
    postponed: int = 0
    received: bool = False
    run: str = ""
    holder: str = ""
    outcome: Outcome | None = None
    finished_by: int | str | None = None
    number: int = 0
    deliverer: str = ""
    parts: set[str] = field(default_factory=set)
    kept: Outcome | None = None
    redeliveries: int = 0
    claimed_at: int = -1
    ended_at: int = -1
    adopted: bool = False
    started: bool = False
    secret: str = ""
    extended: bool = False
    completion: str = ""
    amended: str = ""

    @property
    def heir(self) -> bool:
        """Whether it was adopted without its record, and no new attempt was sent: an earlier run may still count."""
        return self.adopted and (self.state == "claimed" or (self.state == "running" and not self.run))


class Model:
    """The life of a job in plain Python: a method for each step of the ledger, which returns its answer."""

    def __init__(self) -> None:
        self.jobs: dict[int, Entry] = {}
        self.dropped: set[int] = set()
        self.kept: dict[int, tuple[Outcome, str]] = {}
        """The outcomes that came when the ledger did not know their jobs, with the task that they came from."""
        self.moment = 0

    def _in(self, job_id: int, *states: str) -> Entry | None:
        entry = self.jobs.get(job_id)
        return entry if entry is not None and entry.state in states else None

    def _claim(self, entry: Entry, *, due: bool) -> None:
        entry.state, entry.due, entry.claimed_at = "claimed", due, self.moment

    def _begin(self, entry: Entry, *, due: bool) -> None:
        entry.attempt += 1
        entry.task = f"mr-{entry.id}-{entry.attempt}-{entry.nonce}"
        entry.retries, entry.resends, entry.copies, entry.received, entry.postponed = 0, 0, 0, False, 0
        entry.adopted = entry.adopted and entry.attempt == 1
        if entry.attempt > 1:
            entry.secret, entry.extended, entry.next_retries = "", False, 0
        self._claim(entry, due=due)

    def _record(self, entry: Entry, outcome: Outcome, *, due: bool = True) -> None:
        entry.state, entry.outcome, entry.due = "finished", outcome, due

    def _lay_down(self, entry: Entry, *, due: bool) -> None:
        entry.deliverer, entry.due = "", due

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
        self.kept.pop(job_id, None)
        if route.on_lost == "fail":
            self.dropped.discard(job_id)
        return "admitted"

    def drop(self, job_id: int) -> bool:
        entry = self._in(job_id, "admitted")
        if entry is None:
            return False
        if entry.route.on_lost == "fail":
            self.dropped.add(job_id)
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
            entry.deliverer = ""
            self._record(entry, entry.kept)
            return "redelivered"
        unsent = job_id in self.dropped or (entry is not None and not entry.started)
        self.dropped.discard(job_id)
        kept = self.kept.pop(job_id, None)
        if entry is None and kept is not None and not unsent:
            self.jobs[job_id] = self._restored(job_id, Route(route.task_name, route.queue, max_attempts=1), *kept)
            return "restored"
        self.jobs[job_id] = new = Entry(job_id, route, adopted=entry is None and not unsent)
        self._begin(new, due=False)
        if route.on_lost == "fail" and not unsent:
            new.state, new.claimed_at, new.started = "running", -1, True
        return "adopted"

    def _restored(self, job_id: int, route: Route, outcome: Outcome, task: str) -> Entry:
        """The state of a job of which only an outcome is left."""
        attempt, nonce = task.split("-")[2:]
        return Entry(
            job_id,
            route,
            "finished",
            due=True,
            attempt=int(attempt),
            task=task,
            nonce=nonce,
            outcome=outcome,
            finished_by=-1,
            number=1,
        )

    def lose_record(self, entry: Entry) -> None:
        if entry.state == "finished" and entry.outcome is not None:
            route = Route("", "", max_attempts=1)
            self.jobs[entry.id] = self._restored(entry.id, route, entry.outcome, entry.task)
        else:
            del self.jobs[entry.id]

    def lose_payload(self, entry: Entry) -> None:
        if entry.state == "finished":
            del self.jobs[entry.id]
        else:
            entry.due = entry.due or (entry.state == "claimed" and not entry.adopted)

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
        waiting = entry.state in ("claimed", "sent") and message.retries == entry.retries
        announced = message.retries > entry.retries and message.retries == entry.next_retries
        goes_on = entry.state == "running" and (announced or entry.run == run.nonce)
        if not (waiting or goes_on):
            unrecorded = entry.state in ("claimed", "sent", "running") and message.retries > entry.retries
            return "unrecorded" if unrecorded else entry.state, 0
        entry.state, entry.due, entry.retries = "running", False, message.retries
        entry.started = True
        entry.run, entry.holder = run.nonce, run.holder
        return "", entry.attempt

    def renew(self, messages: Sequence[RunKey], holder: str) -> dict[int, str]:
        lost: dict[int, str] = {}
        for message in messages:
            entry = self.jobs.get(message.job_id)
            if entry is not None and entry.task != message.task_id and entry.heir:
                entry.due = False
            elif entry is None or entry.task != message.task_id:
                lost[message.job_id] = "superseded" if entry else "unknown"
            elif entry.state in ("finished", "closed") and entry.finished_by is None:
                lost[message.job_id] = "ended"
            elif entry.state in (*OVER, "deferred"):
                lost[message.job_id] = entry.state
            elif entry.state == "running":
                entry.due = entry.due and entry.holder != holder
            elif entry.state == "finished":
                renewed = entry.deliverer == "run" and entry.holder == holder and entry.finished_by != "ref"
                entry.due = entry.due and not renewed
            else:
                entry.received = True
                entry.due = entry.due and entry.state == "claimed"
        return lost

    def announce_retry(self, run: Run) -> bool:
        entry = self._in(run.key.job_id, "running")
        if entry is None or (entry.task, entry.run) != (run.key.task_id, run.nonce):
            return False
        entry.next_retries = run.key.retries + 1
        return True

    def _again(self, run: Run, retries: int) -> bool:
        entry = self._in(run.key.job_id, "running")
        if entry is None or (entry.task, entry.run) != (run.key.task_id, run.nonce):
            return False
        entry.state, entry.due, entry.retries, entry.received = "sent", False, retries, False
        return True

    def retry(self, run: Run) -> bool:
        return self._again(run, run.key.retries + 1)

    def give_back(self, run: Run) -> bool:
        return self._again(run, run.key.retries)

    def postpone(self, run: Run) -> str:
        entry = self._in(run.key.job_id, "running")
        if entry is None or (entry.task, entry.run) != (run.key.task_id, run.nonce):
            return "kept"
        if entry.postponed >= BUDGET:
            return "spent"
        entry.postponed, entry.copies, entry.received = entry.postponed + 1, entry.copies + 1, False
        self._claim(entry, due=False)
        return "again"

    def finish(self, run: Run, *, deliver_here: bool) -> str:
        entry, retries = self.jobs.get(run.key.job_id), run.key.retries
        if entry is None:
            self.kept[run.key.job_id] = (run.outcome, run.key.task_id)
            return "kept"
        if entry.task != run.key.task_id and entry.heir:
            entry.task, entry.attempt = run.key.task_id, int(run.key.task_id.split("-")[2])
            entry.finished_by, entry.number = retries, 0
            self._record(entry, run.outcome)
            return "taken_over"
        if entry.task != run.key.task_id or (entry.state == "running" and entry.retries != retries):
            return "superseded"
        if entry.state in ("finished", "closed") and entry.finished_by == "ref":
            if entry.deliverer == "run":
                self._lay_down(entry, due=True)
            return "completed"
        if entry.state == "finished" and entry.finished_by != retries:
            return "superseded"
        if entry.state == "finished":
            return "finished" if entry.deliverer == "run" else "taken_over"
        if entry.state != "running":
            return entry.state
        entry.finished_by, entry.number, entry.deliverer = retries, int(deliver_here), "run" if deliver_here else ""
        self._record(entry, run.outcome, due=not deliver_here)
        return "finished"

    def reference(self, run: RunKey) -> bool:
        entry = self.jobs.get(run.job_id)
        return entry is not None and entry.state not in OVER and entry.task == run.task_id

    def defer(self, run: Run) -> str:
        entry = self.jobs.get(run.key.job_id)
        if entry is None:
            return "unknown"
        if (entry.task, entry.run) != (run.key.task_id, run.nonce):
            return "superseded"
        if entry.state in ("finished", "closed") and entry.finished_by == "ref":
            return "completed"
        if entry.state != "running":
            return entry.state
        if not entry.secret:
            return "unreferenced"
        entry.state, entry.due = "deferred", False
        return "deferred"

    def _refusal(self, key: AttemptKey) -> str:
        """The reason why a key is not accepted; empty if it is."""
        entry = self.jobs.get(key.job_id)
        if entry is None:
            return "unknown"
        if key.attempt < entry.attempt:
            return "superseded"
        if (key.attempt, key.secret) != (entry.attempt, entry.secret):
            return "unknown"
        if entry.state == "aborted":
            return "aborted"
        if entry.state in ("finished", "closed"):
            return "completed" if entry.finished_by == "ref" else "ended"
        return ""

    def complete(self, key: AttemptKey, outcome: Outcome, call: str) -> str:
        refusal = self._refusal(key)
        if refusal:
            return "accepted" if refusal == "completed" and self.jobs[key.job_id].completion == call else refusal
        entry = self.jobs[key.job_id]
        holds = entry.state == "running"
        entry.completion, entry.finished_by, entry.number = call, "ref", int(holds)
        if holds:
            entry.deliverer = "run"
        self._record(entry, outcome, due=not holds)
        return "accepted"

    def extend(self, key: AttemptKey, *, much: bool) -> str:
        refusal = self._refusal(key)
        if not refusal and much:
            entry = self.jobs[key.job_id]
            entry.due = entry.due and entry.state != "deferred"
        return refusal or "accepted"

    def amend(self, run: Run) -> bool:
        entry = self.jobs.get(run.key.job_id)
        if entry is None or entry.task != run.key.task_id:
            return False
        if entry.amended == run.nonce:
            return True
        if (entry.state, entry.run, entry.finished_by, entry.deliverer) != ("finished", run.nonce, "ref", "run"):
            return False
        entry.amended = run.nonce
        self._lay_down(entry, due=True)
        return True

    def fail(self, message: RunKey, ended_in: str | None, *, unstarted: bool) -> bool:
        entry = self._in(message.job_id, "claimed", "sent", *(() if unstarted else ("running",)))
        if entry is None and ended_in is None and not unstarted:
            entry = self._in(message.job_id, "deferred")
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
        if died and entry.state == "finished" and entry.deliverer == "run":
            self._lay_down(entry, due=True)
        if not (entry.state == "running" or (entry.state == "deferred" and not died)) or not (died or entry.due):
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
        entry.received = False
        entry.copies += 1
        entry.resends += counted
        if counted and entry.resends > BUDGET:
            self._record(entry, NOT_STARTED)
            return "failed"
        self._claim(entry, due=True)
        return "again"

    def requeue(self, job_id: int, task: str, *, force: bool) -> str:
        entry = self._in(job_id, "claimed", "sent", "running", "deferred")
        if entry is None:
            return "kept"
        if entry.task != task:
            return "requeued" if task == f"mr-{job_id}-{entry.attempt - 1}-{entry.nonce}" else "kept"
        if entry.route.on_lost == "fail" and entry.state in ("running", "deferred") and not force:
            return "refused"
        entry.route = replace(entry.route, max_attempts=entry.route.max_attempts + 1)
        self._begin(entry, due=entry.state != "running")
        return "requeued"

    def abort(self, job_id: int) -> str | None:
        entry = self._in(job_id, "claimed", "sent", "running", "deferred", "finished")
        if entry is None:
            return None
        self._end(entry, "aborted")
        entry.parts = set()
        return entry.task

    def take(self, state: str) -> list[int]:
        taken = [job_id for job_id, entry in self.jobs.items() if entry.state == state and entry.due]
        for job_id in taken:
            self.jobs[job_id].due = False
        return sorted(taken)

    def unstarted(self) -> list[tuple[int, str, bool]]:
        return [(job_id, self.jobs[job_id].task, self.jobs[job_id].received) for job_id in self.take("sent")]

    def watch(self) -> dict[str, int]:
        due = Counter(entry.state for entry in self.jobs.values() if entry.due)
        return {state: due[state] for state in IN_FLIGHT}

    def collect(self) -> list[DeliveryKey]:
        taken = [self.jobs[job_id] for job_id in self.take("finished")]
        for entry in taken:
            entry.number += 1
            entry.deliverer = "courier"
        return [DeliveryKey(entry.id, entry.task, entry.number) for entry in taken]

    def _carried(self, key: DeliveryKey) -> Entry | None:
        entry = self._in(key.job_id, "finished")
        if entry is None or not entry.deliverer or (entry.task, entry.number) != (key.task_id, key.number):
            return None
        return entry

    def renew_delivery(self, key: DeliveryKey) -> bool:
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
        else:
            entry.parts = set()
        self._end(entry, "closed")
        return True

    def lost(self) -> list[int]:
        return sorted(
            job_id for job_id, entry in self.jobs.items() if entry.state in ("running", "deferred") and entry.due
        )


# -- the walk --------------------------------------------------------------------------------------------------

INDEX = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 8])
"""An index into a list: mostly the last or the likely one."""

LOST = st.sampled_from([False, False, False, True])
"""Whether the answer to a step is lost."""

SELDOM = st.sampled_from([False, False, False, True])

ENDS = st.sampled_from(
    ["well", "well", "well", "well", "dead", "dead", "again", "overlapping", "overtaken", "deferred", "deferred"]
)
"""The course of a run: it ends, dies, asks for a retry, defers its job, or its retry starts before it has ended."""

Step = Callable[[], Any]
Then = Callable[[Any], None]


def pick(among: Sequence[T], index: int) -> T:
    """Choose one of them. A small index chooses one of the last."""
    return among[-1 - index % len(among)]


class Walk(RuleBasedStateMachine):
    """Steps of all processes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.kit: LedgerKit = fake_kit(self.patch)
        self.ledger = self.kit.ledger
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
        self.keys: list[AttemptKey] = []
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
        """One of the jobs; index 0 prefers a job in one of the states."""
        likely = sorted(JOBS, key=lambda job_id: self.state(job_id) in states)
        return pick(likely, index)

    # -- taking steps ----------------------------------------------------------------------------------------------

    def do(self, step: Step, then: Then = lambda answer: None, *, lost: bool) -> None:
        """Take a step. If its reply is lost, the caller repeats it at some later time."""
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
        """Check that the task ids of a new life differ from those of earlier ones."""
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
        """A list is requested from the server; the response comes later."""
        self.model.moment += 1
        self.questions.append(Question(self.kit.now(), self.model.moment))
        self.model.moment += 1

    def time_passes(self, state: str) -> None:
        """The times of all jobs of a state have come."""
        self.kit.make_due(state)
        for entry in self.model.jobs.values():
            entry.due = entry.due or entry.state == state

    @rule(state=st.sampled_from(IN_FLIGHT))
    def much_time_passes(self, state: str) -> None:
        self.time_passes(state)

    @precondition(lambda self: self.in_state("closed"))
    @rule(index=INDEX)
    def the_kept_outcome_is_outgrown(self, index: int) -> None:
        job_id = self.job(index, "closed")
        entry = self.model.jobs.get(job_id)
        if entry is not None and entry.state == "closed":
            self.kit.redis.delete(self.kit.key(f"outcome:{job_id}"), self.kit.key(f"parts:{job_id}"))
            entry.kept = None
            entry.parts = set()
            self.agree(None, None)

    @precondition(lambda self: self.in_state(*OVER))
    @rule(index=INDEX, indeed=SELDOM)
    def history_is_over(self, index: int, indeed: bool) -> None:
        job_id = self.job(index, *OVER)
        entry = self.model.jobs.get(job_id)
        if indeed and entry is not None and entry.state in OVER:
            for kind in ("job", "outcome", "events"):
                self.kit.redis.delete(self.kit.key(f"{kind}:{job_id}"))
            for ending in ENDINGS:  # the lists of what has ended are tidied up some time later
                if self.kit.redis.zscore(self.kit.key(f"ended:{ending}"), job_id):
                    self.kit.redis.zincrby(self.kit.key(f"ended:{ending}"), -86400.0, job_id)
            del self.model.jobs[job_id]
            self.agree(None, None)

    # -- keys are lost ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.in_state(*IN_FLIGHT))
    @rule(index=INDEX, what=st.sampled_from(["record", "payload"]), indeed=SELDOM)
    def a_key_of_a_job_is_lost(self, index: int, what: str, indeed: bool) -> None:
        """And the next comparison repairs it, after the time that the job's holder is given."""
        job_id = self.job(index, *IN_FLIGHT)
        entry = self.model.jobs.get(job_id)
        if not indeed or entry is None or entry.state in OVER:
            return
        if entry.state == "finished":
            self.time_passes("finished")
        if what == "record":
            self.kit.redis.delete(self.kit.key(f"job:{job_id}"))
            self.model.lose_record(entry)
            self.going[job_id].clear()
        else:
            self.kit.redis.delete(self.kit.key(f"payload:{job_id}"))
            self.model.lose_payload(entry)
            if entry.state == "finished":
                self.begun.pop((job_id, self.lives[job_id]), None)
        self.mend({job_id} if what == "record" or entry.state == "finished" else set())

    @precondition(lambda self: self.in_state(*IN_FLIGHT))
    @rule(
        what=st.sampled_from(
            [*IN_FLIGHT, "waiting", "undelivered", "load:celery", "load:slow", "stats", "looked", "reached", "missed"]
        ),
        indeed=SELDOM,
    )
    def a_key_of_all_jobs_is_lost(self, what: str, indeed: bool) -> None:
        if not indeed:
            return
        self.kit.redis.delete(self.kit.key(what))
        if what == "deferred":  # they are listed nowhere else, so only the server's list shows them
            self.adopt_deferred()
            return
        listed = set()
        for entry in self.model.jobs.values():
            queue, state = entry.route.queue, entry.state
            if state == what:
                entry.due = False
            if (
                state == what
                or (what == f"load:{queue}" and state in SLOT_STATES)
                or (what == "waiting" and state in ("claimed", "sent"))
                or (what == "undelivered" and state == "finished")
            ):
                listed.add(entry.id)
        self.mend(listed)

    def adopt_deferred(self) -> None:
        for job_id, entry in self.model.jobs.items():
            if entry.state == "deferred":
                entry.due = False
                listed = Job({"id": job_id, "prompt": "x"})
                answer = self.ledger.adopt(listed, entry.route, asked_at=self.kit.now(), wait_seconds=LATER)
                assert answer == "mended"
        self.agree(None, None)

    def mend(self, expected: set[int]) -> None:
        """A bridge compares: it repairs the ledger, and requests the lost data of a job from the server."""
        mending = self.ledger.mend(sorted({route.queue for route in ROUTES}), wait_seconds=LATER)
        assert mending.mended.keys() == expected
        for job_id in mending.bare:
            listed = Job({"id": job_id, "prompt": "x"})
            assert self.ledger.adopt(listed, ROUTES[0], asked_at=self.kit.now(), wait_seconds=LATER) == "mended"
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
        for job_id in self.agree(expected, sorted(self.ledger.take("claimed", lease=LATER))):
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

    @precondition(lambda self: self.in_state("sent"))
    @rule(late=st.booleans())
    def look_for_messages_that_nobody_started(self, late: bool) -> None:
        """A reaper finds messages that no worker has reported for a while."""
        if late:
            self.time_passes("sent")
        expected = self.model.unstarted()
        found = self.ledger.unstarted(lease=LATER, overtaken_seconds=LATER, silent_seconds=LATER)
        assert not any(each.overtaken for each in found)
        self.agree(expected, sorted((each.job_id, each.task_id, each.received) for each in found))

    @rule()
    def watch(self) -> None:
        """A bridge checks for due work."""
        self.agree(self.model.watch(), self.ledger.watch(lease=LATER)[0])

    @precondition(lambda self: self.in_state("running", "deferred"))
    @rule(late=st.sampled_from(["", "", "running", "deferred"]), lost=LOST)
    def look_for_lost_runs(self, late: str, lost: bool) -> None:
        """A reaper finds expired leases and deadlines; each is reported lost, and again if the reply is lost."""
        if late:
            self.time_passes(late)
        for job_id in self.agree(self.model.lost(), sorted(self.ledger.lost(lease=LATER))):
            self.do(self.losing(self.message(job_id)), lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX)
    def come_late_to_a_lost_run(self, index: int) -> None:
        """A slow reaper reports a run as lost, which may no longer be true."""
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
            started = self.ledger.start(
                run.key, task_name="", node="n", holder=run.holder, lease=LATER, nonce=run.nonce
            )
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
    def renew(self, indices: list[int], worker: str) -> None:
        """A worker holds what it has: runs of its own, and copies of messages that another one runs."""
        held = list({message.job_id: message for message in (pick(self.messages, index) for index in indices)}.values())
        pairs = [(message.job_id, message.task_id) for message in held]
        answer = self.ledger.renew(pairs, holder=worker, lease=LATER, wait_seconds=LATER)
        self.agree(self.model.renew(held, worker), answer)

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

    # -- deferred jobs, and callers with a reference -----------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, lost=LOST)
    def refer(self, index: int, lost: bool) -> None:
        """A handler gives out its job's reference, perhaps long after its run was given up."""
        run = pick(self.runs, index)

        def step() -> Any:
            key = self.ledger.reference(run.key)
            expected = self.model.reference(run.key)
            entry = self.model.jobs.get(run.key.job_id)
            if key is not None and entry is not None:
                assert (key.job_id, key.attempt) == (entry.id, entry.attempt)
                assert entry.secret in ("", key.secret)
                assert entry.secret or key.secret not in [each.secret for each in self.keys]
                entry.secret = key.secret
            self.agree(expected, key is not None)
            return key

        def give(key: AttemptKey | None) -> None:
            if key is not None:
                self.keys.append(key)

        self.do(step, give, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, attaches=st.booleans(), lost=LOST)
    def defer(self, index: int, attaches: bool, lost: bool) -> None:
        """A handler ends by deferring its job. If its outcome came before, it adds its attachments."""
        run = pick(self.runs, index)
        self.runs.remove(run)

        def step() -> Any:
            answer = self.ledger.defer(run.key, nonce=run.nonce, seconds=LATER)
            self.going[run.key.job_id].discard(run.nonce)
            return self.agree(self.model.defer(run), answer)

        def amend() -> Any:
            return self.agree(self.model.amend(run), self.ledger.amend(run.key, nonce=run.nonce))

        def then(answer: str) -> None:
            if answer == "completed" and attaches:
                self.do(amend, lost=lost)

        self.do(step, then, lost=lost)

    @precondition(lambda self: self.keys)
    @rule(index=INDEX, lost=LOST)
    def complete(self, index: int, lost: bool) -> None:
        """A web hook comes: in time, before the handler has returned, twice, or for an attempt that is over."""
        key, call = pick(self.keys, index), f"call {next(self.nonces)}"

        def step() -> Any:
            outcome = Outcome("done", call)
            before = self.records.get(key.job_id)
            answer = self.ledger.complete(key, outcome, call=call, hold_seconds=LATER)
            expected = self.model.complete(key, outcome, call)
            if answer == "accepted":
                self.going[key.job_id].clear()
                assert self.model.jobs[key.job_id].attempt == key.attempt
                assert before is not None
                assert before.outcome is None or before.outcome == outcome or self.model.jobs[key.job_id].amended
            return self.agree(expected, answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.keys)
    @rule(index=INDEX, much=st.booleans(), lost=LOST)
    def extend(self, index: int, much: bool, lost: bool) -> None:
        """A caller requests more time, or only checks whether its reference is still valid."""
        key = pick(self.keys, index)

        def step() -> Any:
            answer = self.ledger.extend(key, 2 * LATER if much else 0.0)
            return self.agree(self.model.extend(key, much=much), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, lost=LOST)
    def publish_a_retry(self, index: int, lost: bool) -> None:
        """A handler has requested a Celery retry, which a worker may receive before the run has ended."""
        run = pick(self.runs, index)
        self.messages.append(replace(run.key, retries=run.key.retries + 1))

        def step() -> Any:
            answer = self.ledger.announce_retry(run.key, run.key.retries + 1, nonce=run.nonce)
            return self.agree(self.model.announce_retry(run), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.messages)
    @rule(index=INDEX, more=st.integers(1, 3))
    def forge(self, index: int, more: int) -> None:
        """A third party with access to the broker forges a message with more retries."""
        message = pick(self.messages, index)
        self.messages.append(replace(message, retries=message.retries + more))

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
    def postpone(self, index: int, lost: bool) -> None:
        """A run gives its attempt back before its handler has begun. It goes on if it was given back too often."""
        run = pick(self.runs, index)
        self.runs.remove(run)  # it does nothing else until it has the reply

        def step() -> Any:
            self.going[run.key.job_id].discard(run.nonce)
            answer = self.ledger.postpone(run.key, nonce=run.nonce, why="away", times=BUDGET, wait_seconds=LATER)
            return self.agree(self.model.postpone(run), answer)

        def end(answer: str) -> None:
            if answer == "spent":
                self.runs.append(run)
                self.going[run.key.job_id].add(run.nonce)

        self.do(step, end, lost=lost)

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
        """A message reaches a worker too late to be started, or after its task was revoked."""
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
        """A bridge ends an attempt that no worker can run."""
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
            taken = sorted(self.ledger.collect(9, lease=LATER), key=lambda key: key.job_id)
            self.agree(self.model.collect(), taken)
            return taken

        self.do(step, self.deliveries.extend, lost=lost)

    @precondition(lambda self: self.deliveries)
    @rule(
        index=INDEX,
        what=st.sampled_from(["renew_delivery", "artifact:0", "review:0", "put off", "due again", "replace"]),
        lost=LOST,
    )
    def deliver(self, index: int, what: str, lost: bool) -> None:
        """A courier records its progress: in time, or after another one has taken over."""
        key = pick(self.deliveries, index)

        def step() -> Any:
            before = self.records.get(key.job_id)
            if what == "renew_delivery":
                expected = self.model.renew_delivery(key)
                answer = self.ledger.renew_delivery(key, lease=LATER)
            elif what in ("put off", "due again"):
                expected = self.model.undelivered(key, wait=what == "put off")
                wait = LATER if what == "put off" else 0
                answer = self.ledger.undelivered(key, "503", wait_seconds=wait)
            elif what == "replace":
                expected = self.model.replace_outcome(key)
                answer = self.ledger.replace_outcome(key, REFUSED)
            else:
                expected = self.model.delivered_part(key, what)
                answer = self.ledger.delivered_part(key, what, "7", lease=LATER)
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
    @rule(index=INDEX, how=st.sampled_from(["delivered", "delivered", "superseded"]), has_parts=SELDOM, lost=LOST)
    def close(self, index: int, how: str, has_parts: bool, lost: bool) -> None:
        """The server accepted an outcome. This is recorded even by a courier that has been superseded."""
        key = pick(self.deliveries, index)
        entry = self.model.jobs.get(key.job_id)
        has_parts = has_parts or bool(entry and entry.parts)

        def step() -> Any:
            answer = self.ledger.close(key.job_id, key.task_id, how, has_parts=has_parts)
            if answer:
                assert self.life_of[key.task_id] == self.lives[key.job_id]
                self.closed.add((key.job_id, self.lives[key.job_id]))
            return self.agree(self.model.close(key, how), answer)

        self.do(step, lost=lost)

    # -- the sync and the operator -----------------------------------------------------------------------------------

    @precondition(lambda self: self.in_state("claimed", "sent", "running", "deferred", "finished"))
    @rule(index=INDEX, indeed=SELDOM, lost=LOST)
    def abort(self, index: int, indeed: bool, lost: bool) -> None:
        if not indeed:
            return
        job_id = self.job(index, "claimed", "sent", "running", "deferred", "finished")

        def step() -> Any:
            answer = self.ledger.abort(job_id, "operator")
            if answer:
                self.going[job_id].clear()
            return self.agree(self.model.abort(job_id), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("claimed", "sent", "running", "deferred"))
    @rule(index=INDEX, indeed=SELDOM, force=st.booleans(), lost=LOST)
    def requeue(self, index: int, indeed: bool, force: bool, lost: bool) -> None:
        if not indeed:
            return
        job_id = self.job(index, "claimed", "sent", "running", "deferred")
        entry = self.model.jobs.get(job_id)
        task = entry.task if entry is not None else ""

        def step() -> Any:
            before = self.model.jobs.get(job_id)
            ends = before is not None and before.task == task
            answer = self.ledger.requeue(job_id, task, "operator", wait_seconds=LATER, force=force)
            if ends and answer == "requeued":
                self.going[job_id].clear()
            return self.agree(self.model.requeue(job_id, task, force=force), answer)

        self.do(step, lost=lost)

    @precondition(lambda self: self.in_state("unknown", *OVER))
    @rule(job=INDEX, route=st.sampled_from(ROUTES), now=st.booleans(), asked=INDEX, lost=LOST)
    def adopt(self, job: int, route: Route, now: bool, asked: int, lost: bool) -> None:
        """The server lists a job as running that the ledger does not have, or has closed."""
        if now:
            self.ask()
        job_id, question = self.job(job, "closed"), pick(self.questions, asked)

        def step() -> Any:
            before = self.records.get(job_id)
            kept = self.kit.redis.exists(self.kit.key(f"outcome:{job_id}"))
            expected = self.model.adopt(job_id, route, question)
            listed = Job({"id": job_id, "prompt": "x"})
            answer = self.ledger.adopt(listed, route, asked_at=question.at, wait_seconds=LATER)
            if answer == "adopted":
                assert before is None or before.state == "aborted" or (before.state == "closed" and not kept)
                if self.model.jobs[job_id].adopted:  # its life goes on, without what was known of it
                    self.closed.discard((job_id, self.lives[job_id]))
                    self.begun.pop((job_id, self.lives[job_id]), None)
                else:
                    self.lives[job_id] += 1
            elif answer in ("redelivered", "restored"):
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
            elif mine and end == "deferred":
                self.refer(mine[0], lost=False)
                if job_id % 2:
                    self.defer(mine[0], attaches=True, lost=False)
                else:
                    self.complete(0, lost=False)
            elif mine and end == "again":
                self.retry(mine[0], lost=False)
            elif mine:
                self.publish_a_retry(mine[0], lost=False)
                self.start(0, worker=WORKERS[1], lost=False)
                if end == "overtaken":
                    self.die(mine[0] + 1, lost=False)
        elif state == "deferred":
            of_it = [index for index, key in enumerate(reversed(self.keys)) if key.secret == entry.secret]
            if of_it:
                self.complete(of_it[0], lost=False)
        elif entry.due:
            self.collect(late=False, lost=False)
        elif self.deliveries:
            self.deliveries.sort(key=lambda key: key.job_id == job_id)
            self.close(0, how="delivered", has_parts=True, lost=False)

    # -- what must be so after each step -----------------------------------------------------------------------------

    @invariant()
    def the_ledger_is_as_the_model_is(self) -> None:
        now = self.kit.now()
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
                record.received,
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
                entry.received,
                entry.outcome,
                entry.number,
                entry.parts,
            )
            fences = self.kit.redis.hmget(self.kit.key(f"job:{job_id}"), "run", "holder", "deliverer")
            assert [(each or b"").decode() for each in fences] == [entry.run, entry.holder, entry.deliverer]
            assert int(self.kit.redis.hget(self.kit.key(f"job:{job_id}"), "copies") or 0) == entry.copies
            if entry.state in IN_FLIGHT:
                score = self.kit.score(entry.state, job_id)
                assert score is not None
                assert (score <= now) == entry.due

    @invariant()
    def what_is_large_is_kept_of_the_jobs_in_flight_and_of_no_other(self) -> None:
        kept = {job_id for job_id in JOBS if self.kit.redis.exists(self.kit.key(f"payload:{job_id}"))}
        in_flight = {job_id for job_id, record in self.records.items() if record.state in IN_FLIGHT}
        assert kept == in_flight | self.model.kept.keys()

    @invariant()
    def a_job_is_in_the_set_of_its_state_and_in_no_other(self) -> None:
        expected = {job_id: record.state for job_id, record in self.records.items() if record.state in IN_FLIGHT}
        assert self.ledger.in_flight() == expected
        for state in IN_FLIGHT:
            members = {int(member) for member in self.kit.redis.zrange(self.kit.key(state), 0, -1)}
            assert members == {job_id for job_id, each in expected.items() if each == state}

    @invariant()
    def what_waits_and_what_ended_is_listed_where_operators_look(self) -> None:
        def members(name: str) -> set[int]:
            return {int(member) for member in self.kit.redis.zrange(self.kit.key(name), 0, -1)}

        def in_state(*states: str) -> set[int]:
            return {job_id for job_id, record in self.records.items() if record.state in states}

        assert members("waiting") == in_state("claimed", "sent")
        assert members("undelivered") == in_state("finished")
        ended = {how: {job_id for job_id, _ in self.ledger.ended(how, oldest=0.0, newest=1e12)} for how in ENDINGS}
        assert set().union(*ended.values()) >= in_state(*OVER)
        assert not set().union(*ended.values()) & in_state(*IN_FLIGHT)
        assert ended["aborted"] >= in_state("aborted")

    @invariant()
    def the_slots_taken_are_those_of_the_jobs_from_admitted_to_running(self) -> None:
        for queue in {route.queue for route in ROUTES}:
            members = {int(member) for member in self.kit.redis.smembers(self.kit.key(f"load:{queue}"))}
            assert members == {
                job_id
                for job_id, record in self.records.items()
                if record.state in SLOT_STATES and record.route.queue == queue
            }


TestWalk = Walk.TestCase
TestWalk.pytestmark = [pytest.mark.timeout(900)]  # for busy machines
TestWalk.settings = walks(60)
