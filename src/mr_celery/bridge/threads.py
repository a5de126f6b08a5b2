"""Pools of threads: for the loops, and for single calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Daemon threads that make calls in order, and are started as they are needed.

    Unlike a ``ThreadPoolExecutor``, it is not waited for when the process ends: a call may hang in a request.

    Args:
        name: the name of the threads.
        most: the maximum number of threads. Further calls wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._started = self._free = 0
        self._closed = False
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()

    def submit(self, call: Callable[[], object]) -> None:
        """Make a call on one of the threads. It must not raise."""
        with self._changed:
            self._calls.append(call)
            if self._free >= len(self._calls) or self._started >= self._most:
                self._changed.notify()
                return
            self._started += 1
        threading.Thread(target=self._work, name=f"modelreins-{self._name}", daemon=True).start()

    def close(self) -> None:
        """End the threads once they are free."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._free += 1
                while not self._calls and not self._closed:
                    self._changed.wait()
                self._free -= 1
                if not self._calls:
                    return
                call = self._calls.popleft()
            call()
            del call  # it may hold much, and the next one may come late


class Pool:
    """A pool of threads for calls with a result, shared by the loops of all worker names.

    Args:
        name: the name of the threads.
        most: the maximum number of threads.

    Attributes:
        free: the number of calls that could begin now; others would wait for a thread.
    """

    def __init__(self, name: str, most: int) -> None:
        self.free = most
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(most, thread_name_prefix=f"modelreins-{name}")

    def submit(
        self, call: Callable[..., T], *arguments: Any, then: Callable[[T], object] = lambda result: None
    ) -> Future[T]:
        """Make a call on one of the threads. Returns its future result.

        Args:
            call: the call.
            arguments: its arguments.
            then: called with the result on the same thread, which counts as free by then.
        """
        with self._lock:
            self.free -= 1
        return self._executor.submit(self._make, call, arguments, then)

    def _make(self, call: Callable[..., T], arguments: tuple[Any, ...], then: Callable[[T], object]) -> T:
        try:
            result = call(*arguments)
        finally:
            with self._lock:
                self.free += 1
        then(result)
        return result

    def close(self) -> None:
        """End the threads once they are free. Calls that have not begun are dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)
