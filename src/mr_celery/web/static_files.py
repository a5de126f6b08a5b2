"""The static files of a page."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from .rendering import HEADERS


class Files(StaticFiles):
    """Static files that browsers revalidate, so that an upgrade takes effect.

    Args:
        package: the package with the page's own files in its folder ``static``, besides those of all pages.
    """

    def __init__(self, package: str) -> None:
        super().__init__(packages=[(package, "static"), (__package__, "static")])

    def file_response(self, *args: Any, **options: Any) -> Response:
        answer = super().file_response(*args, **options)
        answer.headers.update({**HEADERS, "Cache-Control": "no-cache"})
        return answer
