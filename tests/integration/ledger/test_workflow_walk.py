"""The ledger's steps of workflows compared with a plain model, in any order, by any number of workers and bridges.

A job is handed over, members start, publish others, retry, end, fail, are renewed, reported and lost, and the job is
aborted. Steps come late, twice, and from members of earlier attempts. After each step, the reply and state must
match the model.

Each run takes the same walks. ``MR_CELERY_FUZZ=50`` takes 50 times as many, with a new seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mr_celery.ledger import MemberKey, NewMember, Route, RunKey
from mr_celery.outcome import Outcome
from support.fuzzing import walks
from support.ledgers import DONE, FAILED, LATER, LedgerKit, fake_kit

JOB = 1
ROUTES = [Route("t.upper", "celery", max_attempts=3), Route("t.once", "celery", max_attempts=3, on_lost="fail")]
FINALS = ("final", "other-final")
MEMBERS = ("first", "second", *FINALS)
WORKERS = ("one worker", "another worker")
BROKEN = Outcome.failed("it broke", reason="ValueError")

LIVES = ("sent", "received", "running")

member_ids = st.sampled_from(MEMBERS)
workers = st.sampled_from(WORKERS)
late = st.integers(0, 9).map(lambda number: number == 9)
retries_of = st.integers(0, 1)


@dataclass
class Execution:
    """A member as the ledger has it."""

    state: str = "sent"
    retries: int = 0
    run: str = ""
    holder: str = ""
    due: bool = False

    @property
    def lives(self) -> bool:
        return self.state in LIVES


@dataclass
class Model:
    """The job in plain Python: a method for each step of the ledger, which returns its reply."""

    route: Route
    task_id: str
    nonce: str
    state: str = "running"
    attempt: int = 1
    workflow: str = ""
    handed_over: bool = False
    members: dict[str, Execution] = field(default_factory=dict)
    status: str = ""
    finished_by_member: bool = False

    def refusal(self, task_id: str) -> str:
        """Why no step of this attempt's workflow is possible."""
        if task_id != self.task_id:
            return "superseded"
        if self.state != "running":
            return self.state
        return "" if self.workflow else "no workflow"

    def hand_over(self, task_id: str, nonce: str, final: str, first: list[str]) -> bool:
        if self.state != "running" or (task_id, nonce) != (self.task_id, self.nonce):
            return False
        if self.workflow != final:
            self.workflow, self.handed_over = final, False
            self.members = {member_id: Execution() for member_id in first}
        return True

    def hand_over_published(self, task_id: str, final: str) -> bool:
        if self.refusal(task_id) or self.workflow != final:
            return False
        self.handed_over = True
        for member in self.members.values():
            member.due = member.due and member.state != "sent"
        return True

    def start(self, key: MemberKey, nonce: str, holder: str) -> str:
        if refusal := self.refusal(key.task_id):
            return refusal
        member = self.members.get(key.member_id)
        if member is None or key.retries > member.retries:
            return "unrecorded"
        again = member.state == "running" and member.run == nonce
        waits = member.state in ("sent", "received") and key.retries == member.retries
        if not (again or waits):
            return "running" if member.state == "running" else "over"
        self.members[key.member_id] = Execution("running", key.retries, nonce, holder)
        return ""

    def send(self, key: MemberKey, sender: str) -> bool:
        if self.refusal(key.task_id):
            return False
        member = self.members.get(key.member_id)
        if member is not None:
            continues = member.state == "running" and (member.run == sender or key.retries > member.retries)
            if not (continues or member.state in ("sent", "replaced")):
                return False
        self.members[key.member_id] = Execution("sent", key.retries)
        return True

    def end(self, key: MemberKey, nonce: str, state: str) -> bool:
        member = self.members.get(key.member_id)
        if key.task_id != self.task_id or member is None or (member.state, member.run) != ("running", nonce):
            return False
        member.state, member.due = state, False
        if state == "sent":
            member.run = ""
        return True

    def finish(self, key: MemberKey, outcome: Outcome, *, nonce: str, holder: str, unstarted: bool) -> str:
        member = self.members.get(key.member_id)
        refusal = self.refusal(key.task_id)
        if refusal == "finished" and member and nonce and member.run == nonce and not member.lives:
            return "finished"
        if refusal:
            return "over" if refusal == "finished" else refusal
        if nonce:
            if member is None or (member.state, member.run) != ("running", nonce):
                return "superseded"
        elif (
            member is None
            or member.retries != key.retries
            or (unstarted and member.state not in ("sent", "received"))
            or (not unstarted and (member.state, member.holder) != ("running", holder))
        ):
            return "running"
        assert member is not None
        member.state = "done" if outcome.status == "done" else "failed"
        self.state, self.status, self.finished_by_member = "finished", outcome.status, True
        return "finished"

    def renew(self, key: MemberKey, holder: str) -> str | None:
        if key.task_id != self.task_id:
            return "superseded"
        if self.state == "finished" and not self.finished_by_member:
            return "ended"
        if self.state == "aborted":
            return "aborted"
        if self.state != "running":
            return None
        member = self.members.get(key.member_id)
        if member is not None and member.state == "running":
            member.due = member.due and (member.holder, member.retries) != (holder, key.retries)
        elif member is not None and member.state in ("sent", "received") and key.retries == member.retries:
            if member.state == "sent":
                member.state, member.holder = "received", holder
            member.due = False
        return None

    def overdue(self) -> str:
        if self.state != "running" or not self.handed_over:
            return "none"
        for _, member in sorted(self.members.items()):
            if member.lives and member.due:
                if member.state == "running":
                    return "lost"
                member.state, member.holder, member.due = "sent", "", False
        return "alive" if any(member.lives for member in self.members.values()) else "idle"

    def lose(self, key: MemberKey, wanted: str, *, retries: int | None, holder: str, due: bool) -> str:
        if self.refusal(key.task_id):
            return "kept"
        if not key.member_id:
            if not self.handed_over or any(member.lives for member in self.members.values()):
                return "kept"
        else:
            member = self.members.get(key.member_id)
            state = member.state if member else ""
            if state != wanted and not (wanted == "unstarted" and state in ("sent", "received")):
                return "kept"
            assert member is not None
            if (retries is not None and member.retries != retries) or (holder and member.holder != holder):
                return "kept"
            if due and not (member.lives and member.due):
                return "kept"
        if self.route.on_lost == "fail" or self.attempt >= self.route.max_attempts:
            self.state, self.status = "finished", "failed"
            return "failed"
        self.attempt, self.state, self.workflow, self.handed_over = self.attempt + 1, "claimed", "", False
        self.members, self.nonce = {}, ""
        _, _, _, life = self.task_id.split("-")
        self.task_id = f"mr-{JOB}-{self.attempt}-{life}"
        return "again"

    def abort(self) -> bool:
        possible = self.state in ("claimed", "running", "finished")
        self.state = "aborted" if possible else self.state
        return possible


