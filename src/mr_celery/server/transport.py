"""The HTTP transport. All requests to the server go through it.

The connections and their pools are urllib3's. requests sets them up, so that proxies and certificates follow the same
environment variables as in other programs that use requests.
"""

from __future__ import annotations

import http.client
import io
import json as jsonlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from math import ceil
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import requests
from requests.adapters import HTTPAdapter
from requests.utils import check_header_validity, get_environ_proxies
from urllib3 import BaseHTTPResponse, HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ..errors import WorkerError
from ..job_secrets import Secret
from ..socket_timeouts import let_kernel_watch
from .address import place, redirect_target, server_address, travels_in_clear
from .answers import MOST_PARSED, TooLong, read_answer
from .failures import (
    COMPRESSED,
    FAILURES,
    LONG_HEAD,
    fault,
    html_fault,
    reason,
    retry_after,
    retryable,
    without_secret,
)
from .list_parser import NOT_JSON, BrokenList
from .token import Token

logger = logging.getLogger("mr_celery")

TIMEOUTS = 4.0
"""Maximum duration of a whole answer, as a multiple of the time-out. See :func:`answer_seconds`."""

LONGEST_ANSWER = 120.0
"""Maximum duration of a whole answer, in seconds, unless the time-out is longer."""

SIDE_BY_SIDE = 100
"""Number of idle connections that are kept to one server or proxy."""

SEND_BYTES = 256 * 2**10
"""Block size of uploads in bytes. With urllib3's default of 16 KiB, uploads take three times as long."""

MIN_RATE = 4 * 2**10
"""Minimum rate, in bytes per second, at which a server must read a request that took longer than its time-out."""

PIECE_BYTES = 64 * 2**10
"""Size in bytes of the pieces in which requests are sent. Before each of them, the time that is left is checked."""

MOST_HEAD_BYTES = 64 * 2**10
"""Maximum size in bytes of the head of an answer: its status line and headers. A longer one is an error."""

MOST_HEAD_LINES = 101
"""Number of lines of a head that http.client accepts: the status line, the headers, and the empty line."""

MOST_ERROR_BYTES = 64 * 2**10
"""Number of bytes that are read of an error answer."""

MOST_REDIRECTS = 5
"""Maximum number of redirects that a request follows."""

READ_BYTES = 256 * 2**10
"""Size in bytes of the chunks in which lists are read."""

Read = Callable[[Iterable[bytes]], object]
"""Reads the body of an answer while it arrives.

Raises:
    ValueError: the body is not JSON.
"""

SIZELESS = "a part of the answer has no usable size"

_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9]{2}[ \r]")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-9][0-9]{2})(?: |(?=\r))([\t -~]*)\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*((?:[!-~](?:[\t -~]*[!-~])?)?)\r\n")
_ENDS = (b"\r\n", b"\n", b"")

_NO_RETRIES = Retry(False)  # errors as they are; urllib3 would make one for each request

_warned: set[tuple[int, str]] = set()


class _Bearer:
    """The token and its ``Authorization`` header. Its repr hides the token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.header = Secret(f"Bearer {token}")

    def __repr__(self) -> str:
        return "Bearer ***"


class _Request(NamedTuple):
    """A request that is ready to be sent.

    Args:
        method: ``GET``, ``POST``, ``PUT``.
        url: the absolute address.
        headers: all headers except ``Host``.
        body: bytes, or an object with ``read``.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any


class _Reading(NamedTuple):
    """How the body of an answer is read: by which function, and in chunks of at least how many bytes."""

    read: Read
    chunk_bytes: int


