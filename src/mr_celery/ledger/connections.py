"""Connections to the ledger's Redis."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from ..errors import LedgerUnavailable
from ..redis_compat import OneConnectionClient, WatchedConnection
from ..settings.redis_address import FILES, RedisAddress, shown

T = TypeVar("T")

LOOK_SECONDS = 2.0
"""Seconds after which Sentinels are asked again which server is the master."""

_clients: dict[tuple[int, str, float], RedisClients] = {}
_stand_ins: dict[str, Callable[[], Any]] = {}
_lock = threading.Lock()


class RedisClients:
    """This process' clients of one Redis address.

    Each step uses a redis-py client with a single connection. The next step gets the client only after a complete
    answer. So redis-py need not look for unread data before each command, as its pool does. If the server has closed
    the connection in the meantime, the client repeats the command once on a new one.

    Args:
        url: the address, see :class:`.RedisAddress`.
        timeout: seconds for connecting, and for each answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._is_cluster = "+cluster://" in url
        self._has_sentinels = url.startswith("sentinel://")
        self._idle: deque[Any] = deque()
        self._disconnects = 0
        self._cluster: Any = None
        self._sentinels: Sentinels | None = None
        self._lock = threading.Lock()

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client for the block.

        Raises:
            LedgerUnavailable: the address is invalid.
            redis.RedisError: Redis cannot be reached.
            RedisClusterException: no node of a Cluster can be reached.
        """
        if self._is_cluster:
            yield self._shared()  # it has a pool for each node
            return
        client, disconnects = self._take()
        try:
            yield client
        except BaseException as error:
            self._put_back_after(error, client, disconnects)
            raise
        self._put_back(client, disconnects)

    def call(self, step: Callable[..., T], *arguments: Any) -> T:
        """Call ``step`` with a client and the arguments. It is :meth:`client` without the cost of a generator.

        Raises:
            Exception: as :meth:`client` does.
        """
        if self._is_cluster:
            return step(self._shared(), *arguments)
        client, disconnects = self._take()
        try:
            answer = step(client, *arguments)
        except BaseException as error:
            self._put_back_after(error, client, disconnects)
            raise
        self._put_back(client, disconnects)
        return answer

    def _take(self) -> tuple[Any, int]:
        """A client that is not in use, and the number of disconnects until now."""
        if self._has_sentinels:
            self._follow_master()
        disconnects = self._disconnects
        try:
            return self._idle.pop(), disconnects
        except IndexError:
            return _connect(self._url, self._timeout), disconnects

    def _put_back(self, client: Any, disconnects: int) -> None:
        if disconnects == self._disconnects:
            self._idle.append(client)
        else:
            client.close()

    def _put_back_after(self, error: BaseException, client: Any, disconnects: int) -> None:
        if isinstance(error, redis.ResponseError):  # an error is an answer, too
            self._put_back(client, disconnects)
        else:  # also a time limit's exception, in the middle of an answer
            client.close()

    def _follow_master(self) -> None:
        """Close the connections to a former master: one that is cut off from the Sentinels may accept steps."""
        if self._sentinels is None:
            with self._lock:
                self._sentinels = self._sentinels or Sentinels(self._url, self._timeout)
        if self._sentinels.name_another():
            self.disconnect()

    def _shared(self) -> Any:
        with self._lock:
            if self._cluster is None:
                self._cluster = _connect(self._url, self._timeout)
            return self._cluster

    def disconnect(self) -> None:
        """Close the connections, those in use after their step. A Cluster's client replaces its own."""
        self._disconnects += 1
        while self._idle:
            self._idle.pop().close()


