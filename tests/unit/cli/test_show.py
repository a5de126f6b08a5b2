"""How things are shown on a terminal."""

from __future__ import annotations

import click
import pytest

from mr_celery.cli.show import age, counted, table


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (3600, "1 h"),
        (86400, "1 d"),
        (864000, "10 d"),
    ],
)
def test_an_age_is_short_and_has_a_unit(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_one_and_many() -> None:
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_columns_are_aligned() -> None:
    rows = [("a", 1, "x"), ("longer", 12, "")]
    assert [click.unstyle(line) for line in table(("name", "n", ""), rows, right=(1,))] == [
        "name     n",
        "a        1  x",
        "longer  12",
    ]


def test_colour_does_not_disturb_the_columns() -> None:
    painted = table(("a", "b"), [("x", "y")], paint=lambda column, cell: click.style(cell, fg="red"))
    assert click.unstyle(painted[1]) == "x  y"
    assert painted[1] != "x  y"
