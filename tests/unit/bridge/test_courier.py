"""Outcomes that were not delivered where they arose."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mr_celery.bridge import courier as module
from mr_celery.bridge.courier import LOOK_SECONDS, MOST_PAUSE, MOST_RETRY_AFTER, SIDE_BY_SIDE, Courier, Window
from mr_celery.delivery import HOLD_SECONDS
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import DeliveryKey
from mr_celery.outcome import Outcome
from support.ledgers import Books, Desk, make_desk, refusal
from support.ports import until


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance always chooses the longest wait."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


# -- how much at once ----------------------------------------------------------------------------------------


def test_a_window_is_wide_as_long_as_all_is_well() -> None:
    window = Window(8)
    for _ in range(3):
        window.succeeded()
    assert window.size == 8


def test_each_failure_halves_a_window_down_to_one() -> None:
    window = Window(8)
    sizes = []
    for _ in range(3):
        assert window.failed() == 0.0
        sizes.append(window.size)
    assert sizes == [4, 2, 1]
    assert window.failed() > 0.0
    assert window.size == 1


@pytest.mark.usefixtures("longest")
def test_with_one_at_a_time_left_the_pauses_grow() -> None:
    window = Window(1)
    assert [window.failed() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, MOST_PAUSE, MOST_PAUSE]


@pytest.mark.usefixtures("longest")
def test_a_success_doubles_a_window_and_makes_the_next_pause_short() -> None:
    window = Window(6)
    for _ in range(8):
        window.failed()
    sizes = []
    for _ in range(4):
        window.succeeded()
        sizes.append(window.size)
    assert sizes == [2, 4, 6, 6]
    for _ in range(2):
        assert window.failed() == 0.0
    assert window.size == 1
    assert window.failed() == 0.5


# -- what is due ---------------------------------------------------------------------------------------------


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch)


@pytest.fixture
def books(desk: Desk) -> Books:
    return desk.books


def deliver_due(desk: Desk, *, side_by_side: int = 8) -> float:
    """One look of a courier, with all that it begins."""
    courier = Courier(desk.office, side_by_side=side_by_side)
    pause = courier.run_once()
    courier.close(20)
    return pause


def finished(desk: Desk, *job_ids: int) -> None:
    """Jobs with outcomes that are due."""
    for job_id in job_ids:
        desk.bring("finished", job_id)
    desk.books.make_due("finished", *job_ids)


def test_what_is_due_is_delivered_and_closed(desk: Desk, books: Books) -> None:
    finished(desk, 1, 2)
    assert deliver_due(desk) == LOOK_SECONDS
    assert desk.server.closed == {1: ("done", "DONE"), 2: ("done", "DONE")}
    assert [books.state(1), books.state(2)] == ["closed", "closed"]


def test_what_its_worker_delivers_is_left_to_it(desk: Desk, books: Books) -> None:
    desk.bring("finished")
    deliver_due(desk)
    assert desk.server.calls == []
    assert books.state() == "finished"


def test_each_taking_counts_as_a_try(desk: Desk, books: Books) -> None:
    desk.server.faults["close"] = [refusal(503), refusal(409)]
    finished(desk, 1)  # its run has tried once
    deliver_due(desk)
    assert books.record().deliveries == 2
    books.make_due("finished")
    desk.server.running.clear()
    deliver_due(desk)
    assert books.record().deliveries == 3
    assert books.record().how == "delivered"  # the answer of an earlier try was lost


def test_an_outcome_that_nobody_tried_to_deliver_is_tried_for_the_first_time(desk: Desk, books: Books) -> None:
    run = desk.bring("running")
    books.ledger.finish(run, Outcome("done", "x"), deliver_seconds=0)
    desk.server.faults["close"] = [refusal(409)]
    desk.server.running.clear()
    deliver_due(desk)
    assert books.record().how == "superseded"


def test_a_failed_delivery_waits_for_its_pause(desk: Desk, books: Books) -> None:
    desk.server.faults["close"] = [refusal(503, retry_after=60.0)]
    finished(desk, 1)
    deliver_due(desk)
    deliver_due(desk)
    assert desk.server.asked("close") == [1]
    books.make_due("finished")
    deliver_due(desk)
    assert books.state() == "closed"


def test_what_is_wrong_with_one_job_does_not_stop_the_others(
    desk: Desk, books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    finished(desk, 1, 2, 3)
    books.redis.hset(books.key("payload:2"), "outcome", "{not json")
    desk.server.faults["close"] = [RuntimeError("a bug")]
    deliver_due(desk, side_by_side=8)
    assert sorted(desk.books.state(job_id) for job_id in (1, 3)) == ["closed", "finished"]
    assert books.score("finished", 2) is not None
    assert caplog.text.count("delivery interrupted") == 2


def test_a_job_that_ended_after_it_was_taken_is_not_delivered(
    desk: Desk, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(desk, 1)
    collect = books.ledger.collect

    def collect_and_abort(limit: int, *, hold_seconds: float) -> list[DeliveryKey]:
        taken = collect(limit, hold_seconds=hold_seconds)
        books.ledger.abort(1, "operator")
        return taken

    monkeypatch.setattr(books.ledger, "collect", collect_and_abort)
    deliver_due(desk)
    assert desk.server.calls == []


def test_no_more_are_taken_than_can_be_delivered_side_by_side(
    desk: Desk, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    finished(desk, *range(1, 8))
    go_on = threading.Event()
    desk.server.faults["close"] = [lambda: go_on.wait(20)] * 3
    courier = Courier(desk.office, side_by_side=3)
    assert courier.run_once() == 0.0  # there may be more
    assert len(books.ledger.due("finished")) == 4
    assert courier.run_once() == 0.0
    assert len(books.ledger.due("finished")) == 4
    go_on.set()
    until(lambda: courier.run_once() or not books.ledger.in_flight())
    courier.close(20)
    assert sorted(desk.server.closed) == list(range(1, 8))


def test_two_couriers_deliver_each_outcome_once(desk: Desk, books: Books) -> None:
    finished(desk, *range(1, 9))
    couriers = [Courier(desk.office), Courier(desk.office)]
    for courier in couriers:
        courier.run_once()
    for courier in couriers:
        courier.close(20)
    assert sorted(desk.server.asked("close")) == list(range(1, 9))


# -- a server in trouble -----------------------------------------------------------------------------------


def look(desk: Desk, courier: Courier) -> float:
    """One look of a courier, after those that it has begun have ended and all outcomes are due again."""
    until(lambda: all(future.done() for future in courier._delivering))
    desk.books.make_due("finished")
    return courier.run_once()


def begun(desk: Desk, courier: Courier) -> int:
    """How many deliveries one more look begins."""
    before = len(desk.server.asked("close"))
    look(desk, courier)
    until(lambda: all(future.done() for future in courier._delivering))
    return len(desk.server.asked("close")) - before


@pytest.fixture
def courier(desk: Desk) -> Iterator[Courier]:
    made = Courier(desk.office)
    yield made
    made.close(20)


@pytest.mark.usefixtures("longest")
def test_a_server_in_trouble_is_asked_for_less_and_less_at_once(desk: Desk, courier: Courier) -> None:
    finished(desk, *range(1, 30))
    desk.server.faults["close"] = [refusal(503)] * 100
    assert begun(desk, courier) == SIDE_BY_SIDE
    assert begun(desk, courier) == 0  # it pauses
    desk.clock.advance(MOST_PAUSE)
    for _ in range(3):
        assert begun(desk, courier) == 1
        assert 0.0 < look(desk, courier) <= MOST_PAUSE
        desk.clock.advance(MOST_PAUSE)


@pytest.mark.usefixtures("longest")
def test_a_server_that_comes_back_is_not_run_over(desk: Desk, courier: Courier) -> None:
    finished(desk, *range(1, 40))
    desk.server.faults["close"] = [refusal(None)] * SIDE_BY_SIDE
    begun(desk, courier)
    look(desk, courier)
    desk.clock.advance(MOST_PAUSE)
    assert [begun(desk, courier) for _ in range(5)] == [1, 2, 8, 8, 8]


@pytest.mark.usefixtures("longest")
def test_a_server_that_fails_now_and_then_hardly_slows_anything(desk: Desk, courier: Courier) -> None:
    finished(desk, *range(1, 30))
    desk.server.faults["close"] = [refusal(503)]
    assert begun(desk, courier) == SIDE_BY_SIDE
    assert begun(desk, courier) >= SIDE_BY_SIDE / 2
    assert begun(desk, courier) == SIDE_BY_SIDE


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413])
def test_what_is_wrong_with_single_jobs_slows_nothing(desk: Desk, courier: Courier, status: int) -> None:
    finished(desk, *range(1, 30))
    desk.server.faults["close"] = [refusal(status)] * SIDE_BY_SIDE
    assert begun(desk, courier) == SIDE_BY_SIDE
    assert begun(desk, courier) == SIDE_BY_SIDE


@pytest.mark.parametrize(("asked_for", "pause"), [(20.0, 20.0), (3600.0, MOST_RETRY_AFTER)])
def test_the_server_is_left_alone_for_as_long_as_it_asks_within_limits(
    desk: Desk, courier: Courier, asked_for: float, pause: float
) -> None:
    finished(desk, *range(1, 10))
    desk.server.faults["close"] = [refusal(429, retry_after=asked_for)]
    begun(desk, courier)
    assert look(desk, courier) == pause
    desk.clock.advance(pause - 1.0)
    assert begun(desk, courier) == 0
    desk.clock.advance(1.0)
    assert begun(desk, courier) > 0


def test_a_job_waits_for_as_long_as_the_server_asks(desk: Desk, books: Books) -> None:
    finished(desk, 1)
    desk.server.faults["close"] = [refusal(429, retry_after=3600.0)]
    now = books.now()
    deliver_due(desk)
    assert books.score("finished") == pytest.approx(now + 3600, abs=5)


def test_a_ledger_that_is_away_while_a_delivery_is_written_down_tells_nothing_of_the_server(
    desk: Desk, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(desk, *range(1, 10))
    desk.server.faults["close"] = [refusal(503)] * SIDE_BY_SIDE
    begun(desk, courier)
    look(desk, courier)
    assert courier._window.size == 1
    desk.clock.advance(MOST_PAUSE)

    def away(*args: object, **kwargs: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(desk.office.ledger, "close", away)
        assert begun(desk, courier) == 1
        courier._look_back()
    assert courier._window.size == 1


# -- the token -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_stops_claims_and_deliveries_until_it_is_taken_again(
    desk: Desk, courier: Courier, status: int
) -> None:
    finished(desk, 1)
    desk.server.faults["close"] = [refusal(status)]
    begun(desk, courier)
    look(desk, courier)
    assert desk.office.token_rejected
    desk.clock.advance(3600)
    assert begun(desk, courier) == 0
    desk.office.accept_token()
    assert begun(desk, courier) == 1
    assert desk.books.state() == "closed"


def test_a_delivery_that_gets_through_shows_that_a_refusal_was_a_lapse(desk: Desk, courier: Courier) -> None:
    for _ in range(5):
        desk.office.reject_token(refusal(401))
        desk.clock.advance(desk.office.token_pause)
    desk.office.accept_token()
    finished(desk, 1)
    begun(desk, courier)
    courier._look_back()
    desk.office.reject_token(refusal(401))
    assert desk.office.token_pause <= 1.0


# -- held while it lasts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lease", "hold"), [(30.0, HOLD_SECONDS), (6.0, 6.0)])
def test_an_outcome_is_kept_from_others_for_no_longer_than_a_lease(
    monkeypatch: pytest.MonkeyPatch, lease: float, hold: float
) -> None:
    desk = make_desk(monkeypatch, lease=lease)
    finished(desk, 1)
    scores: list[float] = []
    now = desk.books.now()

    def note() -> None:
        scores.append((desk.books.score("finished") or 0.0) - now)

    desk.server.faults["close"] = [note]
    deliver_due(desk)
    assert scores == [pytest.approx(hold, abs=2.0)]


def test_a_delivery_that_takes_long_is_held_while_it_lasts(desk: Desk, books: Books) -> None:
    finished(desk, 1)
    due: list[bool] = []

    def long_close() -> None:
        books.make_due("finished")
        desk.office.hold_deliveries()
        due.append(books.is_due("finished"))

    desk.server.faults["close"] = [long_close, refusal(503)]
    deliver_due(desk)
    assert due == [False]
    books.make_due("finished")
    desk.office.hold_deliveries()
    assert books.state() == "closed"


def test_what_another_courier_has_taken_over_is_not_held(desk: Desk, books: Books) -> None:
    finished(desk, 1)
    with desk.office.delivery_under_way(books.collect()):
        books.collect()
        books.make_due("finished")
        desk.office.hold_deliveries()
        assert books.is_due("finished")


def test_an_outcome_that_is_not_delivered_is_not_held(desk: Desk, books: Books) -> None:
    finished(desk, 1)
    desk.server.faults["close"] = [refusal(503)]
    deliver_due(desk)
    books.make_due("finished")
    desk.office.hold_deliveries()
    assert books.is_due("finished")


def test_a_courier_that_was_overtaken_leaves_the_next_try_to_the_other_one(desk: Desk, books: Books) -> None:
    finished(desk, 1)

    def overtaken() -> None:
        books.collect()
        raise refusal(503)

    desk.server.faults["close"] = [overtaken]
    deliver_due(desk)
    assert books.state() == "finished"
    assert books.record().why == ""
    assert not books.is_due("finished")
