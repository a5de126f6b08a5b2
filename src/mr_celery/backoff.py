"""Spares a server or broker in trouble: growing pauses, circuit breakers, limits, and retries until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import WorkerError

T = TypeVar("T")


def backoff(failures: int, *, first: float, most: float) -> float:
    """Seconds to wait after the given number of consecutive failures.

    Args:
        failures: number of failures, from 1.
        first: upper bound in seconds after the first failure; it doubles with each further one.
        most: upper bound in seconds after any number of failures.

    Returns:
        A random value between half of the bound and the whole of it.
    """
    ceiling = min(most, first * 2.0 ** min(max(failures, 1) - 1, 30))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing


def pause_after(error: WorkerError, usual: float, *, most: float) -> float:
    """Seconds until the next try after an error.

    Args:
        error: the error; its ``retry_after`` is the pause that the server asked for.
        usual: minimum in seconds.
        most: maximum in seconds. A longer requested pause is cut to it.
    """
    return max(usual, min(error.retry_after or 0.0, most))


class CircuitBreaker:
    """Stops calls to a service that keeps failing, and lets one call at a time try it again.

    Args:
        failures: consecutive failures that open the circuit.
        seconds: seconds until an open circuit allows the next trial.
        clock: monotonic seconds.

    Attributes:
        failures: consecutive failures so far. While it is 0, callers can skip :meth:`allows` and :meth:`succeeded`.
    """

    def __init__(self, *, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._most_failures = failures
        self._seconds = seconds
        self._clock = clock
        self._next_trial = float("-inf")

    def allows(self) -> bool:
        """Whether a call may be made now. While the circuit is open, this starts a trial, so ask once for each call."""
        if self.failures < self._most_failures:
            return True
        if self._clock() < self._next_trial:
            return False
        self._next_trial = self._clock() + self._seconds
        return True

    def succeeded(self) -> None:
        """Close the circuit."""
        self.failures = 0

    def failed(self) -> None:
        """Count a failure. Enough of them in a row open the circuit."""
        self.failures += 1
        self._next_trial = self._clock() + self._seconds


class ConcurrencyLimit:
    """Limits concurrent requests to a server that may be failing.

    Each failure halves the limit; at a limit of one, the pauses grow. Each success doubles it. A server that
    recovers is not flooded, and occasional failures cost little.

    Args:
        most: the limit while the server works.
        most_pause: longest pause, in seconds, between two trials of a failing server.
    """

    def __init__(self, most: int, *, most_pause: float) -> None:
        self._most = most
        self._most_pause = most_pause
        self._failures = 0
        self.size = most

    def succeeded(self) -> None:
        """Record a successful request."""
        self._failures = 0
        self.size = min(self._most, self.size * 2)

    def failed(self) -> float:
        """Record a request that failed because of the server. Returns the seconds to pause now."""
        alone = self.size == 1
        self.size = max(1, self.size // 2)
        if not alone:
            return 0.0
        self._failures += 1
        return backoff(self._failures, first=0.5, most=self._most_pause)


def retry_until(
    step: Callable[[], T],
    *,
    errors: type[Exception],
    seconds: float,
    failed: Exception | None = None,
    first: float = 0.2,
    most: float = 5.0,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    on_first_error: Callable[[Exception], object] = lambda error: None,
) -> T:
    """Call ``step`` until it succeeds, and retry it on ``errors`` for at most ``seconds`` after the first one.

    ``failed`` is the error of a first call that the caller has made itself. ``on_first_error`` is called with the first
    error, unless that ends the retries.

    Raises:
        The last error, once the time is up.
    """
    deadline, failures = 0.0, 0
    while True:
        if failed is None:
            try:
                return step()
            except errors as error:
                failed = error
        failures += 1
        if failures == 1:
            deadline = clock() + seconds
        pause = backoff(failures, first=first, most=most)
        if clock() + pause > deadline:
            raise failed
        if failures == 1:
            on_first_error(failed)
        sleep(pause)
        failed = None
