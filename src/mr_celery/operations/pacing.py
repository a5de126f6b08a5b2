"""Results that several requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")

_SHARE = 10
"""A function that is called again and again takes at most one part of this many of the time."""


class Shared(Generic[T]):
    """Runs a function in a thread. Those who ask while it runs get the same result, so any number costs as one.

    Args:
        function: the function.
        seconds: for how long its result is also given to those who ask later. It is kept for longer if the function
            takes more than a tenth of that time. An error is not kept.
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
