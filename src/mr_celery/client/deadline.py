"""A limit to how long a whole answer may take, however slowly it trickles in.

The time-out of a socket begins anew with every byte. Here the stream that answers are read from has a
deadline as well: it holds for the status line, the headers and the body alike.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from functools import cache
from typing import Any

from requests.adapters import HTTPAdapter

TIMEOUTS = 4.0
"""How many time-outs of the socket a whole answer may take."""


class _Deadline(io.RawIOBase):
    """A raw stream that ends with a time-out at a moment, and not only when nothing comes.

    Args:
        raw: the socket's stream.
        at: the moment on the monotonic clock.
    """

    def __init__(self, raw: io.RawIOBase, at: float) -> None:
        self._raw = raw
        self._at = at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._at:
            raise TimeoutError("timed out: the answer came too slowly")
        return self._raw.readinto(buffer)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that has to be there within ``TIMEOUTS`` time-outs of its socket."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp = io.BufferedReader(_Deadline(self.fp.detach(), time.monotonic() + TIMEOUTS * timeout))


@cache
def _with_deadline(connection: type) -> type:
    return type(f"Deadline{connection.__name__}", (connection,), {"response_class": _Answer})


SEND_BYTES = 256 * 2**10
"""How much of an upload is read and sent at a time: with urllib3's own 16 KiB it takes three times as long."""


class DeadlineAdapter(HTTPAdapter):
    """The adapter of requests, with the deadline for every answer.

    It is for one session, whose proxies and certificates stay as they are: so it looks for the pool of connections to a
    server once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pools: dict[str, Any] = {}

    def get_connection_with_tls_context(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections for a request; the ones it opens have the deadline."""
        server = request.url[: request.url.find("/", len("https://"))]
        if server not in self._pools:
            self._pools[server] = self._pool(request, *args, **kwargs)
        return self._pools[server]

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **{**kwargs, "blocksize": SEND_BYTES})

    def close(self) -> None:
        """Close all connections."""
        self._pools.clear()
        super().close()

    def _pool(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if getattr(pool.ConnectionCls, "response_class", None) is not _Answer:
            pool.ConnectionCls = _with_deadline(pool.ConnectionCls)
        return pool
