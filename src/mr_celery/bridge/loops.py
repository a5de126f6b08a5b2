"""A loop of the bridge: repeats a step, whatever happens in it."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ..backoff import backoff, pause_after
from ..databases import DJANGO, close_old_connections
from ..errors import LedgerUnavailable, WorkerError
from ..telemetry.logs import unexpected
from ..telemetry.quantities import duration
from .limits import LASTING, LONGEST_IMPOSED_PAUSE, LONGEST_PAUSE
from .outages import Outages
from .scheduler import Scheduler
from .threads import Threads

logger = logging.getLogger("mr_celery.bridge")

STUCK_SECONDS = 900.0
"""Seconds after which a step counts as stuck. Many requests that each time out take minutes."""


class Idle(float):
    """The pause after a step that had nothing to do. It does not reset the count of failures."""


class Step(Protocol):
    """The work that a loop repeats."""

    def run_once(self) -> float:
        """Run the step once. Returns the seconds until the next run; 0 means immediately."""
        ...  # pragma: no cover


class InTurn:
    """Several steps as one: each runs in turn, also if another one raises.

    If the ledger is unreachable for one step, the others are not tried: each might wait for a timeout. The next run
    begins after that step, since another one may have other permissions.

    Args:
        steps: the steps, such as one for each worker name.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = deque(steps)

    def run_once(self) -> float:
        """Run each step once. Returns the shortest of their pauses.

        Raises:
            LedgerUnavailable: a step raised it.
            Exception: the last exception of a step.
        """
        pauses, failure = [], None
        for _ in range(len(self._steps)):
            step = self._steps[0]
            self._steps.rotate(-1)
            try:
                pauses.append(step.run_once())
            except LedgerUnavailable:
                raise
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        return min(pauses)


class Loop:
    """Repeats a step until it is stopped.

    No exception ends the loop. After an exception it pauses, longer after each consecutive one and up to
    ``most_backoff`` seconds; a success resets the pause.

    Args:
        name: the loop's name, for the log.
        step: the work to repeat.
        scheduler: runs the loop; by default one of its own.
        threads: the threads on which it runs; by default one of its own.
        most_backoff: longest pause after a failure, in seconds.
        most_retry_after: longest pause, in seconds, if the server sends ``Retry-After``.
        endless: whether one step may run forever.
        least_interval: minimum seconds between two starts of the step, even if the loop is woken. Work that arrives in
            between is done together.
        outages: the outages that all loops of the bridge share. They are logged there, and not by the loop.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        *,
        scheduler: Scheduler | None = None,
        threads: Threads | None = None,
        most_backoff: float = LONGEST_PAUSE,
        most_retry_after: float = LONGEST_IMPOSED_PAUSE,
        endless: bool = False,
        least_interval: float = 0.0,
        outages: Outages | None = None,
    ) -> None:
        self.name = name
        self._endless = endless
        self._least_interval = least_interval
        self._began_at: float | None = None
        self._is_running = False
        self._step = step
        self._most_backoff = most_backoff
        self._most_retry_after = most_retry_after
        self._asked_to_wait = False
        self._scheduler = Scheduler() if scheduler is None else scheduler
        self._threads = Threads(name, 1) if threads is None else threads
        self._stopping = False
        self._failures = 0
        self._outages = outages
        self._failing_since = 0.0
        self._failure = ""
        self._in_outage = False
        self._log_at = LASTING
        self._logged = False

    @property
    def failures(self) -> int:
        """Consecutive failures of the step."""
        return self._failures

    @property
    def failing(self) -> tuple[str, float] | None:
        """The last failure and the seconds for which the step has been failing.

        ``None`` unless it fails repeatedly, and not because of an outage.
        """
        if self._failures < LASTING or self._in_outage:
            return None
        return self._failure, time.monotonic() - self._failing_since

    @property
    def trouble(self) -> str:
        """The reason why the loop no longer works; empty if it works."""
        waits = self._scheduler.waits(self)
        if waits > STUCK_SECONDS:
            return f"it has been waiting for a thread for {duration(waits)}"
        began_at = self._began_at if self._is_running else None
        if began_at is not None and not self._endless and time.monotonic() - began_at > STUCK_SECONDS:
            return f"its step has been running for {duration(time.monotonic() - began_at)}"
        return ""

    def start(self) -> None:
        """Run the step now, and repeat it from then on."""
        if not self._stopping:
            self._scheduler.add(self, self._threads)

    def wake(self) -> None:
        """Run the step immediately if the loop is pausing, even after a failure."""
        self._wake(after_failure=True)

    def call(self) -> None:
        """Run the step immediately if the loop is pausing, except after a failure.

        A step that is running now, and fails, is followed by its pause, too.
        """
        self._wake(after_failure=False)

    def _wake(self, *, after_failure: bool) -> None:
        began_at = self._began_at
        earliest = 0.0 if began_at is None else began_at + self._least_interval
        self._scheduler.wake(self, max(time.monotonic(), earliest), after_failure=after_failure)

    def stop(self) -> None:
        """Do not start the step again."""
        self._stopping = True
        self._scheduler.remove(self)

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the step to end. Returns whether it has ended."""
        return self._scheduler.join(self, timeout)

    def run(self) -> float:
        """Run the step once. Returns the time of the next run, in monotonic seconds."""
        self._began_at, self._is_running = time.monotonic(), True
        pause = self.turn()
        self._is_running = False
        return max(time.monotonic() + pause, self._began_at + self._least_interval)

    def turn(self) -> float:
        """Run the step once and handle any exception. Returns the seconds until the next run."""
        if DJANGO in sys.modules:
            close_old_connections()
        try:
            pause = self._step.run_once()
        except (WorkerError, LedgerUnavailable) as error:
            self._count_failure()
            usual = pause = backoff(self._failures, first=1.0, most=self._most_backoff)
            text, why = str(error), ""
            if isinstance(error, WorkerError):
                pause = pause_after(error, usual, most=self._most_retry_after)
                text, why = error.summary, error.longer_than(usual)
            elif self._outages is not None:
                self._outages.ledger.failed(text)
            self._failure, self._in_outage = text, self._is_outage(error)
            first_time_asked = bool(why) and not self._asked_to_wait
            self._asked_to_wait = self._asked_to_wait or bool(why)
            if first_time_asked or (self._failures >= self._log_at and not self._in_outage):
                self._log_at, self._logged = max(LASTING, 2 * self._failures), True
                text = f"{text}; {why}, next try in {duration(pause)}" if why else text
                logger.warning("%s: failure %d in a row: %s", self.name, self._failures, text)
            return pause
        except BaseException as error:  # a SystemExit would end the thread silently
            self._count_failure()
            self._logged = True
            pause = backoff(self._failures, first=1.0, most=self._most_backoff)
            self._failure, self._in_outage = f"unexpected error ({type(error).__name__})", False
            unexpected(logger, f"{self.name}: unexpected error; next try in {duration(pause)}", error)
            return pause
        finally:
            if DJANGO in sys.modules:
                close_old_connections()
        if self._failures and not isinstance(pause, Idle):
            if self._logged:
                lasted = duration(time.monotonic() - self._failing_since)
                logger.info("%s: works again, after %s", self.name, lasted)
            self._failures, self._log_at, self._logged = 0, LASTING, False
            self._asked_to_wait = False
        return pause

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()

    def _is_outage(self, error: WorkerError | LedgerUnavailable) -> bool:
        """Whether no request has succeeded since the step began to fail. The outage itself is then in the log."""
        if self._outages is None:
            return False
        return not self._outages.of(error).answered_within(time.monotonic() - self._failing_since)
