"""Runs the loops of all worker names of a process."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

from ..telemetry.logs import unexpected
from .limits import LONGEST_PAUSE
from .threads import Threads

logger = logging.getLogger("mr_celery.bridge")


class Repeated(Protocol):
    """Work that a scheduler repeats."""

    @property
    def failures(self) -> int:
        """The number of runs that have failed since the last success."""
        ...  # pragma: no cover

    def run(self) -> float:
        """Run once. Returns the time of the next run, in monotonic seconds."""
        ...  # pragma: no cover


@dataclass(eq=False)
class _Entry:
    """The state of some repeated work.

    Attributes:
        number: the number of its place in the heap; 0 if it has none. Places with other numbers are out of date.
        due: the time of that place.
        waits_since: since when it waits for a thread; ``None`` if it does not.
        is_running: whether it has a thread.
        woken_at: the time for which it was woken while it ran; ``None`` if it was not.
        called_at: the same for calls, which count only if the run does not fail.
        is_removed: whether it does not run again.
    """

    work: Repeated
    threads: Threads
    number: int = 0
    due: float = 0.0
    waits_since: float | None = None
    is_running: bool = False
    woken_at: float | None = None
    called_at: float | None = None
    is_removed: bool = False


class Scheduler:
    """Hands work to a pool of threads whenever it is due, and never twice at the same time.

    One thread watches the clock for all work, so the number of threads does not depend on the amount of work. If all
    threads of a pool are busy, its work waits in order.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Entry]] = []
        self._entries: dict[Repeated, _Entry] = {}
        self._numbers = count(1)
        lock = threading.Lock()
        self._earlier, self._ended = threading.Condition(lock), threading.Condition(lock)
        self._lock = lock
        self._clock: threading.Thread | None = None
        self._closed = False

    def add(self, work: Repeated, threads: Threads) -> None:
        """Run some work now, and then whenever it is due, on a thread of a pool."""
        with self._lock:
            if self._clock is None:
                self._clock = threading.Thread(target=self._watch_clock, name="modelreins-clock", daemon=True)
                self._clock.start()
            entry = self._entries[work] = _Entry(work, threads)
            self._schedule(entry, time.monotonic())

    def wake(self, work: Repeated, at: float, *, after_failure: bool = True) -> None:
        """Run some work at a time, unless it is due earlier. If it runs now, it runs once more.

        Without ``after_failure``, work whose last run has failed, or fails now, keeps its pause.
        """
        with self._lock:
            entry = self._entries.get(work)
            if entry is None or entry.is_removed:
                return
            if entry.is_running and after_failure:
                entry.woken_at = _earlier(at, entry.woken_at)
            elif entry.is_running:
                entry.called_at = _earlier(at, entry.called_at)
            elif entry.number and entry.due > at and (after_failure or not work.failures):
                self._schedule(entry, at)

    def remove(self, work: Repeated) -> None:
        """Do not run some work again."""
        with self._lock:
            if (entry := self._entries.get(work)) is not None:
                entry.is_removed, entry.number = True, 0

    def join(self, work: Repeated, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until some work does not run. Returns whether it does not."""
        with self._lock:
            entry = self._entries.get(work)
            return entry is None or self._ended.wait_for(lambda: not entry.is_running, timeout)

    def waits(self, work: Repeated) -> float:
        """The seconds for which some work has been waiting for a thread."""
        entry = self._entries.get(work)
        since = None if entry is None else entry.waits_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Run nothing any more, and end the thread that watches the clock."""
        with self._lock:
            self._closed = True
            for entry in self._entries.values():
                entry.is_removed, entry.number = True, 0
            self._earlier.notify()

    def _schedule(self, entry: _Entry, at: float) -> None:
        now = time.monotonic()
        if at <= now:
            entry.number, entry.waits_since = 0, now
            entry.threads.submit(partial(self._run, entry))
            return
        entry.number, entry.due = next(self._numbers), at
        heapq.heappush(self._heap, (at, entry.number, entry))
        if self._heap[0][2] is entry:
            self._earlier.notify()

    def _watch_clock(self) -> None:
        with self._lock:
            while not self._closed:
                while self._heap and (at := self._heap[0][0]) <= time.monotonic():
                    _, number, entry = heapq.heappop(self._heap)
                    if number == entry.number:
                        self._schedule(entry, at)
                self._earlier.wait(self._heap[0][0] - time.monotonic() if self._heap else None)

    def _run(self, entry: _Entry) -> None:
        with self._lock:
            entry.waits_since = entry.woken_at = entry.called_at = None
            if entry.is_removed:
                return
            entry.is_running = True
        try:
            next_at = entry.work.run()
        except BaseException as error:  # a loop handles the errors of its step, so this is one of its own
            unexpected(logger, "unexpected error of a loop", error)
            next_at = time.monotonic() + LONGEST_PAUSE
        with self._lock:
            entry.is_running = False
            self._ended.notify_all()
            if not entry.is_removed:
                next_at = _earlier(next_at, entry.woken_at)
                self._schedule(entry, next_at if entry.work.failures else _earlier(next_at, entry.called_at))


def _earlier(at: float, other: float | None) -> float:
    return at if other is None else min(at, other)
