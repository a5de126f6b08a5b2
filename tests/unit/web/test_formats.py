"""Formatting of times, sizes and numbers on pages."""

from __future__ import annotations

import pytest

from mr_celery.web import formats


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 ms"),
        (0.0405, "40 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1, "1.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86399, "23 h"),
        (86400, "1 d"),
        (10**8, "1157 d"),
    ],
)
def test_span(seconds: float, said: str) -> None:
    assert formats.span(seconds) == said


@pytest.mark.parametrize(("seconds", "said"), [(-1, "now"), (1.9, "now"), (2, "2 s"), (9.9, "9 s"), (75, "1 min")])
def test_ago(seconds: float, said: str) -> None:
    assert formats.ago(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_400_000, "3.4 MB"), (10**12, "1000.0 GB")]
)
def test_size(count: int, said: str) -> None:
    assert formats.size(count) == said
