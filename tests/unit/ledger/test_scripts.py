"""What goes wrong with Redis, in the ledger's words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.exceptions import RedisClusterException

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger, connection

URL = "redis://user:topsecret@ledger.test:6379/1"


class Refusing(connection.Client):
    """A client whose Redis answers each command with an error; it notes how often its connections are closed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(connection_pool=redis.ConnectionPool())
        self.error = error
        self.closed = 0

    def execute_command(self, *command: Any, **options: Any) -> Any:
        raise self.error

    def disconnect(self) -> None:
        self.closed += 1


def failing(monkeypatch: pytest.MonkeyPatch, client: Any) -> Ledger:
    """A ledger with that client."""
    monkeypatch.setattr(connection, "_clients", {})
    monkeypatch.setattr(connection, "_connect", lambda url, timeout: client)
    return Ledger(URL, "w")


@pytest.mark.parametrize(
    "error",
    [
        redis.ReadOnlyError("You can't write against a read only replica. script: 6c5c, on @user_script:99."),
        redis.ResponseError(
            "Error running script (call to f_6c5c): @user_script:99: @user_script: 99: -READONLY You can't write "
            "against a read only replica."
        ),
    ],
    ids=["Redis 7", "Redis 6.2"],
)
def test_a_replica_is_named_as_such_and_its_address_is_looked_up_anew(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client = Refusing(error)
    ledger = failing(monkeypatch, client)
    with pytest.raises(
        LedgerUnavailable, match=r"redis://ledger\.test:6379/1 is read-only, a replica: .*You can't write"
    ):
        ledger.survey()
    assert client.closed == 1


def test_a_clusters_client_finds_out_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(**_: Any) -> None:
        raise redis.ReadOnlyError("You can't write against a read only replica.")

    ledger = failing(monkeypatch, SimpleNamespace(register_script=lambda source: script))
    with pytest.raises(LedgerUnavailable, match="a replica"):
        ledger.survey()


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("refused"),
        redis.TimeoutError("timed out"),
        redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError("unknown command"),
        RedisClusterException("no node"),
        OSError("no route to host"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_other_failure_says_where_and_what_and_keeps_the_connections(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client = Refusing(error)
    ledger = failing(monkeypatch, client)
    with pytest.raises(LedgerUnavailable) as caught:
        ledger.survey()
    assert str(caught.value) == f"the ledger at redis://ledger.test:6379/1: {type(error).__name__}: {error}"
    assert client.closed == 0
