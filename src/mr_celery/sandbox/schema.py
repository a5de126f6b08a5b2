"""The sandbox's tables."""

from __future__ import annotations

import sqlite3

_VERSION = 2
"""Goes up with every change of the schema: a file of another version is refused, not half understood."""

# A job's long texts come last: SQLite reads a row up to the last column that a query asks for. The tally is what a list
# counts: counting 100 000 rows each time somebody looks would be slow.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    assigned_to TEXT NOT NULL, status TEXT NOT NULL, priority TEXT NOT NULL,
    created_at REAL NOT NULL, claimed_by TEXT, claimed_at REAL, closed_at REAL,
    fields TEXT NOT NULL, prompt TEXT NOT NULL, result TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_worker_and_status ON jobs (assigned_to, status, id);
CREATE INDEX IF NOT EXISTS jobs_by_worker ON jobs (assigned_to, id);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, id);
CREATE TABLE IF NOT EXISTS tally (
    worker TEXT NOT NULL, status TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (worker, status)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS job_inserted AFTER INSERT ON jobs BEGIN
    INSERT INTO tally VALUES (new.assigned_to, new.status, 1)
        ON CONFLICT (worker, status) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS job_moved AFTER UPDATE OF status ON jobs BEGIN
    UPDATE tally SET number = number - 1 WHERE worker = old.assigned_to AND status = old.status;
    INSERT INTO tally VALUES (new.assigned_to, new.status, 1)
        ON CONFLICT (worker, status) DO UPDATE SET number = number + 1;
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
    job_id INTEGER, created_by TEXT, created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS reviews_by_status ON reviews (status, id);
CREATE INDEX IF NOT EXISTS reviews_by_job ON reviews (job_id);
CREATE TABLE IF NOT EXISTS presence (
    instance TEXT PRIMARY KEY, status TEXT, details TEXT, tags TEXT, worker_type TEXT, seen_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS registrations (
    view_hash TEXT PRIMARY KEY, name TEXT NOT NULL, registered_at REAL NOT NULL, opened_at REAL
);
CREATE TABLE IF NOT EXISTS worker_tokens (name TEXT PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE);
"""


def open_database(path: str) -> sqlite3.Connection:
    """The database in a file, with its tables.

    Raises:
        sqlite3.Error: the file cannot be used.
    """
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        new = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if not new and version != _VERSION:
            raise sqlite3.DatabaseError(
                f"it is of another version (schema {version}, here {_VERSION}): name another file"
            )
        connection.execute("PRAGMA journal_mode=WAL")  # memory has no journal, and takes no notice
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(f"{_SCHEMA}; PRAGMA user_version = {_VERSION};")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
