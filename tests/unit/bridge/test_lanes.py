"""Few threads for what is short, many for what takes long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mr_celery.bridge.lanes import FEW, Lanes
from support.ports import until

MOST = 8


class Clock:
    """A clock that goes on by so many seconds whenever it is looked at."""

    def __init__(self) -> None:
        self.step = 0.0
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self.step
        return self._now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lanes(clock: Clock) -> Iterator[Lanes]:
    made = Lanes(MOST, "test-lane", clock=clock)
    yield made
    made.close()


class Gate:
    """A task that waits until it may end, and tells how often it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        assert self.open.wait(30)
        return threading.current_thread().name

    def began(self, count: int) -> None:
        """Wait until so many have begun."""
        for _ in range(count):
            assert self.begun.acquire(timeout=30)


def test_it_tells_results_and_errors(lanes: Lanes) -> None:
    def fail() -> None:
        raise SystemExit(3)  # whatever it is, the thread goes on

    error = lanes.submit(fail).exception(30)
    assert isinstance(error, SystemExit)
    assert lanes.submit(lambda: 42).result(30) == 42


def test_what_is_short_is_done_by_few(lanes: Lanes) -> None:
    done = [lanes.submit(lambda: threading.current_thread().name) for _ in range(200)]
    names = {each.result(30) for each in done}
    assert len(names) <= FEW
    assert all(name.startswith("test-lane") for name in names)


def test_what_waits_too_long_gets_threads_of_its_own(lanes: Lanes) -> None:
    gate = Gate()
    done = [lanes.submit(gate) for _ in range(MOST + 1)]
    gate.began(FEW)
    assert lanes.waiting
    lanes.hurry()
    gate.began(MOST - FEW)
    assert lanes.waiting  # there are no more threads
    gate.open.set()
    gate.began(1)
    assert len({each.result(30) for each in done}) == MOST
    assert not lanes.waiting


def test_where_tasks_take_long_each_gets_a_thread_from_the_beginning(lanes: Lanes, clock: Clock) -> None:
    clock.step = 0.05
    for _ in range(5):
        lanes.submit(lambda: None).result(30)
    until(lambda: not lanes.busy, what="the threads have ended their tasks")
    gate = Gate()
    done = [lanes.submit(gate) for _ in range(5)]
    gate.began(5)
    gate.open.set()
    assert len({each.result(30) for each in done}) == 5


def test_nothing_more_begins_after_its_end(lanes: Lanes) -> None:
    gate = Gate()
    done = [lanes.submit(gate) for _ in range(FEW + 1)]
    gate.began(FEW)
    lanes.close()
    gate.open.set()
    for each in done[:FEW]:
        each.result(30)
    assert done[-1].cancelled()
