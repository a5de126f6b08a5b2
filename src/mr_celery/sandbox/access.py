"""Authentication: which token a request has, and what it permits."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..web import Brake
from .registrations import Registrations

_PUBLIC = re.compile(r"/health|/s/[^/]+")

_WORKER_ROUTES = (
    ("PUT", re.compile("/presence")),
    ("GET", re.compile("/my-jobs")),
    ("GET", re.compile("/jobs/[^/]+")),
    ("POST", re.compile("/jobs/[^/]+/(claim|close)")),
    ("POST", re.compile("/artifacts/upload")),
    ("POST", re.compile("/review")),
    ("POST", re.compile("/api/v1/workers/register")),  # refused by the route itself, with its reason
)
"""The routes for worker tokens. All others are for users."""


@dataclass(frozen=True)
class Caller:
    """The owner of a token.

    Args:
        worker: the only worker name that the token is valid for; ``None`` for all.
        user: whether it may use the routes for users.
        admin: whether it may register workers.
    """

    worker: str | None = None
    user: bool = False
    admin: bool = False


@dataclass(frozen=True)
class Tokens:
    """The tokens of a sandbox, besides those of registered workers.

    Without an API key, users have the worker token. Without an administrator's token, users may register workers.

    Args:
        worker: the worker token, valid for every worker name.
        api_key: the users' API key.
        admin: the administrator's token.
        named: further worker tokens by worker name.
    """

    worker: str
    api_key: str | None = None
    admin: str | None = None
    named: Mapping[str, str] | None = None

    @property
    def of_users(self) -> tuple[str, ...]:
        """The tokens that may use the routes for users, and log in to the page."""
        return tuple(token for token in (self.api_key or self.worker, self.admin) if token)

    def caller(self, header: bytes) -> Caller | None:
        """The owner of the token in an ``Authorization`` header, if it is one of these."""

        def matches(token: str | None) -> bool:
            return token is not None and hmac.compare_digest(header, f"Bearer {token}".encode())

        if matches(self.admin):
            return Caller(user=True, admin=True)
        if matches(self.api_key):
            return Caller(user=True, admin=self.admin is None)
        if matches(self.worker):
            return Caller(user=self.api_key is None, admin=self.api_key is None and self.admin is None)
        named = self.named or {}
        return next((Caller(worker=name) for name, token in named.items() if matches(token)), None)


class Authentication:
    """Middleware that rejects requests without a valid token with a 401 response, which always has the same body.

    After many wrong tokens from one address, responses are delayed, and then become 429. A worker token gets 403 on the
    routes for users. For all other requests, the :class:`Caller` is in ``scope["caller"]``.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, registrations: Registrations, brake: Brake) -> None:
        self._app = app
        self._brake = brake
        self._tokens = tokens
        self._registrations = registrations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            public = scope["method"] in ("GET", "HEAD") and _PUBLIC.fullmatch(scope["path"])
            header = dict(scope["headers"]).get(b"authorization", b"")
            caller = Caller() if public else self._caller(header)
            if caller is None:
                await (await self._refusal(scope, header))(scope, receive, send)
                return
            if not (public or caller.user or _is_for_workers(scope["method"], scope["path"])):
                error = "this needs the API key of a user, and this is a worker's token"
                await JSONResponse({"error": error}, 403)(scope, receive, send)
                return
            scope["caller"] = caller
        await self._app(scope, receive, send)

    async def _refusal(self, scope: Scope, header: bytes) -> Response:
        if header and await self._brake.is_too_fast(scope):
            error = "too many wrong tokens: try again in a few seconds"
            return JSONResponse({"error": error}, 429, {"Retry-After": "3", "Connection": "close"})
        return JSONResponse({"error": "Unauthorized"}, 401)

    def _caller(self, header: bytes) -> Caller | None:
        caller = self._tokens.caller(header)
        if caller is None and header.startswith(b"Bearer "):
            name = self._registrations.name_of(header.removeprefix(b"Bearer ").decode("latin-1"))
            return None if name is None else Caller(worker=name)
        return caller


def _is_for_workers(method: str, path: str) -> bool:
    return any(method == allowed and pattern.fullmatch(path) for allowed, pattern in _WORKER_ROUTES)


def caller_of(request: Request) -> Caller:
    """The owner of the request's token."""
    caller: Caller = request.scope["caller"]
    return caller


def check_worker(request: Request, worker: str) -> str:
    """Check that the request's token is valid for a worker name, and return the name.

    Raises:
        HTTPException: the token belongs to another worker name.
    """
    name = caller_of(request).worker
    if name not in (None, worker):
        raise HTTPException(403, f"this token belongs to worker {name!r}, not to {worker!r}")
    return worker
