"""Doing many short things side by side, by as few threads as keep up with them."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

FEW = 2
"""How many threads there may be in any case."""

SOON = 0.01
"""Seconds within which what waits is to be done."""

STEADY = 0.8
"""How much of what is known of a task's time is left after one more."""


class Lanes:
    """Threads for tasks that mostly wait for others: for a server, or a broker.

    Threads of one process hinder each other: whenever one of them has waited for something, it waits for the
    interpreter's lock as well. So where tasks are short, a few threads do them one after the other; where they take
    long, each has its own.

    Args:
        most: how many threads there may be.
        name: what the threads are called.
        clock: the time in seconds.
    """

    def __init__(self, most: int, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lanes = 0
        self._seconds = 0.0

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Have a task done. Returns where its result will be."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((future, task))
            tasks = self._lanes + len(self._waiting)
            self._open(max(FEW, math.ceil(tasks * self._seconds / SOON)))
        return future

    def hurry(self) -> None:
        """What waits has waited long enough: all of it is done at once, as far as there may be threads."""
        with self._lock:
            self._open(self._lanes + len(self._waiting))

    @property
    def waiting(self) -> bool:
        """Whether there are tasks that no thread has begun."""
        return bool(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether threads are at work."""
        return self._lanes > 0

    def close(self) -> None:
        """Begin nothing more: what waits is cancelled."""
        with self._lock:
            for future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, wanted: int) -> None:
        while self._lanes < min(wanted, self._most):
            self._lanes += 1
            self._pool.submit(self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._lanes -= 1
                    return
                future, task = self._waiting.popleft()
            began = self._clock()
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
            self._seconds = STEADY * self._seconds + (1 - STEADY) * (self._clock() - began)
