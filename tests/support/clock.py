"""A clock for tests."""

from __future__ import annotations


class Clock:
    """A time that goes on only when a test says so, or something sleeps.

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
        """Let seconds go by."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Let seconds go by at once, and note them."""
        self.slept.append(seconds)
        self.now += seconds
