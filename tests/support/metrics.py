"""The documented metrics, and those that deploy/ uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/monitoring.md"
DEPLOY = ROOT / "deploy"

_ROW = re.compile(r"\| `(modelreins_\w+)` \| (gauge|counter|histogram) \|(.*?)\| .+ \|")
_LABEL = re.compile(r"`(\w+)`(?: \(([^)]+)\))?")


@dataclass(frozen=True)
class Metric:
    """A documented metric.

    Args:
        name: the name; for a histogram without ``_bucket``, ``_sum`` and ``_count``.
        kind: ``gauge``, ``counter`` or ``histogram``.
        labels: the labels except ``worker_name``, with all values, or with one example if their number is not limited.
        from_ledger: whether all bridges of a worker name report the same value.
    """

    name: str
    kind: str
    labels: Mapping[str, tuple[str, ...]]
    from_ledger: bool


def documented() -> dict[str, Metric]:
    """All metrics by name, from the tables of docs/monitoring.md."""
    _, _, rest = PAGE.read_text().partition("### From the ledger\n")
    ledger, _, bridge = rest.partition("### Of each bridge\n")
    found = [*_rows(ledger, from_ledger=True), *_rows(bridge, from_ledger=False)]
    return {metric.name: metric for metric in found}


def _rows(text: str, *, from_ledger: bool) -> Iterator[Metric]:
    for name, kind, labels in _ROW.findall(text):
        values = {label: tuple(some.split(", ")) if some else (f"a-{label}",) for label, some in _LABEL.findall(labels)}
        yield Metric(name, kind, values, from_ledger)


def names_in(text: str) -> set[str]:
    """Names of metrics in a text. The series of a histogram count as the histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bmodelreins_[a-z_]+", text)}


def used_in_deploy() -> dict[str, set[str]]:
    """Names of the metrics that alerts, dashboard and scalers in deploy/ use, by file."""
    files = (path for path in DEPLOY.rglob("*") if path.suffix in (".yml", ".yaml", ".json"))
    return {str(path.relative_to(ROOT)): names for path in files if (names := names_in(path.read_text()))}