class Sentinels:
    """The Sentinels of a ledger, asked from time to time which server is the master.

    Args:
        url: their address.
        timeout: seconds for a step.

    Raises:
        LedgerUnavailable: the address is invalid.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._address = _address_of(url)
        self._sentinels = _sentinels(self._address, timeout)
        self._master: tuple[str, int] | None = None
        self._next_look = 0.0
        self._lock = threading.Lock()

    def name_another(self) -> bool:
        """Whether they name another master than before. Between two requests to them it is ``False``."""
        if time.monotonic() < self._next_look or not self._lock.acquire(blocking=False):
            return False
        began = time.monotonic()
        try:
            master = self._sentinels.discover_master(self._address.master_name)
        except (redis.RedisError, OSError):  # in the middle of a failover, or they cannot be reached
            return False
        finally:
            # Sentinels that do not answer take little of the steps' time.
            self._next_look = time.monotonic() + max(LOOK_SECONDS, 10 * (time.monotonic() - began))
            self._lock.release()
        former, self._master = self._master, master
        return former not in (None, master)


def clients_of(url: str, timeout: float) -> RedisClients:
    """This process' clients of a Redis address. A forked child has its own."""
    key = (os.getpid(), url, timeout)
    found = _clients.get(key)
    if found is None:
        with _lock:
            found = _clients.setdefault(key, RedisClients(url, timeout))
    return found


@contextmanager
def standing_in(url: str, make: Callable[[], Any]) -> Iterator[None]:
    """Replaces the clients of an address in the block, for tests with an in-process Redis.

    After an error in the block they stay replaced. A task that still runs would otherwise try to reach the address, and
    the process could not end before the task.

    Args:
        url: the address. No other block may have it.
        make: makes a client.
    """
    _stand_ins[url] = make
    yield
    with _lock:
        del _stand_ins[url]
        for key in [key for key in _clients if key[1] == url]:
            del _clients[key]


def _address_of(url: str) -> RedisAddress:
    try:
        return RedisAddress.parse(url)
    except ValueError as error:
        raise LedgerUnavailable(f"the ledger at {shown(url)}: {error}") from error


def _connect(url: str, timeout: float) -> Any:
    if url in _stand_ins:
        return _stand_ins[url]()
    address = _address_of(url)
    given = {**address.options, **address.sentinel}
    for name in (*FILES, *(f"sentinel_{name}" for name in FILES)):
        if name in given and not os.access(given[name], os.R_OK):
            raise LedgerUnavailable(f"the ledger at {shown(url)}: the file in {name} does not exist or is not readable")
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # Once, immediately, for a connection that died unnoticed. Callers that can wait longer repeat the step.
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],
        **address.connection,
    }
    if address.is_sentinel:
        # redis-py's retry does not ask the Sentinels again. A master that hangs would hang a second time.
        options["retry"] = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        options["retry_on_error"] = [redis.ConnectionError]
    if address.is_cluster:
        del options["retry_on_error"]
        return RedisCluster(ssl=address.is_tls, **options)
    client = OneConnectionClient(connection_pool=_pool(address, options), single_connection_client=True)
    client.auto_close_connection_pool = True
    if address.is_sentinel:
        client.repeated = (redis.ConnectionError,)
    if isinstance(client.connection, WatchedConnection):
        client.connection.watch()
    return client


def _pool(address: RedisAddress, options: dict[str, Any]) -> Any:
    # Not from_url(): older versions of redis-py decode the options twice.
    if address.is_sentinel:
        sentinels = _sentinels(address, options["socket_timeout"])
        return cast(Any, SentinelConnectionPool)(address.master_name, sentinels, ssl=address.is_tls, **options)
    kind: Any = redis.SSLConnection if address.is_tls else WatchedConnection
    if address.scheme == "unix":
        del options["socket_keepalive"]
        kind = redis.UnixDomainSocketConnection
    return redis.ConnectionPool(connection_class=kind, **options)


def _sentinels(address: RedisAddress, timeout: float) -> Any:
    # One that hangs must not use up the time for the others.
    times = {"socket_timeout": timeout / 3, "socket_connect_timeout": timeout / 3}
    return cast(Any, Sentinel)(address.sentinels, sentinel_kwargs={**address.sentinel_connection, **times})
