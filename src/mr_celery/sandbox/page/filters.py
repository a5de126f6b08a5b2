"""The filter and the order of the list of jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..states import AWAITING, PENDING, RUNNING
from ..store import Store
from ..values import clean_text

PERIODS = {"15m": ("Last 15 minutes", 900), "1h": ("Last hour", 3600), "1d": ("Last day", 86_400)}
"""Periods in which jobs were dispatched: their titles and seconds."""

_ORDERS = {
    "newest": ("Newest first", "id DESC"),
    "oldest": ("Oldest first", "id"),
    "ended": ("Last ended first", "closed_at IS NULL, closed_at DESC, id DESC"),
    "longest": ("Longest run first", "claimed_at IS NULL, COALESCE(closed_at, {now!r}) - claimed_at DESC, id DESC"),
    "status": ("By state, failed first", "{statuses}, id DESC"),
}

ORDERS = {name: title for name, (title, _) in _ORDERS.items()}
"""The orders of the list, and their titles."""

_TEXTS = ("prompt", "fields", "result")
_CONTAINS = r"{} LIKE ? ESCAPE '\'"
_BY_ID = ("newest", "oldest")
_ID = re.compile(r"#?(\d{1,18})", re.ASCII)
_RANGE = re.compile(r"#(\d{1,18})\s*[-\N{EN DASH}]\s*#?(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Filter:
    """Selects jobs for a list.

    Attributes:
        text: text in the prompt, the fields or the result; a job's id, which finds this job first; or a range of ids
            such as ``#13-312``. Empty for all.
        status: a status; empty for all.
        worker: a worker name; empty for all.
        capability: the first capability that a job requires; empty for all.
        within: a key of :data:`PERIODS`; empty for all.
        order: a key of :data:`ORDERS`.
    """

    text: str = ""
    status: str = ""
    worker: str = ""
    capability: str = ""
    within: str = ""
    order: str = "newest"

    @classmethod
    def of(cls, values: Mapping[str, str], statuses: Sequence[str]) -> Filter:
        """Read a query string or form. An unknown value selects all jobs.

        Args:
            values: the values, by the names in :attr:`address`.
            statuses: the known statuses.
        """

        def one_of(name: str, known: Any, default: str = "") -> str:
            return values[name] if values.get(name) in known else default

        return cls(
            text=clean_text(values.get("q", "").strip()),
            status=one_of("status", statuses),
            worker=clean_text(values.get("worker", "").strip()),
            capability=clean_text(values.get("capability", "").strip()),
            within=one_of("within", PERIODS),
            order=one_of("order", ORDERS, "newest"),
        )

    @property
    def address(self) -> dict[str, str]:
        """The values of the query string that selects the same jobs."""
        order = "" if self.order == "newest" else self.order
        values = {"q": self.text, "worker": self.worker, "capability": self.capability, "within": self.within}
        return {**values, "order": order, "status": self.status}

    @property
    def is_empty(self) -> bool:
        """Whether it selects all jobs of its status."""
        return not (self.text or self.worker or self.capability or self.within)

    @property
    def job_id(self) -> int | None:
        """The id of the job to find first, if the text is one."""
        match = _ID.fullmatch(self.text)
        return int(match[1]) if match else None

    @property
    def _range(self) -> tuple[int, int] | None:
        match = _RANGE.fullmatch(self.text)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def needs_scan(self) -> bool:
        """Whether no index provides the jobs in this order, so that the rows must be read."""
        return bool(self.text or self.within) or self.order not in _BY_ID

    def in_status(self, status: str) -> Filter:
        """This filter with another status."""
        return replace(self, status=status)

    def indexed(self) -> tuple[list[str], list[Any]]:
        """The SQL conditions for which there are indexes, and their values."""
        columns = {"status": self.status, "assigned_to": self.worker, "capability": self.capability}
        conditions: list[str] = [f"{column} = ?" for column, value in columns.items() if value]
        values: list[Any] = [value for value in columns.values() if value]
        if self._range is not None:
            conditions.append("id BETWEEN ? AND ?")
            values += self._range
        return conditions, values

    def scanned(self, now: float) -> tuple[list[str], list[Any]]:
        """The other SQL conditions, and their values."""
        conditions: list[str] = []
        values: list[Any] = []
        if self.within:
            conditions.append("created_at >= ?")
            values.append(now - PERIODS[self.within][1])
        if self.text and self._range is None:
            escaped = self.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            conditions.append(f"({' OR '.join(_CONTAINS.format(column) for column in _TEXTS)})")
            values += [f"%{escaped}%"] * len(_TEXTS)
        return conditions, values

    def order_by(self, store: Store) -> tuple[str, list[Any]]:
        """The SQL expressions that sort jobs, and their values.

        Args:
            store: the state, for its clock and statuses.
        """
        word = store.options.word
        statuses = (word("failed"), word("aborted"), word("escalated"), AWAITING, RUNNING, PENDING)
        places = " ".join(f"WHEN ? THEN {place}" for place in range(len(statuses)))
        order = _ORDERS[self.order][1].format(now=store.clock(), statuses=f"CASE status {places} ELSE 9 END")
        return order, [*statuses] if "?" in order else []
