"""Renders templates with escaping, and with a policy that allows only the page's own script and style."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ..version import __version__
from . import formats

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# Scripts and styles are allowed by a nonce instead of 'self', because the sandbox's files have the same origin.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src 'self'; media-src 'self'; "
    "frame-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_AT_ONCE = 2
"""Maximum number of pages that are rendered at the same time."""


class Templates:
    """Renders pages, in threads: a long page does not delay other requests.

    Args:
        package: the package with the page's own templates in its folder ``templates``, besides those of all pages.
        brand: the name of the page, after "ModelReins".
        root: the path of the pages without a session, with the static files in ``static`` below it.
        common_context: returns the template variables of every page.
        filters: further filters.
        finalize: applied to each value of an expression before it is escaped.
    """

    def __init__(
        self,
        package: str,
        *,
        brand: str,
        root: str,
        common_context: Callable[[Request], Mapping[str, Any]],
        filters: Mapping[str, Callable[..., Any]] | None = None,
        finalize: Callable[[Any], Any] | None = None,
    ) -> None:
        self._root = root
        self._common_context = common_context
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]), autoescape=True,
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize,
        )  # fmt: skip
        self._environment.filters.update(
            ago=formats.ago, span=formats.span, iso=formats.iso, clock=formats.clock, size=formats.size,
            count=formats.count, query=formats.query, **filters or {},
        )  # fmt: skip
        self._environment.globals.update(version=__version__, brand=brand, static=f"{root}/static")
        self._rendering = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, request: Request, template: str, /, *, status: int = 200, **context: Any) -> Response:
        """Render a page.

        Args:
            request: the request to answer.
            template: the name of the template.
            status: the HTTP status.
            context: template variables.
        """
        nonce = secrets.token_urlsafe(16)
        own = {"here": request.url.path, "nonce": nonce, "ui": request.scope.get("ui", self._root)}
        values = {**own, **self._common_context(request), **context}
        async with self._rendering:
            html = await run_in_threadpool(self.render, template, values)
        return HTMLResponse(html, status, {**HEADERS, "Content-Security-Policy": _POLICY.format(nonce)})

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Render a template in the current thread."""
        return self._environment.get_template(template).render(values)
