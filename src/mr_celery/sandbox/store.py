"""The sandbox's state, in SQLite: a file, or memory."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import MrCeleryError
from .states import NotInThatState, following

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prompt TEXT NOT NULL, assigned_to TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending',
    fields TEXT NOT NULL, result TEXT,
    created_at REAL NOT NULL, claimed_at REAL, closed_at REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_worker ON jobs (assigned_to, status, id);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, id);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_job ON events (job_id, id);
CREATE TABLE IF NOT EXISTS artifacts (
    slug TEXT PRIMARY KEY, content_type TEXT NOT NULL, filename TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    job_id INTEGER, review_id INTEGER, expires_at TEXT, created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS artifacts_by_job ON artifacts (job_id);
CREATE TABLE IF NOT EXISTS reviews (
    id INTEGER PRIMARY KEY AUTOINCREMENT, status TEXT NOT NULL DEFAULT 'pending',
    type TEXT NOT NULL, title TEXT NOT NULL, content TEXT NOT NULL, preview TEXT, target TEXT,
    job_id INTEGER, created_by TEXT, created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS presence (
    instance TEXT PRIMARY KEY, status TEXT, details TEXT, tags TEXT, worker_type TEXT, seen_at REAL NOT NULL
);
"""

PRESENT_SECONDS = 60.0
"""How long a worker counts as present after its last report."""

OWN_FIELDS = ("id", "prompt", "assigned_to", "status", "result", "created_at", "claimed_at", "closed_at")


class NotFound(MrCeleryError):
    """There is no such job, review or artifact (404)."""


