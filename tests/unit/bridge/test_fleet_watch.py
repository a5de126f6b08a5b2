"""The fleet watch wakes the loops that claim when workers come that can run something new."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.capacity import FleetReader
from mr_celery.bridge.fleet_watch import FleetWatch
from support.ledgers import BridgeHarness, Called, make_harness


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, worker_online=False)


def test_loops_are_woken_only_by_workers_with_other_tasks_or_queues(harness: BridgeHarness) -> None:
    loops: Any = [Called(), Called()]
    watch = FleetWatch(FleetReader(harness.fleet, clock=harness.clock), loops)

    def woken() -> list[int]:
        before = [loop.times for loop in loops]
        harness.clock.advance(watch.run_once())
        return [loop.times - times for loop, times in zip(loops, before, strict=True)]

    assert woken() == [0, 0]
    harness.announce("celery@a")
    assert woken() == [1, 1]
    assert woken() == [0, 0]
    harness.announce("celery@b", concurrency=8)
    assert woken() == [0, 0], "it runs what the other one runs"
    harness.announce("celery@c", queues=("gpu",))
    assert woken() == [1, 1]
    harness.fleet.withdraw("celery@c")
    assert woken() == [0, 0]
    harness.announce("celery@c", queues=("gpu",))
    assert woken() == [1, 1], "jobs may have come for it in the meantime"


def test_a_look_reads_the_workers_once(harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    run = harness.fleet._redis.run

    def count(*names: str, **rest: Any) -> Any:
        reads.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(harness.fleet._redis, "run", count)
    reader = FleetReader(harness.fleet, clock=harness.clock)
    watch = FleetWatch(reader, [])
    for _ in range(3):
        pause = watch.run_once()
        reader.nodes()  # as the loops of each worker name do
        harness.clock.advance(pause)
    assert reads == ["changed_nodes"] * 3
