"""Results that several requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")

_SHARE = 10
"""Divisor of the time: a function that is called continuously runs for at most a tenth of it."""


class Shared(Generic[T]):
    """Runs a function in a thread. Calls that arrive while it runs share its result, so many cost no more than one.

    Args:
        function: the function.
        seconds: for how long later calls get the same result. It is kept for longer if the function takes more than a
            tenth of that time. An error is not kept.
    """

    def __init__(self, function: Callable[[], T], *, seconds: float = 0.0) -> None:
        self._function = function
        self._seconds = seconds
        self._good_until = 0.0
        self._running: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self._running is None or (self._running.done() and time.monotonic() >= self._good_until):
            self._running = asyncio.create_task(run_in_threadpool(self._timed))
        return await asyncio.shield(self._running)

    def _timed(self) -> T:
        began, self._good_until = time.monotonic(), 0.0
        result = self._function()
        ended = time.monotonic()
        if self._seconds:
            self._good_until = max(began + self._seconds, ended + (_SHARE - 1) * (ended - began))
        return result