class Store:
    """Jobs, artifacts, reviews and presence.

    Args:
        db: the SQLite file; the artifacts' bytes are in a folder beside it. ``None``: all in memory and in a
            temporary folder, gone at :meth:`close`.
    """

    def __init__(self, db: str | None = None) -> None:
        self._connection = sqlite3.connect(db or ":memory:", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.RLock()
        if db:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)
        self._temporary = None if db else tempfile.mkdtemp(prefix="mr-celery-sandbox-")
        self._folder = Path(f"{db}.artifacts" if db else str(self._temporary))
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Close the file, and remove what was temporary."""
        with self._lock:
            self._connection.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(query, values)]

    # -- jobs ----------------------------------------------------------------------------------------

    def dispatch(self, prompt: str, worker: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A new pending job for a worker."""
        kept = {key: value for key, value in fields.items() if key not in OWN_FIELDS}
        kept.setdefault("priority", "normal")
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO jobs (prompt, assigned_to, fields, created_at) VALUES (?, ?, ?, ?)",
                (prompt, worker, json.dumps(kept), time.time()),
            )
            job_id = int(cursor.lastrowid or 0)
            self._note(connection, job_id, "dispatched")
        return self.job(job_id)

    def job(self, job_id: int) -> dict[str, Any]:
        """One job.

        Raises:
            NotFound: there is none with that id.
        """
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise NotFound(f"there is no job {job_id}")
        return _job(rows[0])

    def jobs(
        self, *, worker: str | None = None, status: str | None = None, limit: int = -1, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Jobs, the newest first, of one worker or status or of all."""
        conditions, values = [], []
        for column, value in (("assigned_to", worker), ("status", status)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT * FROM jobs {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608 - fixed columns
        return [_job(row) for row in self._rows(query, *values, limit, offset)]

    def act(
        self, job_id: int, action: str, *, worker: str | None = None, result: str = "", status: str = "done"
    ) -> str:
        """Claim, close, abort or requeue a job. Returns its new status.

        Args:
            job_id: the job.
            action: ``claim``, ``close``, ``abort`` or ``requeue``.
            worker: who claims; it must be the job's.
            result: for ``close``: the output.
            status: for ``close``: done, failed or escalated.

        Raises:
            NotFound: there is no such job.
            NotInThatState: it is not in a status that allows it, or it is somebody else's.
        """
        try:
            with self._transaction() as connection:
                row = connection.execute("SELECT status, assigned_to FROM jobs WHERE id = ?", (job_id,)).fetchone()
                if row is None:
                    raise NotFound(f"there is no job {job_id}")
                if worker is not None and row["assigned_to"] != worker:
                    raise NotInThatState(f"job {job_id} is assigned to somebody else")
                new = following(row["status"], action, closed_as=status)
                now = time.time()
                if action == "claim":
                    connection.execute("UPDATE jobs SET status = ?, claimed_at = ? WHERE id = ?", (new, now, job_id))
                elif action == "requeue":
                    connection.execute(
                        "UPDATE jobs SET status = ?, result = NULL, claimed_at = NULL, closed_at = NULL WHERE id = ?",
                        (new, job_id),
                    )
                else:
                    text = result if action == "close" else "aborted by an operator"
                    connection.execute(
                        "UPDATE jobs SET status = ?, result = ?, closed_at = ? WHERE id = ?", (new, text, now, job_id)
                    )
                self._note(connection, job_id, action if action != "close" else f"close {new}")
        except NotInThatState as error:
            with self._transaction() as connection:
                self._note(connection, job_id, f"refused: {error}")
            raise
        return new

    def abort_all(self) -> list[int]:
        """Abort every job that is not over: the killswitch. Returns their ids."""
        rows = self._rows("SELECT id FROM jobs WHERE status IN ('pending', 'running')")
        return [row["id"] for row in rows if self.act(row["id"], "abort")]

    def events(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """What happened to a job, or to all, in order; attempts that were refused too."""
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self._rows(f"SELECT job_id, at, event FROM events {where} ORDER BY id", *values)  # noqa: S608

    @staticmethod
    def _note(connection: sqlite3.Connection, job_id: int, event: str) -> None:
        connection.execute("INSERT INTO events (job_id, at, event) VALUES (?, ?, ?)", (job_id, time.time(), event))

    # -- presence ------------------------------------------------------------------------------------

    def report(self, fields: Mapping[str, str | None]) -> None:
        """A worker reports presence."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?, ?, ?)",
                (*(fields.get(key) for key in ("instance", "status", "details", "tags", "worker_type")), time.time()),
            )

    def workers(self) -> list[dict[str, Any]]:
        """Every worker that ever reported, with the ``age`` of its last report in seconds."""
        rows = self._rows("SELECT * FROM presence ORDER BY seen_at DESC")
        now = time.time()
        return [{**row, "age": now - row["seen_at"], "present": now - row["seen_at"] < PRESENT_SECONDS} for row in rows]

    # -- artifacts and reviews -----------------------------------------------------------------------

    def add_artifact(self, source: BinaryIO, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a file. ``fields``: content_type, filename, job_id, review_id, expires_at."""
        slug = secrets.token_hex(20)
        path = self._folder / slug
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
        size = path.stat().st_size
        names = ("content_type", "filename", "job_id", "review_id", "expires_at")
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO artifacts (slug, size_bytes, created_at, content_type, filename, job_id, review_id, "
                "expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (slug, size, time.time(), *(fields.get(name) for name in names)),
            )
        return self.artifact(slug)

    def artifact(self, slug: str) -> dict[str, Any]:
        """One artifact, with the ``path`` of its bytes.

        Raises:
            NotFound: there is none with that slug.
        """
        rows = self._rows("SELECT * FROM artifacts WHERE slug = ?", slug)
        if not rows:
            raise NotFound("there is no such artifact")
        return {**rows[0], "path": self._folder / rows[0]["slug"]}

    def artifacts(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """The artifacts of a job, or all."""
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self._rows(f"SELECT * FROM artifacts {where} ORDER BY created_at", *values)  # noqa: S608

    def add_review(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A new item in the review queue."""
        names = ("type", "title", "content", "preview", "target", "job_id", "created_by")
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO reviews (created_at, type, title, content, preview, target, job_id, created_by) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (time.time(), *(fields.get(name) for name in names)),
            )
            review_id = cursor.lastrowid
        return self._rows("SELECT * FROM reviews WHERE id = ?", review_id)[0]

    def reviews(self) -> list[dict[str, Any]]:
        """The review queue, the newest first."""
        return self._rows("SELECT * FROM reviews ORDER BY id DESC")

    def decide(self, review_id: int, status: str) -> dict[str, Any]:
        """Approve or reject a review.

        Raises:
            NotFound: there is no such review.
            NotInThatState: it was decided before.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT status FROM reviews WHERE id = ?", (review_id,)).fetchone()
            if row is None:
                raise NotFound(f"there is no review {review_id}")
            if row["status"] != "pending":
                raise NotInThatState(f"review {review_id} is {row['status']} already")
            connection.execute("UPDATE reviews SET status = ? WHERE id = ?", (status, review_id))
        return self._rows("SELECT * FROM reviews WHERE id = ?", review_id)[0]


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = json.loads(row["fields"])
    return {**fields, **{key: row[key] for key in OWN_FIELDS}}
