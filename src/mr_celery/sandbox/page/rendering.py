"""Renders the page's templates, with limits for Markdown."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from markupsafe import Markup
from starlette.requests import Request

from ... import web
from . import text

_MARKDOWN_SECONDS = 1.0
"""Time limit for all Markdown of a page, in seconds. The rest is shown as plain text."""


class Templates(web.Templates):
    """The page's templates.

    Args:
        common_context: returns the template variables of every page.
    """

    def __init__(self, common_context: Callable[[Request], Mapping[str, Any]]) -> None:
        filters = {"markdown": _markdown, "json": text.as_json, "shell": shlex.quote}
        super().__init__(__package__, brand="sandbox", root="/ui", common_context=common_context, filters=filters)

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        _deadline.set(time.monotonic() + _MARKDOWN_SECONDS)
        return super().render(template, values)


_deadline: ContextVar[float] = ContextVar("deadline")
"""The deadline for the Markdown of the page that a thread renders. A filter does not see the template's variables."""


def _markdown(source: str) -> Markup:
    return text.markdown(source, _deadline.get())
