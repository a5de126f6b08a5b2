"""The ledger's steps of workflows: holders of a job, members that may start, and lost members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.ledger import MemberKey, NewMember, RunKey
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, HOLDER, LATER, NONCE, LedgerKit, fake_kit

pytestmark = pytest.mark.usefixtures("on_real_redis")

FIRST, FINAL = "first-id", "final-id"
BROKEN = Outcome.failed("it broke", reason="ValueError")


class Workflow:
    """A job that was handed over to a workflow of two members."""

    def __init__(self, kit: LedgerKit, *, published: bool = True, **route: Any) -> None:
        self.kit = kit
        self.ledger = kit.ledger
        self.run = kit.bring("running", **route)
        assert self.hand_over()
        if published:
            assert self.handed_over()

    def hand_over(self, **changes: Any) -> bool:
        options: dict[str, Any] = {
            "nonce": NONCE,
            "final": FINAL,
            "members": [NewMember(FIRST, "proj.first", "celery")],
            "lease": LATER,
            "note": "a chain of proj.first, proj.last",
        }
        return self.ledger.hand_over(self.run, **{**options, **changes})

    def handed_over(self) -> bool:
        return self.ledger.handed_over(self.run, final=FINAL, wait_seconds=LATER)

    def key(self, member: str = FIRST, retries: int = 0) -> MemberKey:
        return MemberKey(self.run.job_id, self.run.task_id, member, retries)

    def start(
        self,
        member: str = FIRST,
        *,
        retries: int = 0,
        nonce: str = "n1",
        holder: str = HOLDER,
        task_name: str = "",
    ) -> Any:
        return self.ledger.start_member(
            self.key(member, retries), task_name, node="celery@test", holder=holder, lease=LATER, nonce=nonce
        )

    def send(self, member: str = FINAL, *, retries: int = 0, sender: str = "n1", seconds: float = 0.0) -> bool:
        new = NewMember(member, "proj.last", "celery", seconds)
        return self.ledger.member_sent(self.key(member, retries), new, sender=sender, wait_seconds=LATER)

    def end(self, member: str = FIRST, state: str = "done", *, nonce: str = "n1") -> bool:
        return self.ledger.end_member(self.key(member), state, nonce=nonce, wait_seconds=LATER)

    def finish(self, member: str = FINAL, outcome: Outcome = DONE, *, nonce: str = "n2", **options: Any) -> str:
        return self.ledger.finish_member(self.key(member), outcome, nonce=nonce, **options)

    def renew(self, *members: str, holder: str = HOLDER) -> dict[str, str]:
        pairs = [(self.key(member), "") for member in members]
        return self.ledger.renew_members(pairs, holder=holder, node="celery@test", lease=LATER, wait_seconds=LATER)

    def lose(self, member: str = FIRST, state: str = "running", **options: Any) -> str:
        return self.ledger.lose_member(self.key(member), state, why="it was lost", **FAILED, **options)

    def states(self) -> dict[str, str]:
        return {member.member_id: member.state for member in self.ledger.members(1)}

    def make_due(self, *members: str) -> None:
        for member in members:
            self.kit.redis.zadd(self.kit.key("unfinished:1"), {member: 0}, xx=True)

    def through(self) -> None:
        """Run the first member, and start the final one."""
        assert self.start().job is not None
        assert self.send()
        assert self.end()
        assert self.start(FINAL, nonce="n2").final


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def workflow(kit: LedgerKit) -> Workflow:
    return Workflow(kit)


def test_a_workflow_from_hand_over_to_its_result(workflow: Workflow, kit: LedgerKit) -> None:
    assert (kit.state(), kit.load(), kit.record().workflow) == ("running", 1, FINAL)
    assert workflow.states() == {FIRST: "sent"}
    started = workflow.start()
    assert started.job is not None
    assert (started.attempt, started.job_retries, started.job_nonce, started.final) == (1, 0, NONCE, False)
    assert workflow.send()
    assert workflow.states() == {FIRST: "running", FINAL: "sent"}
    assert workflow.end()
    assert workflow.start(FINAL, nonce="n2").final
    assert workflow.finish() == workflow.finish() == "finished"
    assert (kit.state(), kit.load(), kit.record().status) == ("finished", 0, "done")
    assert workflow.states() == {FIRST: "done", FINAL: "done"}
    assert [event.event for event in kit.ledger.events(1)][-3:] == ["started", "workflow", "finished"]


def test_only_the_run_that_has_the_job_hands_it_over(kit: LedgerKit) -> None:
    workflow = Workflow(kit, published=False)
    assert workflow.hand_over()  # repeated, because the reply was lost
    assert not workflow.hand_over(nonce="another")
    workflow.run = RunKey(1, workflow.run.task_id, 1)
    assert not workflow.hand_over()
    workflow.run = RunKey(1, "mr-1-7-other")
    assert not workflow.hand_over()
    assert not workflow.handed_over()


def test_until_it_is_published_the_run_holds_the_job_and_then_its_members_do(kit: LedgerKit) -> None:
    workflow = Workflow(kit, published=False)
    assert kit.ledger.overdue_member(1, lease=LATER).verdict == "none"
    assert workflow.handed_over()
    assert kit.die(workflow.run) == "kept"
    assert not kit.ledger.fail(1, workflow.run.task_id, BROKEN, retries=0, holder=HOLDER)
    kit.make_due("running")
    assert kit.reap(workflow.run) == "kept"
    assert kit.ledger.overdue_member(1, lease=LATER).verdict == "alive"


def test_a_run_that_dies_before_it_has_published_is_lost(kit: LedgerKit) -> None:
    workflow = Workflow(kit, published=False)
    assert kit.die(workflow.run) == "again"
    assert workflow.states() == {}
    assert kit.record().workflow == ""


def test_a_member_starts_once(workflow: Workflow) -> None:
    assert workflow.start().job is not None
    assert workflow.start().job is not None  # repeated, because the reply was lost
    assert workflow.start(nonce="copy").refusal == "running"
    assert workflow.end()
    assert workflow.start(nonce="copy").refusal == "over"


def test_a_recorded_retry_takes_over(workflow: Workflow) -> None:
    workflow.start()
    assert workflow.start(retries=1, nonce="n2").refusal == "unrecorded"
    assert workflow.send(FIRST, retries=1, sender="n1")
    assert workflow.start(retries=1, nonce="n2").job is not None
    assert workflow.send(FIRST, retries=2, sender="n2")
    assert not workflow.end(nonce="n2")
    assert workflow.start(retries=1, nonce="copy").refusal == "over"
    assert workflow.start(retries=2, nonce="n3").job is not None


def test_a_member_that_replaces_itself_may_start_again(workflow: Workflow) -> None:
    workflow.start()
    assert workflow.end(state="replaced")
    assert workflow.send(FIRST, sender="other")
    assert workflow.start(nonce="n2").job is not None
    assert workflow.send(FIRST, sender="n2")  # by a single task
    assert workflow.start(nonce="n3").job is not None


def test_a_message_that_was_returned_to_the_broker_starts_again(workflow: Workflow) -> None:
    workflow.start()
    assert workflow.end(state="sent")
    assert workflow.start(nonce="n2").job is not None


@pytest.mark.parametrize(
    "forged", [{"member": "unknown-id"}, {"retries": 1}, {"retries": 2**60}, {"task_name": "proj.other"}], ids=str
)
@pytest.mark.parametrize("running", [False, True])
def test_a_message_that_was_not_recorded_changes_nothing(
    kit: LedgerKit, workflow: Workflow, forged: dict[str, Any], running: bool
) -> None:
    if running:
        workflow.start()
    before = kit.redis.hgetall(kit.key("members:1")), kit.redis.hgetall(kit.key("job:1"))
    assert workflow.start(**{"nonce": "n2", **forged}).refusal == "unrecorded"
    key, name = (
        workflow.key(forged.get("member", FIRST), forged.get("retries", 0)),
        forged.get("task_name", ""),
    )
    kit.ledger.renew_members([(key, name)], holder="other", node="other", lease=LATER, wait_seconds=LATER)
    failed: dict[str, Any] = {"must_not": BROKEN, "too_often": BROKEN}
    for unstarted in (True, False):
        kit.ledger.finish_member(key, BROKEN, holder=HOLDER, unstarted=unstarted, note="x", task_name=name)
    for state in ("unstarted", "running"):
        kit.ledger.lose_member(key, state, retries=key.retries, why="x", task_name=name, **failed)
    assert (kit.redis.hgetall(kit.key("members:1")), kit.redis.hgetall(kit.key("job:1"))) == before


ENDS: dict[str, Callable[[LedgerKit, Workflow], object]] = {
    "aborted": lambda kit, workflow: kit.ledger.abort(1, "operator"),
    "requeued": lambda kit, workflow: kit.ledger.requeue(1, workflow.run.task_id, "operator", wait_seconds=LATER),
    "failed": lambda kit, workflow: kit.ledger.fail(1, workflow.run.task_id, BROKEN),
    "lost": lambda kit, workflow: workflow.lose(),
    "a member failed": lambda kit, workflow: workflow.finish(FIRST, BROKEN, nonce="n1", note="member"),
}
RENEWED = {
    "aborted": {FIRST: "aborted"},
    "requeued": {FIRST: "superseded"},
    "failed": {FIRST: "ended"},
    "lost": {FIRST: "superseded"},
    "a member failed": {},
}


@pytest.mark.parametrize("end", ENDS)
def test_late_members_change_nothing(kit: LedgerKit, workflow: Workflow, end: str) -> None:
    workflow.start()
    assert ENDS[end](kit, workflow)
    state, record = kit.state(), kit.redis.hgetall(kit.key("job:1"))
    assert workflow.start(FINAL, nonce="n2").job is None
    assert not workflow.send()
    assert workflow.finish() not in ("finished", "kept")
    assert workflow.renew(FIRST) == RENEWED[end]
    assert workflow.lose() == "kept"
    assert (kit.state(), kit.redis.hgetall(kit.key("job:1"))) == (state, record)


def test_a_failed_member_fails_the_job_once(kit: LedgerKit, workflow: Workflow) -> None:
    workflow.start()
    assert workflow.finish(FIRST, BROKEN, nonce="n1", note="member proj.first (x)", blobs=[b"blob"]) == "finished"
    assert workflow.finish(FIRST, DONE, nonce="n1") == "finished"
    assert (kit.record().status, kit.record().outcome, kit.ledger.blob(1, 0)) == ("failed", BROKEN, b"blob")
    assert [(each.event, each.note) for each in kit.ledger.events(1)][-2:] == [
        ("member_failed", "member proj.first (x)"),
        ("finished", "failed: ValueError"),
    ]


def test_a_failure_that_is_reported_from_outside_must_be_of_the_run(workflow: Workflow) -> None:
    workflow.start()
    report = {"nonce": "", "note": "member"}
    assert workflow.finish(FIRST, BROKEN, holder="another", **report) == "running"
    assert workflow.finish(FIRST, BROKEN, unstarted=True, **report) == "running"
    assert workflow.finish(FIRST, BROKEN, holder=HOLDER, **report) == "finished"


def test_a_message_that_expired_fails_the_job(workflow: Workflow) -> None:
    assert workflow.finish(FIRST, BROKEN, nonce="", unstarted=True) == "finished"


def test_a_result_waits_if_the_ledger_has_lost_the_job(kit: LedgerKit, workflow: Workflow) -> None:
    workflow.through()
    kit.redis.delete(kit.key("job:1"))
    assert workflow.finish() == "kept"


def test_a_lease_is_renewed_by_the_worker_that_has_the_member(kit: LedgerKit, workflow: Workflow) -> None:
    assert workflow.renew(FIRST) == {}
    assert workflow.states() == {FIRST: "received"}
    workflow.start()
    workflow.make_due(FIRST)
    kit.make_due("running")
    assert workflow.renew(FIRST, holder="another") == {}
    assert kit.ledger.overdue_member(1, lease=LATER).verdict == "lost"
    workflow.renew(FIRST)
    assert kit.ledger.overdue_member(1, lease=LATER).verdict == "alive"
    assert not kit.is_due("running")


def test_a_member_whose_lease_is_over_costs_an_attempt(kit: LedgerKit, workflow: Workflow) -> None:
    workflow.start()
    assert workflow.lose(due=True) == "kept"
    workflow.make_due(FIRST)
    overdue = kit.ledger.overdue_member(1, lease=LATER)
    assert (overdue.verdict, [each.node for each in overdue.members]) == ("lost", ["celery@test"])
    assert workflow.lose(due=True) == "again"
    assert (kit.state(), kit.record().attempt, workflow.states()) == ("claimed", 2, {})
    assert kit.redis.keys(kit.key("unfinished:*")) == []


def test_a_message_that_its_worker_has_no_longer_may_be_in_its_queue_again(kit: LedgerKit, workflow: Workflow) -> None:
    """A worker that is stopped in a deploy gives its messages back."""
    workflow.renew(FIRST)
    workflow.make_due(FIRST)
    overdue = kit.ledger.overdue_member(1, lease=LATER)
    assert (overdue.verdict, overdue.members, workflow.states()) == ("alive", (), {FIRST: "sent"})
    workflow.renew(FIRST, holder="another")
    assert workflow.states() == {FIRST: "received"}
    for _ in range(2):
        workflow.make_due(FIRST)
        overdue = kit.ledger.overdue_member(1, lease=LATER)
    assert [each.state for each in overdue.members] == ["sent"], "a bridge looks into the queue"
    workflow.start()
    assert workflow.states() == {FIRST: "running"}


def test_a_message_that_nobody_reports_is_returned_and_rests(kit: LedgerKit, workflow: Workflow) -> None:
    workflow.make_due(FIRST)
    (member,) = kit.ledger.overdue_member(1, lease=LATER).members
    assert (member.state, member.queue, member.task_name) == ("sent", "celery", "proj.first")
    assert kit.ledger.overdue_member(1, lease=LATER).members == ()
    assert workflow.lose(state="sent") == "again"


def test_a_workflow_without_a_member_is_lost(kit: LedgerKit, workflow: Workflow) -> None:
    assert workflow.lose("", "") == "kept"
    workflow.start()
    workflow.end()
    assert kit.ledger.overdue_member(1, lease=LATER).verdict == "idle"
    assert workflow.lose("", "") == "again"


def test_progress_of_members_counts_for_their_queue(kit: LedgerKit, workflow: Workflow) -> None:
    workflow.start()
    assert kit.redis.hexists(kit.key("reached"), "celery:at")


def test_the_nodes_of_a_job(kit: LedgerKit, workflow: Workflow) -> None:
    ledger = kit.ledger
    assert ledger.nodes(kit.record()) == []
    workflow.start()
    assert ledger.nodes(kit.record()) == ["celery@test"]
    workflow.end()
    assert ledger.nodes(kit.record()) == []
    kit.bring("running", 2)
    assert ledger.nodes(kit.record(2)) == ["celery@test"]


def test_the_members_of_an_ended_job_stay_as_history_unless_they_are_many(kit: LedgerKit) -> None:
    workflow = Workflow(kit)
    workflow.start()
    kit.ledger.abort(1, "operator")
    assert workflow.states() == {FIRST: "running"}
    assert kit.redis.ttl(kit.key("members:1")) > 0
    many = kit.bring("running", 2)
    members = [NewMember(f"member-{number}", "proj.first", "celery") for number in range(101)]
    assert kit.ledger.hand_over(many, nonce=NONCE, final=FINAL, members=members, lease=LATER, note="many")
    kit.ledger.abort(2, "operator")
    assert kit.ledger.members(2) == []
    assert kit.redis.keys(kit.key("unfinished:*")) == []
