"""That a delivery is still the one that delivers its job."""

from __future__ import annotations

import time

from ..ledger import DeliveryKey, Ledger

HOLD_SECONDS = 15.0
"""How long a delivery keeps its job from others, from one sign of life to the next; but no longer than a lease."""


class Overtaken(Exception):
    """Somebody else delivers the job now, or it was aborted."""


class Hold:
    """That a delivery is still the one that delivers its job, made sure before each of its steps.

    Args:
        ledger: the ledger.
        key: the delivery.
        seconds: how long the hold lasts without being renewed.
    """

    def __init__(self, ledger: Ledger, key: DeliveryKey, seconds: float) -> None:
        self._ledger = ledger
        self._key = key
        self._seconds = seconds
        self._confirmed_at = time.monotonic()

    def confirm(self) -> None:
        """Ask the ledger, where the last answer is not fresh: this process may have been frozen for a while.

        Raises:
            Overtaken: it is not.
        """
        now = time.monotonic()
        if now - self._confirmed_at < self._seconds / 3:
            return
        if not self._ledger.carry(self._key, hold_seconds=self._seconds):
            raise Overtaken
        self._confirmed_at = now

    def record(self, part: str, answer: str) -> None:
        """Write down that a part is delivered.

        Raises:
            Overtaken: it is not this delivery's any more.
        """
        now = time.monotonic()
        if not self._ledger.delivered_part(self._key, part, answer, hold_seconds=self._seconds):
            raise Overtaken
        self._confirmed_at = now