class Walk(RuleBasedStateMachine):
    """The steps, each with whatever may have become of the job before."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.kit: LedgerKit = fake_kit(self.patch)
        self.ledger = self.kit.ledger
        self.count = 0
        self.started: list[tuple[MemberKey, str, str]] = []
        self.tasks: list[tuple[str, str]] = []

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(route=st.sampled_from(ROUTES))
    def begin(self, route: Route) -> None:
        run = self.kit.bring("running", JOB, route=route)
        self.model = Model(route, run.task_id, "first")
        self.tasks.append((run.task_id, "first"))

    # -- helpers

    def nonce(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def key(self, member_id: str, retries: int = 0, *, late: bool = False) -> MemberKey:
        task_id = self.tasks[0][0] if late else self.model.task_id
        return MemberKey(JOB, task_id, member_id, retries)

    def agree(self, step: Callable[[], Any], expected: Any) -> Any:
        answer = step()
        assert answer == expected
        return answer

    def pick(self, index: int) -> tuple[MemberKey, str, str]:
        """An execution that has started: mostly the newest one."""
        return self.started[-1 - index % min(len(self.started), 3)]

    # -- the run

    @rule(final=st.sampled_from(FINALS), both=st.booleans(), late=late)
    def hand_over(self, final: str, both: bool, late: bool) -> None:
        task_id, nonce = self.tasks[0] if late else self.tasks[-1]
        first = ["first", "second"] if both else ["first"]
        expected = self.model.hand_over(task_id, nonce, final, first)
        members = [NewMember(each, "t.member", "celery") for each in first]
        options: dict[str, Any] = {"nonce": nonce, "final": final, "members": members, "lease": LATER, "note": "w"}
        for _ in range(2):  # the first reply was lost
            self.agree(lambda: self.ledger.hand_over(RunKey(JOB, task_id), **options), expected)

    @rule(final=st.sampled_from(FINALS), late=late)
    def handed_over(self, final: str, late: bool) -> None:
        task_id = self.tasks[0][0] if late else self.model.task_id
        expected = self.model.hand_over_published(task_id, final)
        run = RunKey(JOB, task_id)
        self.agree(lambda: self.ledger.handed_over(run, final=final, wait_seconds=LATER), expected)

    @precondition(lambda self: self.model.state == "claimed")
    @rule()
    def start_the_next_attempt(self) -> None:
        record, nonce = self.kit.record(JOB), self.nonce()
        assert (record.task_id, record.workflow) == (self.model.task_id, "")
        assert self.kit.start(RunKey(JOB, record.task_id), nonce=nonce).job is not None
        self.model.state, self.model.nonce = "running", nonce
        self.tasks.append((record.task_id, nonce))

    # -- members

    @rule(member_id=member_ids, retries=retries_of, worker=workers, late=late)
    def start(self, member_id: str, retries: int, worker: str, late: bool) -> None:
        key, nonce = self.key(member_id, retries, late=late), self.nonce()
        for _ in range(2):
            expected = self.model.start(key, nonce, worker)
            answer = self.ledger.start_member(key, "t.member", node="n", holder=worker, lease=LATER, nonce=nonce)
            assert answer.refusal == expected
            assert (answer.job is not None) is (not expected)
        if not expected:
            assert (answer.attempt, answer.final) == (self.model.attempt, member_id == self.model.workflow)
            assert (answer.job_nonce, answer.handler) == (self.model.nonce, self.model.route.task_name)
            self.started.append((key, nonce, worker))

    @precondition(lambda self: self.started)
    @rule(index=st.integers(0, 9), member_id=member_ids, retries=retries_of, itself=st.booleans())
    def publish(self, index: int, member_id: str, retries: int, itself: bool) -> None:
        """A member publishes its successor, or its own retry."""
        sender, nonce, _ = self.pick(index)
        sent = (
            MemberKey(JOB, sender.task_id, sender.member_id, sender.retries + 1)
            if itself
            else MemberKey(JOB, sender.task_id, member_id, retries)
        )
        expected = self.model.send(sent, nonce)
        new = NewMember(sent.member_id, "t.member", "celery")
        self.agree(lambda: self.ledger.member_sent(sent, new, sender=nonce, wait_seconds=LATER), expected)

    @precondition(lambda self: self.started)
    @rule(index=st.integers(0, 9), state=st.sampled_from(["done", "replaced", "sent"]))
    def end(self, index: int, state: str) -> None:
        key, nonce, _ = self.pick(index)
        expected = self.model.end(key, nonce, state)
        self.agree(lambda: self.ledger.end_member(key, state, nonce=nonce, wait_seconds=LATER), expected)

    @precondition(lambda self: self.started)
    @rule(index=st.integers(0, 9), fails=st.booleans(), indeed=late)
    def finish(self, index: int, fails: bool, indeed: bool) -> None:
        key, nonce, _ = self.pick(index)
        if not indeed and self.model.state == "running":
            return  # otherwise walks would be short
        outcome = BROKEN if fails else DONE
        for _ in range(2):
            expected = self.model.finish(key, outcome, nonce=nonce, holder="", unstarted=False)
            self.agree(lambda: self.ledger.finish_member(key, outcome, nonce=nonce), expected)

    @rule(member_id=member_ids, retries=retries_of, worker=workers, unstarted=st.booleans(), indeed=late, late=late)
    def report(self, member_id: str, retries: int, worker: str, unstarted: bool, indeed: bool, late: bool) -> None:
        """A worker's main process reports a member that failed outside of its code."""
        if not indeed and self.model.state == "running":
            return
        key = self.key(member_id, retries, late=late)
        expected = self.model.finish(key, BROKEN, nonce="", holder=worker, unstarted=unstarted)
        self.agree(lambda: self.ledger.finish_member(key, BROKEN, holder=worker, unstarted=unstarted), expected)

    @rule(member_id=member_ids, retries=retries_of, worker=workers, late=late)
    def renew(self, member_id: str, retries: int, worker: str, late: bool) -> None:
        key = self.key(member_id, retries, late=late)
        reason = self.model.renew(key, worker)
        options: dict[str, Any] = {"holder": worker, "node": "n", "lease": LATER, "wait_seconds": LATER}
        expected = {} if reason is None else {member_id: reason}
        self.agree(lambda: self.ledger.renew_members([(key, "t.member")], **options), expected)

    # -- lost members

    @rule(member_id=member_ids)
    def time_passes(self, member_id: str) -> None:
        self.kit.redis.zadd(self.kit.key(f"unfinished:{JOB}"), {member_id: 0}, xx=True)
        member = self.model.members.get(member_id)
        if member is not None and member.lives:
            member.due = True

    @rule()
    def check(self) -> None:
        """A bridge checks the members, and reports what is lost."""
        expected = self.model.overdue()
        found = self.ledger.overdue_member(JOB, lease=LATER)
        assert found.verdict == expected
        if expected == "lost":
            (lost,) = [each for each in found.members if each.state != "sent"]
            self.lose(self.key(lost.member_id), lost.state, retries=None, holder="", due=True)
        elif expected == "idle":
            self.lose(self.key(""), "", retries=None, holder="", due=False)

    @rule(
        member_id=member_ids,
        wanted=st.sampled_from(["running", "unstarted", "received"]),
        retries=st.none() | retries_of,
        holder=st.sampled_from(["", *WORKERS]),
        late=late,
        indeed=late,
    )
    def come_late_to_a_lost_member(
        self, member_id: str, wanted: str, retries: int | None, holder: str, late: bool, indeed: bool
    ) -> None:
        if indeed or late:
            self.lose(self.key(member_id, late=late), wanted, retries=retries, holder=holder, due=False)

    def lose(self, key: MemberKey, wanted: str, **options: Any) -> None:
        expected = self.model.lose(key, wanted, **options)
        self.agree(lambda: self.ledger.lose_member(key, wanted, why="gone", **options, **FAILED), expected)

    @rule(indeed=late)
    def abort(self, indeed: bool) -> None:
        if indeed:
            expected = self.model.abort()
            assert (self.ledger.abort(JOB, "by an operator") is not None) is expected

    # -- what must hold

    @invariant()
    def the_ledger_is_as_the_model(self) -> None:
        record = self.ledger.read(JOB)
        assert record is not None
        assert (record.state, record.attempt) == (self.model.state, self.model.attempt)
        if self.model.status and self.model.state == "finished":
            assert record.status == self.model.status
        if self.model.state == "running":
            assert record.workflow == self.model.workflow
        if self.model.state in ("running", "finished"):
            members = {each.member_id: each for each in self.ledger.members(JOB)}
            assert {each.member_id: each.state for each in members.values()} == {
                member_id: member.state for member_id, member in self.model.members.items()
            }

    @invariant()
    def members_that_live_are_checked_and_no_others(self) -> None:
        if self.model.state not in ("running", "claimed"):
            return
        score_of = dict(self.kit.redis.zrange(self.kit.key(f"unfinished:{JOB}"), 0, -1, withscores=True))
        lives = {member_id.encode() for member_id, member in self.model.members.items() if member.lives}
        assert score_of.keys() == lives
        for member_id, score in score_of.items():
            assert (score == 0) is self.model.members[member_id.decode()].due

    @invariant()
    def the_job_is_in_one_list_and_has_its_slot(self) -> None:
        listed = self.ledger.in_flight()
        in_flight = self.model.state in ("claimed", "running", "finished")
        assert listed == ({JOB: self.model.state} if in_flight else {})
        assert self.kit.load() == int(self.model.state in ("claimed", "running"))


TestWalk = Walk.TestCase
TestWalk.pytestmark = [pytest.mark.timeout(900)]  # for busy machines
TestWalk.settings = walks(50)