class Transport:
    """Sends requests to one server with one token. Safe to share between threads and across a fork.

    Args:
        url: the server's address, http or https; a path in it is kept.
        token: the worker's token, or an administrator's. It is sent only to this server. If it can change, a request
            whose token is refused is repeated once with a new one.
        user_agent: the client's name.
        timeout: seconds to wait for a connection, and for each part of the answer; a whole answer may take four times
            as long, but no more than two minutes unless the time-out is longer.
        called: the name of the token in messages.
        min_rate: bytes per second. A request must be sent within its time-out and the time that its body needs at this
            rate.

    Raises:
        WorkerError: the address or the token is invalid.

    Example::

        transport = Transport("https://app.modelreins.com", token, "my-tool/1.0")
        transport.request("GET", "/my-jobs", params={"worker": "render-1", "status": "pending"})
    """

    def __init__(
        self,
        url: str,
        token: str | Token,
        user_agent: str,
        timeout: float = 30.0,
        *,
        called: str = "the worker's token",
        min_rate: float = MIN_RATE,
    ) -> None:
        self.url = server_address(url)
        self._min_rate = min_rate
        self._base = _prepared(self.url).rstrip("/")
        self.timeout = timeout
        self._called = called
        self._token = token if isinstance(token, Token) else Token(token)
        self._headers = {
            "User-Agent": user_agent,
            # As in the SDK. A few bytes may unpack to gigabytes, and a truncated compressed answer may look complete.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        self._bearer = self._former = _Bearer(_usable(self._token.value, called))
        self._pools: _Pools | None = None
        self.date = ""
        """The ``Date`` of the last answer; empty if there was none."""
        if travels_in_clear(self.url) and (os.getpid(), self.url) not in _warned:
            _warned.add((os.getpid(), self.url))
            logger.warning("%s is not https: %s travels in clear", self.url, called)

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def _redact(self, text: str) -> str:
        """Remove the token, and the one before it, from a text of the server."""
        return without_secret(without_secret(text, self._bearer.token), self._former.token)

    @property
    def token_id(self) -> str:
        """Identifies the token that the next request has."""
        return self._token.id

    def _current(self) -> _Bearer:
        """The token that the next request has.

        Raises:
            WorkerError: it cannot be sent in a header.
        """
        value, bearer = self._token.value.strip(), self._bearer
        if value != bearer.token:
            self._former, self._bearer = bearer, _Bearer(_usable(value, self._called))
        return self._bearer

    def _has_new_token(self, used: _Bearer) -> bool:
        """Whether there is another token than the one that was refused."""
        self._token.read_again()
        return self._current().token != used.token

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: object = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        read: Read = read_answer,
        chunk_bytes: int = MOST_PARSED,
    ) -> Any:
        """Send one request. Returns the JSON of the answer as ``read`` returns it.

        Args:
            method: ``GET``, ``POST``, ``PUT``.
            path: the path under the server's address.
            params: the query.
            json: the body as a JSON value.
            data: the body as an object with ``read`` and ``len``.
            headers: further headers.
            timeout: time-out in seconds, instead of the transport's.
            read: reads the answer while it arrives. By default, a long one is not parsed.
            chunk_bytes: minimum size of the chunks that it reads.

        Raises:
            WorkerError: there was no answer, or it is an error, or not JSON.
        """
        call = f"{method} {path}"
        try:
            if params:
                path = f"{path}?{urlencode(params, quote_via=quote)}"
                call = f"{method} {path}"
            bearer = self._current()
            request = self._prepare(method, path, json, data, headers, bearer)
        except (*FAILURES, TypeError) as error:
            raise WorkerError(self._redact(f"{call} -> not sent: {reason(error)}")) from None
        timeout = self.timeout if timeout is None else timeout
        reading = _Reading(read, chunk_bytes)
        try:
            try:
                return self._exchange(call, request, timeout, reading)
            except WorkerError as error:
                if not error.unauthorized or data is not None or not self._has_new_token(bearer):
                    raise
                request = self._prepare(method, path, json, data, headers, self._current())
                return self._exchange(call, request, timeout, reading)
        except FAILURES as error:
            why = self._redact(reason(error))[:500]
            failure = WorkerError(f"{call} -> network: {why}", retryable=True)
            failure.fault = fault(error)
            raise failure from None

    def close(self) -> None:
        """Close the idle connections to the server, also those of other transports. The next request opens new ones."""
        pools, self._pools = self._pools, None
        if pools is not None and pools.pid == os.getpid():
            pools.close()

    def _prepare(
        self, method: str, path: str, json: object, data: Any, headers: Mapping[str, str] | None, bearer: _Bearer
    ) -> _Request:
        """Prepare a request.

        Raises:
            OSError, ValueError, TypeError: the request cannot be sent.
        """
        every = {**self._headers, "Authorization": bearer.header}
        for name, value in (headers or {}).items():
            check_header_validity((name, value))
            every[name] = value
        body = data if json is None else jsonlib.dumps(json).encode()
        if body is not None:
            every["Content-Length"] = str(len(body) if data is None else data.len)
        elif method != "GET":
            every["Content-Length"] = "0"
        return _Request(method, self._base + path, every, body)

    def _exchange(self, call: str, request: _Request, timeout: float, reading: _Reading) -> Any:
        for _ in range(MOST_REDIRECTS + 1):
            with self._send(request, timeout) as response:  # closes the connection if a part of the answer is unread
                self.date = response.headers.get("Date") or ""
                location = response.get_redirect_location()
                if not location:
                    return self._read(call, response, reading)
                request = self._redirected(call, request, response.status, location)
        raise WorkerError(f"{call} -> redirected more than {MOST_REDIRECTS} times")

    def _send(self, request: _Request, timeout: float) -> BaseHTTPResponse:
        """Send one request, and read the head of its answer."""
        pool, target = self._pools_of_process().route(request.url)
        response: BaseHTTPResponse = pool.urlopen(
            request.method,
            target,
            request.body,
            request.headers,
            retries=_NO_RETRIES,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            preload_content=False,
        )
        return response

    def _pools_of_process(self) -> _Pools:
        """The pools for the server that all transports of this process share, such as those of several worker names.

        A forked process does not use its parent's connections.
        """
        pools = self._pools
        if pools is None or pools.pid != os.getpid():
            pools = self._pools = _pools_of(self.url, self._min_rate)
        return pools

    def _redirected(self, call: str, request: _Request, status: int, location: str) -> _Request:
        """The request for the target of a redirect.

        Raises:
            WorkerError: the redirect must not be followed.
        """
        target = redirect_target(request.url, location)
        if target is None:
            where = self._redact(place(request.url, location))
            raise WorkerError(f"{call} -> {status}: redirects to {where}, where the token is not sent", status=status)
        replayable = status in (307, 308) and isinstance(request.body, (bytes, type(None)))
        if request.method != "GET" and not replayable:
            where = self._redact(place(request.url, location))
            raise WorkerError(f"{call} -> {status}: redirects to {where}, which only a GET follows", status=status)
        return request._replace(url=_prepared(target))

    def _read(self, call: str, response: BaseHTTPResponse, reading: _Reading) -> Any:
        """Read and decode the body of an answer.

        Raises:
            WorkerError: it is an error, or not JSON.
        """
        status = response.status
        if not 200 <= status < 300:
            self._raise_refusal(call, response)
        if encoding := _encoding(response):
            error = WorkerError(f"{call} -> {status}: {encoding}", status=status, retryable=True)
            error.fault = encoding
            raise error
        chunks = _chunks(response, reading.chunk_bytes)
        start = next(chunks, b"")
        try:
            return reading.read(chain((start,), chunks))
        except TooLong as problem:
            raise WorkerError(f"{call} -> {status}: {problem}", status=status) from None
        except ValueError as problem:
            kind = response.headers.get("Content-Type", "no content type")
            error = WorkerError(
                f"{call} -> {status}: not JSON ({self._redact(kind)[:100]}): {self._text(start)}",
                status=status,
                retryable=True,
            )
            error.fault = str(problem) if isinstance(problem, BrokenList) else NOT_JSON
            page, error.challenge = html_fault(status, kind, start)
            error.fault = page or error.fault
            raise error from None

    def _raise_refusal(self, call: str, response: BaseHTTPResponse) -> NoReturn:
        status = response.status
        start, encoding = b"", _encoding(response)
        try:
            start = b"" if encoding else next(_chunks(response, MOST_ERROR_BYTES), b"")
        except FAILURES:
            logger.debug("%s -> %d: the answer broke off", call, status)
        error = WorkerError(
            f"{call} -> {status}: {encoding or self._text(start)}",
            status=status,
            retryable=retryable(status),
            retry_after=retry_after(response.headers.get("Retry-After")),
        )
        error.fault, error.challenge = html_fault(status, response.headers.get("Content-Type", ""), start)
        raise error

    def _text(self, body: bytes) -> str:
        return self._redact(body[:MOST_ERROR_BYTES].decode(errors="replace"))[:500]


