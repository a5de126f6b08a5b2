"""The reaper sends stuck jobs again, or closes them as failed."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.capacity import UNROUTED
from mr_celery.bridge.context import BridgeContext
from mr_celery.bridge.limits import LONGEST_PAUSE, OVERTAKEN_SECONDS, SILENT_QUEUE_SECONDS
from mr_celery.bridge.recovery.reaper import Reaper
from mr_celery.failure_texts import RESEND_BUDGET
from mr_celery.ledger import Route, RunKey
from support.ledgers import BridgeHarness, LedgerKit, make_harness

LEASE = 30.0


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, lease=LEASE)


@pytest.fixture
def kit(harness: BridgeHarness) -> LedgerKit:
    return harness.kit


@pytest.fixture
def context(harness: BridgeHarness) -> BridgeContext:
    return harness.context


@pytest.fixture
def reaper(context: BridgeContext) -> Reaper:
    return Reaper(context)


# -- lost runs ---------------------------------------------------------------------------------------------


def test_a_run_with_an_expired_lease_is_sent_again_as_the_next_attempt(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    run = harness.bring("running", priority="high")
    kit.make_due("running")
    reaper.run_once()
    record = kit.record()
    assert (kit.state(), record.attempt) == ("sent", 2)
    assert record.task_id != run.task_id
    assert harness.publisher.sent == [(1, record.task_id)]
    assert harness.publisher.details == [("high", 0)]
    assert "no sign of life from celery@test" in caplog.text


def test_a_run_with_a_valid_lease_is_left_alone(harness: BridgeHarness, kit: LedgerKit, reaper: Reaper) -> None:
    harness.bring("running")
    reaper.run_once()
    assert kit.state() == "running"
    assert harness.publisher.sent == []


def test_a_lease_that_is_renewed_at_the_last_moment_is_kept(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = harness.bring("running")
    kit.make_due("running")
    read = kit.ledger.read

    def read_and_renew(job_id: int) -> object:
        record = read(job_id)
        kit.renew(run, seconds=LEASE)
        return record

    monkeypatch.setattr(kit.ledger, "read", read_and_renew)
    reaper.run_once()
    assert kit.state() == "running"


def test_a_lost_run_that_must_not_be_repeated_fails(harness: BridgeHarness, kit: LedgerKit, reaper: Reaper) -> None:
    kit.bring("running", route=Route("tiny.upper", "celery", on_lost="fail"))
    kit.make_due("running")
    reaper.run_once()
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "on_lost='fail'" in outcome.text
    assert kit.is_due("finished")
    assert harness.publisher.sent == []


def test_a_job_that_keeps_killing_its_worker_fails_with_that_reason(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("sent")
    for _ in range(3):
        kit.start(RunKey(1, kit.record().task_id))
        kit.make_due("running")
        reaper.run_once()
    outcome = kit.outcome()
    assert kit.state() == "finished"
    assert "max_attempts" in outcome.text
    assert "attempt 3" in outcome.text
    assert len(harness.publisher.sent) == 2


def test_after_a_time_without_the_ledger_runs_get_time_to_renew_their_leases(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    reaper.run_once()
    harness.bring("running")
    kit.make_due("running")
    kit.age_look(seconds=LEASE)
    for _ in range(2):
        reaper.run_once()
        kit.age_look(seconds=LEASE / 4 - 0.1)
    reaper.run_once()
    assert kit.state() == "running"
    kit.age_look(seconds=1.0)
    reaper.run_once()
    assert kit.state() == "sent"
    assert kit.record().attempt == 2


def test_without_an_outage_no_lease_is_extended(harness: BridgeHarness, kit: LedgerKit, reaper: Reaper) -> None:
    harness.bring("running")
    for _ in range(20):
        reaper.run_once()
        kit.age_look(seconds=LEASE / 4)
    kit.make_due("running")
    reaper.run_once()
    assert kit.record().attempt == 2


def test_of_two_reapers_one_sends_the_job_again(harness: BridgeHarness, kit: LedgerKit, context: BridgeContext) -> None:
    harness.bring("running")
    kit.make_due("running")
    first, second = Reaper(context), Reaper(context)
    first.run_once()
    second.run_once()
    assert len(harness.publisher.sent) == 1
    assert kit.record().attempt == 2


# -- messages that no worker started -------------------------------------------------------------------------


def test_a_lost_message_is_sent_again_with_the_same_task_id(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    run = harness.bring("sent")
    kit.make_due("sent")
    reaper.run_once()
    assert harness.publisher.sent == [(1, run.task_id)]
    assert kit.state() == "sent"
    assert (kit.record().attempt, kit.record().resends) == (1, 1)
    assert not kit.is_due("sent")


def test_a_message_that_is_lost_repeatedly_fails_its_job_with_advice(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("sent")
    for _ in range(RESEND_BUDGET + 1):
        assert kit.state() == "sent"
        kit.make_due("sent")
        reaper.run_once()
    outcome = kit.outcome()
    assert kit.state() == "finished"
    assert "no worker started the job" in outcome.text
    assert "celery" in outcome.text
    assert len(harness.publisher.sent) == RESEND_BUDGET


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("age", [LEASE, SILENT_QUEUE_SECONDS * 100])
def test_a_queued_message_is_not_sent_again_however_long_it_waits(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, length: int | None, age: float
) -> None:
    harness.bring("sent")
    harness.publisher.length = length
    kit.age(1, "sent", seconds=age)
    kit.reach(sent=kit.record().times["sent"] + OVERTAKEN_SECONDS - 1)
    kit.make_due("sent")
    reaper.run_once()
    assert harness.publisher.sent == []
    assert kit.state() == "sent"
    assert not kit.is_due("sent")


def test_overtaken_messages_are_sent_again_at_doubling_intervals(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("sent")
    harness.publisher.length = 3
    for times in (1, 2, 4, 8, 16, 32, 32):
        for overtaken in (False, True):
            later = OVERTAKEN_SECONDS * times + (1 if overtaken else -1)
            kit.reach(sent=kit.record().times["sent"] + later)
            sent = len(harness.publisher.sent)
            kit.make_due("sent")
            reaper.run_once()
            assert len(harness.publisher.sent) == sent + overtaken
    assert (kit.state(), kit.record().resends) == ("sent", 0)


def test_messages_of_different_queues_do_not_overtake_each_other(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("sent", task="tiny.slow")
    harness.publisher.length = 3
    kit.reach("celery", sent=kit.now() + OVERTAKEN_SECONDS + 1)
    kit.make_due("sent")
    reaper.run_once()
    assert harness.publisher.sent == []


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("ever", [True, False])
def test_in_a_silent_queue_a_message_is_sent_again_because_of_its_age(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, length: int | None, ever: bool
) -> None:
    harness.bring("sent")
    harness.publisher.length = length
    if ever:
        kit.reach(sent=0.0, seconds=SILENT_QUEUE_SECONDS + 1)
    for age, expected in ((SILENT_QUEUE_SECONDS - 1, 0), (SILENT_QUEUE_SECONDS + 1, 1), (SILENT_QUEUE_SECONDS + 1, 1)):
        kit.age(1, "sent", seconds=age)
        kit.make_due("sent")
        reaper.run_once()
        assert len(harness.publisher.sent) == expected
        kit.age(1, "sent", seconds=-age)


def test_many_queued_messages_cost_few_steps_and_are_not_sent_again(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in range(1, 251):
        harness.bring("sent", job_id)
    harness.publisher.length = 250
    kit.make_due("sent")
    steps: list[str] = []
    run = kit.ledger._redis.run

    def count(*names: str, **rest: Any) -> Any:
        steps.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(kit.ledger._redis, "run", count)
    reaper.run_once()
    assert steps == ["lost", "unstarted", "unstarted", "take"]
    assert (harness.publisher.sent, harness.publisher.counted) == ([], ["celery"])


def test_more_than_a_page_of_messages_is_continued_immediately(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_celery.bridge.recovery.reaper.PAGE", 2)
    harness.publisher.length = 21
    for job_id in range(1, 22):
        harness.bring("sent", job_id)
    kit.make_due("sent")
    assert reaper.run_once() == 0.0
    assert reaper.run_once() == LONGEST_PAUSE
    assert kit.ledger.due("sent") == []


@pytest.mark.parametrize("length", [0, 3, None])
def test_a_message_held_by_a_dead_worker_is_sent_again_without_a_limit(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, length: int | None
) -> None:
    run = harness.bring("sent")
    harness.publisher.length = length
    for _ in range(RESEND_BUDGET + 2):
        kit.renew(run, seconds=LEASE)
        kit.make_due("sent")
        reaper.run_once()
    assert harness.publisher.sent == [(1, run.task_id)] * (RESEND_BUDGET + 2)
    assert (kit.state(), kit.record().attempt, kit.record().resends) == ("sent", 1, 0)
    assert "stopped reporting" in kit.record().why


def test_a_message_lost_after_its_worker_died_is_counted(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    run = harness.bring("sent")
    kit.renew(run, seconds=LEASE)
    for _ in range(3):
        kit.make_due("sent")
        reaper.run_once()
    assert kit.record().resends == 2


def test_a_queued_retry_does_not_count_as_held(harness: BridgeHarness, kit: LedgerKit, reaper: Reaper) -> None:
    run = harness.bring("sent")
    kit.renew(run, seconds=LEASE)
    kit.start(run)
    kit.retry(run, seconds=LEASE)
    harness.publisher.length = 3
    kit.make_due("sent")
    reaper.run_once()
    assert harness.publisher.sent == []


def test_each_queue_is_counted_once_in_a_run(harness: BridgeHarness, kit: LedgerKit, reaper: Reaper) -> None:
    for job_id in (1, 2, 3):
        harness.bring("sent", job_id)
    for job_id in (4, 5):
        harness.bring("sent", job_id, task="tiny.slow")
    harness.publisher.length = 7
    for _ in range(2):
        kit.make_due("sent")
        reaper.run_once()
    assert sorted(harness.publisher.counted) == ["celery", "celery", "slow", "slow"]


def test_the_broker_is_not_contacted_if_no_message_is_missing(harness: BridgeHarness, reaper: Reaper) -> None:
    harness.bring("sent")
    reaper.run_once()
    assert harness.publisher.counted == []


def test_the_job_fails_with_the_reason_that_its_worker_gave(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    run = harness.bring("sent")
    kit.redis.hset(kit.key("job:1"), mapping={"why": "the task is not registered", "resends": RESEND_BUDGET})
    kit.make_due("sent")
    reaper.run_once()
    outcome = kit.outcome()
    assert "the task is not registered" in outcome.text
    assert kit.record().task_id == run.task_id


# -- not published -----------------------------------------------------------------------------------------


def test_a_job_whose_bridge_died_before_publishing_is_published(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    run = harness.bring("claimed", priority="low")
    kit.make_due("claimed")
    reaper.run_once()
    assert harness.publisher.sent == [(1, run.task_id)]
    assert harness.publisher.details == [("low", 0)]
    assert kit.state() == "sent"


def test_a_job_that_another_bridge_is_publishing_is_left_to_it(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("claimed")
    reaper.run_once()
    assert harness.publisher.sent == []


def test_a_celery_retry_that_is_sent_again_keeps_its_number(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    run = harness.bring("running")
    kit.retry(run, seconds=LEASE)
    kit.make_due("sent")
    reaper.run_once()
    assert harness.publisher.sent == [(1, run.task_id)]
    assert harness.publisher.details == [("normal", 1)]
    assert kit.start(RunKey(1, run.task_id, 1)).job is not None


def test_a_failed_publish_is_retried_with_the_same_task_id(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    run = harness.bring("claimed")
    harness.publisher.fails = [OSError("the broker is unreachable")]
    kit.make_due("claimed")
    reaper.run_once()
    assert kit.state() == "claimed"
    assert not kit.is_due("claimed")
    assert "not published, will be retried" in caplog.text
    kit.make_due("claimed")
    reaper.run_once()
    assert harness.publisher.sent == [(1, run.task_id)]


def three_unsent(harness: BridgeHarness, *fails: Exception) -> None:
    """Three unpublished jobs, and a broker with this error."""
    for job_id in (1, 2, 3):
        harness.bring("claimed", job_id)
    harness.publisher.fails = list(fails)
    harness.kit.make_due("claimed")


def test_after_a_failed_publish_no_other_is_tried_in_the_same_run(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    three_unsent(harness, OSError("the broker is unreachable"))
    reaper.run_once()
    assert harness.publisher.sent == []
    assert [kit.state(job_id) for job_id in (1, 2, 3)] == ["claimed"] * 3
    kit.make_due("claimed")
    reaper.run_once()
    assert sorted(harness.publisher.jobs) == [1, 2, 3]


def test_lost_runs_are_found_while_the_broker_is_unreachable(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    three_unsent(harness, *[OSError("the broker is unreachable")] * 2)
    harness.bring("running", 4)
    for attempt in (2, 3):
        kit.make_due("claimed")
        kit.make_due("running", 4)
        reaper.run_once()
        assert kit.record(4).attempt == attempt
        kit.start(RunKey(4, kit.record(4).task_id))
    assert harness.publisher.sent == []


def test_jobs_are_published_in_random_order(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_celery.bridge.recovery.reaper.random.shuffle", lambda job_ids: job_ids.reverse())
    three_unsent(harness)
    reaper.run_once()
    assert harness.publisher.jobs == [3, 2, 1]


def test_a_job_whose_handler_was_removed_fails_and_names_it(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    kit.bring("claimed", route=Route("tiny.removed", "celery"))
    kit.make_due("claimed")
    reaper.run_once()
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "tiny.removed" in outcome.text
    assert harness.publisher.sent == []


# -- faulty jobs ---------------------------------------------------------------------------------------------


def test_an_unreadable_record_does_not_delay_the_others(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    harness.bring("claimed", 1)
    harness.bring("claimed", 2)
    kit.redis.hset(kit.key("job:1"), "resends", "no number")
    kit.make_due("claimed")
    reaper.run_once()
    assert kit.state(2) == "sent"
    assert "job=1 recovery failed, will be retried" in caplog.text


def test_a_job_that_this_bridge_cannot_parse_is_published_or_explained(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    harness.bring("claimed", 1)
    kit.redis.hset(kit.key("payload:1"), "job", '{"id": 1, "input": ' + "[" * 100_000 + "]" * 100_000 + "}")
    kit.make_due("claimed")
    reaper.run_once()
    assert harness.publisher.jobs == [1]


def test_a_job_without_a_handler_fails_even_if_its_bridge_died(
    harness: BridgeHarness, kit: LedgerKit, reaper: Reaper
) -> None:
    kit.bring("claimed", route=UNROUTED)
    kit.make_due("claimed")
    reaper.run_once()
    assert kit.outcome().text == "no handler takes the job"
