"""What the benchmarks found: figures with their spread, as a table and as JSON."""

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
    """One thing that was measured, several times.

    Args:
        part: the part of the benchmarks.
        name: what it is.
        unit: of its values.
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
        """Half of the distance between the lowest value and the highest."""
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
        """A row of the table."""
        spread = f" ± {shown(self.spread)}" if len(self.values) > 1 else ""
        return f"| {self.name} | {shown(self.median)}{spread} {self.unit} | {self.target} |"


def shown(value: float) -> str:
    """A number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


@dataclass
class Report:
    """All figures of one run.

    Args:
        rounds: how often each thing is measured.
    """

    rounds: int = 3
    figures: list[Figure] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, part: str, name: str, unit: str, values: list[float], **target: float) -> Figure:
        """Add a figure, and show it."""
        figure = Figure(part, name, unit, values, **target)
        self.figures.append(figure)
        print(figure.row, file=sys.stderr, flush=True)
        return figure

    def markdown(self) -> str:
        """The tables, one for each part."""
        lines = [machine()]
        for part in dict.fromkeys(figure.part for figure in self.figures):
            lines += ["", f"**{part}**", "", "| what | median ± half the range | target |", "| --- | --- | --- |"]
            lines += [figure.row for figure in self.figures if figure.part == part]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``results.md`` and ``results.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(self.markdown())
        figures = [asdict(figure) for figure in self.figures]
        found = {"machine": machine(), "figures": figures, "curves": self.curves}
        (folder / "results.json").write_text(json.dumps(found, indent=1))


def machine() -> str:
    """What it was measured on, in a line."""
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
