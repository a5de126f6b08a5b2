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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from requests.utils import check_header_validity
from urllib3 import BaseHTTPResponse, HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ..errors import WorkerError
from ..job_secrets import Secret
from ..socket_timeouts import let_kernel_watch
from .address import place, prepared, redirect_target, server_address, travels_in_clear
from .answers import MOST_PARSED, TooLong, read_long
from .failures import FAILURES, LONG_HEAD, compressed, fault, not_json, reason, refusal, without_secret
from .pools import Pools, pools_of
from .token import Token, usable

logger = logging.getLogger("mr_celery")

TIMEOUTS = 4.0
"""Maximum duration of a whole response, as a multiple of the timeout. See :func:`answer_seconds`."""

LONGEST_ANSWER = 120.0
"""Maximum duration of a whole response, in seconds, unless the timeout is longer."""

MIN_RATE = 4 * 2**10
"""Minimum rate, in bytes per second, at which a server must read a request that took longer than its timeout."""

PIECE_BYTES = 64 * 2**10
"""Size in bytes of the pieces in which requests are sent. Before each of them, the time that is left is checked."""

MOST_HEAD_BYTES = 64 * 2**10
"""Maximum size in bytes of a response's status line and headers. A longer head is an error."""

MOST_HEAD_LINES = 101
"""Number of lines of a head that http.client accepts: the status line, the headers, and the empty line."""

MOST_REDIRECTS = 5
"""Maximum number of redirects that a request follows."""

READ_BYTES = 256 * 2**10
"""Size in bytes of the chunks in which lists are read."""

Read = Callable[[Iterable[bytes]], object]
"""Reads a list while it arrives.

Raises:
    ValueError: the body is not JSON.
"""

SIZELESS = "a part of the response has no usable size"

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
    """Options for reading the body of a response, see :meth:`Transport.request`."""

    needed: Collection[str]
    problems: dict[str, str] | None
    read: Read | None


