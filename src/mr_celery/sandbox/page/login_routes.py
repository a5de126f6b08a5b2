"""Logging in, by link or by token, and out."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .guard import cookie_of
from .logins import Logins
from .rendering import Templates

HOME = "/ui/jobs"
_PAUSE = 0.3
"""Seconds after a wrong token."""


class LoginRoutes:
    """One method for each route.

    Args:
        logins: the sessions.
        tokens: those that log in.
        templates: the pages.
    """

    def __init__(self, logins: Logins, tokens: Collection[str], templates: Templates) -> None:
        self._logins = logins
        self._tokens = [token.encode() for token in tokens]
        self._templates = templates

    def routes(self) -> list[Route]:
        return [
            Route("/", self.home),
            Route("/ui", self.home),
            Route("/login", self.show),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
        ]

    async def home(self, request: Request) -> Response:
        return RedirectResponse(HOME, 303)

    async def show(self, request: Request) -> Response:
        key, goes_to = request.query_params.get("key"), _inside(request.query_params.get("next"))
        if key and request.method == "GET" and self._logins.spend(key):
            return self._entered(request, HOME)
        if self._logins.knows(request.cookies.get(cookie_of(request))):
            return RedirectResponse(goes_to, 303)
        error = "This link was used before. Log in with the token." if key else ""
        return self._form(request, goes_to, error)

    async def log_in(self, request: Request) -> Response:
        form = await request.form()
        given, goes_to = str(form.get("token", "")).strip().encode(), _inside(str(form.get("next", "")))
        if any(hmac.compare_digest(given, token) for token in self._tokens):
            return self._entered(request, goes_to)
        await asyncio.sleep(_PAUSE)
        return self._form(request, goes_to, "This is not the token of this sandbox.", 403)

    async def log_out(self, request: Request) -> Response:
        self._logins.close(request.cookies.get(cookie_of(request)))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie_of(request))
        return answer

    def _form(self, request: Request, goes_to: str, error: str, status: int = 200) -> Response:
        return self._templates.answer(request, "login.html", status=status, error=error, goes_to=goes_to)

    def _entered(self, request: Request, goes_to: str) -> Response:
        # A page that goes on by itself, and no redirect: a browser sends a strict cookie only where the way did not
        # begin on another site, such as a chat or a terminal in the browser.
        answer = self._templates.answer(request, "entered.html", goes_to=goes_to)
        answer.set_cookie(cookie_of(request), self._logins.open(), httponly=True, samesite="strict")
        return answer


def _inside(path: str | None) -> str:
    """Where to go after the login: only within the page."""
    return path if path and path.startswith("/ui/") else HOME