def _chunks(response: BaseHTTPResponse, size: int) -> Iterator[bytes]:
    """The body in chunks of at least ``size`` bytes, except the last.

    If the answer breaks off, the last chunk contains what has arrived.

    Raises:
        OSError, urllib3.exceptions.HTTPError: the body is shorter than announced, or did not arrive in time.
    """
    chunk = bytearray()
    while True:
        try:
            part = response.read1(size)
        except FAILURES:
            if chunk:
                yield bytes(chunk)
            raise
        chunk += part
        if chunk and (not part or len(chunk) >= size):
            yield bytes(chunk)
            chunk.clear()
        if not part:
            break


def _encoding(response: BaseHTTPResponse) -> str:
    """The reason why an answer is not read: it is compressed, though no compression was asked for. Else empty."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return COMPRESSED if encoding not in ("", "identity") else ""


def _prepared(url: str) -> str:
    """Prepare an address for urllib3: with the host name in ASCII, and the path quoted.

    Raises:
        WorkerError: the address is invalid.
    """
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, None)
    except (requests.RequestException, ValueError) as error:
        raise WorkerError(f"{url!r} is not a server's URL: {reason(error)}") from None
    return request.url or url


def _usable(token: str, name: str) -> str:
    """Strip and check a token.

    Raises:
        WorkerError: the token cannot be sent in a header. The message does not repeat it.
    """
    token = token.strip()
    if not token:
        raise WorkerError(f"{name} is empty")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) > 255 for char in token):
        raise WorkerError(f"{name} contains characters that no token has: copy it again")
    return token


class _Pools:
    """The connection pools of one process. Closes their connections when it is garbage-collected.

    Args:
        url: the server's address, for which the environment may configure a proxy.
        min_rate: as for :class:`Transport`.

    Attributes:
        pid: the process.
        key: the same for pools that can replace each other.
    """

    def __init__(self, url: str, min_rate: float) -> None:
        self.pid = os.getpid()
        self._min_rate = min_rate
        self._adapter = HTTPAdapter()
        self._adapter.init_poolmanager(1, SIDE_BY_SIDE, blocksize=SEND_BYTES)
        self._proxies = get_environ_proxies(url)
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self.key = (self.pid, url, min_rate, self._verify, *sorted(self._proxies.items()))
        self._routes: dict[str, tuple[Any, str]] = {}

    def route(self, url: str) -> tuple[Any, str]:
        """The pool for an address, and the target that the request names."""
        start = url.find("/", len("https://"))
        origin, target = url[:start], url[start:]
        route = self._routes.get(origin)
        if route is None:
            route = self._routes[origin] = self._make_route(origin)
        return route[0], route[1] + target

    def _make_route(self, origin: str) -> tuple[Any, str]:
        """The pool for an origin, and what precedes the path in the target: the origin, if a proxy forwards requests.

        Raises:
            OSError: the certificates cannot be read.
        """
        root = requests.Request("GET", f"{origin}/").prepare()
        pool: Any = self._adapter.get_connection_with_tls_context(root, self._verify, self._proxies)
        self._adapter.cert_verify(pool, origin, self._verify, None)  # type: ignore[no-untyped-call]
        if not issubclass(pool.ConnectionCls, _Connection):  # it is, if the origin was written with its default port
            pool.ConnectionCls = type("Connection", (_Connection, pool.ConnectionCls), {"min_rate": self._min_rate})
        return pool, self._adapter.request_url(root, self._proxies).rstrip("/")

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()


_shared: WeakValueDictionary[tuple[object, ...], _Pools] = WeakValueDictionary()


def _pools_of(url: str, min_rate: float) -> _Pools:
    """The pools for a server that the transports of this process share, as long as one of them uses them."""
    new = _Pools(url, min_rate)
    return _shared.setdefault(new.key, new)


def answer_seconds(timeout: float) -> float:
    """Maximum duration of a whole answer, in seconds. An answer that dribbles holds a worker's slot no longer.

    Args:
        timeout: the time-out for each part of the answer, in seconds.
    """
    return max(timeout, min(TIMEOUTS * timeout, LONGEST_ANSWER))


class Answer(http.client.HTTPResponse):
    """An answer that must be complete within :func:`answer_seconds`.

    A socket's time-out restarts with every byte. The deadline covers the status line, the headers and the body.

    Interim answers, such as 103 Early Hints, are skipped. http.client skips only 100, and would leave the final answer
    in the connection for the next request.

    A head with nothing unusual in it is read here, as http.client's parser, which is that of e-mails, takes more CPU
    than all else of a request. http.client reads every other head.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, *, timeout: float | None
    ) -> None:
        super().__init__(sock, debuglevel, method)
        self._has_body = method != "HEAD"
        if timeout is not None:
            self.fp = _Reader(_Deadline(self.fp.detach(), time.monotonic() + answer_seconds(timeout)))

    def begin(self) -> None:
        """Read the status line and the headers of the final answer.

        Raises:
            http.client.HTTPException: they are too long, or invalid.
        """
        while True:
            lines = self._read_head()
            if _INTERIM.match(lines[0]):
                continue
            if not self._takes(lines):
                self._leave_to_http_client(lines)
            if self.status >= http.client.OK:
                return
            self.headers = self.msg = None  # type: ignore[assignment]

    def _read_head(self) -> list[bytes]:
        """The lines of a head, with the empty one at its end. There is none if the answer ends before it."""
        lines: list[bytes] = []
        left = MOST_HEAD_BYTES
        while True:
            line = self.fp.readline(left + 1)
            left -= len(line)
            if left < 0:
                raise http.client.HTTPException(LONG_HEAD)
            if not lines and not line.startswith(b"HTTP/"):
                if not line:
                    raise http.client.RemoteDisconnected("Remote end closed connection without response")
                raise http.client.BadStatusLine(line.decode("latin-1"))
            lines.append(line)
            if line in _ENDS:
                return lines

    def _takes(self, lines: list[bytes]) -> bool:
        """Take over a head, as http.client would. Returns ``False``, and changes nothing, if anything is unusual.

        Unusual are another version than 1.1, other characters than visible ASCII, a line that continues the one before,
        more headers than http.client reads, a repeated header, and a length that is none or has a rival.
        """
        start = _STATUS_LINE.fullmatch(lines[0])
        if start is None or lines[-1] != b"\r\n" or len(lines) > MOST_HEAD_LINES:
            return False
        fields: dict[str, str] = {}
        for line in lines[1:-1]:
            field = _FIELD.fullmatch(line)
            if field is None:
                return False
            fields[field[1].decode().lower()] = field[2].decode()
        if len(fields) != len(lines) - 2:
            return False
        length, encoding = fields.get("content-length"), fields.get("transfer-encoding")
        if length is not None and (encoding is not None or not (length.isdigit() and len(length) < 19)):
            return False
        if encoding is not None and encoding.lower() != "chunked":
            return False
        self.version, self.status, self.reason = 11, int(start[1]), start[2].decode().strip()
        self.headers = self.msg = HTTPHeaderDict(fields)  # type: ignore[assignment]
        self.chunked, self.chunk_left = encoding is not None, None
        self.length = None if length is None else int(length)
        if self.status in (http.client.NO_CONTENT, http.client.NOT_MODIFIED) or not self._has_body:
            self.length = 0
        closes = "close" in fields.get("connection", "").lower()
        self.will_close = closes or (self.length is None and not self.chunked)
        return True

    def _leave_to_http_client(self, lines: list[bytes]) -> None:
        stream: Any = self.fp
        self.fp = io.BytesIO(b"".join(lines))  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = stream


