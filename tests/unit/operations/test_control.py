"""Pause, drain, requeue and fail, in each state of a job."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mr_celery.ledger import Record, Route
from mr_celery.operations import drain, fail, pause, requeue
from mr_celery.operations.control import NotPossible
from support.ledgers import LATER, ROUTE, STATES, LedgerKit, fake_kit

OPEN = ("claimed", "sent", "running", "deferred")


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def nobody(task_id: str, node: str) -> None:
    raise AssertionError("no worker should be notified")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("what", ["requeue", "fail"])
def test_only_jobs_without_an_outcome_are_requeued_or_failed(kit: LedgerKit, what: str, state: str) -> None:
    run = kit.bring(state)
    told: list[tuple[str, str]] = []
    steps: dict[str, Callable[[], object]] = {
        "requeue": lambda: requeue(kit.ledger, 1, announce=lambda *each: told.append(each), lease=LATER),
        "fail": lambda: fail(kit.ledger, 1, "no", announce=lambda *each: told.append(each)),
    }
    if state in OPEN:
        steps[what]()
        assert kit.state() == ("claimed" if what == "requeue" else "finished")
    else:
        with pytest.raises(NotPossible, match="job 1 "):
            steps[what]()
        assert kit.state() == state
    assert told == ([(run.task_id, "celery@test")] if state == "running" else [])


@pytest.mark.parametrize(
    ("state", "lost", "says"),
    [
        ("running", "job:1", "the record of job 1 is gone.* adopt the job again from the server's list"),
        ("finished", "payload:1", "the outcome of job 1 .done. is gone.* adopted again from the server's list"),
        ("unknown", "job:1", "another worker name's, or Redis lost it.* a bridge adopts it"),
    ],
)
def test_a_partly_lost_job_cannot_be_changed_and_the_error_says_why(
    kit: LedgerKit, state: str, lost: str, says: str
) -> None:
    kit.bring(state)
    kit.redis.delete(kit.key(lost))
    with pytest.raises(NotPossible, match=says):
        requeue(kit.ledger, 1, announce=nobody, lease=LATER)
    with pytest.raises(NotPossible, match=says):
        fail(kit.ledger, 1, "no", announce=nobody)


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("lost", [*OPEN, "payload:1", "load:celery", "waiting"])
def test_only_the_record_is_needed_to_fail_or_requeue_a_job(kit: LedgerKit, state: str, lost: str) -> None:
    kit.bring(state)
    kit.redis.delete(kit.key(lost))
    requeue(kit.ledger, 1, announce=lambda task_id, node: None, lease=LATER)
    assert kit.state() == "claimed"
    kit.redis.delete(kit.key(lost))
    fail(kit.ledger, 1, "no", announce=nobody)
    assert kit.state() == "finished"
    assert kit.outcome().text == "no"


def test_a_requeued_job_has_as_many_attempts_left_as_before(kit: LedgerKit) -> None:
    kit.bring("sent")
    requeue(kit.ledger, 1, announce=nobody, lease=LATER)
    record = kit.record()
    assert (record.attempt, record.route.max_attempts) == (2, ROUTE.max_attempts + 1)
    assert kit.is_due("claimed")


def test_a_requeued_run_gets_a_lease_to_stop(kit: LedgerKit) -> None:
    run = kit.bring("running")
    requeue(kit.ledger, 1, announce=lambda task_id, node: None, lease=LATER)
    assert not kit.is_due("claimed")
    assert kit.renew(run) == {1: "superseded"}


ONCE = Route("proj.once", "celery", on_lost="fail")


def test_a_waiting_job_may_be_requeued_even_if_it_must_not_run_twice(kit: LedgerKit) -> None:
    kit.bring("sent", route=ONCE)
    requeue(kit.ledger, 1, announce=nobody, lease=LATER)
    assert kit.record().attempt == 2


def test_a_job_that_starts_while_it_is_being_requeued_does_not_run_twice(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kit.bring("sent", route=ONCE)
    read = kit.ledger.read

    def read_then_start(job_id: int) -> Record | None:
        record = read(job_id)
        assert kit.start(run).job is not None
        return record

    monkeypatch.setattr(kit.ledger, "read", read_then_start)
    with pytest.raises(NotPossible, match="must not run twice"):
        requeue(kit.ledger, 1, announce=nobody, lease=LATER)
    assert kit.state() == "running"
    assert kit.record().attempt == 1


def test_an_unreachable_worker_is_not_a_failure(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    def deaf(task_id: str, node: str) -> None:
        raise OSError("the broker is unreachable")

    run = kit.bring("running")
    fail(kit.ledger, 1, "no", announce=deaf)
    assert "could not be notified at once" in caplog.text
    assert kit.renew(run) == {1: "ended"}


def test_a_pause_records_the_operator_the_time_and_the_reason(kit: LedgerKit) -> None:
    pause(kit.ledger, "a new model")
    kept = kit.ledger.snapshot([]).pause
    assert kept is not None
    assert kept.why == "a new model"
    assert "@" in kept.by
    assert kept.at == pytest.approx(kit.now(), abs=5)
    assert kit.ledger.survey().paused


def test_a_pause_stops_admissions_but_not_jobs_in_flight(kit: LedgerKit) -> None:
    run = kit.bring("sent", 2)
    pause(kit.ledger)
    with pytest.raises(AssertionError):
        kit.bring("admitted", 1)
    assert kit.state(1) == "unknown"
    assert kit.start(run).job is not None
    assert kit.ledger.resume()
    assert not kit.ledger.resume()
    kit.bring("admitted", 1)


def test_a_drain_reports_the_jobs_in_flight_and_ends_at_none(kit: LedgerKit) -> None:
    kit.bring("running", 1)
    kit.bring("sent", 2)
    reported: list[int] = []

    def wait(seconds: float) -> None:
        kit.ledger.abort(len(reported), "operator")

    assert drain([kit.ledger], report=reported.append, wait=wait) == 0
    assert reported == [2, 1, 0]
    assert kit.ledger.survey().paused


def test_a_drain_gives_up_in_time(kit: LedgerKit) -> None:
    kit.bring("running", 1)
    times = iter([0.0, 1.0, 1.0, 5.0])
    assert drain([kit.ledger], timeout=5.0, wait=lambda seconds: None, clock=lambda: next(times)) == 1


def test_the_reason_of_an_operator_is_logged(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kit.bring("sent")
    fail(kit.ledger, 1, "the customer\ncancelled", announce=nobody)
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "failed"]
    assert record.message.endswith(": the customer cancelled")
    assert record.reason == "the customer cancelled"  # type: ignore[attr-defined]
