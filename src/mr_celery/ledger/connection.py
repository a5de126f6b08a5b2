"""Connections to the ledger's Redis."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from ..errors import LedgerUnavailable
from ..timeouts import let_kernel_watch

MINIMUM_VERSION = (6, 2)

_clients: dict[tuple[int, str, float], Any] = {}
_stand_ins: dict[str, Callable[[], Any]] = {}
_lock = threading.Lock()


class Client(redis.Redis):
    """redis-py's client, with a shorter way from a command to its answer.

    At each command redis-py's own looks whether something that nobody asked for waits in the connection (three system
    calls, in each of which another thread takes the interpreter's lock), and counts it out of its pool and in again.
    Here a connection is put back only after a whole answer: then nothing waits in it. One that the server has closed
    meanwhile is found out by the command, which is repeated once on a new one.
    """

    def __init__(self, *, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: deque[Any] = deque()

    def execute_command(self, *command: Any, **options: Any) -> Any:
        """Send a command. Returns its answer.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._new()
        try:
            answer = connection.retry.call_with_retry(
                lambda: self._exchange(connection, command, options), lambda error: connection.disconnect()
            )
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:  # also a time limit's, in the midst of an answer
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def _new(self) -> Any:
        pool = self.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.register_connect_callback(self._connected)
        return connection

    def _connected(self, connection: Any) -> None:
        if connection.socket_timeout:
            let_kernel_watch(connection._sock, connection.socket_timeout)

    def _exchange(self, connection: Any, command: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            connection.send_command(*command)
            return self.parse_response(connection, command[0], **options)  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if isinstance(error.__context__, BlockingIOError):
                raise redis.TimeoutError("no answer in time") from None
            raise

    def disconnect(self) -> None:
        """Close the connections that nobody uses just now; the next command opens new ones."""
        while self._idle:
            self._idle.pop().disconnect()


def connect(url: str, *, timeout: float = 5.0) -> Any:
    """This process' client for a Redis address; one for each address and time-out.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, or ``redis+cluster://`` / ``rediss+cluster://``.
        timeout: seconds that connecting and each answer may take.

    Raises:
        LedgerUnavailable: the address is unusable.
        RedisClusterException: no node of a Cluster can be reached.
    """
    key = (os.getpid(), url, timeout)
    with _lock:
        if key not in _clients:
            _clients[key] = _connect(url, timeout)
        return _clients[key]


@contextmanager
def standing_in(url: str, make: Callable[[], Any]) -> Iterator[None]:
    """Within the block, the clients for an address are made otherwise: for tests, with a Redis inside their process.

    After an error in the block that stays so: a task that still runs would wait for its ledger, and the process for it.

    Args:
        url: the address, which no other block has.
        make: makes a client.
    """
    _stand_ins[url] = make
    yield
    with _lock:
        del _stand_ins[url]
        for key in [key for key in _clients if key[1] == url]:
            del _clients[key]


def _connect(url: str, timeout: float) -> Any:
    if url in _stand_ins:
        return _stand_ins[url]()
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # Once, at once: for a connection that died unseen. Whoever can wait longer does so himself.
        "retry": Retry(NoBackoff(), 1),
    }
    try:
        if "+cluster://" in url:
            return RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
        if url.startswith("unix://"):
            del options["socket_keepalive"]
        return Client(connection_pool=redis.ConnectionPool.from_url(url, **options))
    except ValueError as error:
        raise LedgerUnavailable(f"the ledger at {shown(url)}: {error}") from error


def shown(url: str) -> str:
    """The address without user, password and options, for messages."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def server_version(client: Any) -> tuple[int, ...]:
    """The Redis server's version; on a Cluster that of one node."""
    info = client.info("server")
    if "redis_version" not in info:
        info = next(iter(info.values()))
    return tuple(int(part) for part in str(info["redis_version"]).split(".")[:3])
