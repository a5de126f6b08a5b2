"""Makes text from elsewhere safe to print: in logs, histories, messages of exceptions and on the terminal."""

from __future__ import annotations

_FILLERS = ((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164), (0xFFA0, 0xFFA0))
_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_INVISIBLE = frozenset(chr(code) for first, last in (*_FILLERS, *_SELECTORS) for code in range(first, last + 1))
"""Characters without a shape of their own that ``str.isprintable`` accepts."""


class Lines(str):
    """Printable text of several lines, each indented, so that none of them looks like a line of a log."""

    __slots__ = ()


def printable(text: str, most: int = 300, *, instead: str = " ") -> str:
    """A text on one line without control characters, cut to ``most`` characters.

    Line ends, the ESC of escape sequences, characters that change the direction of writing, invisible ones and lone
    surrogates become spaces, or ``instead``. Each run of spaces becomes one.
    """
    shown = " ".join(_replaced(text[: 4 * most], "", instead).split())
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def printable_line(text: str, most: int | None = None) -> str:
    """A text on one line with all its spaces, such as a row of a table, cut to ``most`` characters if it is given."""
    shown = _replaced(text[:most], "", " ")
    return shown if most is None or len(text) <= most else f"{shown[: most - 1]}…"


def printable_lines(text: str) -> str:
    """A text of several lines without control characters. Each one, except for line ends and tabs, becomes a space."""
    return _replaced(text, "\n\t", " ")


def indented(text: str) -> Lines:
    """A text of several lines, for a log."""
    return Lines("\n".join(f"    {line}" for line in printable_lines(text).split("\n")))


def _replaced(text: str, kept: str, instead: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each if (each.isprintable() and each not in _INVISIBLE) or each in kept else instead for each in text
    )
