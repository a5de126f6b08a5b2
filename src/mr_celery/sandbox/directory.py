"""The known workers: registered capabilities, presence, and whether they are paused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .routing import Candidate, split_tags
from .values import NotFoundError

if TYPE_CHECKING:
    from .store import Store

PRESENT_SECONDS = 60.0
"""Time after its last report for which a worker counts as present, in seconds."""

_QUERY = (
    "SELECT id, name, description, capabilities, paused, registered_at, "
    "status, details, tags, provider, worker_type, seen_at FROM workers LEFT JOIN presence ON instance = name"
)


class Directory:
    """The workers that are registered or have reported presence.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, name: str, description: str | None, capabilities: Sequence[Mapping[str, Any]] | None) -> None:
        """Record a registration, which replaces the capabilities of an earlier one.

        Args:
            name: the worker name.
            description: text about the worker.
            capabilities: objects with ``name`` and ``risk_tier``; ``None`` if the worker may run any job.
        """
        text = None if capabilities is None else json.dumps(list(capabilities), ensure_ascii=False)
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO workers (name, description, capabilities, registered_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET description = excluded.description, "
                "capabilities = excluded.capabilities, registered_at = excluded.registered_at",
                (name, description, text, self._store.clock()),
            )
            connection.execute("DELETE FROM sessions WHERE worker = ?", (name,))
        self._store.changes.publish("workers")

    def all(self) -> list[dict[str, Any]]:
        """List the workers, those that reported last first."""
        rows = self._store.rows(f"{_QUERY} ORDER BY seen_at DESC, name")
        return [self._worker(row) for row in rows]

    def worker(self, worker_id: int) -> dict[str, Any]:
        """Return a worker.

        Raises:
            NotFoundError: the worker does not exist.
        """
        rows = self._store.rows(f"{_QUERY} WHERE id = ?", worker_id)
        if not rows:
            raise NotFoundError(f"there is no worker {worker_id}")
        return self._worker(rows[0])

    def named(self, name: str) -> dict[str, Any] | None:
        """Return a worker by name, if it is known."""
        rows = self._store.rows(f"{_QUERY} WHERE name = ?", name)
        return self._worker(rows[0]) if rows else None

    def _worker(self, row: Mapping[str, Any]) -> dict[str, Any]:
        capabilities = row["capabilities"]
        age = None if row["seen_at"] is None else self._store.clock() - row["seen_at"]
        return {
            **row,
            "capabilities": None if capabilities is None else json.loads(capabilities),
            "paused": bool(row["paused"]),
            "age": age,
            "present": age is not None and age < PRESENT_SECONDS,
        }

    def pause(self, worker_id: int, *, paused: bool) -> dict[str, Any]:
        """Pause or resume a worker. A paused worker gets no new jobs. Its running jobs continue.

        Raises:
            NotFoundError: the worker does not exist.
        """
        with self._store.transaction() as connection:
            self.worker(worker_id)
            connection.execute("UPDATE workers SET paused = ? WHERE id = ?", (paused, worker_id))
        self._store.changes.publish("workers")
        return self.worker(worker_id)

    def is_paused(self, name: str) -> bool:
        """Whether a worker gets no new jobs: it is paused, or the killswitch is on."""
        return bool(
            self._store.rows(
                "SELECT 1 FROM workers WHERE name = ? AND paused UNION ALL SELECT 1 FROM killswitch LIMIT 1", name
            )
        )

    def risk_tiers(self, name: str) -> dict[str, str] | None:
        """The risk tiers of a worker's registered capabilities; ``None`` if it may run any job."""
        worker = self.named(name)
        if worker is None or worker["capabilities"] is None:
            return None
        return {each["name"]: each["risk_tier"] for each in worker["capabilities"]}

    def candidate(self, name: str) -> Candidate:
        """A worker for routing, known or not."""
        worker = self.named(name)
        return Candidate(name) if worker is None else _candidate(worker)

    def candidates(self) -> list[Candidate]:
        """The workers that are present, the last to report first."""
        return [_candidate(worker) for worker in self.all() if worker["present"]]


def _candidate(worker: Mapping[str, Any]) -> Candidate:
    capabilities = worker["capabilities"]
    return Candidate(
        worker["name"],
        capabilities=None if capabilities is None else frozenset(each["name"] for each in capabilities),
        tags=split_tags(worker["tags"]),
        provider=worker["provider"],
        busy=(worker["status"] or "").strip().lower() == "busy",
        paused=worker["paused"],
    )
