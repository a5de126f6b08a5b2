"""The connection pools of urllib3, as requests sets them up.

So proxies and certificates follow the same environment variables as in other programs that use requests.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakValueDictionary

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

SIDE_BY_SIDE = 100
"""Number of idle connections that are kept to one server or proxy."""

SEND_BYTES = 256 * 2**10
"""Block size of uploads in bytes. With urllib3's default of 16 KiB, uploads take three times as long."""


class Pools:
    """The connection pools of one process. Closes their connections when it is garbage-collected.

    Args:
        url: the server's address, for which the environment may configure a proxy.
        mixin: the class of the connections, without urllib3's own.
        min_rate: as for :class:`.Transport`.

    Attributes:
        pid: the process.
        key: equal for pools that are interchangeable.
        routes: the results of :meth:`find_route`, by origin.
    """

    def __init__(self, url: str, mixin: type, min_rate: float) -> None:
        self.pid = os.getpid()
        self._mixin = mixin
        self._min_rate = min_rate
        self._adapter = HTTPAdapter()
        self._adapter.init_poolmanager(1, SIDE_BY_SIDE, blocksize=SEND_BYTES)
        self._proxies = get_environ_proxies(url)
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self.key = (self.pid, url, min_rate, self._verify, *sorted(self._proxies.items()))
        self.routes: dict[str, tuple[Any, str]] = {}

    def find_route(self, origin: str) -> tuple[Any, str]:
        """The pool for an origin, and the prefix of request targets: the origin if a proxy forwards them, else empty.

        Raises:
            OSError: the certificates cannot be read.
        """
        root = requests.Request("GET", f"{origin}/").prepare()
        pool: Any = self._adapter.get_connection_with_tls_context(root, self._verify, self._proxies)
        self._adapter.cert_verify(pool, origin, self._verify, None)  # type: ignore[no-untyped-call]
        if not issubclass(pool.ConnectionCls, self._mixin):  # an origin with and without ":443" has the same pool
            pool.ConnectionCls = type("Connection", (self._mixin, pool.ConnectionCls), {"min_rate": self._min_rate})
        route = self.routes[origin] = (pool, self._adapter.request_url(root, self._proxies).rstrip("/"))
        return route

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()


_shared: WeakValueDictionary[tuple[object, ...], Pools] = WeakValueDictionary()


def pools_of(url: str, mixin: type, min_rate: float) -> Pools:
    """The pools for a server that the transports of this process share, as long as one of them uses them."""
    new = Pools(url, mixin, min_rate)
    return _shared.setdefault(new.key, new)
