"""Sessions of the page, and login keys that can be used once."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ...web import Sessions


class Logins(Sessions):
    """Sessions and login keys."""

    def __init__(self) -> None:
        super().__init__(root="/ui", name="mr_celery_sandbox")
        self._keys: dict[str, Callable[[], object] | None] = {}

    def link(self, url: str, when_used: Callable[[], object] | None = None) -> str:
        """Create a URL that logs in its first visitor.

        Args:
            url: the sandbox's base URL.
            when_used: called when the visitor is logged in.
        """
        key = secrets.token_urlsafe(24)
        self._keys[key] = when_used
        return f"{url}/login?key={key}"

    def use_key(self, key: str) -> bool:
        """Check a login key and invalidate it."""
        if key not in self._keys:
            return False
        when_used = self._keys.pop(key)
        if when_used is not None:
            when_used()
        return True
