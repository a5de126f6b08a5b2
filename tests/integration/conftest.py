"""Fixtures for tests with real servers."""

from __future__ import annotations

import pytest
import redis

from support import fuzzing, ledgers
from support.servers import RedisServer

fuzzing.load_profile()


@pytest.fixture
def on_real_redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ledger kits of a test use a real Redis. Their ledgers have only the documented permissions."""
    url = redis_server.ledger_url()
    monkeypatch.setattr(ledgers, "new_database", lambda: redis_server.client)
    monkeypatch.setattr(ledgers, "for_ledger", lambda make: lambda: redis.Redis.from_url(url))
