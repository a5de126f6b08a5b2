"""The sandbox as an ASGI application: the token, the routes, and one form for all errors."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from functools import partial
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
from .page import Logins, Page
from .registrations import Registrations
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


def create_app(
    store: Store,
    token: str,
    chaos: Chaos | None = None,
    *,
    admin_token: str | None = None,
    tokens: Mapping[str, str] | None = None,
    logins: Logins | None = None,
    hosts: Collection[str] = (),
) -> Starlette:
    """The server: its protocol, and its web page for browsers.

    Args:
        store: its state; whoever made it closes it.
        token: the worker token.
        chaos: the faults; default: none, until some are set over HTTP.
        admin_token: what a registration needs; it opens everything else too. Default: the worker token.
        tokens: further worker tokens by worker name: each is good for that name only. Registered ones need not be
            named: the store knows them.
        logins: who is logged in to the page, and the keys that log in.
        hosts: names under which the page is served, beside ``localhost`` and all addresses.
    """
    chaos = chaos or Chaos()
    chaos.on_change = partial(store.changes.tell, "faults")
    admin_token = admin_token or token
    registrations = Registrations(store)
    page = Page(store, chaos, registrations, logins or Logins(), tokens=(token, admin_token), hosts=hosts)
    named = _Named(tokens or {}, registrations)
    app = _App(
        chaos,
        page,
        routes=[
            *WorkerRoutes(store, registrations).routes(),
            *OperatorRoutes(store).routes(),
            *ChaosRoutes(chaos).routes(),
        ],
        middleware=[Middleware(_Token, token=token, admin_token=admin_token, named=named)],
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

    def __init__(self, chaos: Chaos, page: Page, **options: Any) -> None:
        self._chaos = chaos
        self._page = page
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return ChaosLayer(_PageOrProtocol(self._page, super().build_middleware_stack()), self._chaos)


class _PageOrProtocol:
    """The page is for browsers, which send no token: the protocol is the same with or without it."""

    def __init__(self, page: Page, protocol: ASGIApp) -> None:
        self._page = page
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        of_page = scope["type"] == "http" and self._page.has(scope["path"])
        if of_page and b"authorization" not in dict(scope["headers"]):
            await self._page(scope, receive, send)
        else:
            await self._protocol(scope, receive, send)


class _Named:
    """The tokens that are good for one worker name only."""

    def __init__(self, tokens: Mapping[str, str], registrations: Registrations) -> None:
        self._given = {name: f"Bearer {each}".encode() for name, each in tokens.items()}
        self._registrations = registrations

    def name_of(self, header: bytes) -> str | None:
        """The worker name of an ``Authorization`` header."""
        given = next((name for name, each in self._given.items() if hmac.compare_digest(header, each)), None)
        if given or not header.startswith(b"Bearer "):
            return given
        return self._registrations.name_of(header.removeprefix(b"Bearer ").decode("latin-1"))


class _Token:
    """Refuses every request without the token in the same words, before anything else is looked at."""

    def __init__(self, app: ASGIApp, token: str, admin_token: str, named: _Named) -> None:
        self._app = app
        self._worker = f"Bearer {token}".encode()
        self._admin = f"Bearer {admin_token}".encode()
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            admin, worker = (hmac.compare_digest(given, expected) for expected in (self._admin, self._worker))
            public = scope["method"] in ("GET", "HEAD") and _PUBLIC.fullmatch(scope["path"])
            name = None if admin or worker or public else self._named.name_of(given)
            if not (admin or worker or name or public):
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
            scope["admin"], scope["worker"] = admin, name
        await self._app(scope, receive, send)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _known_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, _STATUS[type(error)])


async def _unknown_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error: the sandbox's log has the traceback"}, 500)
