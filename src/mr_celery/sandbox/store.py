"""The sandbox's state in SQLite, in a file or in memory."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import MrCeleryError
from ..private_files import NotPrivate, private_folder
from .approvals import Approvals
from .changes import Changes
from .directory import PRESENT_SECONDS, Directory
from .killswitch import Killswitch
from .options import ServerOptions
from .reasons import reason_in
from .routing import NoEligibleWorkerError, Wanted, choose, obstacle_for_named
from .schema import open_database
from .states import AWAITING, OPEN, PENDING, RUNNING, TransitionError, check
from .values import MalformedError, NotFoundError, clean, clean_text

SERVER_FIELDS = ("id", "assigned_to", "status", "result", "created_at", "claimed_by", "claimed_at", "closed_at")
"""Fields of a job that only the server sets."""

_COLUMNS = ("id", "prompt", "assigned_to", "status", "priority", *SERVER_FIELDS[3:])
_ABORTED = "aborted by an operator"
_REJECTED = "rejected by an operator"
_NOT_RUN = dict.fromkeys(("result", "reason", "claimed_by", "claimed_at", "closed_at"))
_CHUNK = 1024 * 1024


class Store:
    """Jobs, artifacts, reviews and presence.

    Args:
        db: the SQLite file. Artifacts are stored in the folder ``<db>.artifacts`` next to it. With ``None`` or
            ``":memory:"`` the state is in memory and a temporary folder, and removed by :meth:`close`.
        clock: returns the time in seconds since 1970.
        options: options of the simulated server.

    Attributes:
        changes: publishes every change.
        directory: the known workers.
        killswitch: the killswitch.
        approvals: jobs that wait for an approval.

    Raises:
        MrCeleryError: the file cannot be opened, or is not a SQLite file; or another user could change it.
    """

    def __init__(
        self,
        db: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        options: ServerOptions | None = None,
    ) -> None:
        path = None if db in (None, ":memory:") else db
        self.clock = clock
        self._opened_at = clock()
        self.options = options or ServerOptions()
        self.directory = Directory(self)
        self.killswitch = Killswitch(self)
        self.approvals = Approvals(self)
        self._lock = threading.RLock()
        self.changes = Changes()
        try:
            self._connection = open_database(path or ":memory:")
            self._temporary = None if path else tempfile.mkdtemp(prefix="mr-celery-sandbox-")
            self._folder = Path(self._temporary or f"{path}.artifacts")
            with private_folder(self._folder):  # others cannot change what is in it from now on
                pass
            self._connection.execute("DELETE FROM sessions")
        except (sqlite3.Error, OSError, NotPrivate) as error:
            raise MrCeleryError(f"the sandbox cannot keep its state in {db or 'memory'}: {error}") from error

    def close(self) -> None:
        """Close the database, and remove the temporary folder."""
        self.changes.close()
        with self._lock:
            self._connection.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction."""
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
        """Run a query, and return its rows."""
        with self._lock:
            return [dict(row) for row in self._connection.execute(query, values)]

    # -- jobs ----------------------------------------------------------------------------------------

    def dispatch(self, prompt: str, worker: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create a job and assign it to a worker. It is pending, or waits for an approval.

        Args:
            prompt: the prompt.
            worker: the worker name; ``None`` for an eligible one.
            fields: further fields of the job, any JSON.

        Raises:
            MalformedError: a field can only be set by the server, or ``priority`` is not a string.
            KillswitchError: the killswitch is on.
            NoEligibleWorkerError: no worker is eligible, or the named one is not.
        """
        with self._lock:  # so that the returned job is still pending
            (job_id,) = self.dispatch_all([prompt], worker, fields)
            return self.job(job_id)

    def dispatch_all(self, prompts: Iterable[str], worker: str | None, fields: Mapping[str, Any]) -> list[int]:
        """Create a job for each prompt in one transaction, like :meth:`dispatch`. Returns their ids."""
        fields = _checked(fields)
        with self.transaction():
            name = self._eligible(worker, fields)
            status = self.approvals.status_for(name, fields)
            return [self._insert(prompt, name, status, fields) for prompt in prompts]

    def create(self, prompt: str, worker: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create a job without dispatching it.

        Args:
            prompt: the prompt.
            worker: the worker name that it is assigned to, eligible or not; ``None`` for none yet.
            fields: further fields of the job, any JSON.

        Raises:
            MalformedError: a field can only be set by the server, or ``priority`` is not a string.
        """
        fields, name = _checked(fields), clean_text(worker or "")
        with self.transaction():
            return self.job(self._insert(prompt, name, self.approvals.status_for(name, fields), fields))

    def assign(self, job_id: int, worker: str | None) -> dict[str, Any]:
        """Dispatch a job that was created without a worker.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job has a worker, or is over.
            KillswitchError: the killswitch is on.
            NoEligibleWorkerError: no worker is eligible, or the named one is not.
        """
        with self.transaction() as connection:
            job = self.job(job_id)
            if job["assigned_to"] is not None or job["status"] not in OPEN:
                raise TransitionError(f"job {job_id} is already {'over' if job['assigned_to'] is None else 'assigned'}")
            name = self._eligible(worker, job)
            connection.execute(
                "UPDATE jobs SET assigned_to = ?, status = ? WHERE id = ?",
                (name, self.approvals.status_for(name, job), job_id),
            )
            self.note(job_id, "dispatched")
            return self.job(job_id)

    def _eligible(self, worker: str | None, fields: Mapping[str, Any]) -> str:
        """The worker name that gets a job."""
        self.killswitch.check()
        wanted = Wanted.of(fields)
        if worker is None:
            return choose(wanted, self.directory.candidates())
        name = clean_text(worker)
        if reason := obstacle_for_named(wanted, self.directory.candidate(name)):
            raise NoEligibleWorkerError(f"worker {name!r} is not eligible: {reason}")
        return name

    def _insert(self, prompt: str, worker: str, status: str, fields: Mapping[str, Any]) -> int:
        further = {name: value for name, value in fields.items() if name != "priority"}
        cursor = self._connection.execute(
            "INSERT INTO jobs (prompt, assigned_to, capability, status, priority, fields, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (clean_text(prompt), worker, _capability(fields), status, fields["priority"], _json(further), self.clock()),
        )
        job_id = int(cursor.lastrowid or 0)
        self.note(job_id, "dispatched" if worker else "created")
        if status == AWAITING:
            self.changes.publish("reviews")
        return job_id

    def change(self, job_id: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Change fields of a job that is not running yet.

        Args:
            job_id: the job.
            fields: the new values. ``None`` removes a field, and sets ``priority`` to normal.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job is running or over.
        """
        with self.transaction() as connection:
            job = self.job(job_id)
            if job["status"] not in (AWAITING, PENDING):
                raise TransitionError(f"cannot change a job that is {job['status']}")
            row = self.rows("SELECT fields FROM jobs WHERE id = ?", job_id)[0]
            further = {**json.loads(row["fields"]), **clean(dict(fields))}
            priority = further.pop("priority", job["priority"]) or "normal"
            kept = {name: value for name, value in further.items() if value is not None or name not in fields}
            connection.execute(
                "UPDATE jobs SET priority = ?, capability = ?, fields = ? WHERE id = ?",
                (priority, _capability(kept), _json(kept), job_id),
            )
            self.note(job_id, f"changed {', '.join(fields)}")
            return self.job(job_id)

    def job(self, job_id: int) -> dict[str, Any]:
        """Return a job.

        Raises:
            NotFoundError: the job does not exist.
        """
        rows = self.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise NotFoundError(f"there is no job {job_id}")
        return _job(rows[0])

    def inbox(self, worker: str, status: str) -> list[dict[str, Any]]:
        """List all jobs of a worker in one status, oldest first."""
        rows = self.rows("SELECT * FROM jobs WHERE assigned_to = ? AND status = ? ORDER BY id", worker, status)
        return [_job(row) for row in rows]

    def jobs(
        self,
        *,
        worker: str | None = None,
        status: str | None = None,
        provider: str | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """List jobs, newest first, optionally of one worker, status or provider."""
        conditions, values = [], []
        provided = "json_extract(fields, '$.provider')"
        for column, value in (("assigned_to", worker), ("status", status), (provided, provider)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        query = f"SELECT * FROM jobs {where(conditions)} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608 - fixed columns
        return [_job(row) for row in self.rows(query, *values, limit, offset)]

    def claim(self, job_id: int, worker: str) -> str:
        """Claim a pending job for the worker that it is assigned to. Returns the new status.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job is not pending, is assigned to another worker, or may not be run by it now.
        """
        changes = {"claimed_by": worker, "claimed_at": self.clock()}
        return self._move(job_id, "claim", "claim", RUNNING, changes, claimed_by=worker)

    def close_job(self, job_id: int, result: str, status: str) -> str:
        """Close a running job as done, failed or escalated. Returns the new status.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job is not running.
        """
        return self._end(job_id, "close", f"close {status}", status, result)

    def abort(self, job_id: int) -> str:
        """Abort a job that is not over. Returns the new status.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job is over.
        """
        return self._end(job_id, "abort", "abort", "aborted", _ABORTED)

    def reject(self, job_id: int, reason: str = "") -> str:
        """Reject a job that waits for an approval. Returns the new status.

        Args:
            job_id: the job.
            reason: the reason, if one is given. It becomes a part of the job's result.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job does not wait for an approval.
        """
        given = f": {reason.strip()}" if reason.strip() else ""
        return self._end(job_id, "reject", clean_text(f"reject{given}"), "aborted", f"{_REJECTED}{given}")

    def requeue(self, job_id: int, action: str = "requeue") -> str:
        """Make a job pending again and delete its result. Returns the new status.

        Args:
            job_id: the job.
            action: ``requeue``, or ``retry``, which does not requeue running jobs.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job is pending.
            KillswitchError: the killswitch is on.
        """
        self.killswitch.check()
        return self._move(job_id, action, action, None, _NOT_RUN)

    def requeue_lost(self) -> list[int]:
        """Make the running jobs of workers that no longer report pending again. Returns their ids."""
        seconds = self.options.requeue_after
        if seconds is None or (limit := self.clock() - seconds) < self._opened_at:
            return []
        lost = self.rows(
            "SELECT id FROM jobs LEFT JOIN presence ON instance = claimed_by "
            "WHERE jobs.status = ? AND claimed_at < ? AND COALESCE(seen_at, 0) < ? ORDER BY id",
            RUNNING,
            limit,
            limit,
        )
        event = f"requeue: the worker has not reported for {seconds:g} s"
        for row in lost:
            with suppress(TransitionError):  # closed in the meantime
                self._move(row["id"], "requeue", event, None, _NOT_RUN)
        return [row["id"] for row in lost]

    def _end(self, job_id: int, action: str, event: str, end: str, result: str) -> str:
        result = clean_text(result)
        reason = None if end == "done" else reason_in(result)
        changes = {"result": result, "reason": reason, "closed_at": self.clock()}
        return self._move(job_id, action, event, self.options.word(end), changes)

    def _move(
        self,
        job_id: int,
        action: str,
        event: str,
        status: str | None,
        changes: Mapping[str, Any],
        *,
        claimed_by: str | None = None,
    ) -> str:
        """Apply a transition and record its event, or record that it was refused.

        Args:
            job_id: the job.
            action: the action of :func:`~mr_celery.sandbox.states.check`.
            event: the event to record.
            status: the new status; ``None`` for the one in which the job begins.
            changes: further columns to set.
            claimed_by: the worker that claims the job.
        """
        with self.transaction() as connection:
            job = self.job(job_id)
            try:
                check(job["status"], action)
                if claimed_by is not None:
                    self._check_claim(job, claimed_by)
            except TransitionError as error:
                refused = error
                self.note(job_id, f"refused: {error}")
            else:
                new = status or self._status_of_requeued(job)
                names = ", ".join(f"{column} = ?" for column in ("status", *changes))
                query = f"UPDATE jobs SET {names} WHERE id = ?"  # noqa: S608 - fixed columns
                connection.execute(query, (new, *changes.values(), job_id))
                self.note(job_id, event)
                if AWAITING in (job["status"], new):
                    self.changes.publish("reviews")
                return new
        raise refused

    def _check_claim(self, job: Mapping[str, Any], worker: str) -> None:
        if worker != job["assigned_to"]:
            raise TransitionError("cannot claim a job that is assigned to another worker")
        if self.directory.is_paused(worker):
            raise TransitionError("cannot claim a job while the worker is paused")
        if reason := obstacle_for_named(Wanted.of(job), self.directory.candidate(worker)):
            raise TransitionError(f"cannot claim a job of this worker: {reason}")

    def _status_of_requeued(self, job: Mapping[str, Any]) -> str:
        """The status of a job that runs again. An approval covers all runs of a job."""
        if self.rows("SELECT 1 FROM jobs WHERE id = ? AND approved_at IS NOT NULL", job["id"]):
            return PENDING
        return self.approvals.status_for(job["assigned_to"] or "", job)

    def abort_all(self, statuses: Sequence[str] = OPEN) -> list[int]:
        """Abort every job in these statuses; by default all that are not over. Returns their ids."""
        now, marks = self.clock(), ", ".join("?" * len(statuses))
        with self.transaction() as connection:
            query = f"SELECT id FROM jobs WHERE status IN ({marks}) ORDER BY id"  # noqa: S608 - only question marks
            open_jobs = self.rows(query, *statuses)
            connection.executemany(
                "INSERT INTO events (job_id, at, event) VALUES (?, ?, 'abort')", [(row["id"], now) for row in open_jobs]
            )
            connection.execute(
                f"UPDATE jobs SET status = ?, result = ?, reason = ?, closed_at = ? WHERE status IN ({marks})",  # noqa: S608
                (self.options.word("aborted"), _ABORTED, _ABORTED, now, *statuses),
            )
        self.changes.publish("reviews", *(f"job:{row['id']}" for row in open_jobs))
        return [row["id"] for row in open_jobs]

    def events(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """List the events of a job, or of all jobs, oldest first.

        An ``event`` is ``created``, ``dispatched``, ``changed tags``, ``approve``, ``reject``, ``claim``,
        ``close done`` (or failed, escalated), ``abort``, ``requeue``, ``retry``, ``review 3 approved`` (or rejected,
        or pending if the decision was undone) or, for refused requests, ``refused: <reason>``.
        """
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self.rows(f"SELECT job_id, at, event FROM events {where} ORDER BY id", *values)  # noqa: S608

    def note(self, job_id: int, event: str) -> None:
        """Record an event of a job, inside a transaction."""
        self._connection.execute(
            "INSERT INTO events (job_id, at, event) VALUES (?, ?, ?)", (job_id, self.clock(), event)
        )
        self.changes.publish(f"job:{job_id}")  # readers wait for the lock, so they see the committed state

    # -- presence ------------------------------------------------------------------------------------

    def report(self, fields: Mapping[str, str | None]) -> None:
        """Record a worker's presence."""
        names = ("instance", "status", "details", "tags", "provider", "worker_type")
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO workers (name) VALUES (?)", (fields["instance"],))
            connection.execute(
                "INSERT OR REPLACE INTO presence (instance, status, details, tags, provider, worker_type, seen_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*(fields.get(name) for name in names), self.clock()),
            )
        self.changes.publish("workers")

    def workers(self) -> list[dict[str, Any]]:
        """List all workers that have reported presence, latest first, with the ``age`` of the report in seconds."""
        rows = self.rows("SELECT * FROM presence ORDER BY seen_at DESC, instance")
        now = self.clock()
        return [{**row, "age": now - row["seen_at"], "present": now - row["seen_at"] < PRESENT_SECONDS} for row in rows]

    # -- artifacts and reviews -----------------------------------------------------------------------

    def add_artifact(self, source: BinaryIO, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Store a file. ``fields``: content_type, filename, job_id, review_id, expires_at."""
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
        self.changes.publish(f"job:{fields.get('job_id')}")
        return self.artifact(slug)

    def artifact(self, slug: str) -> dict[str, Any]:
        """Return an artifact, with the ``path`` of its file.

        Raises:
            NotFoundError: the artifact does not exist, or its file is gone.
        """
        rows = self.rows("SELECT * FROM artifacts WHERE slug = ?", slug)
        if not rows or not (path := self._folder / rows[0]["slug"]).is_file():
            raise NotFoundError("there is no such artifact")
        return {**rows[0], "path": path}

    def artifacts(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """List the artifacts of a job, or all, in the order of upload."""
        where = "" if job_id is None else "WHERE job_id = ?"
        values = () if job_id is None else (job_id,)
        return self.rows(f"SELECT * FROM artifacts {where} ORDER BY rowid", *values)  # noqa: S608

    def add_review(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add a review to the queue. ``fields``: type, title, content, preview, target, job_id, created_by."""
        names = ("type", "title", "content", "preview", "target", "job_id", "created_by")
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO reviews (status, created_at, type, title, content, preview, target, job_id, created_by) "
                "VALUES ('pending', ?, ?, ?, ?, ?, ?, ?, ?)",
                (self.clock(), *(fields.get(name) for name in names)),
            )
            self.changes.publish("reviews", f"job:{fields.get('job_id')}")
            return self.review(int(cursor.lastrowid or 0))

    def review(self, review_id: int) -> dict[str, Any]:
        """Return a review.

        Raises:
            NotFoundError: the review does not exist.
        """
        rows = self.rows("SELECT * FROM reviews WHERE id = ?", review_id)
        if not rows:
            raise NotFoundError(f"there is no review {review_id}")
        return rows[0]

    def reviews(self) -> list[dict[str, Any]]:
        """List the review queue, newest first."""
        return self.rows("SELECT * FROM reviews ORDER BY id DESC")

    def decide(self, review_id: int, status: str, reason: str = "") -> dict[str, Any]:
        """Decide a review.

        Args:
            review_id: the review's id.
            status: ``approved`` or ``rejected``.
            reason: the reason for the decision, if one is given.

        Raises:
            NotFoundError: the review does not exist.
            TransitionError: the review was already decided.
        """
        with self.transaction():
            if (now := self.review(review_id)["status"]) != "pending":
                raise TransitionError(f"review {review_id} is already {now}")
            return self._set_decision(review_id, status, self.clock(), reason)

    def undo_decision(self, review_id: int) -> dict[str, Any]:
        """Make a decided review pending again.

        Raises:
            NotFoundError: the review does not exist.
            TransitionError: the review is not decided.
        """
        with self.transaction():
            if self.review(review_id)["status"] == "pending":
                raise TransitionError(f"review {review_id} is not decided")
            return self._set_decision(review_id, "pending", None, "")

    def _set_decision(self, review_id: int, status: str, at: float | None, reason: str) -> dict[str, Any]:
        """Set the status of a review, and record it among the events of its job."""
        given = clean_text(reason).strip() or None
        self._connection.execute(
            "UPDATE reviews SET status = ?, decided_at = ?, reason = ? WHERE id = ?", (status, at, given, review_id)
        )
        review = self.review(review_id)
        if review["job_id"] is not None:
            self.note(review["job_id"], f"review {review_id} {status}{f': {given}' if given else ''}")
        self.changes.publish("reviews")
        return review


def where(conditions: Sequence[str]) -> str:
    """The ``WHERE`` of a query; empty without conditions."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def given_fields(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job that were given when it was dispatched, and its priority."""
    return {name: value for name, value in job.items() if name not in SERVER_FIELDS}


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check the fields of a new job, and add its priority."""
    if reserved := sorted({"prompt", *SERVER_FIELDS} & set(fields)):
        raise MalformedError(f"a dispatched job cannot set {', '.join(reserved)}: only the server can")
    further = clean(dict(fields))
    priority = further.pop("priority", None)
    if not isinstance(priority, (str, type(None))):
        raise MalformedError("priority must be a string or null")
    return {**further, "priority": priority or "normal"}


def _capability(fields: Mapping[str, Any]) -> str:
    """The first capability that a job requires, or an empty string."""
    return next(iter(Wanted.of(fields).capabilities), "")


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, allow_nan=False, ensure_ascii=False)


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    job = {**{column: row[column] for column in _COLUMNS}, **json.loads(row["fields"])}
    return {**job, "assigned_to": job["assigned_to"] or None}
