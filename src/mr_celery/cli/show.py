"""Formats tables and paragraphs for the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence

from ..telemetry.printing import printable
from .terminal import styled

LEAST_WIDTH = 8
"""Minimum width of a column that is cut to fit the terminal, in characters."""

LEAST_WRAPPED = 20
"""Minimum width of a column that is wrapped, in characters."""

MOST_CHARACTERS = 1000
"""Maximum length of a cell, in characters."""


def terminal_width() -> int:
    """The width of the terminal in characters; 80 without a terminal. COLUMNS overrides it."""
    return shutil.get_terminal_size().columns


def table_width() -> int | None:
    """The width to which tables are cut; ``None`` without a terminal, where programs read them."""
    return terminal_width() if sys.stdout.isatty() else None


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[int] = (),
    paint: Callable[[int, str], str] = lambda column, cell: cell,
    width: int | None = None,
    cut: Sequence[int] = (),
    wrap: bool = False,
) -> list[str]:
    """Format a table: lines with aligned columns, two spaces apart. Cells are made printable.

    Args:
        head: the column names.
        rows: the cells.
        right: indices of the columns that are right-aligned, such as numbers.
        paint: styles a cell, which is already padded to its column's width.
        width: width in characters that the lines should fit into; ``None``: any.
        cut: indices of the columns that may be cut to fit.
        wrap: whether the last column is wrapped at words to fit, with a hanging indent.
    """
    texts = [[printable(str(cell), MOST_CHARACTERS) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (head, *texts)) for column in range(len(head))]
    if width is not None:
        _shrink(widths, cut, sum(widths) + 2 * (len(head) - 1) - width)
    before_last = sum(widths[:-1]) + 2 * (len(head) - 1)
    room = max(LEAST_WRAPPED, width - before_last) if wrap and width is not None else widths[-1]
    padded = [*widths[:-1], widths[-1] if len(head) - 1 in right else 0]  # no trailing spaces

    def line(row: Sequence[str], style: Callable[[int, str], str]) -> str:
        cells = []
        for column, (cell, size) in enumerate(zip(row, padded, strict=True)):
            shown = _cut(cell, widths[column]) if column in cut else cell
            cells.append(style(column, shown.rjust(size) if column in right else shown.ljust(size)))
        return "  ".join(cells).rstrip()

    lines = [styled(line(head, lambda _, cell: cell), bold=True)]
    for row in texts:
        first, *further = textwrap.wrap(row[-1], room) or [""] if wrap else [row[-1]]
        lines.append(line([*row[:-1], first], paint))
        lines += [" " * before_last + paint(len(head) - 1, text) for text in further]
    return lines


def _shrink(widths: list[int], cut: Sequence[int], excess: int) -> None:
    """Make columns narrower by ``excess`` characters together, always the widest one, down to a minimum."""
    while excess > 0:
        widest = max(cut, key=lambda column: widths[column], default=None)
        if widest is None or widths[widest] <= LEAST_WIDTH:
            return
        widths[widest] -= 1
        excess -= 1


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"


def paragraph(text: str, *, hanging: int = 0) -> list[str]:
    """The lines of a text, wrapped at words to the width of the terminal.

    Args:
        text: the text. It is made printable.
        hanging: indent of all lines but the first, in characters.
    """
    return textwrap.wrap(
        printable(text, MOST_CHARACTERS),
        max(terminal_width(), hanging + LEAST_WRAPPED),
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
