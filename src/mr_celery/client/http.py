"""The transport: the only place that speaks HTTP with the server."""

from __future__ import annotations

import json as jsonlib
import logging
import os
from collections.abc import Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies

from ..errors import WorkerError
from .adapter import Adapter
from .address import place, redirect_target, server_address, travels_in_clear
from .answers import FAILURES, Redactor, decode, reason, retry_after, retryable

logger = logging.getLogger("mr_celery")

MOST_BYTES = 64 * 2**20
"""Bytes of an answer; one that is longer is none."""

MOST_ERROR_BYTES = 64 * 2**10
"""Bytes that are read of an answer that is an error."""

MOST_REDIRECTS = 5
"""How many redirects one request follows."""

CHUNK_BYTES = 64 * 2**10

_warned: set[tuple[int, str]] = set()


class _Bearer:
    """The header with the token, which no repr shows."""

    def __init__(self, token: str) -> None:
        self.header = f"Bearer {token}"

    def __repr__(self) -> str:
        return "Bearer ***"


class _Session(requests.Session):
    """A session that adds nothing of its own to a request: no cookies, no redirects.

    Args:
        url: the server's address, for the environment's proxies.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False
        self.proxies = get_environ_proxies(url)
        self.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = Adapter()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """None: even without following it, a session would read the whole body of a redirect."""
        return iter(())


class Transport:
    """Sends requests to one server with one token. Safe to share between threads and across a fork.

    Args:
        url: the server's address, http or https; a path in it is kept.
        token: the worker's token, or an administrator's. It goes nowhere but to this server.
        user_agent: what the client calls itself.
        timeout: seconds to wait for a connection, and for each next part of the answer; a whole answer
            may take four times as long.
        called: what the token is called in messages.

    Raises:
        WorkerError: the address or the token cannot be used.

    Example::

        transport = Transport("https://app.modelreins.com", token, "my-tool/1.0")
        transport.request("GET", "/my-jobs", params={"worker": "render-1", "status": "pending"})
    """

    def __init__(
        self, url: str, token: str, user_agent: str, timeout: float = 30.0, *, called: str = "the worker's token"
    ) -> None:
        self.url = server_address(url)
        self._base = _prepared(self.url)
        self.timeout = timeout
        token = _usable(token, called)
        self._redact = Redactor(token)
        self._headers = {
            "User-Agent": user_agent,
            # As the SDK does: an answer that is cut inside its compression is hard to tell from a whole one.
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            "Connection": "keep-alive",
            "Content-Type": "application/json",
        }
        self._bearer = _Bearer(token)
        self._made: tuple[int, _Session] | None = None
        if travels_in_clear(self.url) and (os.getpid(), self.url) not in _warned:
            _warned.add((os.getpid(), self.url))
            logger.warning("%s is not https: %s travels in clear", self.url, called)

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

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
    ) -> Any:
        """Send one request. Returns the decoded JSON of the answer; ``{}`` where it is empty.

        Args:
            method: ``GET``, ``POST``, ``PUT``.
            path: the path under the server's address.
            params: the query.
            json: the body, to be written as JSON.
            data: the body as bytes, or as an object with ``read`` and ``len``.
            headers: further headers.
            timeout: seconds, instead of the transport's.

        Raises:
            WorkerError: there is no answer, or it is an error, or it is not JSON.
        """
        call = f"{method} {path}"
        try:
            if params:
                path = f"{path}?{urlencode(params, quote_via=quote)}"
                call = f"{method} {path}"
            request = self._prepare(method, path, json, data, headers)
        except (*FAILURES, TypeError) as error:
            raise WorkerError(self._redact(f"{call} -> not sent: {reason(error)}")) from None
        try:
            return self._exchange(call, request, self.timeout if timeout is None else timeout)
        except FAILURES as error:
            why = self._redact(reason(error))[:500]
            raise WorkerError(f"{call} -> network: {why}", retryable=True) from None

    def close(self) -> None:
        """Close the connections that nobody uses; the next request opens new ones."""
        if self._made is not None and self._made[0] == os.getpid():
            self._made[1].close()

    def _session(self) -> requests.Session:
        """The session in this process. Threads share it: it keeps nothing of a request."""
        made, pid = self._made, os.getpid()
        if made is None or made[0] != pid:
            made = self._made = (pid, _Session(self.url))
        return made[1]

    def _prepare(
        self, method: str, path: str, json: object, data: Any, headers: Mapping[str, str] | None
    ) -> requests.PreparedRequest:
        """The request, ready to be sent.

        Raises:
            OSError, ValueError, TypeError: it cannot be sent.
        """
        request = requests.PreparedRequest()
        request.method = method
        request.url = self._base + path
        if headers:
            request.prepare_headers({**self._headers, **headers})
        else:
            request.headers = CaseInsensitiveDict(self._headers)
        request.headers["Authorization"] = self._bearer.header
        request.prepare_body(data if json is None else jsonlib.dumps(json).encode(), None)
        return request

    def _exchange(self, call: str, request: requests.PreparedRequest, timeout: float) -> Any:
        for _ in range(MOST_REDIRECTS + 1):
            with self._send(request, timeout) as response:
                if not response.is_redirect:
                    return self._read(call, response)
                request = self._redirected(call, request, response)
        raise WorkerError(f"{call} -> redirected more than {MOST_REDIRECTS} times")

    def _send(self, request: requests.PreparedRequest, timeout: float) -> requests.Response:
        """One request and the head of its answer."""
        session = self._session()
        return session.send(
            request,
            stream=True,
            timeout=timeout,
            allow_redirects=False,
            verify=session.verify,
            proxies=session.proxies,
        )

    def _redirected(
        self, call: str, request: requests.PreparedRequest, response: requests.Response
    ) -> requests.PreparedRequest:
        """The request for the place to which an answer redirects."""
        status, location = response.status_code, response.headers["Location"]
        here = request.url or self.url
        target = redirect_target(here, location)
        if target is None:
            where = self._redact(place(here, location))
            raise WorkerError(f"{call} -> {status}: redirects to {where}, where the token is not sent", status=status)
        replayable = status in (307, 308) and isinstance(request.body, (bytes, type(None)))
        if request.method != "GET" and not replayable:
            where = self._redact(place(here, location))
            raise WorkerError(f"{call} -> {status}: redirects to {where}, which only a GET follows", status=status)
        again = request.copy()
        again.prepare_url(target, None)
        return again

    def _read(self, call: str, response: requests.Response) -> Any:
        status = response.status_code
        if not 200 <= status < 300:
            self._refused(call, response)
        body = _body(response, MOST_BYTES)
        if body is None:
            raise WorkerError(f"{call} -> {status}: the answer is longer than {MOST_BYTES} bytes", status=status)
        try:
            return decode(body)
        except ValueError:
            kind = response.headers.get("Content-Type", "no content type")
            start = self._text(body)
            raise WorkerError(
                f"{call} -> {status}: not JSON ({self._redact(kind)[:100]}): {start}", status=status, retryable=True
            ) from None

    def _refused(self, call: str, response: requests.Response) -> NoReturn:
        status = response.status_code
        start = bytearray()
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                start += chunk
                if len(start) >= MOST_ERROR_BYTES:
                    break
        except FAILURES:
            logger.debug("%s -> %d: the answer broke off", call, status)
        raise WorkerError(
            f"{call} -> {status}: {self._text(bytes(start))}",
            status=status,
            retryable=retryable(status),
            retry_after=retry_after(response.headers.get("Retry-After")),
        )

    def _text(self, body: bytes) -> str:
        return self._redact(body[:MOST_ERROR_BYTES].decode(errors="replace"))[:500]


def _body(response: requests.Response, most: int) -> bytes | None:
    """The whole body; ``None`` if it is longer than ``most``.

    Raises:
        OSError: it is shorter than announced.
    """
    chunks, size = [], 0
    for chunk in response.iter_content(CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            return None
        chunks.append(chunk)
    missing = getattr(response.raw, "length_remaining", None) or 0
    if missing > 0:
        raise ConnectionError(f"the answer broke off, {missing} bytes are missing")
    if not size and response.raw.tell():
        raise ConnectionError("the answer broke off inside its compression")
    return b"".join(chunks)


def _prepared(url: str) -> str:
    """An address as it is sent: with its host's name in ASCII, and its path quoted.

    Raises:
        WorkerError: it is none.
    """
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, None)
    except (requests.RequestException, ValueError) as error:
        raise WorkerError(f"{url!r} is not a server's URL: {reason(error)}") from None
    return (request.url or url).rstrip("/")


def _usable(token: str, name: str) -> str:
    """The token without blanks around it.

    Raises:
        WorkerError: it cannot be sent in a header. It is not repeated.
    """
    token = token.strip()
    if not token:
        raise WorkerError(f"{name} is empty")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) > 255 for char in token):
        raise WorkerError(f"{name} contains characters that no token has: copy it again")
    return token
