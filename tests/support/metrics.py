"""The metrics as they are documented, and as deploy/ uses them."""

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
        name: its name, a histogram's without ``_bucket``, ``_sum`` and ``_count``.
        kind: ``gauge``, ``counter`` or ``histogram``.
        labels: its labels beside ``worker_name``, with all their values, or some where they have no bound.
        from_ledger: whether all bridges of a worker name tell the same.
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
    """The names of metrics in a text; a histogram's series count as the histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bmodelreins_[a-z_]+", text)}


def used_in_deploy() -> dict[str, set[str]]:
    """The names of all metrics that deploy/ uses: in alerts, in the dashboard, in scalers; by file."""
    files = (path for path in DEPLOY.rglob("*") if path.suffix in (".yml", ".yaml", ".json"))
    return {str(path.relative_to(ROOT)): names for path in files if (names := names_in(path.read_text()))}
