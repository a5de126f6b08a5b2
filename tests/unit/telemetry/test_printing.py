"""Foreign text made safe for a terminal or a log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mr_celery.telemetry.printing import indented, printable, printable_line, printable_lines
from support.hostile import EVERYTHING, TEXTS, forged, unsafe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r\nd", "a b c d"),
        ("x" * 301, "x" * 299 + "…"),
        ("\x1b[31mred\x00\x9b", "[31mred"),
        ("abc\u202edcba\u2066x\u2028y", "abc dcba x y"),
        ("\ud800é", "é"),
        ("zero\u200bwidth\u3164and\ufe0ffillers", "zero width and fillers"),
        ("naïve 日本語 🙂", "naïve 日本語 🙂"),
        ("", ""),
    ],
)
def test_foreign_text_is_made_printable_and_short(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("shown", [printable, printable_line])
def test_hostile_text_is_one_harmless_line(shown: Callable[[str], str]) -> None:
    for line in map(shown, (*TEXTS, EVERYTHING)):
        assert line.startswith("begin")
        assert unsafe(line, kept="") == []
        assert len(line.splitlines()) == 1


def test_a_line_keeps_its_length_and_spaces() -> None:
    row = "1  \x1b  " + "x" * 1000
    assert printable_line(row) == row.replace("\x1b", " ")
    assert printable_line(row, 9) == "1     xx…"
    assert printable_line("1  \n", 4) == "1   "


def test_foreign_lines_keep_their_line_ends() -> None:
    assert printable_lines("a\tb\n\x1b[2Jc\r\n\u202ed\x9b\ud800") == "a\tb\n [2Jc \n d  "


def test_lines_in_a_log_are_indented() -> None:
    for shown in map(indented, (*TEXTS, EVERYTHING)):
        assert unsafe(shown, kept="\n\t") == []
        assert forged(shown) == []
        assert all(line.startswith("    ") for line in shown.split("\n"))
