"""Workers that were registered: the address that reveals the token once, and the tokens' hashes."""

from __future__ import annotations

import hashlib
import secrets

from ..errors import MrCeleryError
from .store import NotFoundError, Store


class OpenedError(MrCeleryError):
    """The token was revealed before (410)."""


class Registrations:
    """What is kept of a token and of the address that reveals it is a hash: the token is made when it is revealed.

    Args:
        store: where it is kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, name: str) -> str:
        """Register a worker name; the key of the address that reveals its token."""
        key = secrets.token_urlsafe(24)
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO registrations (view_hash, name, registered_at) VALUES (?, ?, ?)",
                (_hash(key), name, self._store.clock()),
            )
        return key

    def reveal(self, key: str) -> tuple[str, str]:
        """The worker name and its new token, which takes the place of the one that the name had.

        Raises:
            NotFoundError: there is no such registration.
            OpenedError: its token was revealed before.
        """
        token = secrets.token_urlsafe(24)
        with self._store.transaction() as connection:
            found = self._store.rows("SELECT name, opened_at FROM registrations WHERE view_hash = ?", _hash(key))
            if not found:
                raise NotFoundError("there is no such registration")
            if found[0]["opened_at"] is not None:
                raise OpenedError("this token was shown before: register the worker again for a new one")
            name = str(found[0]["name"])
            connection.execute(
                "UPDATE registrations SET opened_at = ? WHERE view_hash = ?", (self._store.clock(), _hash(key))
            )
            connection.execute("INSERT OR REPLACE INTO worker_tokens VALUES (?, ?)", (name, _hash(token)))
        return name, token

    def name_of(self, token: str) -> str | None:
        """The worker name that a token is good for."""
        found = self._store.rows("SELECT name FROM worker_tokens WHERE token_hash = ?", _hash(token))
        return str(found[0]["name"]) if found else None


def _hash(secret: str) -> str:
    # Without salt or stretching: these are random texts of 192 bits, which nobody can try out.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
