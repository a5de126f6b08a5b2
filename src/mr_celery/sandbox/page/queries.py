"""Queries for the page's lists. Each uses an index or a table of counts, or reads a limited number of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..states import AWAITING, PENDING, RUNNING
from ..store import Store, where
from .filters import Filter

PAGE_SIZE = 50
SCANNED = 20_000
_PROMPT = 300
"""Number of characters of a prompt in a list."""


@dataclass(frozen=True)
class JobsPage:
    """One page of the list.

    Attributes:
        jobs: the jobs, without their results.
        number: the number of the page, from 1.
        size: the number of jobs on a whole page.
        total: the number of jobs on all pages.
        counts: the numbers of jobs that the filter selects in each status, whichever status is selected.
        scanned: the number of the newest jobs among which the filter selects; ``None`` if it selects among all.
    """

    jobs: list[dict[str, Any]]
    number: int
    size: int
    total: int
    counts: dict[str, int]
    scanned: int | None

    @property
    def last(self) -> int:
        """The number of the last page."""
        return max(-(-self.total // self.size), 1)

    def statuses(self, wanted: Filter) -> list[str]:
        """The statuses of the jobs on all pages."""
        return [wanted.status] if wanted.status else [status for status, number in self.counts.items() if number]

    @property
    def first_place(self) -> int:
        """The place of the first job of the page among all, from 1."""
        return (self.number - 1) * self.size + 1


def jobs(store: Store, wanted: Filter, number: int = 1, size: int = PAGE_SIZE, scanned: int = SCANNED) -> JobsPage:
    """List one page of jobs.

    Args:
        store: the state.
        wanted: the filter.
        number: the number of the page. A page after the last one is the last one.
        size: maximum number of jobs on the page.
        scanned: number of the newest jobs that are read for a filter without an index.
    """
    scan = _Scan(store, wanted, scanned) if wanted.needs_scan else None
    if scan is None:
        counts = tally(store, wanted.worker, wanted.capability)
    else:
        counts = (_Scan(store, wanted.in_status(""), scanned) if wanted.status else scan).counts()
        if wanted.status:
            counts[wanted.status] = sum(scan.counts().values())
    total = counts.get(wanted.status, 0) if wanted.status else sum(counts.values())
    number = min(max(number, 1), max(-(-total // size), 1))
    first = (number - 1) * size
    ids = _by_id(store, wanted, first, size, total) if scan is None else scan.ids(first, size)
    is_cut = scan is not None and scan.is_cut
    return JobsPage(_listed(store, ids), number, size, total, _with_all(store, counts), scanned if is_cut else None)


def selected(store: Store, wanted: Filter, limit: int, scanned: int = SCANNED) -> list[int]:
    """The ids of all jobs that the filter selects, as :func:`jobs` lists them.

    Args:
        store: the state.
        wanted: the filter.
        limit: maximum number of ids.
        scanned: number of the newest jobs that are read for a filter without an index.
    """
    if wanted.needs_scan:
        return _Scan(store, wanted, scanned).ids(0, limit)
    return _by_id(store, wanted, 0, limit, 2 * limit)


def neighbours(store: Store, wanted: Filter, job_id: int, scanned: int = SCANNED) -> tuple[int | None, int | None]:
    """The ids of the jobs before and after a job in the list, ``None`` at its ends.

    A job that the filter no longer selects is placed by its id.
    """
    if wanted.needs_scan:
        ids = _Scan(store, wanted, scanned).ids(0, scanned + 1)
        if job_id not in ids:
            newer = min((each for each in ids if each > job_id), default=None)
            return newer, max((each for each in ids if each < job_id), default=None)
        place = ids.index(job_id)
        return ids[place - 1] if place else None, ids[place + 1] if place + 1 < len(ids) else None
    conditions, values = wanted.indexed()

    def nearest(sign: str, direction: str) -> int | None:
        selection = where([*conditions, f"id {sign} ?"])
        query = f"SELECT id FROM jobs {selection} ORDER BY id {direction} LIMIT 1"  # noqa: S608 - fixed columns
        rows = store.rows(query, *values, job_id)
        return rows[0]["id"] if rows else None

    newer, older = nearest(">", "ASC"), nearest("<", "DESC")
    return (older, newer) if wanted.order == "oldest" else (newer, older)


def _by_id(store: Store, wanted: Filter, first: int, size: int, total: int) -> list[int]:
    """The ids of a page in the order of ids, counted from the nearer end of the list."""
    conditions, values = wanted.indexed()
    size = min(size, total - first)
    is_late = 2 * first > total
    skipped = total - first - size if is_late else first
    upwards = is_late != (wanted.order == "oldest")
    direction = "ASC" if upwards else "DESC"
    query = f"SELECT id FROM jobs {where(conditions)} ORDER BY id {direction} LIMIT ? OFFSET ?"  # noqa: S608
    ids = [row["id"] for row in store.rows(query, *values, size, skipped)]
    return ids[::-1] if is_late else ids


class _Scan:
    """A filter without an index, among the newest jobs of its indexed conditions.

    Args:
        store: the state.
        wanted: the filter.
        scanned: the number of the newest jobs that are read.

    Attributes:
        is_cut: whether there are older jobs.
    """

    def __init__(self, store: Store, wanted: Filter, scanned: int) -> None:
        self._store = store
        indexed, values = wanted.indexed()
        query = f"SELECT id FROM jobs {where(indexed)} ORDER BY id DESC LIMIT 1 OFFSET ?"  # noqa: S608 - fixed columns
        limit = store.rows(query, *values, scanned)
        self.is_cut = bool(limit)
        further, more = wanted.scanned(store.clock())
        self._where = where(["id > ?", "id IS NOT ?", *indexed, *further])
        self._values = [limit[0]["id"] if limit else 0, wanted.job_id, *values, *more]
        self._order, self._order_values = wanted.order_by(store)
        query = f"SELECT id, status FROM jobs {where(['id = ?', *indexed])}"  # noqa: S608 - fixed columns
        self._first = store.rows(query, wanted.job_id, *values)

    def counts(self) -> dict[str, int]:
        """Count the jobs by status. The plus keeps SQLite from reading the whole index of statuses."""
        query = f"SELECT status, COUNT(*) AS number FROM jobs {self._where} GROUP BY +status"  # noqa: S608
        counts = Counter({row["status"]: row["number"] for row in self._store.rows(query, *self._values)})
        counts.update(row["status"] for row in self._first)
        return dict(counts)

    def ids(self, first: int, size: int) -> list[int]:
        """At most ``size`` ids, beginning at the place ``first`` in the list."""
        found = [row["id"] for row in self._first]
        query = f"SELECT id FROM jobs {self._where} ORDER BY {self._order} LIMIT ? OFFSET ?"  # noqa: S608
        place = max(first - len(found), 0)
        rows = self._store.rows(query, *self._values, *self._order_values, size, place)
        return [*found[first:], *(row["id"] for row in rows)][:size]


def _listed(store: Store, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Jobs for the list, in the order of their ids."""
    rows = store.rows(
        "SELECT id, assigned_to, status, priority, created_at, claimed_at, closed_at, reason, fields, "  # noqa: S608
        f"substr(prompt, 1, {_PROMPT}) AS prompt FROM jobs WHERE id IN ({', '.join('?' * len(ids))})",
        *ids,
    )
    by_id = {row["id"]: {**row, "fields": json.loads(row["fields"])} for row in rows}
    return [by_id[each] for each in ids if each in by_id]


