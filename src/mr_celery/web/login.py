"""Routes for logging in with a token, and for logging out."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .brake import Brake
from .rendering import Templates
from .sessions import Sessions

_FORM_BYTES = 20_000
_TOO_FAST = "Too many wrong attempts. Try again in a few seconds."


class LoginRoutes:
    """One method per route. The page has a template ``login.html``, which extends ``login_form.html``.

    Args:
        sessions: the sessions.
        accepts: returns whether a text is a valid token. It takes the same time for all wrong ones.
        brake: slows down wrong tokens.
        templates: renders the pages.
        home: the path that is opened after a login.
        refusal: the message for a wrong token.
    """

    def __init__(
        self,
        sessions: Sessions,
        accepts: Callable[[bytes], bool],
        brake: Brake,
        templates: Templates,
        *,
        home: str,
        refusal: str,
    ) -> None:
        self._sessions = sessions
        self._accepts = accepts
        self._brake = brake
        self._templates = templates
        self._home = home
        self._refusal = refusal

    def routes(self) -> list[Route]:
        return [
            Route("/login", self.show),
            Route("/login", self.log_in, methods=["POST"]),
            Route(f"{self._sessions.root}/logout", self.log_out, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        return await self.form(request, self.target(request.query_params.get("next")))

    async def log_in(self, request: Request) -> Response:
        fields = await _fields(request)
        target = self.target(fields.get("next"))
        if self._accepts(fields.get("token", "").strip().encode("utf-8", "replace")):
            return await self.logged_in(request, target)
        return await self.refused_or_too_fast(request, target, self._refusal, 403)

    async def log_out(self, request: Request) -> Response:
        self._sessions.close(request.cookies.get(self._sessions.cookie))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._sessions.cookie, self._sessions.path)
        return answer

    async def refused_or_too_fast(self, request: Request, target: str, refusal: str, status: int = 200) -> Response:
        """The form after a wrong attempt."""
        if await self._brake.is_too_fast(request.scope):
            return await self.form(request, target, _TOO_FAST, 429)
        return await self.form(request, target, refusal, status)

    async def form(self, request: Request, target: str, error: str = "", status: int = 200) -> Response:
        """The form, with an error."""
        resumes = request.method == "GET"
        inner, home = (path.removeprefix(self._sessions.root) for path in (target, self._home))
        context = {"error": error, "target": target, "inner": inner, "home_inner": home, "resumes": resumes}
        return await self._templates.answer(request, "login.html", status=status, **context)

    async def logged_in(self, request: Request, target: str) -> Response:
        """Open a session."""
        # A page with a refresh instead of a redirect: after a redirect, browsers do not send a strict cookie if the
        # navigation began on another site, such as a chat or a terminal in the browser.
        address = self._sessions.entered_path(target)
        answer = await self._templates.answer(request, "logged_in.html", target=address)
        key, path = self._sessions.open(), self._sessions.path
        answer.set_cookie(self._sessions.cookie, key, path=path, httponly=True, samesite="strict")
        return answer

    def target(self, path: str | None) -> str:
        """The path to open after the login. Only paths of the page are allowed."""
        is_inside = path is not None and path.startswith(f"{self._sessions.root}/") and path[1:2] not in ("/", "\\")
        return self._sessions.inner_path(path) if path and is_inside else self._home


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; empty if the form is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            return {}
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
