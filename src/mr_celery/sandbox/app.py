"""The sandbox as an ASGI application: routes and error responses."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import python_multipart  # noqa: F401 - Starlette imports it only when a form arrives
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..web import Brake
from .access import Authentication, Tokens
from .body_limit import BodyLimit
from .chaos import Chaos
from .chaos_asgi import ChaosLayer
from .chaos_routes import ChaosRoutes
from .killswitch import KillswitchError
from .operator_routes import OperatorRoutes
from .page import Logins, Page
from .registrations import Registrations
from .routing import NoEligibleWorkerError
from .states import TransitionError
from .store import Store
from .user_routes import UserRoutes
from .values import MalformedError, NotFoundError
from .worker_routes import WorkerRoutes

_JOB = re.compile(r"/jobs/\d+")

_STATUS = {
    MalformedError: 400,
    NotFoundError: 404,
    TransitionError: 409,
    NoEligibleWorkerError: 503,
    KillswitchError: 503,
    ClientDisconnect: 400,
}


def create_app(
    store: Store,
    token: str,
    chaos: Chaos | None = None,
    *,
    api_key: str | None = None,
    admin_token: str | None = None,
    tokens: Mapping[str, str] | None = None,
    logins: Logins | None = None,
    hosts: Collection[str] = (),
) -> Starlette:
    """Create the server's application: the protocol and the web page.

    Args:
        store: the state. The caller closes it.
        token: the worker token.
        chaos: the faults to inject; by default none, until some are set over HTTP.
        api_key: required for everything that is not for workers. By default the worker token.
        admin_token: required for registrations, and accepted everywhere else. By default the API key.
        tokens: further worker tokens by worker name, each valid for that name only. Tokens of registered workers are
            in the store.
        logins: sessions and login keys of the page.
        hosts: host names under which the page is served, besides ``localhost`` and IP addresses.
    """
    chaos = chaos or Chaos()
    chaos.on_change = partial(store.changes.publish, "faults")
    registrations = Registrations(store)
    known = Tokens(token, api_key, admin_token, tokens)
    brake = Brake()
    page = Page(store, chaos, registrations, logins or Logins(), brake, tokens=known.of_users, hosts=hosts)
    app = _App(
        chaos,
        page,
        routes=[
            *WorkerRoutes(store, registrations).routes(),
            *UserRoutes(store).routes(),
            *OperatorRoutes(store).routes(),
            *ChaosRoutes(chaos).routes(),
        ],
        middleware=[Middleware(Authentication, tokens=known, registrations=registrations, brake=brake)],
        exception_handlers={
            HTTPException: _http_error,
            **dict.fromkeys(_STATUS, _known_error),
            Exception: _unknown_error,
        },
    )
    app.router.redirect_slashes = False
    return app


class _App(Starlette):
    """Starlette with limits and fault injection around it, since its own middleware runs inside its error handling."""

    def __init__(self, chaos: Chaos, page: Page, **options: Any) -> None:
        self._chaos = chaos
        self._page = page
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return BodyLimit(ChaosLayer(_PageOrProtocol(self._page, super().build_middleware_stack()), self._chaos))


class _PageOrProtocol:
    """Routes requests for the page's paths without an ``Authorization`` header to the page, others to the protocol.

    A browser that opens the address of a job is redirected to the page of that job.
    """

    def __init__(self, page: Page, protocol: ASGIApp) -> None:
        self._page = page
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or b"authorization" in headers:
            await self._protocol(scope, receive, send)
        elif self._page.has(scope["path"]):
            await self._page(scope, receive, send)
        elif _JOB.fullmatch(scope["path"]) and scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
            await RedirectResponse(f"/ui{scope['path']}")(scope, receive, send)
        else:
            await self._protocol(scope, receive, send)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _known_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, _STATUS[type(error)])


async def _unknown_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error: see the traceback in the sandbox's log"}, 500)
