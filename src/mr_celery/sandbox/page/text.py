"""How times, sizes and texts read on the page."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

MOST_SHOWN = 200_000
"""Characters of a text that are shown; the whole is a link away."""

_MOST_NODES = 2000
_DEEPEST = 40

_LINK = re.compile(r"(https?://|mailto:|/s/[\w-]+$|#)", re.IGNORECASE)
_ARTIFACT = re.compile(r"(?:https?://[^/?#]+)?/s/([0-9a-f]{40})", re.IGNORECASE)
# Each part ends at the first sign that it is none: a long text of brackets or empty lines must not take long.
_LOOKS_LIKE_MARKDOWN = re.compile(
    r"^(#{1,6} \S|```|[ \t]*[-*] \S.*\n[ \t]*[-*] \S|[ \t]*1[.)] \S.*\n[ \t]*2[.)] \S|> \S|\|.*\|[ \t]*\n\|[ \t:|-]+\|)"
    r"|\*\*[^\s*][^*\n]*\*\*|\[[^\[\]\n]+\]\([^()\s]+\)|`[^`\n]+`",
    re.MULTILINE,
)
_MOST_MARKDOWN = 20_000


def span(seconds: float) -> str:
    """A length of time: ``0.4 s``, ``3 min``, ``5 h``, ``2 d``."""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length, until in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if seconds < until:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86400)} d"


def ago(seconds: float) -> str:
    """How long something is past."""
    return "now" if seconds < 2 else span(int(seconds)) if seconds >= 10 else f"{int(seconds)} s"


def iso(time: float) -> str:
    """A time as machines read it."""
    return dt.datetime.fromtimestamp(time, dt.timezone.utc).isoformat(timespec="milliseconds")


def clock(time: float) -> str:
    """A time as people read it."""
    return dt.datetime.fromtimestamp(time, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int) -> str:
    """A number of bytes: ``812 B``, ``3.4 MB``."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


@dataclass(frozen=True)
class Output:
    """A job's result, and how it is shown.

    Attributes:
        kind: ``text``, ``json``, ``markdown`` or ``traceback``.
        text: the result, maybe cut.
        cut: whether it is.
        data: of JSON: what it says.
        last: of a traceback: its last line.
    """

    kind: str
    text: str
    cut: bool = False
    data: Any = None
    last: str = ""


def output(text: str) -> Output:
    """How a result is to be shown."""
    if len(text) > MOST_SHOWN:
        return Output("text", text[:MOST_SHOWN], cut=True)
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
            if foldable(data):
                return Output("json", text, data=data)
        except (ValueError, RecursionError):
            pass
    if "Traceback (most recent call last)" in text:
        return Output("traceback", text, last=text.strip().splitlines()[-1])
    is_markdown = len(text) <= _MOST_MARKDOWN and _LOOKS_LIKE_MARKDOWN.search(text)
    return Output("markdown" if is_markdown else "text", text)


def foldable(value: Any) -> bool:
    """Whether JSON data is small and flat enough to be shown as a tree."""
    left, level = _MOST_NODES, [value]
    for _ in range(_DEEPEST):
        below = [x for each in level if isinstance(each, (dict, list)) for x in _within(each)]
        left -= len(below)
        if not below or left < 0:
            return left >= 0
        level = below
    return False


def _within(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def as_json(value: Any) -> str:
    """A value as JSON, as people read it."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def slug_in(address: str) -> str | None:
    """The artifact that an address or a slug names, if it looks like one of this sandbox."""
    match = _ARTIFACT.fullmatch(address) or re.fullmatch("([0-9a-f]{40})", address)
    return match[1] if match else None


def markdown(text: str) -> Markup:
    """Markdown as HTML: no HTML of its own, links with safe schemes only, no image from elsewhere."""
    return Markup(_MARKDOWN.render(text))  # noqa: S704 - what renders it escapes


class _Renderer(RendererHTML):
    """Links open beside the page; an image is one of the sandbox's artifacts, or a link; no styles in place."""

    def link_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        tokens[index].attrSet("rel", "noreferrer noopener")
        tokens[index].attrSet("target", "_blank")
        return self.renderToken(tokens, index, options, env)

    def td_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        if tokens[index].attrs.pop("style", None) == "text-align:right":  # the page allows no style in place
            tokens[index].attrSet("class", "right")
        return self.renderToken(tokens, index, options, env)

    th_open = td_open

    def image(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[index]
        address, text = str(token.attrGet("src") or ""), token.content or "image"
        if slug := slug_in(address):
            return Markup('<img src="/s/{}" alt="{}" loading="lazy">').format(slug, text)
        return Markup('<a href="{}" rel="noreferrer noopener" target="_blank">{}</a>').format(address, escape(text))


def _safe_link(address: str) -> bool:
    return _LINK.match(address.strip()) is not None


_MARKDOWN = MarkdownIt("js-default", {"html": False, "linkify": False}, renderer_cls=_Renderer)
_MARKDOWN.validateLink = _safe_link  # type: ignore[method-assign, assignment]
