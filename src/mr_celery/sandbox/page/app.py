"""The page as an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ..chaos import Chaos
from ..registrations import OpenedError, Registrations
from ..states import TransitionError
from ..store import NobodyPresentError, NotFoundError, Store
from ..values import MalformedError
from . import faults, queries
from .actions import ActionRoutes, wants_json
from .guard import Guard
from .live import LiveRoutes
from .login_routes import LoginRoutes
from .logins import Logins
from .rendering import HEADERS, Templates
from .routes import PageRoutes

_PATHS = re.compile(r"/|/login|/logout|/ui(/.*)?|/view/[^/]+")
_STATIC = Path(__file__).parent / "static"
_STATUS: dict[type[Exception], int] = {
    MalformedError: 400,
    NotFoundError: 404,
    TransitionError: 409,
    OpenedError: 410,
    NobodyPresentError: 503,
}


class Page:
    """The page: an application of its own beside the protocol, with its own errors.

    Args:
        store: the state.
        chaos: the faults.
        registrations: the tokens that are revealed once.
        logins: who is logged in.
        tokens: those that log in.
        hosts: names under which it is served, beside ``localhost`` and all addresses.
    """

    def __init__(
        self,
        store: Store,
        chaos: Chaos,
        registrations: Registrations,
        logins: Logins,
        *,
        tokens: Collection[str],
        hosts: Collection[str] = (),
    ) -> None:
        self._store = store
        self._chaos = chaos
        self._templates = Templates(self._around)
        pages = PageRoutes(store, chaos, registrations, self._templates)
        known = dict.fromkeys(_STATUS, self._known_error)
        self._app = Starlette(
            routes=[
                *LoginRoutes(logins, tokens, self._templates).routes(),
                *pages.routes(),
                *ActionRoutes(store, chaos, pages).routes(),
                *LiveRoutes(store.changes).routes(),
                Mount("/ui/static", _Files(directory=_STATIC)),
            ],
            middleware=[Middleware(Guard, logins=logins, hosts=hosts)],
            exception_handlers={**known, HTTPException: self._http_error, Exception: self._unknown_error},
        )
        self._app.router.redirect_slashes = False

    def has(self, path: str) -> bool:
        """Whether a path is one of the page's."""
        return _PATHS.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["place"] = self._store.changes.place  # before anything is looked at: what changes after it is heard of
        await self._app(scope, receive, send)

    def _around(self) -> dict[str, Any]:
        """What every page shows."""
        rules = self._chaos.rules
        return {
            "now": self._store.clock(),
            "open_jobs": queries.tally(self._store),
            "waiting_reviews": queries.pending_reviews(self._store),
            "rules": [(faults.told(rule), rule.seconds) for rule in rules],
        }

    async def _known_error(self, request: Request, error: Exception) -> Response:
        return self._error(request, str(error), _STATUS[type(error)])

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
        message = "there is no such page" if error.status_code == 404 else error.detail
        return self._error(request, message, error.status_code)

    async def _unknown_error(self, request: Request, error: Exception) -> Response:
        return self._error(request, "internal error: the sandbox's log has the traceback", 500)

    def _error(self, request: Request, message: str, status: int) -> Response:
        if wants_json(request):
            return JSONResponse({"error": message}, status, HEADERS)
        return self._templates.answer(request, "error.html", status=status, message=message)


class _Files(StaticFiles):
    """Style and script, asked for anew after an upgrade."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        answer = super().file_response(*args, **options)
        answer.headers.update({**HEADERS, "Cache-Control": "no-cache"})
        return answer
