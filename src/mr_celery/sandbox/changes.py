"""Notifies open pages of changes. Published from any thread, received in event loops."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HISTORY = 10_000
"""Number of changes that are kept for pages that reconnect."""


class Changes:
    """The latest changes as topics: ``job:17``, ``reviews``, ``workers``, ``faults``.

    A place in the sequence is a string such as ``a1b2c3-42``. Its prefix identifies the process, so that places of an
    earlier process are recognized.
    """

    def __init__(self) -> None:
        self.closed = False
        self._process = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._number = 0
        self._recent: deque[str] = deque(maxlen=HISTORY)
        self._listeners: set[Listener] = set()

    @property
    def place(self) -> str:
        """The current place in the sequence of changes."""
        return f"{self._process}-{self._number}"

    def publish(self, *topics: str) -> None:
        """Record changes of these topics and wake the listeners."""
        with self._lock:
            self._number += len(topics)
            self._recent.extend(topics)
            for listener in self._listeners:
                listener.wake()

    def since(self, place: str) -> tuple[str, list[str] | None]:
        """The current place, and the topics that changed since ``place``; ``None`` if that is too long ago."""
        with self._lock:
            process, _, number = place.partition("-")
            missed = self._number - int(number) if process == self._process and number.isdecimal() else -1
            if not 0 <= missed <= len(self._recent):
                return self.place, None
            recent = (self._recent[-each] for each in range(missed, 0, -1))
            return self.place, list(dict.fromkeys(recent))

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Register a listener of the running event loop for the block."""
        listener = Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners.add(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def close(self) -> None:
        """Wake all listeners for the last time."""
        self.closed = True
        with self._lock:
            for listener in self._listeners:
                listener.wake()


class Listener:
    """Waits for changes in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._woken = False

    def wake(self) -> None:
        """Wake the listener from any thread. Cheap if a wake-up is already pending."""
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """Wait for a change. Returns ``False`` after the timeout."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._event.clear()
        self._woken = False
        return True