class Transport:
    """Sends requests to one server with one token. Safe to share between threads and across a fork.

    Args:
        url: the server's address, http or https; a path in it is kept.
        token: the worker's token, or an administrator's. It is sent only to this server. If it can change, a request
            whose token is refused is repeated once with a new one.
        user_agent: the client's name.
        timeout: seconds to wait for a connection, and for each part of the response. A whole response may take four
            times as long, but no more than two minutes unless the timeout is longer.
        called: the name of the token in messages.
        min_rate: bytes per second. A request must be sent within its timeout and the time that its body needs at this
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
        self._base = prepared(self.url).rstrip("/")
        self.timeout = timeout
        self._called = called
        self._token = token if isinstance(token, Token) else Token(token)
        self._headers = {
            "User-Agent": user_agent,
            # As in the SDK. A few bytes may unpack to gigabytes, and a truncated compressed response may look complete.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        self._bearer = self._former = _Bearer(usable(self._token.value, called))
        self._pools: Pools | None = None
        self.date = ""
        """The ``Date`` of the last response; empty if there was none."""
        if travels_in_clear(self.url) and (os.getpid(), self.url) not in _warned:
            _warned.add((os.getpid(), self.url))
            logger.warning("%s is not https: %s is sent unencrypted", self.url, called)

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def _redact(self, text: str) -> str:
        """Remove the token, and the one before it, from a text of the server."""
        return without_secret(without_secret(text, self._bearer.token), self._former.token)

    @property
    def token_id(self) -> str:
        """Identifies the token that the next request has."""
        if self._token.can_change:
            self._token.look()
        return self._token.id

    def _take_over_token(self) -> None:
        """Use the token as it is now.

        Raises:
            WorkerError: it cannot be sent in a header.
        """
        value, bearer = self._token.value.strip(), self._bearer
        if value != bearer.token:
            self._former, self._bearer = bearer, _Bearer(usable(value, self._called))

    def _has_new_token(self, used: _Bearer) -> bool:
        """Whether there is another token than the one that was refused."""
        self._token.read_again()
        self._take_over_token()
        return self._bearer.token != used.token

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
        needed: Collection[str] = (),
        problems: dict[str, str] | None = None,
        read: Read | None = None,
    ) -> Any:
        """Send one request. Returns the JSON value of the response; ``{}`` if it is empty.

        A response longer than ``MOST_PARSED`` is not parsed, see :func:`.read_long`.

        Args:
            method: ``GET``, ``POST``, ``PUT``.
            path: the path under the server's address.
            params: the query.
            json: the body as a JSON value.
            data: the body as an object with ``read`` and ``len``.
            headers: further headers.
            timeout: timeout in seconds, instead of the transport's.
            needed: the members that the caller uses.
            problems: receives the needed members of a long response that cannot be read, with the reason.
            read: reads a list while it arrives, of any length. It gets chunks of at least ``READ_BYTES``, and what it
                returns is returned.

        Raises:
            WorkerError: there was no response, or it is an error, or not JSON.
        """
        call = f"{method} {path}"
        try:
            if params:
                path = f"{path}?{urlencode(params, quote_via=quote)}"
                call = f"{method} {path}"
            if self._token.can_change:
                self._token.look()
                self._take_over_token()
            bearer = self._bearer
            request = self._prepare(method, path, json, data, headers, bearer)
        except (*FAILURES, TypeError) as error:
            raise WorkerError(self._redact(f"{call} -> not sent: {reason(error)}")) from None
        timeout = self.timeout if timeout is None else timeout
        reading = _Reading(needed, problems, read)
        try:
            try:
                return self._exchange(call, request, timeout, reading)
            except WorkerError as error:
                if not error.unauthorized or data is not None or not self._has_new_token(bearer):
                    raise
                request = self._prepare(method, path, json, data, headers, self._bearer)
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
        if headers:
            for name, value in headers.items():
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
            with self._send(request, timeout) as response:  # closes the connection if a part of the response is unread
                self.date = response.headers.get("Date") or ""
                location = response.get_redirect_location()
                if not location:
                    return self._read(call, response, reading)
                request = self._redirected(call, request, response.status, location)
        raise WorkerError(f"{call} -> redirected more than {MOST_REDIRECTS} times")

    def _send(self, request: _Request, timeout: float) -> BaseHTTPResponse:
        """Send one request, and read the head of its response."""
        pools = self._pools
        if pools is None or pools.pid != os.getpid():  # a forked process does not use its parent's connections
            pools = self._pools = pools_of(self.url, _Connection, self._min_rate)
        start = request.url.find("/", len("https://"))
        origin = request.url[:start]
        pool, before = pools.routes.get(origin) or pools.find_route(origin)
        response: BaseHTTPResponse = pool.urlopen(
            request.method,
            before + request.url[start:],
            request.body,
            request.headers,
            retries=_NO_RETRIES,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            preload_content=False,
        )
        return response

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
        return request._replace(url=prepared(target))

    def _read(self, call: str, response: BaseHTTPResponse, reading: _Reading) -> Any:
        """Read and decode the body of a response.

        Raises:
            WorkerError: it is an error, or not JSON.
        """
        if not 200 <= response.status < 300:
            raise refusal(call, response, self._redact)
        if "Content-Encoding" in response.headers and (error := compressed(call, response)):
            raise error
        chunks: Iterable[bytes] = ()
        if reading.read is None:
            start = _start(response)
        else:
            chunks = _chunks(response)
            start = next(chunks, b"")
        try:
            if reading.read is not None:
                return reading.read(chain((start,), chunks))
            if len(start) <= MOST_PARSED:
                return _decoded(start)
            return read_long(chain((start,), _chunks(response)), reading.needed, reading.problems)
        except TooLong as problem:
            raise WorkerError(f"{call} -> {response.status}: {problem}", status=response.status) from None
        except ValueError as problem:
            raise not_json(call, response, start, problem, self._redact) from None


def _decoded(body: bytes) -> object:
    """Decode the JSON of a short response. An empty body becomes an empty object.

    Raises:
        ValueError: it is not JSON.
    """
    if not body.strip():
        return {}
    try:
        return jsonlib.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _start(response: BaseHTTPResponse) -> bytes:
    """The beginning of a body, or all of it up to ``MOST_PARSED``.

    Raises:
        OSError, urllib3.exceptions.HTTPError: the body is shorter than announced, or did not arrive in time.
    """
    start = response.read1(MOST_PARSED + 1)
    if response.length_remaining == 0:
        return start
    parts = bytearray(start)
    while len(parts) <= MOST_PARSED:
        part = response.read1(MOST_PARSED + 1)
        if not part:
            break
        parts += part
    return bytes(parts)


def _chunks(response: BaseHTTPResponse) -> Iterator[bytes]:
    """The body, or the rest of it, in chunks of at least ``READ_BYTES``, except the last.

    If the response breaks off, the last chunk contains what has arrived.

    Raises:
        OSError, urllib3.exceptions.HTTPError: the body is shorter than announced, or did not arrive in time.
    """
    chunk = bytearray()
    while True:
        try:
            part = response.read1(READ_BYTES)
        except FAILURES:
            if chunk:
                yield bytes(chunk)
            raise
        chunk += part
        ended = not part or response.length_remaining == 0
        if chunk and (ended or len(chunk) >= READ_BYTES):
            yield bytes(chunk)
            chunk.clear()
        if ended:
            break


def answer_seconds(timeout: float) -> float:
    """Maximum duration of a whole response, in seconds. It limits how long a trickling response holds a worker's slot.

    Args:
        timeout: the timeout for each part of the response, in seconds.
    """
    return max(timeout, min(TIMEOUTS * timeout, LONGEST_ANSWER))


class Answer(http.client.HTTPResponse):
    """An HTTP response that must be complete within :func:`answer_seconds`.

    A socket's timeout restarts with every byte. The deadline covers the status line, the headers and the body.

    Interim responses, such as 103 Early Hints, are skipped. http.client skips only 100, and would leave the final
    response in the connection for the next request.

    A head with nothing unusual in it is read here, with a third of the CPU that http.client needs with its parser for
    e-mails. http.client reads every other head.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, *, timeout: float | None
    ) -> None:
        super().__init__(sock, debuglevel, method)
        self._has_body = method != "HEAD"
        if timeout is not None:
            self.fp = _Reader(_Deadline(self.fp.detach(), time.monotonic() + answer_seconds(timeout)))

    def begin(self) -> None:
        """Read the status line and the headers of the final response.

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
        """The lines of a head, with the empty one at its end. There is none if the response ends before it."""
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
        """Parse a head as http.client would. Returns ``False``, and changes nothing, if anything in it is unusual.

        Unusual are: an HTTP version other than 1.1, characters other than visible ASCII, a folded header line, more
        headers than http.client accepts, a repeated header, a ``Content-Length`` that is not a number or comes with a
        ``Transfer-Encoding``, and a ``Transfer-Encoding`` other than ``chunked``.
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
            raise TimeoutError("timed out: the response came too slowly")
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
    """Mixin for urllib3's connections: requests and responses have a deadline.

    A socket's timeout restarts with every block that is sent. The deadline of a request allows for its size.

    Requests and responses are left to http.client, which needs less CPU for them than urllib3's own methods.
    """

    min_rate: float = MIN_RATE
    _send_by = float("inf")
    _holds_head = False
    _head = b""
    _timed: tuple[Any, float | None] = (None, None)

    putrequest, putheader = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.putheader

    def response_class(self, sock: Any, *args: Any, **options: Any) -> Answer:  # type: ignore[override]
        """Make a response with a deadline."""
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
        """Read the head of the response."""
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
