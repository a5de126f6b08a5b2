"""Who is logged in to the page: random keys of sessions, and keys that log in once."""

from __future__ import annotations

import secrets

MAX_SESSIONS = 1000
"""Beyond these, the oldest ends."""


class Logins:
    """In memory: after a restart of the sandbox's process, everybody logs in again."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._sessions: dict[str, None] = {}

    def link(self, url: str) -> str:
        """A new address that logs in whoever opens it first.

        Args:
            url: the sandbox's base URL.
        """
        key = secrets.token_urlsafe(24)
        self._keys.add(key)
        return f"{url}/login?key={key}"

    def spend(self, key: str) -> bool:
        """Whether a key logs in; it never does again."""
        known = key in self._keys
        self._keys.discard(key)
        return known

    def open(self) -> str:
        """A new session; its key."""
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        session = secrets.token_urlsafe(24)
        self._sessions[session] = None
        return session

    def knows(self, session: str | None) -> bool:
        """Whether a session is open."""
        return session in self._sessions

    def close(self, session: str | None) -> None:
        """End a session."""
        self._sessions.pop(session or "", None)
