"""The ledger's figures: counters and histograms of what has happened, counted in the transitions themselves.

So workers need no port for metrics, and nothing is counted that did not happen. They are forgotten with the history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""The upper bounds of the histograms' classes, in seconds: as in ``record.lua``."""


@dataclass(frozen=True)
class Histogram:
    """Times, in classes.

    Args:
        counts: how many were in each class of :data:`BOUNDS` (not in those before it), and above the last one.
        total: their sum, in seconds.
    """

    counts: tuple[int, ...]
    total: float

    @property
    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Pairs of a class' upper bound and how many were in it or below, as Prometheus has them."""
        so_far = 0
        for bound, count in zip((*BOUNDS, None), self.counts, strict=True):
            so_far += count
            yield "+Inf" if bound is None else str(bound), so_far


class Figures:
    """All figures of a worker name.

    Args:
        fields: the hash ``figures``.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = {name.decode(): value.decode() for name, value in fields.items()}

    def count(self, name: str) -> int:
        """A counter, such as ``claimed`` or ``lost:lease``; 0 where nothing was counted."""
        return int(self._fields.get(name, 0))

    def counts(self, group: str) -> dict[str, int]:
        """The counters of a group, by what follows its name: of ``errors`` for instance ``close 503``."""
        start = f"{group}:"
        return {name[len(start) :]: int(value) for name, value in self._fields.items() if name.startswith(start)}

    def histogram(self, name: str) -> Histogram:
        """A histogram, such as ``pickup``; empty where nothing was observed."""
        classes = [*(f"{bound:g}" for bound in BOUNDS), "inf"]
        return Histogram(
            tuple(self.count(f"{name}:{each}") for each in classes), float(self._fields.get(f"{name}:sum", 0.0))
        )
