"""One runner for every loop of the bridge."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from ..backoff import backoff
from ..errors import LedgerUnavailable, WorkerError
from ..log import unexpected

logger = logging.getLogger("mr_celery.bridge")

STUCK_SECONDS = 900.0
"""Seconds after which a step that has not ended counts as stuck; many requests that each time out take minutes."""


class Step(Protocol):
    """What a loop repeats."""

    def run_once(self) -> float:
        """Do it once. Returns seconds until the next time; 0: at once."""
        ...  # pragma: no cover


class Loop:
    """Repeats a step in a thread of its own until it is stopped.

    No exception ends it: after one it waits, longer with each in a row and for at most ``most_backoff``
    seconds; a success resets that.

    Args:
        name: the loop's name, for the log and the thread.
        step: what it repeats.
        most_backoff: seconds.
        endless: whether one step may take for ever.
        least_interval: seconds from one beginning of the step to the next at the least, also if the loop is woken: what
            comes up meanwhile is done together.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        *,
        most_backoff: float = 30.0,
        endless: bool = False,
        least_interval: float = 0.0,
    ) -> None:
        self.name = name
        self._endless = endless
        self._least_interval = least_interval
        self._began_at: float | None = None
        self._step = step
        self._most_backoff = most_backoff
        self._wake = threading.Event()
        self._stopping = False
        self._failures = 0
        self._thread = threading.Thread(target=self._loop, name=f"modelreins-{name}", daemon=True)

    @property
    def failures(self) -> int:
        """How often in a row the step has failed."""
        return self._failures

    @property
    def trouble(self) -> str:
        """Why the loop does not do its work any more; empty if it does."""
        if not self._thread.is_alive():
            return "its thread has ended"
        began_at = self._began_at
        if began_at is not None and not self._endless and time.monotonic() - began_at > STUCK_SECONDS:
            return f"its step has not ended for {time.monotonic() - began_at:.0f} s"
        return ""

    def start(self) -> None:
        """Begin to repeat."""
        self._thread.start()

    def wake(self) -> None:
        """Do the step at once, if the loop is waiting."""
        self._wake.set()

    def call(self) -> None:
        """Do the step at once, if the loop is waiting for something to do, and not because the step failed."""
        if not self._failures:
            self.wake()

    def stop(self) -> None:
        """Do not begin the step again."""
        self._stopping = True
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait for the step to end, for at most ``timeout`` seconds. Returns whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def turn(self) -> float:
        """Do the step once, whatever it raises. Returns seconds until the next time."""
        try:
            pause = self._step.run_once()
        except (WorkerError, LedgerUnavailable) as error:
            self._failures += 1
            pause = backoff(self._failures, first=1.0, most=self._most_backoff)
            if isinstance(error, WorkerError) and error.retry_after is not None:
                pause = max(pause, error.retry_after)
            if self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, 8th, …: an outage does not fill the log
                text = error.summary if isinstance(error, WorkerError) else str(error)
                logger.warning("%s: failure %d in a row: %s", self.name, self._failures, text)
            return pause
        except Exception as error:
            self._failures += 1
            pause = backoff(self._failures, first=1.0, most=self._most_backoff)
            unexpected(logger, f"{self.name}: unexpected error; next try in {pause:.1f} s", error)
            return pause
        if self._failures:
            logger.info("%s: works again", self.name)
            self._failures = 0
        return pause

    def _loop(self) -> None:
        while not self._stopping:
            # Cleared before the step, so that a wake-up during the step is not lost.
            self._wake.clear()
            self._began_at = began_at = time.monotonic()
            pause = self.turn()
            self._began_at = None
            if not self._stopping and pause > 0:
                self._wake.wait(pause)
            rest = began_at + self._least_interval - time.monotonic()
            if not self._stopping and rest > 0:
                time.sleep(rest)
