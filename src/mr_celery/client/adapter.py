"""The way of a request to the server and of its answer back.

A short request goes straight over ``http.client``, on which requests and urllib3 are built, by connections that urllib3
makes: it costs two thirds of what their layers take. They do what is left: uploads, and whatever goes through a proxy.
"""

from __future__ import annotations

import http.client
import weakref
from collections import deque
from contextlib import suppress
from functools import cache, partial
from typing import IO, Any, cast

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3 import HTTPResponse

from ..timeouts import let_kernel_watch
from .deadline import Answer

SEND_BYTES = 256 * 2**10
"""How much of an upload is read and sent at a time: with urllib3's own 16 KiB it takes three times as long."""

SIDE_BY_SIDE = 100
"""How many idle connections urllib3 keeps to one server or proxy."""

_http = http.client.HTTPConnection


class _Connection(_http):
    """What is added to a connection of urllib3's: the deadline for answers, and a short way to one."""

    response_class: Any = Answer
    _held: bytearray | None = None
    _watched: float | None = None

    def send(self, data: Any) -> None:
        """Send something of a request; its head waits for its body, so that both are one packet."""
        if self._held is None:
            super().send(data)
        else:
            self._held += data

    def exchange(
        self, request: PreparedRequest, target: str, body: bytes | None, timeout: float
    ) -> http.client.HTTPResponse:
        """Send a request. Returns its answer, of which the head is read.

        Raises:
            OSError, http.client.HTTPException, urllib3.exceptions.HTTPError: there is none.
        """
        if self.sock is None:
            self.timeout, self._watched = timeout, None
            self.connect()
        if self._watched != timeout:
            self._watched = timeout
            self.response_class = partial(Answer, timeout=timeout)
            if not let_kernel_watch(self.sock, timeout):
                self.sock.settimeout(timeout)
        self._held = bytearray()
        # urllib3 would have a look of its own at each header.
        _http.putrequest(self, request.method or "GET", target, skip_accept_encoding=True)
        for name, value in request.headers.items():
            _http.putheader(self, name, value)
        _http.endheaders(self, body)
        whole, self._held = self._held, None
        try:
            self.sock.sendall(whole)
        except BlockingIOError:
            raise TimeoutError("timed out") from None
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have answered before it had all of it
        return _http.getresponse(self)


@cache
def _improved(connection: type) -> type:
    return type(f"MrCelery{connection.__name__}", (_Connection, connection), {})


class _Body:
    """The body of an answer, whose connection is for the next request when it is read.

    Args:
        answer: the answer.
        connection: where it comes from.
        idle: the connections that nobody uses.
    """

    def __init__(self, answer: http.client.HTTPResponse, connection: _Connection, idle: deque[_Connection]) -> None:
        self._answer = answer
        self._connection: _Connection | None = connection
        self._idle = idle

    @property
    def length_remaining(self) -> int | None:
        """How many bytes are missing; ``None``: it was not announced."""
        return self._answer.length

    @property
    def closed(self) -> bool:
        """Whether all of it is read."""
        return self._answer.isclosed()

    def read(self, size: int | None = None) -> bytes:
        """The next bytes; none at the end."""
        return self._answer.read(size)

    def tell(self) -> int:
        """How many bytes were taken out of a compression: none, as it is."""
        return 0

    def close(self) -> None:
        """Give the connection back, or close it where something of the answer is still on its way."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._answer.isclosed():
            self._idle.append(connection)
        else:
            connection.close()

    release_conn = close


class Adapter(HTTPAdapter):
    """How a session's requests are sent. Safe to share between threads.

    It is for one session, whose proxies and certificates stay as they are: so it finds out once for each server how
    that is reached.
    """

    def __init__(self) -> None:
        super().__init__(pool_maxsize=SIDE_BY_SIDE)
        self._servers: dict[str, _Server] = {}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **{**kwargs, "blocksize": SEND_BYTES})

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """urllib3's pool of connections for a request; the ones it opens have the deadline."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Connection):
            pool.ConnectionCls = _improved(pool.ConnectionCls)
        return pool

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send a request. Returns its answer, of which the head is read."""
        url = request.url or ""
        start = url.find("/", len("https://"))
        server = self._servers.get(url[:start])
        if server is None:
            pool = self.get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
            self.cert_verify(pool, url, verify, cert)  # type: ignore[no-untyped-call]
            server = self._servers[url[:start]] = _Server(pool, direct=not select_proxy(url, proxies))
        if server.direct and isinstance(request.body, (bytes, type(None))):
            return server.ask(request, url[start:], request.body, timeout)
        return super().send(request, stream, timeout, verify, cert, proxies)

    def close(self) -> None:
        """Close all connections that nobody uses."""
        for server in list(self._servers.values()):
            server.close()
        super().close()


class _Server:
    """A server, with the connections to it.

    Args:
        pool: where new ones come from.
        direct: there is no proxy in between.
    """

    def __init__(self, pool: Any, *, direct: bool) -> None:
        self._pool = pool
        self.direct = direct
        self._idle: deque[Any] = deque()
        # As urllib3's pools do: who lets go of a transport need not close it.
        weakref.finalize(self, _close_all, self._idle)

    def ask(self, request: PreparedRequest, target: str, body: bytes | None, timeout: float) -> Response:
        connection = self._connection()
        try:
            answer = connection.exchange(request, target, body, timeout)
        except BaseException:
            connection.close()
            raise
        response = Response()
        response.request, response.url = request, request.url or ""
        response.status_code, response.reason = answer.status, answer.reason
        response.headers = CaseInsensitiveDict(answer.msg.items())
        response.raw = raw = _Body(answer, connection, self._idle)
        if "Content-Encoding" in response.headers:  # though nobody asked for it
            response.raw = HTTPResponse(cast(IO[bytes], raw), answer.msg.items(), preload_content=False)
        return response

    def _connection(self) -> Any:
        """One that is still there, or a new one."""
        while self._idle:
            with suppress(IndexError):  # another thread took it
                connection = self._idle.pop()
                if connection.is_connected:
                    return connection
                connection.close()
        return self._pool._new_conn()

    def close(self) -> None:
        _close_all(self._idle)


def _close_all(connections: deque[Any]) -> None:
    while connections:
        connections.pop().close()
