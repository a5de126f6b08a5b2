"""Counters of one bridge process, for its metrics and probes."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from ..errors import WorkerError

ClaimResult = Literal["claimed", "conflict", "unclear"]
CLAIM_RESULTS: tuple[ClaimResult, ...] = ("claimed", "conflict", "unclear")


@dataclass
class RequestCounters:
    """Counts the bridge's requests to the server by result.

    Attributes:
        claims: number of claims by result.
        errors: number of failed requests by :attr:`WorkerError.label`.
        lock: to be held while a number changes, because several threads count.
    """

    claims: dict[ClaimResult, int] = field(default_factory=lambda: dict.fromkeys(CLAIM_RESULTS, 0))
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def error(self, error: WorkerError) -> None:
        """Count a failed request."""
        with self.lock:
            self.errors[error.label] += 1
