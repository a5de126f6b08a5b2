"""The scripts that are sent to Redis, and its errors as the ledger reports them."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
import redis
from redis.exceptions import RedisClusterException
from redis.sentinel import Sentinel

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger, connections
from mr_celery.ledger.scripts import source_of
from support.hostile import EVERYTHING, unsafe

URL = "redis://user:topsecret@ledger.test:6379/1"


class Refusing:
    """A client whose Redis refuses each script. It counts how many times it is closed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.closed = 0

    def execute_command(self, *_: Any) -> Any:
        raise self.error

    def close(self) -> None:
        self.closed += 1


def failing(monkeypatch: pytest.MonkeyPatch, client: Refusing, url: str = URL) -> Ledger:
    """A ledger with that client."""
    monkeypatch.setattr(connections, "_clients", {})
    monkeypatch.setattr(connections, "_connect", lambda url, timeout: client)
    return Ledger(url, "w")


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
def test_a_replica_is_reported_and_its_connections_are_closed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client = Refusing(error)
    ledger = failing(monkeypatch, client)
    with pytest.raises(
        LedgerUnavailable, match=r"redis://ledger\.test:6379/1 is read-only, a replica: .*You can't write"
    ):
        ledger.survey()
    assert client.closed == 1


def test_a_replica_in_a_cluster_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Refusing(redis.ReadOnlyError("You can't write against a read only replica."))
    ledger = failing(monkeypatch, client, "redis+cluster://ledger.test:6379")
    with pytest.raises(LedgerUnavailable, match="a replica"):
        ledger.survey()
    assert client.closed == 0  # it finds the new primary by itself


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (redis.ConnectionError("refused"), 1),
        (redis.TimeoutError("timed out"), 1),
        (redis.ResponseError("unknown command"), 0),
        (RedisClusterException("no node"), 1),
        (OSError("no route to host"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_other_errors_name_the_address_and_keep_the_connection_only_after_an_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception, closed: int
) -> None:
    client = Refusing(error)
    ledger = failing(monkeypatch, client)
    with pytest.raises(LedgerUnavailable) as caught:
        ledger.survey()
    assert str(caught.value) == f"the ledger at redis://ledger.test:6379/1: {type(error).__name__}: {error}"
    assert client.closed == closed


def test_an_interrupted_step_closes_its_connection_and_raises_what_interrupted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Refusing(SystemExit(1))
    with pytest.raises(SystemExit):
        failing(monkeypatch, client).survey()
    assert client.closed == 1


def test_an_invalid_address_is_reported_without_its_password() -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        Ledger("redis://user:topsecret@ledger.test:6379/1?socket_timeout=soon", "w").survey()
    assert "ledger.test:6379" in str(caught.value)
    assert "topsecret" not in str(caught.value)


def test_a_full_redis_is_named_as_such_and_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Refusing(redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."))
    with pytest.raises(LedgerUnavailable, match=r"^the ledger at redis://ledger\.test:6379/1 is full \(OOM: "):
        failing(monkeypatch, client).survey()
    assert client.closed == 0


@pytest.mark.parametrize("kind", [redis.ResponseError, redis.ReadOnlyError])
def test_arguments_of_commands_and_control_characters_are_left_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[redis.RedisError]
) -> None:
    words = f"unknown command 'EVALSHA' {EVERYTHING}, with args beginning with: '6c5c' 'the prompt' "
    ledger = failing(monkeypatch, Refusing(kind(words)))
    with pytest.raises(LedgerUnavailable, match="unknown command 'EVALSHA' begin") as raised:
        ledger.survey()
    assert "the prompt" not in str(raised.value)
    assert unsafe(str(raised.value), kept="") == []


@pytest.mark.parametrize(
    "names", [("record", "known_work", "start"), ("record", "mending", "admit"), ("nodes", "online")]
)
def test_a_script_has_only_the_functions_that_it_uses(names: tuple[str, ...]) -> None:
    source = source_of(names)
    assert "--" not in source
    for name in re.findall(r"local function (\w+)", source):
        assert len(re.findall(rf"\b{name}\b", source)) > 1, name
    assert "drop_parts" not in source


def test_a_master_that_hangs_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the Sentinels may have a new master, and a retry of redis-py would not query them."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hanging.setblocking(False)
        monkeypatch.setattr(Sentinel, "discover_master", lambda *_: hanging.getsockname())
        with pytest.raises(LedgerUnavailable, match="TimeoutError"):
            Ledger("sentinel://sentinel.test?master_name=main", "w", timeout=0.2).survey()
        hanging.accept()[0].close()
        with pytest.raises(BlockingIOError):
            hanging.accept()
