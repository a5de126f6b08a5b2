"""An in-memory Redis with Lua scripting."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fakeredis

from ..ledger.connections import standing_in


class _Client(fakeredis.FakeRedis):
    """A fakeredis client that reports a server version, which the bridge checks."""

    def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"redis_version": "7.0.0"}


@contextmanager
def memory_redis() -> Iterator[str]:
    """Create an empty Redis for the block. Yields its URL, which works for the ledger's client only."""
    server = fakeredis.FakeServer()
    url = f"redis://{secrets.token_hex(8)}.inside.the.test/0"
    with standing_in(url, lambda: _Client(server=server)):
        yield url