def tally(store: Store, worker: str = "", capability: str = "") -> dict[str, int]:
    """Count jobs by status, of one worker or capability or of all.

    A status that is rarely used is missing if it has no jobs.
    """
    columns = {"worker": worker, "capability": capability}
    conditions = [f"{column} = ?" for column, value in columns.items() if value]
    query = f"SELECT status, SUM(number) AS number FROM tally {where(conditions)} GROUP BY status"  # noqa: S608 - fixed columns
    rows = store.rows(query, *(each for each in columns.values() if each))
    return _with_all(store, {row["status"]: int(row["number"]) for row in rows})


def _with_all(store: Store, counts: dict[str, int]) -> dict[str, int]:
    """Counts by status in the order of the page, with zeros."""
    first = {AWAITING: counts[AWAITING]} if counts.get(AWAITING) else {}
    return {**first, **dict.fromkeys((PENDING, RUNNING, *store.options.closed), 0), **counts}


def capabilities(store: Store) -> list[str]:
    """The capabilities that jobs require, the most frequent first."""
    query = (
        "SELECT capability FROM tally WHERE capability != '' GROUP BY capability "
        "ORDER BY SUM(number) DESC, capability LIMIT 200"
    )
    return [row["capability"] for row in store.rows(query)]


def awaiting(store: Store, size: int = PAGE_SIZE) -> list[dict[str, Any]]:
    """List jobs that wait for an approval, newest first."""
    return store.jobs(status=AWAITING, limit=size)


