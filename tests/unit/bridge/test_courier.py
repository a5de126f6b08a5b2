"""Outcomes that were not delivered where they arose."""

from __future__ import annotations

import threading

import pytest

from mr_celery.bridge import courier as module
from mr_celery.bridge.courier import LOOK_SECONDS, Courier
from mr_celery.outcome import Outcome
from support.ledgers import Books, Desk, make_desk, refusal
from support.ports import until


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
    books.redis.hset(books.key("job:2"), "outcome", "{not json")
    desk.server.faults["close"] = [RuntimeError("a bug")]
    deliver_due(desk, side_by_side=8)
    assert sorted(desk.books.state(job_id) for job_id in (1, 3)) == ["closed", "finished"]
    assert books.score("finished", 2) is not None
    assert caplog.text.count("delivery interrupted") == 2


def test_a_job_that_ended_after_it_was_taken_is_not_delivered(
    desk: Desk, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(desk, 1)
    take = books.ledger.take

    def take_and_abort(*args: object, **kwargs: float) -> list[int]:
        taken = take(*args, **kwargs)  # type: ignore[arg-type]
        books.ledger.abort(1, "operator")
        return taken

    monkeypatch.setattr(books.ledger, "take", take_and_abort)
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
