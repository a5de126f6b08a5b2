"""The client's own way from a command to its answer, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from mr_celery.ledger import connection
from mr_celery.ledger.connection import Client, connect
from support.servers import RedisServer


@pytest.fixture
def client(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A new client; its answers may take 0.2 s."""
    monkeypatch.setattr(connection, "_clients", {})
    made = connect(redis_server.url(1), timeout=0.2)
    assert isinstance(made, Client)
    yield made
    made.disconnect()


def connections(server: RedisServer) -> set[str]:
    """The ids of the connections to the ledger's database, but for the one that asks."""
    asking = server.client()
    own = str(asking.client_id())
    return {each["id"] for each in asking.client_list() if each["id"] != own and each["db"] == "1"}


def test_a_connection_is_used_again(client: Client, redis_server: RedisServer) -> None:
    assert client.execute_command("ECHO", "first") == b"first"
    before = connections(redis_server)
    assert [client.execute_command("ECHO", n) for n in range(20)] == [b"%d" % n for n in range(20)]
    with pytest.raises(redis.ResponseError):
        client.execute_command("NONSENSE")  # an answer, too
    assert client.execute_command("ECHO", "last") == b"last"
    assert connections(redis_server) == before


def test_what_was_interrupted_never_answers_another_command(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = client.parse_response

    def interrupted(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(client, "parse_response", parse)
        raise SystemExit  # as from a signal, between the command and its answer

    monkeypatch.setattr(client, "parse_response", interrupted)
    with pytest.raises(SystemExit):
        client.execute_command("ECHO", "of nobody")
    assert client.execute_command("ECHO", "mine") == b"mine"


def test_a_connection_that_the_server_closed_is_replaced(client: Client, redis_server: RedisServer) -> None:
    client.execute_command("PING")
    for each in connections(redis_server):
        redis_server.client().client_kill_filter(_id=each)
    assert client.execute_command("ECHO", "again") == b"again"


def test_an_answer_that_does_not_come_in_time(client: Client) -> None:
    with pytest.raises(redis.TimeoutError):
        client.execute_command("BLPOP", "nothing", 0)
    assert client.execute_command("ECHO", "next") == b"next"


def test_many_threads_each_get_their_own_answers(client: Client) -> None:
    def ask(thread: int) -> bool:
        return all(client.execute_command("ECHO", f"{thread} {n}") == f"{thread} {n}".encode() for n in range(200))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))


def test_after_a_disconnect_there_are_new_connections(client: Client) -> None:
    before = client.client_id()
    assert client.client_id() == before
    client.disconnect()
    assert client.client_id() != before
