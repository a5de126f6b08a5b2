"""A worker renews the leases of its jobs, and interrupts runs that have lost theirs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from celery import signals
from celery.worker import state as worker_state
from celery.worker.control import Panel

from mr_celery.celery_worker import aborts
from mr_celery.celery_worker.leases import LeaseRenewer, PreforkPool
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import RunKey
from support.celery_worker import APP, SENDER, Request, Running
from support.ledgers import LedgerKit


class Pool:
    """A pool that may be able to interrupt its runs."""

    def __init__(self, *, interrupts: bool = True) -> None:
        self.interrupts = interrupts
        self.interrupted: list[Request] = []
        self.tried = 0

    def terminate_job(self, request: Request) -> None:
        self.tried += 1
        if not self.interrupts:
            raise NotImplementedError
        self.interrupted.append(request)


class BridgeRenewer:
    """A worker's lease renewer, with a fake pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.parent = SimpleNamespace(app=APP, pool=pool, pool_cls=Pool)
        self.step = LeaseRenewer(self.parent)

    def tick(self) -> list[Request]:
        """Renew the leases. Returns the runs interrupted so far."""
        self.step.renew_all()
        return self.pool.interrupted

    def told(self, *task_ids: str) -> list[Request]:
        """Receive the command that announces aborts. Returns the runs interrupted so far."""
        state = SimpleNamespace(consumer=SimpleNamespace(controller=self.parent))
        assert Panel.data["modelreins_abort"](state, task_ids=list(task_ids)) == {"ok": "looked"}
        return self.pool.interrupted


