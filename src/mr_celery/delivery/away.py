"""Whether the server is away, as far as this process has seen."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import WorkerError

FAILURES = 3
"""How many deliveries in a row must fail, through the server's trouble, before it counts as away."""

SECONDS = 30.0
"""How long it then counts as away, before one delivery tries it again."""


class Away:
    """Keeps a worker from waiting for a silent server at the end of each run: its outcomes go to the courier.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = float("-inf")

    @property
    def likely(self) -> bool:
        """Whether a delivery would most likely be in vain."""
        return self._clock() < self._until

    def learn(self, error: WorkerError | None) -> None:
        """A delivery has ended, with the error that put it off."""
        if error is None:
            self._failures = 0
        elif error.trouble:
            self._failures += 1
            if self._failures >= FAILURES:
                self._until = self._clock() + SECONDS
