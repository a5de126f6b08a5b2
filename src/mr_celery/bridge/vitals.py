"""What one bridge process knows of its own health: for its metrics and its probes."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

from ..errors import WorkerError

ClaimResult = Literal["claimed", "conflict", "unclear"]
CLAIM_RESULTS: tuple[ClaimResult, ...] = ("claimed", "conflict", "unclear")


class Vitals:
    """Counts what the bridge asks of the server, and how that ends. Safe to share between threads."""

    def __init__(self) -> None:
        self._claims: Counter[ClaimResult] = Counter()
        self._errors: Counter[str] = Counter()
        self._lock = threading.Lock()

    def claim(self, result: ClaimResult) -> None:
        """A claim was answered, or was not."""
        with self._lock:
            self._claims[result] += 1

    def error(self, error: WorkerError) -> None:
        """A request to the server failed."""
        with self._lock:
            self._errors[error.label] += 1

    @property
    def claims(self) -> dict[ClaimResult, int]:
        """How many claims ended in which way."""
        with self._lock:
            return {result: self._claims[result] for result in CLAIM_RESULTS}

    @property
    def errors(self) -> dict[str, int]:
        """How many requests failed, by :attr:`WorkerError.label`."""
        with self._lock:
            return dict(self._errors)
