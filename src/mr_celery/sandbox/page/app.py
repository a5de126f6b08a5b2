"""The page as an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from ...web import HEADERS, Brake, Files, Guard
from ..chaos import Chaos
from ..killswitch import KillswitchError
from ..registrations import LinkGoneError, Registrations
from ..routing import NoEligibleWorkerError
from ..states import TransitionError
from ..store import Store
from ..values import MalformedError, NotFoundError
from . import faults, queries
from .actions import ActionRoutes
from .live import LiveRoutes
from .login_routes import LoginRoutes
from .logins import Logins
from .rendering import Templates
from .routes import PageRoutes, wants_json

_PATHS = re.compile(r"/|/login|/ui(/.*)?|/view/[^/]+")

_OPEN_PATHS = re.compile(r"/login|/ui/static/.+")
"""Pages that need no login."""

_REVEALING = re.compile(r"/view/[^/]+")
"""Pages that need no login and are served under any host name, because their URL has a secret key."""

_LEVELS = {
    "pause": "Running jobs go on, and pending jobs wait.",
    "stop": "Running jobs are aborted, and pending jobs wait.",
    "abort": "All jobs that are not over are aborted.",
}
"""The levels of the killswitch, in words."""

_STATUS: dict[type[Exception], int] = {
    MalformedError: 400,
    NotFoundError: 404,
    TransitionError: 409,
    LinkGoneError: 410,
    NoEligibleWorkerError: 503,
    KillswitchError: 503,
}


class Page:
    """The page as a separate application with HTML error pages.

    Args:
        store: the state.
        chaos: the faults.
        registrations: the registered workers, whose tokens the page shows once.
        logins: sessions and login keys.
        brake: slows down wrong tokens and keys.
        tokens: tokens that are accepted as passwords.
        hosts: host names under which the page is served, besides ``localhost`` and IP addresses.
    """

    def __init__(
        self,
        store: Store,
        chaos: Chaos,
        registrations: Registrations,
        logins: Logins,
        brake: Brake,
        *,
        tokens: Collection[str],
        hosts: Collection[str] = (),
    ) -> None:
        self._store = store
        self._chaos = chaos
        self._templates = Templates(self._common_context)
        pages = PageRoutes(store, chaos, registrations, brake, self._templates)
        known = dict.fromkeys(_STATUS, self._known_error)
        self._app = Starlette(
            routes=[
                *LoginRoutes(logins, tokens, brake, self._templates).routes(),
                *pages.routes(),
                *ActionRoutes(store, chaos, pages).routes(),
                *LiveRoutes(store.changes).routes(),
                Mount("/ui/static", Files(__package__)),
            ],
            middleware=[
                Middleware(
                    Guard,
                    sessions=logins,
                    open_paths=_OPEN_PATHS,
                    any_host_paths=_REVEALING,
                    hosts=hosts,
                    error_page=self._error,
                )
            ],
            exception_handlers={**known, HTTPException: self._http_error, Exception: self._unknown_error},
        )
        self._app.router.redirect_slashes = False

    def has(self, path: str) -> bool:
        """Whether a path belongs to the page."""
        return _PATHS.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["place"] = self._store.changes.place  # taken before reading the state, so that no later change is missed
        await self._app(scope, receive, send)

    def _common_context(self, request: Request) -> dict[str, Any]:
        """Template variables of every page."""
        rules = self._chaos.rules
        return {
            "now": self._store.clock(),
            "place": request.scope["place"],
            "open_jobs": queries.tally(self._store),
            "waiting_reviews": queries.pending_reviews(self._store),
            "killswitch": self._store.killswitch.state,
            "levels": _LEVELS,
            "rules": [(faults.description(rule), rule.seconds) for rule in rules],
        }

    async def _known_error(self, request: Request, error: Exception) -> Response:
        return await self._error(request, str(error), _STATUS[type(error)])

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
        message = "there is no such page" if error.status_code == 404 else error.detail
        return await self._error(request, message, error.status_code)

    async def _unknown_error(self, request: Request, error: Exception) -> Response:
        return await self._error(request, "internal error: see the traceback in the sandbox's log", 500)

    async def _error(self, request: Request, message: str, status: int) -> Response:
        if wants_json(request):
            return JSONResponse({"error": message}, status, HEADERS)
        return await self._templates.answer(
            request,
            "error.html",
            status=status,
            title=HTTPStatus(status).phrase.capitalize(),
            message=f"{message[:1].upper()}{message[1:]}.",
            framed="ui" in request.scope and status != 500,  # the frame needs a session and readable data
        )
