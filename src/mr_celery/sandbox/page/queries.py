"""What the page's lists ask of the store: each answered by an index, or by the tally."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..states import PENDING, RUNNING, STATUSES
from ..store import Store
from ..values import digits

PAGE_SIZE = 50
SEARCHED = 20_000
_PROMPT = 300
"""Characters of the prompt that a list gets."""


@dataclass(frozen=True)
class Filter:
    """Which jobs are listed.

    Attributes:
        text: what prompt or fields must contain, or ``#`` and the job's id; empty: anything.
        status: one of the states; empty: any.
        worker: the worker's name; empty: any.
        before: only jobs with a smaller id.
        after: only jobs with a larger id.
    """

    text: str = ""
    status: str = ""
    worker: str = ""
    before: int | None = None
    after: int | None = None

    @property
    def by_id(self) -> bool:
        """Whether the text names one job."""
        return self.text.startswith("#") and digits(self.text[1:]) is not None

    @property
    def searches(self) -> bool:
        """Whether texts are looked into, which no index helps with."""
        return bool(self.text) and not self.by_id

    def conditions(self) -> tuple[list[str], list[Any]]:
        """As SQL, with its values; without the place in the list."""
        conditions: list[str] = []
        values: list[Any] = []
        for column, value in (("status", self.status), ("assigned_to", self.worker)):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        if self.by_id:
            conditions.append("id = ?")
            values.append(digits(self.text[1:]))
        elif self.text:
            escaped = self.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            conditions.append(r"(prompt LIKE ? ESCAPE '\' OR fields LIKE ? ESCAPE '\')")
            values += [f"%{escaped}%", f"%{escaped}%"]
        return conditions, values


@dataclass(frozen=True)
class JobsPage:
    """A piece of the list, the newest first.

    Attributes:
        jobs: the jobs, without their results.
        newer: the id after which there are newer ones, if there are.
        older: the id before which there are older ones, if there are.
    """

    jobs: list[dict[str, Any]]
    newer: int | None
    older: int | None


def jobs(store: Store, wanted: Filter, size: int = PAGE_SIZE, searched: int = SEARCHED) -> JobsPage:
    """A piece of the list of jobs.

    Args:
        store: the state.
        wanted: which of them.
        size: how many at most.
        searched: how many jobs are looked into for a text; the next piece goes on from there.
    """
    upwards = wanted.after is not None and wanted.before is None
    newest = int(store.rows("SELECT COALESCE(MAX(id), 0) AS newest FROM jobs")[0]["newest"])
    low = (wanted.after or 0) if upwards else 0  # the piece is within low < id < high
    high = newest + 1 if upwards or wanted.before is None else wanted.before
    if wanted.searches and upwards:
        high = min(high, low + searched + 1)
    elif wanted.searches:
        low = max(low, high - searched - 1)
    conditions, values = wanted.conditions()
    where = " AND ".join(["id > ?", "id < ?", *conditions])
    found = store.rows(
        f"SELECT id, assigned_to, status, priority, created_at, claimed_at, closed_at, fields, "  # noqa: S608
        f"substr(prompt, 1, {_PROMPT}) AS prompt FROM jobs WHERE {where} "
        f"ORDER BY id {'ASC' if upwards else 'DESC'} LIMIT ?",
        low,
        high,
        *values,
        size + 1,
    )
    more, found = len(found) > size, found[:size]
    if more and upwards:
        high = found[-1]["id"] + 1
    elif more:
        low = found[-1]["id"] - 1
    if upwards:
        found.reverse()
    return JobsPage(
        [{**row, "fields": json.loads(row["fields"])} for row in found],
        newer=high - 1 if high <= newest else None,
        older=low + 1 if low > 0 else None,
    )


def tally(store: Store, worker: str = "") -> dict[str, int]:
    """How many jobs there are in each state, of one worker or of all."""
    where, values = ("WHERE worker = ?", [worker]) if worker else ("", [])
    query = f"SELECT status, SUM(number) AS number FROM tally {where} GROUP BY status"  # noqa: S608
    return {**dict.fromkeys(STATUSES, 0), **{row["status"]: row["number"] for row in store.rows(query, *values)}}


def workers(store: Store) -> list[dict[str, Any]]:
    """Every worker that ever reported, and every name that open jobs wait for, with how many of its jobs are open."""
    open_jobs: dict[str, dict[str, int]] = {}
    for row in store.rows("SELECT * FROM tally WHERE status IN (?, ?) AND number > 0", PENDING, RUNNING):
        open_jobs.setdefault(row["worker"], {})[row["status"]] = row["number"]
    reported = store.workers()
    names = {worker["instance"] for worker in reported}
    unseen = [{"instance": name, "present": False, "age": None} for name in sorted(open_jobs.keys() - names)]
    return [
        {"pending": 0, "running": 0, **worker, **open_jobs.get(worker["instance"], {})}
        for worker in [*sorted(reported, key=lambda each: (not each["present"], each["instance"])), *unseen]
    ]


def reviews(store: Store, status: str, before: int | None = None, size: int = PAGE_SIZE) -> list[dict[str, Any]]:
    """Reviews in one state, the newest first."""
    place = before if before is not None else 2**63 - 1
    query = "SELECT * FROM reviews WHERE status = ? AND id < ? ORDER BY id DESC LIMIT ?"
    return store.rows(query, status, place, size)


def reviews_of(store: Store, job_id: int) -> list[dict[str, Any]]:
    """The reviews that a job has filed."""
    return store.rows("SELECT * FROM reviews WHERE job_id = ? ORDER BY id", job_id)


def pending_reviews(store: Store) -> int:
    """How many reviews wait for a decision."""
    return int(store.rows("SELECT COUNT(*) AS number FROM reviews WHERE status = 'pending'")[0]["number"])
