"""The sandbox as an ASGI application: the token, the routes, and one form for all errors."""

from __future__ import annotations

import hmac
import re
from typing import Any

import python_multipart  # noqa: F401 - Starlette asks for it only once a form arrives
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .chaos import Chaos
from .chaos_asgi import ChaosLayer
from .chaos_routes import ChaosRoutes
from .operator_routes import OperatorRoutes
from .states import TransitionError
from .store import NobodyPresentError, NotFoundError, Store
from .values import MalformedError
from .worker_routes import WorkerRoutes

_PUBLIC = re.compile(r"/health|/s/[^/]+")

_STATUS = {
    MalformedError: 400,
    NotFoundError: 404,
    TransitionError: 409,
    NobodyPresentError: 503,
    ClientDisconnect: 400,
}


def create_app(store: Store, token: str, chaos: Chaos | None = None, *, admin_token: str | None = None) -> Starlette:
    """The server.

    Args:
        store: its state; whoever made it closes it.
        token: the worker token.
        chaos: the faults; default: none, until some are set over HTTP.
        admin_token: what a registration needs; it opens everything else too. Default: the worker token.
    """
    chaos = chaos or Chaos()
    app = _App(
        chaos,
        routes=[*WorkerRoutes(store).routes(), *OperatorRoutes(store).routes(), *ChaosRoutes(chaos).routes()],
        middleware=[Middleware(_Token, token=token, admin_token=admin_token or token)],
        exception_handlers={
            HTTPException: _http_error,
            **dict.fromkeys(_STATUS, _known_error),
            Exception: _unknown_error,
        },
    )
    app.router.redirect_slashes = False
    return app


class _App(Starlette):
    """Starlette, with the faults around all of it: what it calls middleware is inside its own error handling."""

    def __init__(self, chaos: Chaos, **options: Any) -> None:
        self._chaos = chaos
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return ChaosLayer(super().build_middleware_stack(), self._chaos)


class _Token:
    """Refuses every request without the token in the same words, before anything else is looked at."""

    def __init__(self, app: ASGIApp, token: str, admin_token: str) -> None:
        self._app = app
        self._worker = f"Bearer {token}".encode()
        self._admin = f"Bearer {admin_token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            admin, worker = (hmac.compare_digest(given, expected) for expected in (self._admin, self._worker))
            public = scope["method"] in ("GET", "HEAD") and _PUBLIC.fullmatch(scope["path"])
            if not (admin or worker or public):
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
            scope["admin"] = admin
        await self._app(scope, receive, send)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _known_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, _STATUS[type(error)])


async def _unknown_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error: the sandbox's log has the traceback"}, 500)
