"""Formats results and other texts for the page."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt, rules_block
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup, escape

MAX_SHOWN = 200_000
"""Maximum number of characters of a text that are shown. The page has a link to the rest."""

_MAX_NODES = 2000
_MAX_DEPTH = 40

_LINK = re.compile(r"(https?://|mailto:|/s/[\w-]+$|#)", re.IGNORECASE)
_ARTIFACT = re.compile(r"(?:https?://[^/?#]+)?/s/([0-9a-f]{40})", re.IGNORECASE)
# No part can backtrack over the rest of the text: long texts of brackets or empty lines must stay fast.
_LOOKS_LIKE_MARKDOWN = re.compile(
    r"^(#{1,6} \S|```|[ \t]*[-*] \S.*\n[ \t]*[-*] \S|[ \t]*1[.)] \S.*\n[ \t]*2[.)] \S|> \S|\|.*\|[ \t]*\n\|[ \t:|-]+\|)"
    r"|\*\*[^\s*][^*\n]*\*\*|\[[^\[\]\n]+\]\([^()\s]+\)|`[^`\n]+`",
    re.MULTILINE,
)
_MAX_MARKDOWN = 20_000
_MAX_CELLS = 5000


@dataclass(frozen=True)
class Output:
    """A job's result, prepared for the page.

    Attributes:
        kind: ``text``, ``json``, ``markdown`` or ``traceback``.
        text: the result, truncated if it is long.
        cut: whether it was truncated.
        data: the parsed JSON.
        last: the last line of a traceback.
    """

    kind: str
    text: str
    cut: bool = False
    data: Any = None
    last: str = ""


def output(text: str) -> Output:
    """Detect the kind of a result."""
    if len(text) > MAX_SHOWN:
        return Output("text", text[:MAX_SHOWN], cut=True)
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
            if foldable(data):
                return Output("json", text, data=data)
        except (ValueError, RecursionError):
            pass
    if "Traceback (most recent call last)" in text:
        return Output("traceback", text, last=text.strip().splitlines()[-1])
    is_markdown = len(text) <= _MAX_MARKDOWN and _LOOKS_LIKE_MARKDOWN.search(text)
    return Output("markdown" if is_markdown else "text", text)


def foldable(value: Any) -> bool:
    """Whether JSON data is small and shallow enough to be shown as a tree."""
    left, level = _MAX_NODES, [value]
    for _ in range(_MAX_DEPTH):
        below = [x for each in level if isinstance(each, (dict, list)) for x in _within(each)]
        left -= len(below)
        if not below or left < 0:
            return left >= 0
        level = below
    return False


def _within(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def as_json(value: Any) -> str:
    """Format a value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def slug_in(address: str) -> str | None:
    """The slug in a URL of an artifact, or the slug itself; ``None`` for other texts."""
    match = _ARTIFACT.fullmatch(address) or re.fullmatch("([0-9a-f]{40})", address)
    return match[1] if match else None


def markdown(text: str, deadline: float = math.inf) -> Markup:
    """Render Markdown without embedded HTML, unsafe links and external images.

    Args:
        text: the source.
        deadline: the time of ``time.monotonic()`` after which the source is shown unchanged.
    """
    try:
        return Markup(_MARKDOWN.render(text, {_DEADLINE: deadline}))  # noqa: S704 - the renderer escapes
    except _TooSlowError:
        return Markup("<pre>{}</pre>").format(text)


class _TooSlowError(Exception):
    """The text takes too long to render. Texts of brackets, for example, take quadratic time."""


_DEADLINE = "deadline"


def _check_deadline(state: StateBlock | StateInline, *_: Any) -> bool:
    """A rule of the parser that applies to nothing. The parser tries it at every line and at every character."""
    if time.monotonic() > state.env[_DEADLINE]:
        raise _TooSlowError
    return False


class _Renderer(RendererHTML):
    """Opens links in a new tab, shows only artifacts of the sandbox as images, and writes no inline styles."""

    def link_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        tokens[index].attrSet("rel", "noreferrer noopener")
        tokens[index].attrSet("target", "_blank")
        return self.renderToken(tokens, index, options, env)

    def td_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        if tokens[index].attrs.pop("style", None) == "text-align:right":  # the page's policy forbids inline styles
            tokens[index].attrSet("class", "right")
        return self.renderToken(tokens, index, options, env)

    th_open = td_open

    def image(self, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[index]
        address, text = str(token.attrGet("src") or ""), token.content or "image"
        if slug := slug_in(address):
            html = Markup('<img src="/s/{}" alt="{}" loading="lazy">').format(slug, text)
        else:
            html = Markup('<a href="{}" rel="noreferrer noopener" target="_blank">{}</a>').format(address, escape(text))
        return str(html)  # markdown-it before 4.3 adds it to its own HTML, which a Markup would escape


def _safe_link(address: str) -> bool:
    return _LINK.match(address.strip()) is not None


def _small_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The parser's rule for tables. It fills up short rows, so a few thousand characters could make a million cells."""
    columns = state.src[state.bMarks[start] : state.eMarks[start]].count("|") + 1
    rows = range(start, min(end, start + _MAX_CELLS // columns + 1))
    is_small = len(rows) * columns <= _MAX_CELLS or any(state.isEmpty(line) for line in rows)
    return is_small and rules_block.table(state, start, end, silent)


_MARKDOWN = MarkdownIt("js-default", {"html": False, "linkify": False}, renderer_cls=_Renderer)
_MARKDOWN.validateLink = _safe_link  # type: ignore[method-assign, assignment]
_MARKDOWN.block.ruler.at("table", _small_table, {"alt": ["paragraph", "reference"]})
_MARKDOWN.block.ruler.before(
    "table", _DEADLINE, _check_deadline, {"alt": ["paragraph", "reference", "blockquote", "list"]}
)
_MARKDOWN.inline.ruler.before("text", _DEADLINE, _check_deadline)