@pytest.fixture
def renewer(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> BridgeRenewer:
    monkeypatch.setattr(worker_state, "active_requests", WeakSet())
    return BridgeRenewer(Pool())


def lose(kit: LedgerKit, run: RunKey) -> RunKey:
    """Let another worker have a run's job. Returns the new run."""
    assert kit.die(run) == "again"
    again = RunKey(run.job_id, kit.record(run.job_id).task_id)
    assert kit.start(again, nonce="again").job is not None
    return again


def test_a_run_whose_job_was_aborted_is_interrupted_once(
    kit: LedgerKit, renewer: BridgeRenewer, caplog: pytest.LogCaptureFixture
) -> None:
    run, other = kit.bring("running", 7), kit.bring("running", 8)
    request, bystander = Running(run), Running(other)
    assert renewer.tick() == []
    kit.ledger.abort(7, "operator")
    assert renewer.tick() == [request]
    assert renewer.tick() == [request]
    assert renewer.told(run.task_id, other.task_id) == [request]
    assert [each.message for each in caplog.records if "interrupted" in each.message] == [
        f"job=7 attempt=1 task_id={run.task_id} interrupted: it was aborted"
    ]
    assert bystander not in renewer.pool.interrupted


def test_a_run_whose_job_another_worker_has_is_interrupted(
    kit: LedgerKit, renewer: BridgeRenewer, caplog: pytest.LogCaptureFixture
) -> None:
    run = kit.bring("running", 7)
    request = Running(run)
    lose(kit, run)
    assert renewer.tick() == [request]
    assert "interrupted: it was given to another worker" in caplog.text


@pytest.mark.parametrize("new_first", [False, True])
def test_the_new_run_of_a_job_beside_its_lost_one_is_left_alone(
    kit: LedgerKit, renewer: BridgeRenewer, new_first: bool
) -> None:
    lost = kit.bring("running", 7)
    other = Running(kit.bring("running", 8))
    new = lose(kit, lost)
    requests = {run: Running(run) for run in ((new, lost) if new_first else (lost, new))}
    assert renewer.tick() == [requests[lost]]
    kit.ledger.abort(7, "operator")
    assert renewer.tick() == [requests[lost], requests[new]]
    assert other not in renewer.pool.interrupted


def test_each_copy_of_a_message_that_runs_is_interrupted(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    run = kit.bring("running", 7)
    first, second = Running(run), Running(run)
    kit.ledger.abort(7, "operator")
    assert len(renewer.tick()) == 2
    assert set(renewer.tick()) == {first, second}


def test_a_worker_renews_the_leases_of_what_it_runs_itself(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    mine, elsewhere = kit.bring("sent", 7), kit.bring("sent", 8)
    kit.start(mine)
    kit.start(elsewhere, holder="another worker")
    requests = {Running(mine), Running(elsewhere)}
    kit.make_due("running")
    assert requests.isdisjoint(renewer.tick())
    assert kit.ledger.due("running") == [8]


def test_a_run_that_is_over_is_not_held_though_celery_keeps_its_request(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    """As in the thread pool, if the handler raises something that does not derive from ``Exception``."""
    over, goes_on = Running(kit.bring("running", 7)), Running(kit.bring("running", 8))
    signals.task_postrun.send(sender=SENDER, task_id=over.id)
    kit.make_due("running")
    assert renewer.tick() == []
    assert kit.ledger.due("running") == [7]
    assert {over, goes_on} <= set(worker_state.active_requests)


def test_a_run_that_begins_just_now_is_held(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    """This happens between the pool's acceptance of a task and its first signal."""
    request = Request(kit.bring("running", 7))
    signals.task_received.send(sender=SENDER, request=request)
    request.time_start = time.time()
    kit.make_due("running")
    assert renewer.tick() == []
    assert kit.ledger.due("running") == []


@pytest.mark.parametrize(("job", "held"), [("runs", True), ("is over", False), ("is gone", False)])
def test_under_prefork_the_pool_says_what_runs(kit: LedgerKit, renewer: BridgeRenewer, job: str, held: bool) -> None:
    class Prefork(PreforkPool):  # type: ignore[misc]
        pass

    renewer.parent.pool_cls = Prefork
    known = SimpleNamespace(ready=lambda: job == "is over")
    request: Any = Request(kit.bring("running", 7))
    request._apply_result = lambda: None if job == "is gone" else known
    signals.task_received.send(sender=SENDER, request=request)
    kit.make_due("running")
    assert renewer.tick() == []
    assert (kit.ledger.due("running") == []) is held


@pytest.mark.parametrize(
    ("begun", "handed_over", "prefork", "held"),
    [(False, False, False, False), (False, True, False, True), (False, True, True, False), (True, False, False, True)],
)
def test_messages_not_started_before_the_connection_was_lost_are_not_held(
    kit: LedgerKit, renewer: BridgeRenewer, begun: bool, handed_over: bool, prefork: bool, held: bool
) -> None:
    """Celery drops such messages, for example a retry that waits for its time, but their objects may live on."""
    if prefork:
        renewer.parent.pool_cls = PreforkPool
    request: Any = Request(kit.bring("sent", 7))
    request._apply_result = (lambda: None) if handed_over else None
    request.time_start = time.time() if begun else None
    signals.task_received.send(sender=SENDER, request=request)
    renewer.step.forget_dropped()
    kit.make_due("sent")
    assert renewer.tick() == []
    assert (kit.ledger.due("sent") == []) is held


def test_a_message_that_has_not_started_is_left_to_the_fence(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    run = kit.bring("sent", 7)
    request = Request(run)
    signals.task_received.send(sender=SENDER, request=request)
    kit.ledger.abort(7, "operator")
    assert renewer.tick() == []
    assert renewer.told(run.task_id) == []
    assert kit.start(run).refusal == "aborted"


@pytest.mark.parametrize("state", ["finished", "closed", "unknown"])
def test_a_run_that_ends_or_whose_ledger_was_lost_continues(kit: LedgerKit, renewer: BridgeRenewer, state: str) -> None:
    run = kit.bring("running" if state == "unknown" else state, 7)
    request = Running(run)
    if state == "unknown":
        kit.redis.flushall()
    assert renewer.tick() == []
    assert renewer.told(request.id) == []


def test_a_pool_that_cannot_interrupt_is_logged_once(
    kit: LedgerKit, renewer: BridgeRenewer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mr_celery")
    renewer.pool.interrupts = False
    run = kit.bring("running", 7)
    request = Running(run)
    kit.ledger.abort(7, "operator")
    for _ in range(3):
        assert renewer.tick() == []
    assert renewer.pool.tried == 1
    said = [(each.levelname, each.message) for each in caplog.records if "job=7" in each.message]
    assert len(said) == 1
    assert said[0][0] == "INFO"
    assert "has to check job.aborted" in said[0][1]
    assert request.id == run.task_id


def test_an_interruption_that_fails_does_not_hold_up_others(
    kit: LedgerKit, renewer: BridgeRenewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, request = Running(kit.bring("running", 7)), Running(kit.bring("running", 8))

    def fails(pool: Pool) -> None:
        raise OSError("the result backend is unreachable")

    monkeypatch.setattr(broken, "terminate", fails)
    kit.ledger.abort(7, "operator")
    kit.ledger.abort(8, "operator")
    assert renewer.tick() == [request]
    assert "cannot interrupt a run" in caplog.text


def test_the_command_is_checked_with_the_ledger(kit: LedgerKit, renewer: BridgeRenewer) -> None:
    run, other = kit.bring("running", 7), kit.bring("running", 8)
    request, bystander = Running(run), Running(other)
    assert renewer.told(run.task_id, other.task_id, "mr-9-1-elsewhere") == []
    kit.ledger.abort(7, "operator")
    kit.ledger.abort(8, "operator")
    assert renewer.told(run.task_id) == [request]
    assert renewer.told(other.task_id) == [request, bystander]


def test_the_command_does_no_harm_while_the_ledger_is_away(
    kit: LedgerKit, renewer: BridgeRenewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = Running(kit.bring("running", 7))

    def away(*args: Any, **kwargs: Any) -> dict[int, str]:
        raise LedgerUnavailable("the ledger is unreachable")

    monkeypatch.setattr(kit.ledger, "renew", away)
    assert renewer.told(request.id) == []
    assert "cannot renew leases" in caplog.text


def test_the_command_does_nothing_on_a_worker_without_jobs() -> None:
    aborts.register()
    state = SimpleNamespace(consumer=SimpleNamespace(controller=SimpleNamespace()))
    assert Panel.data["modelreins_abort"](state, task_ids=["mr-7-1-x"]) == {"ok": "looked"}
