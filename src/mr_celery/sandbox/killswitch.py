"""The killswitch: stops everything at once until an operator clears it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MrCeleryError
from .states import OPEN, RUNNING

if TYPE_CHECKING:
    from .store import Store

LEVELS: dict[str, tuple[str, ...]] = {"pause": (), "stop": (RUNNING,), "abort": OPEN}
"""The statuses of the jobs that each level aborts. Every level pauses all workers and refuses dispatches."""


class KillswitchError(MrCeleryError):
    """The killswitch is on, so that no job can be dispatched (503)."""


class Killswitch:
    """The killswitch, which is kept in the store.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def state(self) -> dict[str, Any]:
        """The ``level``, and the start time ``since``, in seconds since 1970. Both are ``None`` if it is off."""
        rows = self._store.rows("SELECT level, since FROM killswitch")
        return rows[0] if rows else {"level": None, "since": None}

    def check(self) -> None:
        """Check that jobs can be dispatched.

        Raises:
            KillswitchError: the killswitch is on.
        """
        if (level := self.state["level"]) is not None:
            raise KillswitchError(f"the killswitch is on (level {level}): no job is dispatched until it is cleared")

    def switch_on(self, level: str) -> list[int]:
        """Switch it on, or change its level. Returns the ids of the jobs that were aborted.

        Args:
            level: one of :data:`LEVELS`.
        """
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO killswitch (id, level, since) VALUES (1, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET level = excluded.level",
                (level, self._store.clock()),
            )
            connection.execute("DELETE FROM sessions")
        aborted = self._store.abort_all(LEVELS[level])
        self._store.changes.publish("killswitch", "workers")
        return aborted

    def clear(self) -> None:
        """Switch it off. Workers that were paused individually stay paused."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM killswitch")
        self._store.changes.publish("killswitch", "workers")
