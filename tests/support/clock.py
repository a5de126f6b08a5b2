"""A clock for tests."""

from __future__ import annotations


class Clock:
    """A clock that advances only when a test advances it or something sleeps.

    Attributes:
        now: the time, in seconds.
        slept: the seconds of each sleep.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Advance the clock without waiting, and record the sleep."""
        self.slept.append(seconds)
        self.now += seconds
