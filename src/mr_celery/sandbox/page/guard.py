"""Who may see and use the page: not another web site in the same browser, and nobody who is not logged in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .logins import Logins

_REVEALING = re.compile(r"/view/[^/]+")
"""For whoever was given the address: the key in it is all that it takes, under whatever name."""

_OPEN = re.compile(r"/login|/ui/static/.+")
"""Without a session."""


class Guard:
    """Around the page.

    A cookie is sent whoever has written the page that makes the request, and to all ports of a host; so a request that
    changes something must come from this page itself. A name that somebody else has pointed at this machine (DNS
    rebinding) is refused.

    Args:
        app: the page.
        logins: the sessions.
        hosts: names under which the page is served, beside ``localhost`` and all addresses.
    """

    def __init__(self, app: ASGIApp, logins: Logins, hosts: Collection[str]) -> None:
        self._app = app
        self._logins = logins
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        path = request.scope["path"]
        if _REVEALING.fullmatch(path):
            return None
        if not self._is_ours(request.headers.get("host", "")):
            return PlainTextResponse("this page is served under localhost, or an address such as 127.0.0.1", 403)
        if request.method not in ("GET", "HEAD") and not _from_page_itself(request):
            return PlainTextResponse("a request from another site was refused", 403)
        if _OPEN.fullmatch(path) or self._logins.knows(request.cookies.get(cookie_of(request))):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(path + query)}", 303)
        return PlainTextResponse("log in first", 401)

    def _is_ours(self, host: str) -> bool:
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


def cookie_of(request: Request) -> str:
    """The cookie's name. Cookies are for all ports of a host, so that the port is in it: two sandboxes, two logins."""
    return f"mr_celery_sandbox_{(request.scope.get('server') or ('', 0))[1]}"


def _from_page_itself(request: Request) -> bool:
    """By what no page can set: browsers say it themselves. Addresses without TLS do not get the first header."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")
