"""Plots the curves of a run as SVG files."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

GREY = "#7b8794"  # readable on a light and on a dark page
mpl.rcParams.update(
    {
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "grid.color": GREY,
    }
)

Curve = list[tuple[float, float]]


def draw(curves: dict[str, Curve], folder: Path) -> list[Path]:
    """Draw one plot for all curves with the same name before the colon, as in ``RSS over jobs: bridge``."""
    plots: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name, curve in curves.items():
        title, _, label = name.partition(": ")
        plots[title][label] = curve
    return [_draw(title, lines, folder) for title, lines in plots.items()]


def _draw(title: str, lines: dict[str, Curve], folder: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    what, _, over = title.partition(" over ")
    for label, curve in lines.items():
        axes.plot(*zip(*curve, strict=True), label=label, marker="o" if len(curve) < 10 else "")
    places = [x for curve in lines.values() for x, _ in curve]
    if min(places) > 0 and max(places) > 100 * min(places):
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(over)
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend(frameon=False)
    path = folder / f"{re.sub('[^a-z]+', '-', title.lower())}.svg"
    figure.savefig(path, metadata={"Date": None}, transparent=True)
    pyplot.close(figure)
    return path
