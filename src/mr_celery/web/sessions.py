"""Sessions of the users of a page."""

from __future__ import annotations

import re
import secrets

MAX_SESSIONS = 1000
"""Maximum number of sessions. If it is exceeded, the oldest session ends."""


class Sessions:
    """Sessions in memory. After a restart, all users must log in again.

    Args:
        root: the path of the pages without a session; ``""`` if they are at the root of the server.
        name: the beginning of the cookie's name.

    Attributes:
        root: the path of the pages without a session.
        path: the path of the pages for this server's sessions.
        cookie: the name of the cookie with the key of a session.
    """

    def __init__(self, *, root: str, name: str) -> None:
        self.root = root
        self.path = f"{root}/~{secrets.token_urlsafe(16)}"
        self.cookie = f"{name}_{secrets.token_hex(8)}"
        self._secret_part = re.compile(rf"{re.escape(root)}/~[^/]*(?=/)")
        self._sessions: dict[str, None] = {}

    def inner_path(self, path: str) -> str:
        """A path of the page without the secret part of a session, including one from before a restart."""
        return self._secret_part.sub(self.root, path, count=1)

    def entered_path(self, path: str) -> str:
        """A path of the page with the secret part of this server's sessions."""
        return self.path + self.inner_path(path).removeprefix(self.root)

    def open(self) -> str:
        """Create a session. Returns its key."""
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
