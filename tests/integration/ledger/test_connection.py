"""The connections of a process to the ledger's Redis, on a real one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from mr_celery.ledger.connections import RedisClients, clients_of
from support.servers import RedisServer


@pytest.fixture
def clients(redis_server: RedisServer) -> Iterator[RedisClients]:
    """New clients with a timeout of 0.2 s."""
    made = RedisClients(redis_server.url(1), 0.2)
    yield made
    made.disconnect()


def execute(clients: RedisClients, *command: Any) -> Any:
    with clients.client() as client:
        return client.execute_command(*command)


def connections(server: RedisServer) -> set[str]:
    """The ids of the connections to the ledger's database, except for the one that lists them."""
    asking = server.client()
    own = str(asking.client_id())
    return {each["id"] for each in asking.client_list() if each["id"] != own and each["db"] == "1"}


def test_connection_is_reused_after_a_complete_answer(clients: RedisClients, redis_server: RedisServer) -> None:
    assert execute(clients, "ECHO", "first") == b"first"
    before = connections(redis_server)
    assert [execute(clients, "ECHO", n) for n in range(20)] == [b"%d" % n for n in range(20)]
    with pytest.raises(redis.ResponseError):
        execute(clients, "NONSENSE")  # an error is a reply, too
    assert execute(clients, "ECHO", "last") == b"last"
    assert connections(redis_server) == before


def test_interrupted_answer_is_never_read_by_another_command(clients: RedisClients) -> None:
    """A signal handler raises between a command and its reply, as a soft time limit does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def send_and_be_interrupted() -> None:
        with clients.client() as client:
            client.connection.send_command("ECHO", "of nobody")
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            send_and_be_interrupted()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert execute(clients, "ECHO", "mine") == b"mine"


def test_connection_that_the_server_closed_is_replaced(clients: RedisClients, redis_server: RedisServer) -> None:
    execute(clients, "PING")
    for each in connections(redis_server):
        redis_server.client().client_kill_filter(_id=each)
    assert execute(clients, "ECHO", "again") == b"again"


def test_answer_that_does_not_come_in_time_raises(clients: RedisClients) -> None:
    with pytest.raises(redis.TimeoutError, match=r"^no answer in 0.2 s$"):
        execute(clients, "BLPOP", "nothing", 0)
    assert execute(clients, "ECHO", "next") == b"next"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, Python enforces timeouts")
def test_kernel_watches_over_time_outs_of_each_connection(clients: RedisClients, redis_server: RedisServer) -> None:
    """Python's own would cost two system calls for each command."""

    def python_watches() -> bool:
        with clients.client() as client:
            client.ping()
            return client.connection._sock.gettimeout() is not None

    assert not python_watches()
    for each in connections(redis_server):
        redis_server.client().client_kill_filter(_id=each)
    assert not python_watches(), "on the connection that replaces the first one"


def test_each_of_many_threads_gets_its_own_answers(clients: RedisClients) -> None:
    def ask(thread: int) -> bool:
        return all(execute(clients, "ECHO", f"{thread} {n}") == f"{thread} {n}".encode() for n in range(200))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))


def test_connections_are_new_after_a_disconnect(clients: RedisClients) -> None:
    before = execute(clients, "CLIENT", "ID")
    assert execute(clients, "CLIENT", "ID") == before
    clients.disconnect()
    assert execute(clients, "CLIENT", "ID") != before


def test_forked_child_has_connections_of_its_own(redis_server: RedisServer) -> None:
    url = redis_server.url(1)

    def connection_id() -> int:
        return int(execute(clients_of(url, 5.0), "CLIENT", "ID"))

    before, (reading, writing) = connection_id(), os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writing, str(connection_id()).encode())
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert int(os.read(reading, 100)) != before
    assert connection_id() == before
    os.close(reading)
    os.close(writing)
