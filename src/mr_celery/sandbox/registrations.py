"""Registered workers: URLs that show a token once, and hashes of the tokens."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MrCeleryError
from .store import Store
from .values import NotFoundError


class LinkGoneError(MrCeleryError):
    """The token was already shown, or its link has expired (410)."""


class Registrations:
    """The registrations in the store. It contains only hashes, because a token is created at the moment it is shown.

    Args:
        store: the state.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self, name: str, description: str | None = None, capabilities: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """Register a worker name. Returns the key of the URL that shows its token.

        Args:
            name: the worker name.
            description: text about the worker.
            capabilities: its capabilities, which are in force at once; ``None`` if it may run any job.
        """
        key = secrets.token_urlsafe(24)
        self._store.directory.register(name, description, capabilities)
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO registrations (view_hash, name, registered_at) VALUES (?, ?, ?)",
                (_hash(key), name, self._store.clock()),
            )
        return key

    def reveal(self, key: str) -> tuple[str, str]:
        """Create the token of a registration. It replaces an earlier token of the worker name.

        Returns:
            The worker name and the token.

        Raises:
            NotFoundError: the registration does not exist.
            LinkGoneError: its token was already shown, or its link has expired.
        """
        token = secrets.token_urlsafe(24)
        with self._store.transaction() as connection:
            query = "SELECT name, registered_at, opened_at FROM registrations WHERE view_hash = ?"
            found = self._store.rows(query, _hash(key))
            if not found:
                raise NotFoundError("there is no such registration")
            if found[0]["opened_at"] is not None:
                raise LinkGoneError("this token was already shown: register the worker again to get a new one")
            if self._store.clock() >= found[0]["registered_at"] + self._store.options.link_seconds:
                raise LinkGoneError("this link has expired: register the worker again to get a new one")
            name = str(found[0]["name"])
            connection.execute(
                "UPDATE registrations SET opened_at = ? WHERE view_hash = ?", (self._store.clock(), _hash(key))
            )
            connection.execute("INSERT OR REPLACE INTO worker_tokens VALUES (?, ?)", (name, _hash(token)))
        return name, token

    def name_of(self, token: str) -> str | None:
        """The worker name that a token belongs to."""
        found = self._store.rows("SELECT name FROM worker_tokens WHERE token_hash = ?", _hash(token))
        return str(found[0]["name"]) if found else None


def _hash(secret: str) -> str:
    # No salt or key stretching is needed for random strings of 192 bits.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
