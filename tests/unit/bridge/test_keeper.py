"""What a bridge has in hand stays in its hand while it lives."""

from __future__ import annotations

import pytest

from mr_celery.bridge.keeper import INTERVAL, Keeper
from mr_celery.bridge.office import CLAIM_LEASE
from mr_celery.delivery import HOLD_SECONDS
from mr_celery.errors import LedgerUnavailable
from support.ledgers import Desk, make_desk


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch)


@pytest.fixture
def keeper(desk: Desk) -> Keeper:
    return Keeper(desk.office)


def test_it_looks_often_enough_for_the_shortest_hold(keeper: Keeper) -> None:
    assert keeper.run_once() == INTERVAL
    assert min(CLAIM_LEASE, HOLD_SECONDS) >= INTERVAL * 3


def test_a_claim_under_way_is_held_while_it_lasts_and_no_longer(desk: Desk, keeper: Keeper) -> None:
    desk.bring("admitted")
    with desk.office.claim_under_way(1):
        desk.books.make_due("admitted")
        keeper.run_once()
        assert not desk.books.is_due("admitted")
    desk.books.make_due("admitted")
    keeper.run_once()
    assert desk.books.is_due("admitted")


def test_a_delivery_under_way_is_held_while_it_lasts_and_no_longer(desk: Desk, keeper: Keeper) -> None:
    desk.bring("finished")
    with desk.office.delivery_under_way(desk.books.collect()):
        desk.books.make_due("finished")
        keeper.run_once()
        assert not desk.books.is_due("finished")
    desk.books.make_due("finished")
    keeper.run_once()
    assert desk.books.is_due("finished")


def test_it_asks_nobody_but_the_ledger(desk: Desk, keeper: Keeper) -> None:
    desk.bring("admitted", 1)
    desk.bring("finished", 2)
    with desk.office.claim_under_way(1), desk.office.delivery_under_way(desk.books.delivery(2)):
        keeper.run_once()
    assert (desk.server.calls, desk.sender.counted) == ([], [])


def test_what_is_over_in_the_ledger_stays_over(desk: Desk, keeper: Keeper) -> None:
    desk.bring("closed", 1)
    desk.bring("aborted", 2)
    with desk.office.claim_under_way(1), desk.office.delivery_under_way(desk.books.delivery(2)):
        keeper.run_once()
    assert desk.books.ledger.in_flight() == {}


def test_a_ledger_that_is_away_is_the_loops_to_repeat(
    desk: Desk, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(desk.office.ledger, "settle_later", away)
    with desk.office.claim_under_way(1), pytest.raises(LedgerUnavailable):
        keeper.run_once()
