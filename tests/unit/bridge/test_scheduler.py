"""The scheduler runs work on few threads when it is due, and never twice at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mr_celery.bridge.scheduler import Scheduler
from mr_celery.bridge.threads import Threads
from support.ports import until

PATIENCE = 20.0
LONG = 3600.0


class Work:
    """Work that counts its runs, and is due again after a pause."""

    def __init__(self, pause: float = LONG, during: Callable[[], object] = lambda: None) -> None:
        self.pause = pause
        self.runs = 0
        self.failures = 0
        self.overlaps = 0
        self._during = during
        self._runs = threading.Lock()

    def run(self) -> float:
        if not self._runs.acquire(blocking=False):
            self.overlaps += 1
            return LONG
        try:
            self.runs += 1
            self._during()
        finally:
            self._runs.release()
        return time.monotonic() + self.pause


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.close()


def started(name: str) -> int:
    return sum(thread.name == f"modelreins-{name}" for thread in threading.enumerate())


def test_a_thousand_loops_take_as_many_threads_as_the_pool_has(scheduler: Scheduler) -> None:
    threads = Threads("many", 3)
    works = [Work(pause=0.01) for _ in range(1000)]
    for work in works:
        scheduler.add(work, threads)
    until(lambda: all(work.runs > 3 for work in works), seconds=PATIENCE, what="all of them run again and again")
    assert started("many") <= 3
    assert not any(work.overlaps for work in works)
    for work in works:
        scheduler.remove(work)


def test_threads_are_started_as_they_are_needed(scheduler: Scheduler) -> None:
    threads = Threads("few", 8)
    works = [Work() for _ in range(20)]
    for work in works:
        scheduler.add(work, threads)
        until(lambda work=work: work.runs == 1 and threads._free == threads._started, seconds=PATIENCE)  # type: ignore[misc]
    assert started("few") == 1


def test_work_that_hangs_delays_none_of_another_pool(scheduler: Scheduler) -> None:
    free = threading.Event()
    hanging = [Work(during=lambda: free.wait(PATIENCE)) for _ in range(4)]
    for work in hanging:
        scheduler.add(work, pool := Threads("hanging", 2)) if work is hanging[0] else scheduler.add(work, pool)
    quick = Work(pause=0.0)
    scheduler.add(quick, Threads("quick", 1))
    until(lambda: quick.runs > 10, seconds=PATIENCE, what="the other one goes on")
    until(lambda: sum(scheduler.waits(work) > 0 for work in hanging) == 2, seconds=PATIENCE, what="two have no thread")
    assert scheduler.waits(quick) < PATIENCE
    free.set()
    until(lambda: all(work.runs for work in hanging), seconds=PATIENCE, what="the others get one")
    scheduler.remove(quick)
    assert scheduler.join(quick, PATIENCE)


def test_busy_loops_take_turns(scheduler: Scheduler) -> None:
    threads, begin = Threads("turns", 1), threading.Event()
    order: list[int] = []

    def note(number: int) -> Callable[[], object]:
        return lambda: order.append(number)

    scheduler.add(Work(during=lambda: begin.wait(PATIENCE)), threads)
    works = [Work(pause=0.0, during=note(number)) for number in range(10)]
    for work in works:
        scheduler.add(work, threads)
    begin.set()
    until(lambda: len(order) > 500, seconds=PATIENCE, what="they run")
    for work in works:
        scheduler.remove(work)
    assert order[:500] == [*range(10)] * 50


def test_wakes_from_many_threads_are_not_lost(scheduler: Scheduler) -> None:
    wanted = 0
    seen: list[int] = []
    work = Work(during=lambda: seen.append(wanted))
    scheduler.add(work, Threads("woken", 2))
    lock = threading.Lock()

    def wake() -> None:
        nonlocal wanted
        for _ in range(300):
            with lock:
                wanted += 1
            scheduler.wake(work, time.monotonic())

    wakers = [threading.Thread(target=wake) for _ in range(4)]
    for waker in wakers:
        waker.start()
    for waker in wakers:
        waker.join()
    until(lambda: seen and seen[-1] == 1200, seconds=PATIENCE, what="a run begins after the last wake")
    assert not work.overlaps


@pytest.mark.parametrize("later", [LONG, 0.02])
def test_an_earlier_time_counts(scheduler: Scheduler, later: float) -> None:
    work = Work()
    scheduler.add(work, Threads("earlier", 1))
    until(lambda: work.runs == 1)
    scheduler.wake(work, time.monotonic() + 2 * LONG)
    scheduler.wake(work, time.monotonic() + 0.01)
    scheduler.wake(work, time.monotonic() + later)
    until(lambda: work.runs == 2, seconds=PATIENCE, what="it runs at the earliest of the times")


def test_a_failure_keeps_its_pause_when_it_was_called_during_the_run(scheduler: Scheduler) -> None:
    """Like a claim loop when workers come online during a pause that the server requested."""

    def fail() -> None:
        scheduler.wake(work, time.monotonic(), after_failure=False)
        work.failures = int(work.runs == 2)

    work = Work(during=fail)
    scheduler.add(work, Threads("called", 1))
    until(lambda: work.failures, seconds=PATIENCE, what="after a success it runs at once, and fails")
    assert scheduler.join(work, PATIENCE)
    scheduler.wake(work, time.monotonic(), after_failure=False)
    other = Work()
    scheduler.add(other, Threads("other", 1))
    until(lambda: other.runs == 1)
    assert work.runs == 2
    scheduler.wake(work, time.monotonic())
    until(lambda: work.runs > 2, seconds=PATIENCE, what="a wake ends the pause")
    scheduler.remove(work)


def test_removed_work_does_not_run_again_and_can_be_woken(scheduler: Scheduler) -> None:
    work = Work(pause=0.0)
    scheduler.add(work, Threads("removed", 1))
    until(lambda: work.runs > 3)
    scheduler.remove(work)
    assert scheduler.join(work, PATIENCE)
    runs = work.runs
    scheduler.wake(work, time.monotonic())
    other = Work()
    scheduler.add(other, Threads("other", 1))
    until(lambda: other.runs == 1)
    assert work.runs == runs


@pytest.mark.parametrize("error", [ZeroDivisionError("boom"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_of_the_work_ends_no_thread(
    scheduler: Scheduler, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    threads, other = Threads("failing", 1), Work()
    scheduler.add(Work(during=fail), threads)
    scheduler.add(other, threads)
    until(lambda: other.runs == 1, seconds=PATIENCE, what="the thread goes on")
    assert "unexpected error of a loop" in caplog.text


def test_unknown_work_can_be_woken_removed_and_awaited(scheduler: Scheduler) -> None:
    work = Work()
    scheduler.wake(work, 0.0)
    scheduler.remove(work)
    assert scheduler.join(work, 0.0)
    assert scheduler.waits(work) == 0.0


def test_calls_are_made_in_order_and_released() -> None:
    threads, seen = Threads("order", 1), []
    for number in range(100):
        threads.submit(lambda number=number: seen.append(number))  # type: ignore[misc]
    until(lambda: len(seen) == 100)
    assert seen == list(range(100))

    class Much:
        pass

    import weakref

    much: Any = Much()
    gone = weakref.ref(much)
    threads.submit(lambda much=much: None)  # type: ignore[misc]
    del much
    until(lambda: gone() is None, what="an idle thread holds nothing")
