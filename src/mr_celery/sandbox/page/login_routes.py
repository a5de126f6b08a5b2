"""Routes for logging in with a link or a token, and for logging out."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ... import web
from ...web import Brake
from .logins import Logins
from .rendering import Templates

HOME = "/ui/jobs"


class LoginRoutes(web.LoginRoutes):
    """One method per route.

    Args:
        logins: the sessions.
        tokens: tokens that are accepted as passwords.
        brake: slows down wrong tokens and login keys.
        templates: renders the pages.
    """

    def __init__(self, logins: Logins, tokens: Collection[str], brake: Brake, templates: Templates) -> None:
        known = [token.encode() for token in tokens]
        refusal = "This is not the token of this sandbox."
        super().__init__(logins, lambda given: _is_one_of(given, known), brake, templates, home=HOME, refusal=refusal)
        self._logins = logins

    def routes(self) -> list[Route]:
        return [Route("/", self.to_home), Route("/ui", self.to_home), *super().routes()]

    async def to_home(self, request: Request) -> Response:
        return RedirectResponse(HOME, 303)

    async def show(self, request: Request) -> Response:
        key = request.query_params.get("key")
        if not key:
            return await super().show(request)
        if request.method == "GET" and self._logins.use_key(key):
            return await self.logged_in(request, HOME)
        target = self.target(request.query_params.get("next"))
        return await self.refused_or_too_fast(request, target, "This link was already used. Log in with the token.")


def _is_one_of(given: bytes, tokens: Collection[bytes]) -> bool:
    return any(hmac.compare_digest(given, token) for token in tokens)
