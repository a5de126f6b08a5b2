"""A Redis inside of the process, with Lua."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fakeredis

from ..ledger.connection import standing_in


class _Client(fakeredis.FakeRedis):
    """A client that tells a version, which the bridge asks for."""

    def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"redis_version": "7.0.0"}


@contextmanager
def redis_inside() -> Iterator[str]:
    """A new, empty Redis for as long as the block lasts. Yields its address, which only the ledger can use."""
    server = fakeredis.FakeServer()
    url = f"redis://{secrets.token_hex(8)}.inside.the.test/0"
    with standing_in(url, lambda: _Client(server=server)):
        yield url
