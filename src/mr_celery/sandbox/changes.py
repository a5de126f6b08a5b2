"""What has changed, for those who look at the page: told from any thread, heard in event loops."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

KEPT = 10_000
"""How many changes are remembered, for those who come back after a break."""


class Changes:
    """The latest changes, each with a topic: ``job:17``, ``reviews``, ``workers``, ``faults``.

    A place in them is a text such as ``a1b2c3-42``: of another life of the sandbox, it is known to be unknown.
    """

    def __init__(self) -> None:
        self.closed = False
        self._life = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._number = 0
        self._recent: deque[str] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()

    @property
    def place(self) -> str:
        """Where the changes are now."""
        return f"{self._life}-{self._number}"

    def tell(self, *topics: str) -> None:
        """Something has changed."""
        with self._lock:
            self._number += len(topics)
            self._recent.extend(topics)
            for listener in self._listeners:
                listener.wake()

    def since(self, place: str) -> tuple[str, list[str] | None]:
        """The place now, and each topic that changed since another; ``None`` where that is not known any more."""
        with self._lock:
            life, _, number = place.partition("-")
            missed = self._number - int(number) if life == self._life and number.isdecimal() else -1
            if not 0 <= missed <= len(self._recent):
                return self.place, None
            recent = (self._recent[-each] for each in range(missed, 0, -1))
            return self.place, list(dict.fromkeys(recent))

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """In a coroutine: someone who is woken by changes, for as long as the block lasts."""
        listener = Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners.add(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def close(self) -> None:
        """Let go of all who listen."""
        self.closed = True
        with self._lock:
            for listener in self._listeners:
                listener.wake()


class Listener:
    """One who waits in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._woken = False

    def wake(self) -> None:
        """From any thread; often without cost, since one wake-up is for all changes until it is heard."""
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended: nobody waits there
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """Until something changes; ``False``: nothing did."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._event.clear()
        self._woken = False
        return True
