"""The courier delivers the outcomes that workers have not delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from mr_celery.bridge import courier as module
from mr_celery.bridge.courier import Courier
from mr_celery.bridge.limits import CHECK_SECONDS, CONCURRENT_DELIVERIES, LONGEST_PAUSE, SLOW_DELIVERIES
from mr_celery.delivery import DELIVERY_LEASE, Delivery, DeliveryRequest
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import DeliveryKey
from mr_celery.outcome import Outcome
from mr_celery.server.api import UPLOAD_TIMEOUT
from mr_celery.telemetry.quantities import duration
from support.ledgers import BridgeHarness, LedgerKit, make_harness, refusal
from support.ports import until

PAUSE = 5.0
"""Longest pause, in seconds, between two trial deliveries to a failing server."""


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without jitter."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


# -- due outcomes --------------------------------------------------------------------------------------------


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


@pytest.fixture
def kit(harness: BridgeHarness) -> LedgerKit:
    return harness.kit


def deliver_due(harness: BridgeHarness, *, side_by_side: int = 8) -> float:
    """Run a courier once, and wait for its deliveries."""
    courier = Courier(harness.context, side_by_side=side_by_side)
    pause = courier.run_once()
    courier.close(20)
    return pause


def finished(harness: BridgeHarness, *job_ids: int) -> None:
    """Jobs with outcomes that are due."""
    for job_id in job_ids:
        harness.bring("finished", job_id)
    harness.kit.make_due("finished", *job_ids)


def test_due_outcomes_are_delivered_and_closed(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1, 2)
    assert deliver_due(harness) == CHECK_SECONDS
    assert harness.server.closed == {1: ("done", "DONE"), 2: ("done", "DONE")}
    assert [kit.state(1), kit.state(2)] == ["closed", "closed"]


def test_an_outcome_that_its_worker_delivers_is_left_alone(harness: BridgeHarness, kit: LedgerKit) -> None:
    harness.bring("finished")
    deliver_due(harness)
    assert harness.server.calls == []
    assert kit.state() == "finished"


def test_each_collection_counts_as_an_attempt(harness: BridgeHarness, kit: LedgerKit) -> None:
    harness.server.faults["close"] = [refusal(503), refusal(409)]
    finished(harness, 1)  # its run has tried once
    deliver_due(harness)
    assert kit.record().deliveries == 2
    kit.make_due("finished")
    harness.server.running.clear()
    deliver_due(harness)
    assert kit.record().deliveries == 3
    assert kit.record().how == "delivered"  # the response to an earlier try was lost


def test_an_outcome_without_any_attempt_is_delivered(harness: BridgeHarness, kit: LedgerKit) -> None:
    run = harness.bring("running")
    kit.ledger.finish(run, Outcome("done", "x"), deliver_seconds=0)
    harness.server.faults["close"] = [refusal(409)]
    harness.server.running.clear()
    deliver_due(harness)
    assert kit.record().how == "superseded"


def test_a_failed_delivery_waits_for_its_pause(harness: BridgeHarness, kit: LedgerKit) -> None:
    harness.server.faults["close"] = [refusal(503, retry_after=60.0)]
    finished(harness, 1)
    deliver_due(harness)
    deliver_due(harness)
    assert harness.server.asked("close") == [1]
    kit.make_due("finished")
    deliver_due(harness)
    assert kit.state() == "closed"


def test_a_faulty_outcome_does_not_stop_the_others(
    harness: BridgeHarness, kit: LedgerKit, caplog: pytest.LogCaptureFixture
) -> None:
    finished(harness, 1, 2, 3)
    kit.redis.hset(kit.key("payload:2"), "outcome", "{not json")
    harness.server.faults["close"] = [RuntimeError("a bug")]
    deliver_due(harness, side_by_side=8)
    assert sorted(harness.kit.state(job_id) for job_id in (1, 3)) == ["closed", "finished"]
    assert kit.score("finished", 2) is not None
    assert caplog.text.count("delivery interrupted") == 2


def test_a_job_that_ended_after_it_was_taken_is_not_delivered(
    harness: BridgeHarness, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(harness, 1)
    collect = kit.ledger.collect

    def collect_and_abort(limit: int, *, lease: float) -> list[DeliveryKey]:
        taken = collect(limit, lease=lease)
        kit.ledger.abort(1, "operator")
        return taken

    monkeypatch.setattr(kit.ledger, "collect", collect_and_abort)
    deliver_due(harness)
    assert harness.server.calls == []


def test_no_more_outcomes_are_taken_than_can_be_delivered_concurrently(
    harness: BridgeHarness, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    finished(harness, *range(1, 8))
    go_on = threading.Event()
    harness.server.faults["close"] = [lambda: go_on.wait(20)] * 3
    courier = Courier(harness.context, side_by_side=3)
    assert courier.run_once() == 0.0  # there may be more
    assert len(kit.ledger.due("finished")) == 4
    assert courier.run_once() == 0.0
    assert len(kit.ledger.due("finished")) == 4
    go_on.set()
    until(lambda: courier.run_once() or not kit.ledger.in_flight())
    courier.close(20)
    assert sorted(harness.server.closed) == list(range(1, 8))


def test_slow_deliveries_keep_no_others_waiting(
    harness: BridgeHarness, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    go_on = threading.Event()
    harness.server.faults["close"] = [lambda: go_on.wait(20)] * SLOW_DELIVERIES
    finished(harness, *range(1, SLOW_DELIVERIES + 1))
    courier = Courier(harness.context, side_by_side=SLOW_DELIVERIES)
    courier.run_once()
    until(lambda: len(harness.server.asked("close")) == SLOW_DELIVERIES)
    finished(harness, 21)
    courier.run_once()
    assert kit.is_due("finished", 21), "each place is taken"
    harness.clock.advance(UPLOAD_TIMEOUT + 1)
    until(lambda: courier.run_once() or 21 in harness.server.closed)
    assert set(harness.server.closed) == {21}
    go_on.set()
    courier.close(20)
    assert len(harness.server.closed) == SLOW_DELIVERIES + 1


def test_if_too_many_deliveries_are_slow_the_newest_are_put_off(
    harness: BridgeHarness, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(module, "SLOW_DELIVERIES", 1)
    over: dict[int, Callable[[], bool]] = {}
    go_on = threading.Event()

    def slow(self: Delivery, request: DeliveryRequest, *, is_over: Callable[[], bool]) -> None:
        over[request.job_id] = is_over
        until(lambda: is_over() or go_on.is_set())

    monkeypatch.setattr(Delivery, "deliver", slow)
    finished(harness, 1, 2)
    courier = Courier(harness.context, side_by_side=1)
    courier.run_once()
    until(lambda: len(over) == 1)
    harness.clock.advance(UPLOAD_TIMEOUT + 1)
    courier.run_once()
    until(lambda: len(over) == 2)
    first, second = over.values()
    courier.run_once()
    assert [first(), second()] == [False, False], "the second is not slow yet"
    harness.clock.advance(UPLOAD_TIMEOUT + 1)
    courier.run_once()
    assert [first(), second()] == [False, True]
    go_on.set()
    courier.close(20)


def test_two_couriers_deliver_each_outcome_once(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, *range(1, 9))
    couriers = [Courier(harness.context), Courier(harness.context)]
    for courier in couriers:
        courier.run_once()
    for courier in couriers:
        courier.close(20)
    assert sorted(harness.server.asked("close")) == list(range(1, 9))


# -- a server in trouble -----------------------------------------------------------------------------------


def look(harness: BridgeHarness, courier: Courier) -> float:
    """Run a courier once, after its deliveries have ended and all outcomes are due again."""
    until(lambda: all(future.done() for future in courier._delivering))
    harness.kit.make_due("finished")
    return courier.run_once()


def begun(harness: BridgeHarness, courier: Courier) -> int:
    """Number of deliveries that one more run starts."""
    before = len(harness.server.asked("close"))
    look(harness, courier)
    until(lambda: all(future.done() for future in courier._delivering))
    return len(harness.server.asked("close")) - before


@pytest.fixture
def courier(harness: BridgeHarness) -> Iterator[Courier]:
    made = Courier(harness.context)
    yield made
    made.close(20)


@pytest.mark.usefixtures("longest")
def test_concurrency_falls_while_the_server_fails(harness: BridgeHarness, courier: Courier) -> None:
    finished(harness, *range(1, 30))
    harness.server.faults["close"] = [refusal(503)] * 100
    assert begun(harness, courier) == CONCURRENT_DELIVERIES
    assert begun(harness, courier) == 0  # it pauses
    harness.clock.advance(PAUSE)
    for _ in range(3):
        assert begun(harness, courier) == 1
        assert 0.0 < look(harness, courier) <= PAUSE
        harness.clock.advance(PAUSE)


@pytest.mark.usefixtures("longest")
def test_concurrency_rises_gradually_when_the_server_recovers(harness: BridgeHarness, courier: Courier) -> None:
    finished(harness, *range(1, 40))
    harness.server.faults["close"] = [refusal(None)] * CONCURRENT_DELIVERIES
    begun(harness, courier)
    look(harness, courier)
    harness.clock.advance(PAUSE)
    assert [begun(harness, courier) for _ in range(5)] == [1, 2, 8, 8, 8]


@pytest.mark.usefixtures("longest")
def test_occasional_failures_hardly_reduce_concurrency(harness: BridgeHarness, courier: Courier) -> None:
    finished(harness, *range(1, 30))
    harness.server.faults["close"] = [refusal(503)]
    assert begun(harness, courier) == CONCURRENT_DELIVERIES
    assert begun(harness, courier) >= CONCURRENT_DELIVERIES / 2
    assert begun(harness, courier) == CONCURRENT_DELIVERIES


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413])
def test_failures_of_single_jobs_do_not_reduce_concurrency(
    harness: BridgeHarness, courier: Courier, status: int
) -> None:
    finished(harness, *range(1, 30))
    harness.server.faults["close"] = [refusal(status)] * CONCURRENT_DELIVERIES
    assert begun(harness, courier) == CONCURRENT_DELIVERIES
    assert begun(harness, courier) == CONCURRENT_DELIVERIES


@pytest.mark.parametrize(("asked_for", "pause"), [(20.0, 20.0), (3600.0, LONGEST_PAUSE), (1e12, LONGEST_PAUSE)])
def test_retry_after_pauses_all_deliveries_up_to_a_limit(
    harness: BridgeHarness, courier: Courier, asked_for: float, pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    finished(harness, *range(1, 10))
    harness.server.faults["close"] = [refusal(429, retry_after=asked_for)] * 3
    begun(harness, courier)
    assert look(harness, courier) == pause
    said = f"the server requested a pause of {duration(asked_for)} (Retry-After), next delivery in {duration(pause)}"
    assert caplog.text.count(said) == 1
    harness.clock.advance(pause - 1.0)
    assert begun(harness, courier) == 0
    harness.clock.advance(1.0)
    assert begun(harness, courier) > 0


@pytest.mark.parametrize(("asked_for", "pause"), [(200.0, 200.0), (3600.0, 300.0), (1e12, 300.0)])
def test_retry_after_pauses_its_own_delivery_up_to_a_limit(
    harness: BridgeHarness, kit: LedgerKit, asked_for: float, pause: float
) -> None:
    finished(harness, 1)
    harness.server.faults["close"] = [refusal(429, retry_after=asked_for)]
    now = kit.now()
    deliver_due(harness)
    assert kit.score("finished") == pytest.approx(now + pause, abs=5)


def test_an_unreachable_ledger_does_not_count_as_a_failure_of_the_server(
    harness: BridgeHarness, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(harness, *range(1, 10))
    harness.server.faults["close"] = [refusal(503)] * CONCURRENT_DELIVERIES
    begun(harness, courier)
    look(harness, courier)
    assert courier._limit.size == 1
    harness.clock.advance(PAUSE)

    def away(*args: object, **kwargs: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(harness.context.ledger, "close", away)
        assert begun(harness, courier) == 1
        courier._collect()
    assert courier._limit.size == 1


# -- the token -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_stops_deliveries_until_it_is_accepted(
    harness: BridgeHarness, courier: Courier, status: int
) -> None:
    finished(harness, 1)
    harness.server.faults["close"] = [refusal(status)]
    begun(harness, courier)
    look(harness, courier)
    assert harness.context.token.rejected
    harness.clock.advance(3600)
    assert begun(harness, courier) == 0
    harness.context.token.accept()
    assert begun(harness, courier) == 1
    assert harness.kit.state() == "closed"


def test_a_successful_delivery_resets_the_count_of_token_refusals(harness: BridgeHarness, courier: Courier) -> None:
    for _ in range(5):
        harness.context.token.reject(refusal(401))
        harness.clock.advance(harness.context.token.pause)
    harness.context.token.accept()
    finished(harness, 1)
    begun(harness, courier)
    courier._collect()
    harness.context.token.reject(refusal(401))
    assert harness.context.token.pause <= 1.0


# -- renewal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lease", "delivery_lease"), [(30.0, DELIVERY_LEASE), (6.0, 6.0)])
def test_a_delivery_is_held_for_at_most_a_lease(
    monkeypatch: pytest.MonkeyPatch, lease: float, delivery_lease: float
) -> None:
    harness = make_harness(monkeypatch, lease=lease)
    finished(harness, 1)
    scores: list[float] = []
    now = harness.kit.now()

    def note() -> None:
        scores.append((harness.kit.score("finished") or 0.0) - now)

    harness.server.faults["close"] = [note]
    deliver_due(harness)
    assert scores == [pytest.approx(delivery_lease, abs=2.0)]


def test_a_slow_delivery_is_renewed(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1)
    due: list[bool] = []

    def long_close() -> None:
        kit.make_due("finished")
        harness.context.renewer.run_once()
        due.append(kit.is_due("finished"))

    harness.server.faults["close"] = [long_close, refusal(503)]
    deliver_due(harness)
    assert due == [False]
    kit.make_due("finished")
    harness.context.renewer.run_once()
    assert kit.state() == "closed"


def test_a_delivery_that_another_courier_took_over_is_not_renewed(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1)
    harness.context.renewer.deliveries.add(kit.collect())
    kit.collect()
    kit.make_due("finished")
    harness.context.renewer.run_once()
    assert kit.is_due("finished")


def test_a_failed_delivery_is_not_renewed(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1)
    harness.server.faults["close"] = [refusal(503)]
    deliver_due(harness)
    kit.make_due("finished")
    harness.context.renewer.run_once()
    assert kit.is_due("finished")


def test_a_courier_that_lost_its_delivery_does_not_postpone_it(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1)

    def overtaken() -> None:
        kit.collect()
        raise refusal(503)

    harness.server.faults["close"] = [overtaken]
    deliver_due(harness)
    assert kit.state() == "finished"
    assert kit.record().why == ""
    assert not kit.is_due("finished")


def test_an_unreadable_outcome_finally_fails_its_job(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1, 2)
    kit.redis.hset(kit.key("payload:1"), "outcome", '{"status": "done"}')
    for _ in range(9):
        deliver_due(harness)
        kit.make_due("finished")
    assert harness.server.closed[2] == ("done", "DONE")
    status, output = harness.server.closed[1]
    assert status == "failed"
    assert "cannot be read (KeyError)" in output
    assert kit.state(1) == "closed"


def test_an_unexpected_error_postpones_the_delivery(harness: BridgeHarness, kit: LedgerKit) -> None:
    finished(harness, 1)
    harness.server.faults["close"] = [ValueError("a bug"), OverflowError("another one")]
    for _ in range(3):
        deliver_due(harness)
        kit.make_due("finished")
    assert harness.server.closed[1] == ("done", "DONE")
