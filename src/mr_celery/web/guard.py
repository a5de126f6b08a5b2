"""Access control of the page: requires a login, and refuses requests from other web sites."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .sessions import Sessions

_NONE = re.compile(r"(?!)")
"""Matches no path."""


class Guard:
    """Middleware around the page.

    Browsers send a cookie with requests from any site, and to all ports of a host, where other users of the machine may
    listen. A request that changes something must therefore come from the page itself. The cookie of a session is
    limited to a path with a secret part, so browsers do not send it to servers that do not know the path. The secret
    part is removed from requests before routing, and added to redirects. Unknown host names are refused, as
    protection against DNS rebinding.

    Args:
        app: the page.
        sessions: the sessions.
        open_paths: the paths that need no login.
        any_host_paths: the paths that need no login and are served under any host name.
        hosts: host names under which the page is served, besides ``localhost`` and IP addresses; ``None``: all.
        error_page: makes the response for browsers from an error message and an HTTP status. Other clients get text.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        open_paths: re.Pattern[str],
        any_host_paths: re.Pattern[str] = _NONE,
        hosts: Collection[str] | None = None,
        error_page: Callable[[Request, str, int], Awaitable[Response]] | None = None,
    ) -> None:
        self._error_page = error_page
        self._app = app
        self._sessions = sessions
        self._open_paths = open_paths
        self._any_host_paths = any_host_paths
        self._hosts = None if hosts is None else {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        is_inside = scope["path"].startswith(f"{self._sessions.path}/") and self._sessions.knows(
            request.cookies.get(self._sessions.cookie)
        )
        scope["path"] = self._sessions.inner_path(scope["path"])
        if answer := await self._refusal(request, is_inside=is_inside):
            await answer(scope, receive, send)
        elif is_inside:
            scope["ui"] = self._sessions.path
            await self._app(scope, receive, self._redirecting(send))
        else:
            await self._app(scope, receive, send)

    def _redirecting(self, send: Send) -> Send:
        async def send_inside(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                target = headers.get("location", "")
                if target.startswith(f"{self._sessions.root}/") and not self._open_paths.fullmatch(target):
                    headers["location"] = self._sessions.entered_path(target)
            await send(message)

        return send_inside

    async def _refusal(self, request: Request, *, is_inside: bool) -> Response | None:
        path = request.scope["path"]
        if self._any_host_paths.fullmatch(path):
            return None
        if not self._is_allowed_host(request.headers.get("host", "")):
            return await self._error(request, "use localhost or an IP address such as 127.0.0.1 to open this page", 403)
        if request.method not in ("GET", "HEAD") and not _is_same_origin(request):
            return await self._error(request, "a request from another site was refused", 403)
        if is_inside or self._open_paths.fullmatch(path):
            return None
        if request.method == "GET" and _wants_html(request):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(path + query)}", 303)
        if _wants_html(request):
            return await self._error(request, "the session has ended: log in, and send the form again", 401)
        return PlainTextResponse("log in first", 401)

    async def _error(self, request: Request, message: str, status: int) -> Response:
        if self._error_page is None or not _wants_html(request):
            return PlainTextResponse(message, status)
        return await self._error_page(request, message, status)

    def _is_allowed_host(self, host: str) -> bool:
        if self._hosts is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _is_same_origin(request: Request) -> bool:
    """Check headers that only the browser can set. Without TLS, some addresses get no ``Sec-Fetch-Site``."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")
