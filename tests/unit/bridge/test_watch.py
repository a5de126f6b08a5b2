"""The watch wakes the loops that have work, and the claimers when workers come online that can run new tasks."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.capacity import FleetReader, Surveys
from mr_celery.bridge.recovery.reaper import Reaper
from mr_celery.bridge.watch import DuePoller, FleetWatch
from mr_celery.errors import LedgerUnavailable
from support.ledgers import BridgeHarness, Called, make_harness

LEASE = 30.0
STATES = ("admitted", "claimed", "sent", "running", "deferred", "finished")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, lease=LEASE)


@pytest.fixture
def loops() -> dict[str, Any]:
    return {state: Called() for state in STATES}


@pytest.fixture
def due_poller(harness: BridgeHarness, loops: dict[str, Any]) -> DuePoller:
    return DuePoller(harness.context, loops, Surveys())


def called(loops: dict[str, Any]) -> set[str]:
    return {state for state, loop in loops.items() if loop.times}


@pytest.mark.parametrize("state", STATES)
def test_calls_the_loop_of_the_state_with_a_due_job(
    harness: BridgeHarness, due_poller: DuePoller, loops: dict[str, Any], state: str
) -> None:
    for job_id, each in enumerate(STATES, 1):
        harness.bring(each, job_id)
    due_poller.run_once()
    assert called(loops) == set()
    harness.kit.make_due(state)
    due_poller.run_once()
    assert called(loops) == {state}


def test_calls_a_loop_once_for_several_states(harness: BridgeHarness) -> None:
    loop: Any = Called()
    harness.bring("claimed", 1)
    harness.bring("sent", 2)
    harness.kit.make_due("claimed")
    harness.kit.make_due("sent")
    DuePoller(harness.context, {"claimed": loop, "sent": loop}, Surveys()).run_once()
    assert loop.times == 1


def test_it_changes_only_the_time_of_the_last_poll(harness: BridgeHarness, due_poller: DuePoller) -> None:
    for job_id, each in enumerate(STATES, 1):
        harness.bring(each, job_id)
        harness.kit.make_due(each)
    due_poller.run_once()
    assert all(harness.kit.is_due(each, job_id) for job_id, each in enumerate(STATES, 1))
    assert harness.kit.redis.hget(harness.kit.key("looked"), "at")


def test_an_idle_poll_is_one_command(
    harness: BridgeHarness, due_poller: DuePoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    run = harness.kit.ledger._redis.run

    def count(*names: str, **rest: Any) -> Any:
        steps.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(harness.kit.ledger._redis, "run", count)
    due_poller.run_once()
    assert steps == ["watch"]


def test_after_a_time_without_the_ledger_no_run_is_lost_for_half_a_lease(
    harness: BridgeHarness, due_poller: DuePoller, loops: dict[str, Any]
) -> None:
    reaper = Reaper(harness.context)
    due_poller.run_once()
    harness.bring("running")
    harness.kit.make_due("running")
    harness.kit.age_look(seconds=LEASE)
    for _ in range(2):
        due_poller.run_once()
        reaper.run_once()
        harness.kit.age_look(seconds=LEASE / 4 - 0.1)
    assert called(loops) == set()
    assert harness.kit.state() == "running"
    harness.kit.age_look(seconds=1.0)
    due_poller.run_once()
    assert called(loops) == {"running"}
    reaper.run_once()
    assert harness.kit.record().attempt == 2


def test_polls_keep_leases_valid_while_the_reaper_is_busy(harness: BridgeHarness, due_poller: DuePoller) -> None:
    reaper = Reaper(harness.context)
    reaper.run_once()
    for _ in range(10):
        harness.kit.age_look(seconds=LEASE / 10)
        due_poller.run_once()
    harness.bring("running")
    harness.kit.make_due("running")
    reaper.run_once()
    assert harness.kit.record().attempt == 2


@pytest.mark.parametrize(("lease", "pause"), [(30.0, 1.0), (60.0, 1.0), (4.0, 0.4)])
def test_a_short_lease_is_polled_more_often(monkeypatch: pytest.MonkeyPatch, lease: float, pause: float) -> None:
    harness = make_harness(monkeypatch, lease=lease)
    assert DuePoller(harness.context, {}, Surveys()).run_once() == pause


def test_an_unreachable_ledger_is_raised_for_the_loop(
    harness: BridgeHarness, due_poller: DuePoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*queues: object, **arguments: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(harness.context.ledger, "watch", away)
    with pytest.raises(LedgerUnavailable):
        due_poller.run_once()


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, worker_online=False)


def test_loops_are_woken_only_by_workers_with_other_tasks_or_queues(empty: BridgeHarness) -> None:
    loops: Any = [Called(), Called()]
    watch = FleetWatch(FleetReader(empty.fleet, clock=empty.clock), loops)

    def woken() -> list[int]:
        before = [loop.times for loop in loops]
        empty.clock.advance(watch.run_once())
        return [loop.times - times for loop, times in zip(loops, before, strict=True)]

    assert woken() == [0, 0]
    empty.announce("celery@a")
    assert woken() == [1, 1]
    assert woken() == [0, 0]
    empty.announce("celery@b", concurrency=8)
    assert woken() == [0, 0], "it runs what the other one runs"
    empty.announce("celery@c", queues=("gpu",))
    assert woken() == [1, 1]
    empty.fleet.withdraw("celery@c")
    assert woken() == [0, 0]
    empty.announce("celery@c", queues=("gpu",))
    assert woken() == [1, 1], "jobs may have come for it in the meantime"


def test_a_look_reads_the_workers_once(empty: BridgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    run = empty.fleet._redis.run

    def count(*names: str, **rest: Any) -> Any:
        reads.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(empty.fleet._redis, "run", count)
    reader = FleetReader(empty.fleet, clock=empty.clock)
    watch = FleetWatch(reader, [])
    for _ in range(3):
        pause = watch.run_once()
        reader.nodes()  # as the loops of each worker name do
        empty.clock.advance(pause)
    assert reads == ["changed_nodes"] * 3
