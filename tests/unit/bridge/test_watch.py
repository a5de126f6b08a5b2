"""One look at the ledger tells whom there is work for."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.reaper import Reaper
from mr_celery.bridge.watch import Watch
from mr_celery.errors import LedgerUnavailable
from support.ledgers import Desk, make_desk

LEASE = 30.0
STATES = ("admitted", "claimed", "sent", "running", "finished")


class Called:
    """A loop that only notes that it is called."""

    def __init__(self) -> None:
        self.times = 0

    def call(self) -> None:
        self.times += 1


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, lease=LEASE)


@pytest.fixture
def loops() -> dict[str, Any]:
    return {state: Called() for state in STATES}


@pytest.fixture
def watch(desk: Desk, loops: dict[str, Any]) -> Watch:
    return Watch(desk.office, loops)


def called(loops: dict[str, Any]) -> set[str]:
    return {state for state, loop in loops.items() if loop.times}


@pytest.mark.parametrize("state", STATES)
def test_calls_whoever_looks_after_what_is_due(desk: Desk, watch: Watch, loops: dict[str, Any], state: str) -> None:
    for job_id, each in enumerate(STATES, 1):
        desk.bring(each, job_id)
    watch.run_once()
    assert called(loops) == set()
    desk.books.make_due(state)
    watch.run_once()
    assert called(loops) == {state}


def test_calls_a_loop_once_for_several_states(desk: Desk) -> None:
    loop: Any = Called()
    desk.bring("claimed", 1)
    desk.bring("sent", 2)
    desk.books.make_due("claimed")
    desk.books.make_due("sent")
    Watch(desk.office, {"claimed": loop, "sent": loop}).run_once()
    assert loop.times == 1


def test_it_changes_nothing_but_when_somebody_looked(desk: Desk, watch: Watch) -> None:
    for job_id, each in enumerate(STATES, 1):
        desk.bring(each, job_id)
        desk.books.make_due(each)
    watch.run_once()
    assert all(desk.books.is_due(each, job_id) for job_id, each in enumerate(STATES, 1))
    assert desk.books.redis.hget(desk.books.key("looked"), "at")


def test_an_idle_look_is_one_command(desk: Desk, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    run = desk.books.ledger._redis.run

    def count(*names: str, **rest: Any) -> Any:
        steps.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(desk.books.ledger._redis, "run", count)
    watch.run_once()
    assert steps == ["watch"]


def test_after_a_time_without_the_ledger_no_run_is_lost_for_half_a_lease(
    desk: Desk, watch: Watch, loops: dict[str, Any]
) -> None:
    reaper = Reaper(desk.office)
    watch.run_once()
    desk.bring("running")
    desk.books.make_due("running")
    desk.books.age_look(seconds=LEASE)
    for _ in range(2):
        watch.run_once()
        reaper.run_once()
        desk.books.age_look(seconds=LEASE / 4 - 0.1)
    assert called(loops) == set()
    assert desk.books.state() == "running"
    desk.books.age_look(seconds=1.0)
    watch.run_once()
    assert called(loops) == {"running"}
    reaper.run_once()
    assert desk.books.record().attempt == 2


def test_while_it_looks_a_reaper_that_was_busy_elsewhere_loses_no_time(desk: Desk, watch: Watch) -> None:
    reaper = Reaper(desk.office)
    reaper.run_once()
    for _ in range(10):
        desk.books.age_look(seconds=LEASE / 10)
        watch.run_once()
    desk.bring("running")
    desk.books.make_due("running")
    reaper.run_once()
    assert desk.books.record().attempt == 2


@pytest.mark.parametrize(("lease", "pause"), [(30.0, 1.0), (60.0, 1.0), (4.0, 0.4)])
def test_a_short_lease_is_looked_at_more_often(monkeypatch: pytest.MonkeyPatch, lease: float, pause: float) -> None:
    desk = make_desk(monkeypatch, lease=lease)
    assert Watch(desk.office, {}).run_once() == pause


def test_a_ledger_that_is_away_is_the_loops_to_repeat(
    desk: Desk, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**arguments: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(desk.office.ledger, "watch", away)
    with pytest.raises(LedgerUnavailable):
        watch.run_once()
