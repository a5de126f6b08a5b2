"""The sandbox's database schema."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..private_files import own_folder

_VERSION = 5
"""Schema version. Increase it with every change: files of other versions are refused."""

# Long text columns come last, because SQLite reads a row only up to the last column of a query. The tables `tally` and
# `ended` have the counts for the page, since counting 100 000 rows on each visit would be slow. `capability` is the
# first that a job requires, or empty. `reason` is a line of the result, if the job failed or was escalated.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    assigned_to TEXT NOT NULL, capability TEXT NOT NULL, status TEXT NOT NULL, priority TEXT NOT NULL,
    created_at REAL NOT NULL, claimed_by TEXT, claimed_at REAL, closed_at REAL, approved_at REAL, reason TEXT,
    fields TEXT NOT NULL, prompt TEXT NOT NULL, result TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_worker_and_status ON jobs (assigned_to, status, id);
CREATE INDEX IF NOT EXISTS jobs_by_worker ON jobs (assigned_to, id);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, id);
CREATE INDEX IF NOT EXISTS jobs_by_capability ON jobs (capability, id);
CREATE INDEX IF NOT EXISTS jobs_by_capability_and_status ON jobs (capability, status, id);
CREATE INDEX IF NOT EXISTS jobs_by_both ON jobs (assigned_to, capability, id);
CREATE INDEX IF NOT EXISTS jobs_by_all ON jobs (assigned_to, capability, status, id);
CREATE INDEX IF NOT EXISTS runs ON jobs (closed_at, capability, claimed_at)
    WHERE closed_at IS NOT NULL AND claimed_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS tally (
    worker TEXT NOT NULL, capability TEXT NOT NULL, status TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (worker, capability, status)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS job_inserted AFTER INSERT ON jobs BEGIN
    INSERT INTO tally VALUES (new.assigned_to, new.capability, new.status, 1)
        ON CONFLICT (worker, capability, status) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS job_moved AFTER UPDATE OF assigned_to, capability, status ON jobs BEGIN
    UPDATE tally SET number = number - 1
        WHERE worker = old.assigned_to AND capability = old.capability AND status = old.status;
    DELETE FROM tally
        WHERE worker = old.assigned_to AND capability = old.capability AND status = old.status AND number = 0;
    INSERT INTO tally VALUES (new.assigned_to, new.capability, new.status, 1)
        ON CONFLICT (worker, capability, status) DO UPDATE SET number = number + 1;
END;
CREATE TABLE IF NOT EXISTS ended (
    minute INTEGER NOT NULL, status TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (minute, status)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS job_ended AFTER UPDATE OF closed_at ON jobs WHEN new.closed_at IS NOT NULL BEGIN
    INSERT INTO ended VALUES (CAST(new.closed_at / 60 AS INTEGER), new.status, 1)
        ON CONFLICT (minute, status) DO UPDATE SET number = number + 1;
END;
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
    id INTEGER PRIMARY KEY AUTOINCREMENT, status TEXT NOT NULL,
    type TEXT NOT NULL, title TEXT NOT NULL, content TEXT NOT NULL, preview TEXT, target TEXT,
    job_id INTEGER, created_by TEXT, created_at REAL NOT NULL, decided_at REAL, reason TEXT
);
CREATE INDEX IF NOT EXISTS reviews_by_decision ON reviews (decided_at);
CREATE INDEX IF NOT EXISTS reviews_by_status ON reviews (status, id);
CREATE INDEX IF NOT EXISTS reviews_by_job ON reviews (job_id);
CREATE TABLE IF NOT EXISTS presence (
    instance TEXT PRIMARY KEY, status TEXT, details TEXT, tags TEXT, provider TEXT, worker_type TEXT,
    seen_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS workers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, description TEXT, capabilities TEXT,
    paused INTEGER NOT NULL DEFAULT 0, registered_at REAL
);
CREATE TABLE IF NOT EXISTS sessions (
    worker TEXT NOT NULL, capability TEXT NOT NULL, approved_at REAL NOT NULL, PRIMARY KEY (worker, capability)
);
CREATE TABLE IF NOT EXISTS killswitch (id INTEGER PRIMARY KEY CHECK (id = 1), level TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS registrations (
    view_hash TEXT PRIMARY KEY, name TEXT NOT NULL, registered_at REAL NOT NULL, opened_at REAL
);
CREATE TABLE IF NOT EXISTS worker_tokens (name TEXT PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE);
"""


def open_database(path: str) -> sqlite3.Connection:
    """Open a database file and create its tables.

    Raises:
        sqlite3.Error: the file cannot be used.
        NotPrivate: another user could read it, or make SQLite use another file.
        OSError: the file or its folder cannot be opened.
    """
    if path != ":memory:":
        _make_private(Path(path))
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        new = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if not new and version != _VERSION:
            raise sqlite3.DatabaseError(
                f"it has another schema version ({version} instead of {_VERSION}): choose another file"
            )
        connection.execute("PRAGMA journal_mode=WAL")  # ignored by in-memory databases
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(f"{_SCHEMA}; PRAGMA user_version = {_VERSION};")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Make a database file for this user only. SQLite gives the same mode to the files beside it."""
    with own_folder(path.parent) as folder:
        folder.make_private(path.name, create=True)
        for suffix in ("-wal", "-shm", "-journal"):
            folder.make_private(path.name + suffix)
