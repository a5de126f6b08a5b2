"""Jobs that wait until a person approves them, because of the risk tier of their capability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .routing import Wanted
from .states import AWAITING, PENDING, check

if TYPE_CHECKING:
    from .store import Store

RISK_TIERS = ("auto", "audit", "approve", "session")


class Approvals:
    """Decides which jobs need an approval, and records approvals.

    A job of tier ``approve`` needs its own approval. For tier ``session``, only the first job of a worker and
    capability in a session needs one. A session ends with the sandbox's process, with the worker's next registration,
    and with the killswitch.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def needed(self, worker: str, fields: Mapping[str, Any]) -> dict[str, str]:
        """The risk tiers of the capabilities for which a job needs an approval, by capability."""
        tiers = self._store.directory.risk_tiers(worker) or {}
        wanted = {each: tiers.get(each, "") for each in Wanted.of(fields).capabilities}
        return {
            capability: tier
            for capability, tier in wanted.items()
            if tier == "approve" or (tier == "session" and not self._is_in_session(worker, capability))
        }

    def status_for(self, worker: str, fields: Mapping[str, Any]) -> str:
        """The status in which a job of a worker begins."""
        return AWAITING if self.needed(worker, fields) else PENDING

    def _is_in_session(self, worker: str, capability: str) -> bool:
        query = "SELECT 1 FROM sessions WHERE worker = ? AND capability = ?"
        return bool(self._store.rows(query, worker, capability))

    def approve(self, job_id: int) -> list[int]:
        """Approve a job, which becomes pending. Returns its id, and those of jobs that no longer need an approval.

        Raises:
            NotFoundError: the job does not exist.
            TransitionError: the job does not wait for an approval.
        """
        store, released = self._store, [job_id]
        with store.transaction() as connection:
            job = store.job(job_id)
            check(job["status"], "approve")
            worker, now = job["assigned_to"], store.clock()
            for capability, tier in self.needed(worker, job).items():
                if tier == "session":
                    connection.execute(
                        "INSERT OR REPLACE INTO sessions (worker, capability, approved_at) VALUES (?, ?, ?)",
                        (worker, capability, now),
                    )
            query = "UPDATE jobs SET status = ?, approved_at = ? WHERE id = ?"
            connection.execute(query, (PENDING, now, job_id))
            store.note(job_id, "approve")
            for other in store.inbox(worker, AWAITING):
                if not self.needed(worker, other):
                    connection.execute("UPDATE jobs SET status = ? WHERE id = ?", (PENDING, other["id"]))
                    store.note(other["id"], f"approve: with job {job_id}")
                    released.append(other["id"])
        store.changes.publish("reviews")
        return released