class _Deadline(io.RawIOBase):
    """A raw stream that times out at a fixed moment, even while bytes keep arriving.

    Args:
        raw: the socket's stream.
        at: the moment, on the monotonic clock.
    """

    def __init__(self, raw: io.RawIOBase, at: float) -> None:
        self._raw = raw
        self._at = at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._at:
            raise TimeoutError("timed out: the answer came too slowly")
        count = self._raw.readinto(buffer)
        if count is None:  # the kernel has ended it
            raise TimeoutError("timed out")
        return count

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Reader(io.BufferedReader):
    """A stream that refuses unlimited reads, because http.client reads on and on for a negative chunk size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise ValueError(SIZELESS)
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        if size < 0:
            raise ValueError(SIZELESS)
        return super().read1(size)


class _Connection(http.client.HTTPConnection):
    """Mixin for urllib3's connections: requests and answers have a deadline.

    A socket's time-out restarts with every block that is sent. The deadline of a request allows for its size.

    Requests and answers are left to http.client, which needs less CPU for them than urllib3's own methods.
    """

    min_rate: float = MIN_RATE
    _send_by = float("inf")
    _holds_head = False
    _head = b""
    _timed: tuple[Any, float | None] = (None, None)

    putrequest, putheader = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.putheader

    def response_class(self, sock: Any, *args: Any, **options: Any) -> Answer:  # type: ignore[override]
        """Make an answer with a deadline."""
        return Answer(sock, *args, timeout=self.timeout, **options)

    def request(  # type: ignore[override]
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        """Send a request, whose headers are complete but for ``Host``.

        Raises:
            TimeoutError: the server does not read, or reads too slowly.
        """
        if self.sock is None:
            self.connect()
        self._set_timeout(self.timeout)
        if self.timeout is not None:
            size = len(body) if isinstance(body, bytes) else getattr(body, "len", 0)
            self._send_by = time.monotonic() + self.timeout + size / self.min_rate
        try:
            self.putrequest(method, url, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                self.putheader(name, value)
            self._holds_head = bool(body) and isinstance(body, bytes)
            self.endheaders(body)
        finally:
            self._head, self._holds_head, self._send_by = b"", False, float("inf")  # connecting to a proxy sends, too

    def send(self, data: Any) -> None:
        """Send a part of a request."""
        if self._holds_head:  # until the body comes, so that a short request is one packet
            self._head, self._holds_head = data, False
            return
        if self._head:
            data, self._head = self._head + data, b""
        for start in range(0, len(data), PIECE_BYTES):
            seconds = self._send_by - time.monotonic()
            if seconds <= 0:
                raise TimeoutError("timed out: the server reads the request too slowly")
            if self.timeout is not None and seconds < self.timeout:
                self._set_timeout(min(self.timeout, ceil(seconds * 10) / 10))  # in steps, as setting it costs CPU
            try:
                self.sock.sendall(memoryview(data)[start : start + PIECE_BYTES])
            except BlockingIOError:
                raise TimeoutError("timed out") from None

    def _set_timeout(self, seconds: float | None) -> None:
        if self._timed != (self.sock, seconds):
            self._timed = (self.sock, seconds)
            if not let_kernel_watch(self.sock, seconds):
                self.sock.settimeout(seconds)

    def getresponse(self) -> Any:
        """Read the head of the answer."""
        if self._timed[1] != self.timeout:
            self._set_timeout(self.timeout)
        answer = http.client.HTTPConnection.getresponse(self)
        headers: Any = answer.headers
        if not isinstance(headers, HTTPHeaderDict):
            headers = HTTPHeaderDict(headers.items())
        try:
            return HTTPResponse(
                answer, headers, answer.status, preload_content=False, decode_content=False, original_response=answer
            )
        except HTTPError:  # for instance, it has two lengths
            answer.close()
            raise
