"""Counters and histograms of past events, counted by the transitions themselves.

So workers need no port for metrics, and nothing is counted that did not happen. They expire with the history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""The upper bounds of the histograms' buckets, in seconds, as in ``record.lua``."""


@dataclass(frozen=True)
class Histogram:
    """A histogram of durations.

    Args:
        counts: the number in each bucket of :data:`BOUNDS` (not in those before it), and above the last one.
        total: their sum, in seconds.
    """

    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The duration that a share of all does not exceed, in seconds, as Prometheus estimates it.

        It is interpolated within a bucket. Above the last bound, it is that bound. ``None`` if nothing was observed.

        Args:
            share: from 0 to 1, such as 0.95.
        """
        rank, below, low = share * self.count, 0, 0.0
        for bound, count in zip(BOUNDS, self.counts, strict=False):
            if count and below + count >= rank:
                return low + (bound - low) * max(0.0, rank - below) / count
            below, low = below + count, bound
        return BOUNDS[-1] if self.count else None

    @property
    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Pairs of a bucket's upper bound and the number in it or below, as Prometheus has them."""
        so_far = 0
        for bound, count in zip((*BOUNDS, None), self.counts, strict=True):
            so_far += count
            yield "+Inf" if bound is None else str(bound), so_far


class Stats:
    """All stats of a worker name.

    Args:
        fields: the hash ``stats``.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = {name.decode(errors="replace"): value.decode() for name, value in fields.items()}

    def count(self, name: str) -> int:
        """A counter, such as ``claimed`` or ``lost:lease``; 0 if nothing was counted."""
        return int(self._fields.get(name, 0))

    def counts(self, group: str) -> dict[str, int]:
        """The counters of a group, by the rest of their names: in ``errors`` for instance ``close 503``."""
        start = f"{group}:"
        return {name[len(start) :]: int(value) for name, value in self._fields.items() if name.startswith(start)}

    def histogram(self, name: str) -> Histogram:
        """A histogram, such as ``pickup``; empty if nothing was observed."""
        buckets = [*(f"{bound:g}" for bound in BOUNDS), "inf"]
        return Histogram(
            tuple(self.count(f"{name}:{each}") for each in buckets), float(self._fields.get(f"{name}:sum", 0.0))
        )
