"""The templates: everything in them is escaped; nothing but our own script and style can act in what they make."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ...version import __version__
from . import text

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# Scripts and styles by a number used once, and not by 'self': an uploaded script is of the same origin.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src 'self'; media-src 'self'; "
    "frame-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Templates:
    """Makes answers of templates.

    Args:
        around: what every page shows around its own content.
    """

    def __init__(self, around: Callable[[], dict[str, Any]]) -> None:
        self._around = around
        self._environment = Environment(
            loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters.update(
            ago=text.ago, span=text.span, iso=text.iso, clock=text.clock, size=text.size, count=text.count,
            markdown=text.markdown, json=text.as_json, query=_query, shell=shlex.quote,
        )  # fmt: skip
        self._environment.globals.update(version=__version__)

    def answer(self, request: Request, template: str, /, *, status: int = 200, **context: Any) -> Response:
        """A page.

        Args:
            request: what it answers.
            template: its name.
            status: the HTTP status.
            context: what the template shows.
        """
        nonce = secrets.token_urlsafe(16)
        whole = {"here": request.url.path, "place": request.scope["place"], "nonce": nonce, **self._around(), **context}
        html = self._environment.get_template(template).render(whole)
        return HTMLResponse(html, status, {**HEADERS, "Content-Security-Policy": _POLICY.format(nonce)})


def _query(values: Mapping[str, Any]) -> str:
    """The query of an address, of what is not empty."""
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})