def workers(store: Store) -> list[dict[str, Any]]:
    """List workers that are registered, have reported presence, or have open jobs, with the numbers of these jobs."""
    open_jobs: dict[str, dict[str, int]] = {}
    query = "SELECT worker, status, SUM(number) AS number FROM tally WHERE status IN (?, ?) GROUP BY worker, status"
    for row in store.rows(query, PENDING, RUNNING):
        open_jobs.setdefault(row["worker"], {})[row["status"]] = row["number"]
    known = [_known(worker) for worker in store.directory.all()]
    names = {"", *(worker["instance"] for worker in known)}
    unseen = [{**_UNKNOWN, "instance": name} for name in sorted(open_jobs.keys() - names)]
    return [
        {"pending": 0, "running": 0, **worker, **open_jobs.get(worker["instance"], {})}
        for worker in [*sorted(known, key=_online_first), *unseen]
    ]


_UNKNOWN: dict[str, Any] = {
    "id": None, "registered_at": None, "present": False, "age": None, "paused": False, "own_tags": [], "risk_tiers": {},
}  # fmt: skip


def _known(worker: dict[str, Any]) -> dict[str, Any]:
    """Prepare a known worker. Tags that repeat its registered capabilities are left out."""
    risk_tiers = {each["name"]: each["risk_tier"] for each in worker["capabilities"] or ()}
    tags = [tag.strip() for tag in (worker["tags"] or "").split(",") if tag.strip()]
    own_tags = [tag for tag in tags if tag not in risk_tiers]
    return {**worker, "instance": worker["name"], "own_tags": own_tags, "risk_tiers": risk_tiers}


def _online_first(worker: dict[str, Any]) -> tuple[bool, bool, str]:
    return (not worker["present"], worker["age"] is None, worker["instance"])


def reviews(store: Store, status: str, before: int | None = None, size: int = PAGE_SIZE) -> list[dict[str, Any]]:
    """List reviews with a status, newest first."""
    place = before if before is not None else 2**63 - 1
    query = "SELECT * FROM reviews WHERE status = ? AND id < ? ORDER BY id DESC LIMIT ?"
    return store.rows(query, status, place, size)


def decided_reviews(store: Store, size: int = PAGE_SIZE) -> list[dict[str, Any]]:
    """List decided reviews, the last decision first."""
    query = "SELECT * FROM reviews WHERE decided_at IS NOT NULL ORDER BY decided_at DESC, id DESC LIMIT ?"
    return store.rows(query, size)


def reviews_of(store: Store, job_id: int) -> list[dict[str, Any]]:
    """List the reviews of a job."""
    return store.rows("SELECT * FROM reviews WHERE job_id = ? ORDER BY id", job_id)


def pending_reviews(store: Store) -> int:
    """Count the reviews that wait for a decision."""
    return int(store.rows("SELECT COUNT(*) AS number FROM reviews WHERE status = 'pending'")[0]["number"])
