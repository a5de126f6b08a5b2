"""The sandbox's state, in SQLite: a file, or memory."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import MrCeleryError
from .changes import Changes
from .schema import open_database
from .states import PENDING, RUNNING, TransitionError, following
from .values import MalformedError, clean, clean_text

PRESENT_SECONDS = 60.0
"""How long a worker counts as present after its last report."""

SERVER_FIELDS = ("id", "assigned_to", "status", "result", "created_at", "claimed_by", "claimed_at", "closed_at")
"""What the server says of a job, and who dispatches it cannot."""

_COLUMNS = ("id", "prompt", "assigned_to", "status", "priority", *SERVER_FIELDS[3:])
_ABORTED = "aborted by an operator"
_CHUNK = 1024 * 1024


class NotFoundError(MrCeleryError):
    """There is no such job, review or artifact (404)."""


class NobodyPresentError(MrCeleryError):
    """A job names no worker, and none is present that it could go to (503)."""


class Store:
    """Jobs, artifacts, reviews and presence.

    Args:
        db: the SQLite file; the artifacts' bytes are in the folder ``<db>.artifacts`` beside it. ``None`` or
            ``":memory:"``: all in memory and in a temporary folder, gone at :meth:`close`.
        clock: the time, in seconds since 1970.

    Attributes:
        changes: who wants to know of each change hears of it here.

    Raises:
        MrCeleryError: the file cannot be opened, or is no SQLite file.
    """

    def __init__(self, db: str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        path = None if db in (None, ":memory:") else db
        self.clock = clock
        self._lock = threading.RLock()
        self.changes = Changes()
        try:
            self._connection = open_database(path or ":memory:")
            self._temporary = None if path else tempfile.mkdtemp(prefix="mr-celery-sandbox-")
            self._folder = Path(self._temporary or f"{path}.artifacts")
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except (sqlite3.Error, OSError) as error:
            raise MrCeleryError(f"the sandbox cannot keep its state in {db or 'memory'}: {error}") from error

    def close(self) -> None:
        """Close the file, and remove what was temporary."""
        self.changes.close()
        with self._lock:
            self._connection.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block is kept, or nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """What a query finds."""
        with self._lock:
            return [dict(row) for row in self._connection.execute(query, values)]

    # -- jobs ----------------------------------------------------------------------------------------

    def dispatch(self, prompt: str, worker: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A new pending job.

        Args:
            prompt: the prompt.
            worker: the worker's name; ``None``: the one that reported presence last.
            fields: further fields of the job, any JSON.

        Raises:
            MalformedError: a field is the server's to say, or ``priority`` is not a string.
            NobodyPresentError: no worker is named, and none is present.
        """
        with self._lock:  # nobody claims it before it is answered
            (job_id,) = self.dispatch_all([prompt], worker, fields)
            return self.job(job_id)

    def dispatch_all(self, prompts: Iterable[str], worker: str | None, fields: Mapping[str, Any]) -> list[int]:
        """A new pending job for each prompt, all or none; otherwise as :meth:`dispatch`. Returns their ids."""
        if taken := sorted({"prompt", *SERVER_FIELDS} & set(fields)):
            raise MalformedError(f"a dispatched job cannot set {', '.join(taken)}: the server does")
        further = clean(dict(fields))
        priority = further.pop("priority", None)
        if not isinstance(priority, (str, type(None))):
            raise MalformedError("priority must be a string or null")
        text = json.dumps(further, allow_nan=False, ensure_ascii=False)
        ids = []
        with self.transaction() as connection:
            name = self._last_present() if worker is None else clean_text(worker)
            for prompt in prompts:
                cursor = connection.execute(
                    "INSERT INTO jobs (prompt, assigned_to, status, priority, fields, created_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (clean_text(prompt), name, PENDING, priority or "normal", text, self.clock()),
                )
                ids.append(int(cursor.lastrowid or 0))
                self._note(ids[-1], "dispatched")
        return ids

    def job(self, job_id: int) -> dict[str, Any]:
        """One job.

        Raises:
            NotFoundError: there is none with that id.
        """
        rows = self.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise NotFoundError(f"there is no job {job_id}")
        return _job(rows[0])

    def inbox(self, worker: str, status: str) -> list[dict[str, Any]]:
        """All jobs of one worker in one status, the oldest first."""
        rows = self.rows("SELECT * FROM jobs WHERE assigned_to = ? AND status = ? ORDER BY id", worker, status)
        return [_job(row) for row in rows]

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
        return [_job(row) for row in self.rows(query, *values, limit, offset)]

    def claim(self, job_id: int, worker: str) -> str:
        """Pending to running, by the worker that it is assigned to. Returns the new status.

        Raises:
            NotFoundError: there is no such job.
            TransitionError: it is not pending, or it is somebody else's.
        """
        return self._move(job_id, "claim", "claim", {"claimed_by": worker, "claimed_at": self.clock()}, worker=worker)

    def close_job(self, job_id: int, result: str, status: str) -> str:
        """Running to done, failed or escalated. Returns the new status.

        Raises:
            NotFoundError: there is no such job.
            TransitionError: it is not running.
        """
        changes = {"result": clean_text(result), "closed_at": self.clock()}
        return self._move(job_id, "close", f"close {status}", changes, closed_as=status)

    def abort(self, job_id: int) -> str:
        """Pending or running to failed. Returns the new status.

        Raises:
            NotFoundError: there is no such job.
            TransitionError: it is over.
        """
        return self._move(job_id, "abort", "abort", {"result": _ABORTED, "closed_at": self.clock()})

    def requeue(self, job_id: int) -> str:
        """Running or over to pending, without a result. Returns the new status.

        Raises:
            NotFoundError: there is no such job.
            TransitionError: it is pending.
        """
        changes = dict.fromkeys(("result", "claimed_by", "claimed_at", "closed_at"))
        return self._move(job_id, "requeue", "requeue", changes)

    def _move(
        self,
        job_id: int,
        action: str,
        event: str,
        changes: Mapping[str, Any],
        *,
        worker: str | None = None,
        closed_as: str = "done",
    ) -> str:
        """One step of the state machine, and its event: of the step, or of the refusal."""
        with self.transaction() as connection:
            job = self.job(job_id)
            try:
                new = following(job["status"], action, closed_as=closed_as)
                if worker is not None and worker != job["assigned_to"]:
                    raise TransitionError(f"cannot {action} a job that is assigned to somebody else")
            except TransitionError as error:
                refused = error
                self._note(job_id, f"refused: {error}")
            else:
                names = ", ".join(f"{column} = ?" for column in ("status", *changes))
                query = f"UPDATE jobs SET {names} WHERE id = ?"  # noqa: S608 - fixed columns
                connection.execute(query, (new, *changes.values(), job_id))
                self._note(job_id, event)
                return new
        raise refused

    def abort_all(self) -> list[int]:
        """Abort every job that is not over: the killswitch. Returns their ids."""
        now = self.clock()
        with self.transaction() as connection:
            open_jobs = self.rows("SELECT id FROM jobs WHERE status IN (?, ?) ORDER BY id", PENDING, RUNNING)
            connection.executemany(
                "INSERT INTO events (job_id, at, event) VALUES (?, ?, 'abort')", [(row["id"], now) for row in open_jobs]
            )
            connection.execute(
                "UPDATE jobs SET status = ?, result = ?, closed_at = ? WHERE status IN (?, ?)",
                (following(RUNNING, "abort"), _ABORTED, now, PENDING, RUNNING),
            )
        self.changes.tell(*(f"job:{row['id']}" for row in open_jobs))
        return [row["id"] for row in open_jobs]

    def events(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """What happened to a job, or to all, in order; attempts that were refused too.

        An ``event`` is ``dispatched``, ``claim``, ``close done`` (or failed, escalated), ``abort``, ``requeue``
        or ``refused: <why>``.
        """
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self.rows(f"SELECT job_id, at, event FROM events {where} ORDER BY id", *values)  # noqa: S608

    def _note(self, job_id: int, event: str) -> None:
        self._connection.execute(
            "INSERT INTO events (job_id, at, event) VALUES (?, ?, ?)", (job_id, self.clock(), event)
        )
        self.changes.tell(f"job:{job_id}")  # whoever looks now waits for this transaction

    # -- presence ------------------------------------------------------------------------------------

    def report(self, fields: Mapping[str, str | None]) -> None:
        """A worker reports presence."""
        names = ("instance", "status", "details", "tags", "worker_type")
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO presence (instance, status, details, tags, worker_type, seen_at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (*(fields.get(name) for name in names), self.clock()),
            )
        self.changes.tell("workers")

    def workers(self) -> list[dict[str, Any]]:
        """Every worker that ever reported, the last one first, with the ``age`` of its report in seconds."""
        rows = self.rows("SELECT * FROM presence ORDER BY seen_at DESC, instance")
        now = self.clock()
        return [{**row, "age": now - row["seen_at"], "present": now - row["seen_at"] < PRESENT_SECONDS} for row in rows]

    def _last_present(self) -> str:
        for worker in self.workers():
            if worker["present"]:
                return str(worker["instance"])
        raise NobodyPresentError("no worker is present: start one, or name one with 'worker'")

    # -- artifacts and reviews -----------------------------------------------------------------------

    def add_artifact(self, source: BinaryIO, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a file. ``fields``: content_type, filename, job_id, review_id, expires_at."""
        slug = secrets.token_hex(20)
        path = self._folder / slug
        names = ("content_type", "filename", "job_id", "review_id", "expires_at")
        try:
            with path.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
                size = target.tell()
            with self.transaction() as connection:
                connection.execute(
                    "INSERT INTO artifacts (slug, size_bytes, created_at, content_type, filename, job_id, review_id, "
                    "expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (slug, size, self.clock(), *(fields.get(name) for name in names)),
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.changes.tell(f"job:{fields.get('job_id')}")
        return self.artifact(slug)

    def artifact(self, slug: str) -> dict[str, Any]:
        """One artifact, with the ``path`` of its bytes.

        Raises:
            NotFoundError: there is none with that slug, or its file is gone.
        """
        rows = self.rows("SELECT * FROM artifacts WHERE slug = ?", slug)
        if not rows or not (path := self._folder / rows[0]["slug"]).is_file():
            raise NotFoundError("there is no such artifact")
        return {**rows[0], "path": path}

    def artifacts(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """The artifacts of a job, or all, in the order of their arrival."""
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self.rows(f"SELECT * FROM artifacts {where} ORDER BY rowid", *values)  # noqa: S608

    def add_review(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A new item in the review queue. ``fields``: type, title, content, preview, target, job_id, created_by."""
        names = ("type", "title", "content", "preview", "target", "job_id", "created_by")
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO reviews (status, created_at, type, title, content, preview, target, job_id, created_by) "
                "VALUES ('pending', ?, ?, ?, ?, ?, ?, ?, ?)",
                (self.clock(), *(fields.get(name) for name in names)),
            )
            self.changes.tell("reviews", f"job:{fields.get('job_id')}")
            return self.review(int(cursor.lastrowid or 0))

    def review(self, review_id: int) -> dict[str, Any]:
        """One review.

        Raises:
            NotFoundError: there is none with that id.
        """
        rows = self.rows("SELECT * FROM reviews WHERE id = ?", review_id)
        if not rows:
            raise NotFoundError(f"there is no review {review_id}")
        return rows[0]

    def reviews(self) -> list[dict[str, Any]]:
        """The review queue, the newest first."""
        return self.rows("SELECT * FROM reviews ORDER BY id DESC")

    def decide(self, review_id: int, status: str) -> dict[str, Any]:
        """Approve or reject a review: ``approved`` or ``rejected``.

        Raises:
            NotFoundError: there is no such review.
            TransitionError: it was decided before.
        """
        with self.transaction() as connection:
            if (now := self.review(review_id)["status"]) != "pending":
                raise TransitionError(f"review {review_id} is {now} already")
            connection.execute("UPDATE reviews SET status = ? WHERE id = ?", (status, review_id))
            decided = self.review(review_id)
            self.changes.tell("reviews", f"job:{decided['job_id']}")
            return decided


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{column: row[column] for column in _COLUMNS}, **json.loads(row["fields"])}
