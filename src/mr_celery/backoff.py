"""Waiting longer after each failure, and never all at the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def backoff(failures: int, *, first: float, most: float) -> float:
    """Seconds to wait after the given number of failures in a row.

    Args:
        failures: how many, from 1.
        first: seconds after the first.
        most: seconds that it never exceeds.

    Returns:
        Between half of the doubled time and all of it, at random.
    """
    ceiling = min(most, first * 2.0 ** min(max(failures, 1) - 1, 30))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing


def patiently(
    step: Callable[[], T],
    *,
    errors: type[Exception],
    seconds: float,
    first: float = 0.2,
    most: float = 5.0,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Do ``step``, again and again while it raises ``errors``, for at most ``seconds``.

    Raises:
        The last error, when the time is over.
    """
    deadline = clock() + seconds
    failures = 0
    while True:
        try:
            return step()
        except errors:
            failures += 1
            pause = backoff(failures, first=first, most=most)
            if clock() + pause > deadline:
                raise
            sleep(pause)
