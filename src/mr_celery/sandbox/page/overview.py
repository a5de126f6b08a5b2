"""Figures above the list of jobs: how many ended in each minute of the last hour, and how long they ran."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..store import Store

MINUTES = 60
_RUNS = 2000
_CAPABILITIES = 12


@dataclass(frozen=True)
class Pace:
    """The jobs that ended in each minute of the last hour.

    Attributes:
        ended: the number of jobs in each minute, oldest first. The last minute is the current one.
        failed: the number of failed jobs in each minute.
    """

    ended: tuple[int, ...]
    failed: tuple[int, ...]

    @property
    def bars(self) -> list[tuple[int, int, int]]:
        """The bars of a chart that is 20 high: their places, and the heights of all and of failed jobs."""
        scale = 20 / max(*self.ended, 1)
        return [
            (place, math.ceil(ended * scale), math.ceil(failed * scale))
            for place, (ended, failed) in enumerate(zip(self.ended, self.failed, strict=True))
            if ended
        ]


@dataclass(frozen=True)
class RunTimes:
    """The durations of the jobs of one capability.

    Attributes:
        capability: the capability; empty for jobs that require none.
        number: the number of runs.
        median: the median in seconds.
        most: the time in seconds that 95 % of the runs did not exceed.
    """

    capability: str
    number: int
    median: float
    most: float


def pace(store: Store) -> Pace:
    """Count the jobs that ended in each minute of the last hour."""
    first = int(store.clock() // 60) - MINUTES + 1
    ended, failed = [0] * MINUTES, [0] * MINUTES
    words = {store.options.word("failed"), store.options.word("aborted")}
    query = "SELECT minute, status, number FROM ended WHERE minute BETWEEN ? AND ?"
    for row in store.rows(query, first, first + MINUTES - 1):
        ended[row["minute"] - first] += row["number"]
        failed[row["minute"] - first] += row["number"] if row["status"] in words else 0
    return Pace(tuple(ended), tuple(failed))


def run_times(store: Store) -> list[RunTimes]:
    """The run times of the jobs that ended last, by capability, those with most runs first."""
    rows = store.rows(
        "SELECT capability, closed_at - claimed_at AS seconds FROM jobs "
        "WHERE closed_at IS NOT NULL AND claimed_at IS NOT NULL ORDER BY closed_at DESC LIMIT ?",
        _RUNS,
    )
    by_capability: dict[str, list[float]] = {}
    for row in rows:
        by_capability.setdefault(row["capability"], []).append(max(row["seconds"], 0.0))
    times = [
        RunTimes(capability, len(seconds), percentile(seconds, 50), percentile(seconds, 95))
        for capability, seconds in by_capability.items()
    ]
    return sorted(times, key=lambda each: (-each.number, each.capability))[:_CAPABILITIES]


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
