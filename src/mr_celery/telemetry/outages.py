"""Outages: one log line when one begins, rare reminders, and one line when it is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .quantities import elapsed

LEAST_SECONDS = 2.0
"""Failures count as an outage once they have lasted this long without a success, in seconds."""

FIRST_REMINDER = 60.0
"""Seconds from the beginning of an outage to its first reminder. Each interval is twice the one before."""

MOST_REMINDER = 3600.0
"""Longest interval between two reminders, in seconds."""


class Reminder:
    """Decides when to repeat the report of a lasting problem: at intervals that double, up to an hour.

    Args:
        at: the time of the first report, in seconds of the caller's clock.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self._interval = FIRST_REMINDER

    def is_due(self, now: float) -> bool:
        """Whether to report it now. The next report is due after the next interval."""
        if now < self._at:
            return False
        self._at, self._interval = now + self._interval, min(MOST_REMINDER, self._interval * 2)
        return True


class Outage:
    """The availability of a service that a process depends on, shared by all users of the service. Thread-safe.

    Args:
        what: the service with its address, without credentials: ``the server at https://…``.
        stops: a sentence on the consequences.
        logger: writes the lines.
        clock: monotonic seconds.

    Attributes:
        why: the last failure; empty if there is no outage.
    """

    def __init__(
        self, what: str, stops: str, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what = what
        self.why = ""
        self._on_first_answer: list[Callable[[], object]] = []
        self._stops = stops
        self._logger = logger
        self._clock = clock
        self._failing_since: float | None = None
        self._answered_at: float | None = None
        self._reminder: Reminder | None = None
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float | None:
        """Duration of the outage in seconds; ``None`` if there is none."""
        since = self._failing_since
        return None if since is None or self._reminder is None else self._clock() - since

    @property
    def answer_age(self) -> float | None:
        """Seconds since the last success; ``None`` if there was none yet."""
        return None if self._answered_at is None else self._clock() - self._answered_at

    @property
    def answered(self) -> bool:
        """Whether there was a success at least once."""
        return self._answered_at is not None

    def answered_within(self, seconds: float) -> bool:
        """Whether the last success is at most ``seconds`` ago."""
        age = self.answer_age
        return age is not None and age <= seconds

    def on_first_answer(self, call: Callable[[], object]) -> None:
        """Make a call after the first success."""
        self._on_first_answer.append(call)

    def failed(self, why: str) -> None:
        """Record a failure.

        Args:
            why: the failure in a few words, without the content of a job.
        """
        why = why.removeprefix(f"{self.what}: ")
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            lasted = now - self._failing_since
            began = self._reminder is None
            if self._reminder is None:
                if lasted < LEAST_SECONDS:
                    return
                self._reminder = Reminder(now)
            self.why = why
            if not self._reminder.is_due(now):
                return
            last = "" if self._answered_at is None else f" (last answer {elapsed(now - self._answered_at)} ago)"
        if began:
            text = f"{self.what} has been unreachable for {elapsed(lasted)}{last}: {why}. {self._stops}"
        else:
            text = f"{self.what} is still unreachable, for {elapsed(lasted)}{last}: {why}"
        self._logger.warning("%s", text, extra={"event": "outage", "seconds": lasted, "reason": why})

    def works(self) -> None:
        """Record a success, which ends an outage."""
        with self._lock:
            now, first = self._clock(), self._answered_at is None
            self._answered_at = now
            since, logged = self._failing_since, self._reminder is not None
            self._failing_since = self._reminder = None
            self.why = ""
        if logged and since is not None:
            text = f"{self.what} answers again, after {elapsed(now - since)}"
            self._logger.info("%s", text, extra={"event": "outage_over", "seconds": now - since})
        if first:
            for call in self._on_first_answer:
                call()
