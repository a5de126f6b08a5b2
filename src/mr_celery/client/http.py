"""HTTP to the ModelReins server: the only place that does it. Whatever goes wrong is a WorkerError."""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from ..errors import WorkerError

logger = logging.getLogger("mr_celery")

DETAIL = 500
"""How many characters of an answer an error shows, as in the SDK."""

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes that an answer may have."""

RETRY_AFTER_LIMIT = 3600.0
REDIRECTS = 5
RETRYABLE = frozenset({408, 425, 429})

_warned_of: set[str] = set()


def check_url(url: str) -> str:
    """The base URL without a slash at its end.

    Raises:
        WorkerError: it is no http:// or https:// address, or it has user information in it.
    """
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        _ = parts.port
    except ValueError:
        usable, parts = False, urlsplit("")
    if parts.username or parts.password:
        raise WorkerError("the server's URL must not contain a user or password: set MODELREINS_TOKEN instead")
    if not usable:
        raise WorkerError(f"{url!r} is not the address of a server: it must look like https://app.modelreins.com")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or "") and url not in _warned_of:
        _warned_of.add(url)
        logger.warning("%s is not encrypted: the worker token travels in clear. Use https://", url)
    return url.strip().rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str) -> str:
    """The token without white space around it.

    Raises:
        WorkerError: it has characters that no HTTP header can carry. It is not shown.
    """
    token = token.strip()
    if not token or not token.isascii() or any(ord(character) < 33 or ord(character) == 127 for character in token):
        raise WorkerError("the token has characters that no token has: copy it again from the worker's page")
    return token


def retry_after(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for; ``None`` where it is absent or makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = max(seconds, 0.0)
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, RETRY_AFTER_LIMIT)


class _BearerAuth(requests.auth.AuthBase):
    """Sets the token on each request; with an auth of its own, ``requests`` never looks into a netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Requests to one server with one token, over pooled connections: one session per process and thread.

    Args:
        url: the server's base URL.
        token: the worker token. It goes to this server only, and into no repr, log or error.
        user_agent: the ``User-Agent`` header.
        timeout: seconds to connect, and between two pieces of an answer; a whole answer may take four times that.

    Raises:
        WorkerError: the URL or the token is unusable.
    """

    def __init__(self, url: str, token: str, user_agent: str, timeout: float = 30.0) -> None:
        self.url = check_url(url)
        self._token = check_token(token)
        self._user_agent = user_agent.encode("ascii", "replace").decode()
        self._timeout = timeout
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Transport {self.url}>"

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        stream: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Do one request.

        Args:
            method: the HTTP method.
            path: the path under the base URL, with its query.
            body: what is sent as JSON; or
            stream: an object with ``read()`` that is sent as it is read.
            headers: further headers.
            timeout: seconds; default as given to the transport.

        Returns:
            The answer's JSON; an empty answer is ``{}``.

        Raises:
            WorkerError: for everything but a 2xx answer with JSON in it.
        """
        timeout = timeout or self._timeout
        sent = {"User-Agent": self._user_agent, **(headers or {})}
        data: Any = stream
        if stream is None:
            sent["Content-Type"] = "application/json"
            data = json.dumps(body).encode() if body is not None else None
        name = f"{method} {path}"
        url = f"{self.url}{path}"
        try:
            for _ in range(REDIRECTS + 1):
                answer = self._session().request(
                    method, url, data=data, headers=sent, timeout=timeout, allow_redirects=False, stream=True
                )
                with answer:
                    target = self._redirect_target(name, answer, url, repeatable=stream is None)
                    if target is None:
                        return self._read(name, answer, time.monotonic() + 4 * timeout)
                    url = target
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._network_error(name, error) from None
        raise WorkerError(f"{name} -> {REDIRECTS} redirects and no end", retryable=True)

    def _session(self) -> requests.Session:
        if getattr(self._local, "pid", None) != os.getpid():
            session = requests.Session()
            session.auth = _BearerAuth(self._token)
            # The environment is resolved once here: requests would do it again on every call.
            session.proxies = dict(get_environ_proxies(self.url, no_proxy=None))
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            session.trust_env = False
            adapter = HTTPAdapter(pool_connections=2, pool_maxsize=2)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            self._local.session, self._local.pid = session, os.getpid()
        made: requests.Session = self._local.session
        return made

    def _redirect_target(self, name: str, answer: requests.Response, url: str, *, repeatable: bool) -> str | None:
        """Where to go on; ``None`` for an answer that is no redirect.

        Raises:
            WorkerError: it leads elsewhere, where the token must not go, or cannot be followed.
        """
        if answer.status_code not in (301, 302, 303, 307, 308):
            return None
        target = urljoin(url, answer.headers.get("Location", ""))
        here, there = urlsplit(url), urlsplit(target)
        same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
        upgraded = here.hostname == there.hostname and (here.scheme, there.scheme) == ("http", "https")
        get = name.startswith("GET ")
        if (same or upgraded) and (get or (repeatable and answer.status_code in (307, 308))):
            return target
        raise WorkerError(
            self._hide(
                f"{name} -> {answer.status_code}: a redirect to {there.scheme}://{there.netloc.rpartition('@')[2]} that "
                "is not followed, since the token is for one server only; is MODELREINS_URL right?"
            ),
            status=answer.status_code,
        )

    def _read(self, name: str, answer: requests.Response, deadline: float) -> Any:
        """The answer's JSON.

        Raises:
            WorkerError: its status is not 2xx, or it is not (whole) JSON.
        """
        status = answer.status_code
        content = bytearray()
        for piece in answer.iter_content(65536):
            content += piece
            if len(content) > ANSWER_LIMIT:
                raise WorkerError(f"{name} -> {status}: an answer of more than {ANSWER_LIMIT} bytes", status=status)
            if time.monotonic() > deadline:
                raise WorkerError(f"{name} -> network: the answer took too long", status=None, retryable=True)
        text = content.decode("utf-8", errors="replace")
        if not 200 <= status < 300:
            raise WorkerError(
                self._hide(f"{name} -> {status}: {text[:DETAIL]}"),
                status=status,
                retryable=status in RETRYABLE or status >= 500,
                retry_after=retry_after(answer.headers.get("Retry-After")),
            )
        try:
            return json.loads(text or "{}")
        except (ValueError, RecursionError):
            kind = answer.headers.get("Content-Type", "no content type")
            shown = self._hide(f"{name} -> {status}: not JSON but {kind}: {text[:DETAIL]}")
            raise WorkerError(shown, status=status, retryable=True) from None

    def _network_error(self, name: str, error: Exception) -> WorkerError:
        reason: Any = error
        while isinstance(inner := getattr(reason, "reason", None) or (reason.args or (None,))[0], Exception):
            reason = inner
        return WorkerError(self._hide(f"{name} -> network: {reason}"), retryable=True)

    def _hide(self, text: str) -> str:
        return text.replace(self._token, "***")
