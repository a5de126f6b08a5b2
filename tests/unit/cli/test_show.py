"""Tables on the terminal."""

from __future__ import annotations

import click
import pytest

from mr_celery.cli.show import paragraph, table
from mr_celery.cli.status import fitted
from mr_celery.cli.terminal import rendered, styled


def test_table_columns_are_aligned() -> None:
    rows = [("a", 1, "x"), ("longer", 12, "")]
    assert [click.unstyle(rendered(line)) for line in table(("name", "n", ""), rows, right=(1,))] == [
        "name     n",
        "a        1  x",
        "longer  12",
    ]


def test_styled_cells_keep_the_alignment() -> None:
    painted = table(("a", "b"), [("x", "y")], paint=lambda column, cell: styled(cell, fg="red"))
    assert click.unstyle(rendered(painted[1])) == "x  y"
    assert painted[1] != "x  y"


def test_columns_are_cut_to_the_width_the_widest_first() -> None:
    rows = [(1, "a" * 30, "b" * 10), (2, "short", "c" * 50)]
    lines = [click.unstyle(rendered(line)) for line in table(("n", "first", "second"), rows, width=40, cut=(1, 2))]
    assert max(map(len, lines)) == 40
    assert lines[1] == f"1  {'a' * 16}…  {'b' * 10}"
    assert lines[2] == f"2  short              {'c' * 17}…"


def test_columns_are_not_cut_beyond_legibility() -> None:
    (_, line) = table(("n", "text"), [(1, "a" * 30)], width=5, cut=(1,))
    assert line == f"1  {'a' * 7}…"


def test_the_last_column_wraps_at_words_below_itself() -> None:
    lines = table(("n", "note"), [("first", "one two three four five six seven"), ("x", "")], width=30, wrap=True)
    assert lines[1:] == ["first  one two three four five", "       six seven", "x"]


def test_cells_are_made_printable() -> None:
    (_, line) = table(("a", "b"), [("x\n\x1b[31my", "z\u202e")])
    assert line == "x [31my  z"


def test_a_paragraph_wraps_with_a_hanging_indent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = paragraph("reason: one two three four five six http://a.test/" + "x" * 30, hanging=8)
    first, second, third = lines
    assert (first, second) == ("reason: one two three four", "        five six")
    assert third == "        http://a.test/" + "x" * 30


def test_a_screen_that_is_too_long_is_cut_at_its_end() -> None:
    lines = [f"line {number}" for number in range(30)]
    assert fitted(lines, 30) == lines
    assert fitted(lines, 10) == [*lines[:9], "… 21 more lines"]
