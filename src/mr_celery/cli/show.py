"""How things are shown on a terminal: ages, counts and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def age(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[int] = (),
    paint: Callable[[int, str], str] = lambda column, cell: cell,
) -> list[str]:
    """Lines of aligned columns, two blanks apart.

    Args:
        head: the columns' names.
        rows: the cells.
        right: the columns that are aligned to the right: numbers.
        paint: colours a cell that is as wide as its column already.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (head, *texts)) for column in range(len(head))]
    if len(head) - 1 not in right:
        widths[-1] = 0  # no blanks at the end of a line

    def line(row: Sequence[str], style: Callable[[int, str], str]) -> str:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(style(column, cell.rjust(width) if column in right else cell.ljust(width)))
        return "  ".join(cells).rstrip()

    return [click.style(line(head, lambda _, cell: cell), bold=True), *(line(row, paint) for row in texts)]
