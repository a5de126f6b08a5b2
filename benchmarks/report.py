"""The results of the benchmarks: measurements with their spread, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil


@dataclass(frozen=True)
class Figure:
    """A measurement with one value for each round.

    Args:
        part: the part of the benchmarks.
        name: the name of the measurement.
        unit: the unit of the values.
        values: one for each round.
        at_most: the target, if it is an upper limit.
        at_least: the target, if it is a lower one.
    """

    part: str
    name: str
    unit: str
    values: list[float]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> float:
        """Half of the difference between the highest and the lowest value."""
        return (max(self.values) - min(self.values)) / 2

    @property
    def target(self) -> str:
        """The target, and whether it is met."""
        limit, met, sign = self.at_most, True, "≤"
        if self.at_least is not None:
            limit, sign = self.at_least, "≥"
            met = self.median >= limit
        elif limit is not None:
            met = self.median <= limit
        return "" if limit is None else f"{sign} {shown(limit)}{'' if met else ' **missed**'}"

    @property
    def row(self) -> str:
        """The row of the table."""
        spread = f" ± {shown(self.spread)}" if len(self.values) > 1 else ""
        return f"| {self.name} | {shown(self.median)}{spread} {self.unit} | {self.target} |"


def shown(value: float) -> str:
    """Format a number with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


@dataclass
class Report:
    """All measurements of one run.

    Args:
        rounds: number of rounds of repeated measurements.
        scale: factor for numbers of jobs and seconds. Values far below 1 only test that the benchmarks work.
        long_run: number of jobs of the long run.
    """

    rounds: int = 3
    scale: float = 1.0
    long_run: int = 20_000
    stats: list[Figure] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def jobs(self, count: int) -> int:
        """Scale a number of jobs."""
        return max(4, int(count * self.scale))

    def seconds(self, seconds: float) -> float:
        """Scale a time in seconds."""
        return max(0.5, seconds * self.scale)

    def curve(self, name: str, points: list[tuple[float, float]]) -> None:
        """Add a curve, named as ``y over x``."""
        self.curves[name] = points

    def add(self, part: str, name: str, unit: str, values: list[float], **target: float) -> Figure:
        """Add a measurement, and print it."""
        figure = Figure(part, name, unit, values, **target)
        self.stats.append(figure)
        print(figure.row, file=sys.stderr, flush=True)
        return figure

    def markdown(self) -> str:
        """Format the results as Markdown tables, one for each part."""
        lines = [machine()]
        for part in dict.fromkeys(figure.part for figure in self.stats):
            lines += ["", f"**{part}**", "", "| what | median ± half the range | target |", "| --- | --- | --- |"]
            lines += [figure.row for figure in self.stats if figure.part == part]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``results.md`` and ``results.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(self.markdown())
        stats = [asdict(figure) for figure in self.stats]
        found = {"machine": machine(), "stats": stats, "curves": self.curves}
        (folder / "results.json").write_text(json.dumps(found, indent=1))


def machine() -> str:
    """Describe the machine in one line."""
    memory = psutil.virtual_memory().total / 2**30
    names = ("celery", "kombu", "redis", "requests")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{os.cpu_count()} cores ({_model()}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
