"""How times, sizes and texts read on the page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mr_celery.sandbox.page import text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0.0 s"),
        (0.04, "0.0 s"),
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
def test_a_length_of_time(seconds: float, said: str) -> None:
    assert text.span(seconds) == said


@pytest.mark.parametrize(("seconds", "said"), [(-1, "now"), (1.9, "now"), (2, "2 s"), (9.9, "9 s"), (75, "1 min")])
def test_an_age(seconds: float, said: str) -> None:
    assert text.ago(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_400_000, "3.4 MB"), (10**12, "1000.0 GB")]
)
def test_a_size(count: int, said: str) -> None:
    assert text.size(count) == said


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("", "text"),
        ("plain text\nof two lines", "text"),
        ("2 * 3 * 4 = 24, a_b_c", "text"),
        ('{"a": 1}', "json"),
        (" [1, 2]", "json"),
        ("{not json}", "text"),
        ("[" * 100_000, "text"),
        (json.dumps([[[0] * 50] * 50]), "text"),
        ("17", "text"),
        ("# Title\ntext", "markdown"),
        ("some **bold** words", "markdown"),
        ("- one\n- two", "markdown"),
        ("- one", "text"),
        ("see [this](https://x.example)", "markdown"),
        ("| a | b |\n| - | - |\n| 1 | 2 |", "markdown"),
        ("Traceback (most recent call last):\n  File **x**\nValueError: no", "traceback"),
        ("x" * 200_001, "text"),
    ],
)
def test_how_a_result_is_shown(result: str, kind: str) -> None:
    shown = text.output(result)
    assert shown.kind == kind
    assert shown.cut is (len(result) > 200_000)


def test_the_last_line_of_a_traceback_is_named() -> None:
    assert text.output("Traceback (most recent call last):\n  x\nValueError: no\n").last == "ValueError: no"


BESIDE = 'rel="noreferrer noopener" target="_blank"'


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("[a](https://x.example/?a=1&b=2)", f'<a href="https://x.example/?a=1&amp;b=2" {BESIDE}>a</a>'),
        ("[a](javascript:x)", "[a](javascript:x)"),
        ("[a](JaVaScRiPt:x)", "[a](JaVaScRiPt:x)"),
        ("[a](&#106;avascript:x)", "[a](javascript:x)"),
        ("[a](data:text/html,x)", "[a](data:text/html,x)"),
        ("[a](file:///etc/passwd)", "[a](file:///etc/passwd)"),
        ("[a](//evil.example)", "[a](//evil.example)"),
        ("[a](/logout)", "[a](/logout)"),
        ("<b onclick=x>", "&lt;b onclick=x&gt;"),
        ("![a](https://x.example/i.png)", f'<a href="https://x.example/i.png" {BESIDE}>a</a>'),
        (f'![a "b"](/s/{"0" * 40})', f'<img src="/s/{"0" * 40}" alt="a &#34;b&#34;" loading="lazy">'),
    ],
)
def test_markdown_cannot_act(source: str, html: str) -> None:
    assert text.markdown(source).strip() == f"<p>{html}</p>"


def test_a_table_has_no_styles_in_place() -> None:
    html = text.markdown("| a | b |\n| :-: | --: |\n| 1 | 2 |")
    assert "style" not in html
    assert '<td class="right">2</td>' in html


@pytest.mark.parametrize(
    ("address", "slug"),
    [
        ("0" * 40, "0" * 40),
        (f"/s/{'a' * 40}", "a" * 40),
        (f"http://127.0.0.1:1/s/{'a' * 40}", "a" * 40),
        (f"https://sandbox:8765/s/{'a' * 40}", "a" * 40),
        (f"http://x/y/s/{'a' * 40}", None),
        (f"/s/{'a' * 40}?x", None),
        (f"/s/{'g' * 40}", None),
        ("/s/", None),
        ("", None),
    ],
)
def test_an_artifact_is_known_by_its_address(address: str, slug: str | None) -> None:
    assert text.slug_in(address) == slug


@pytest.mark.parametrize(("value", "foldable"), [({}, True), ([1] * 2000, True), ([1] * 2001, False), ("x", True)])
def test_what_can_be_folded(value: Any, foldable: bool) -> None:
    assert text.foldable(value) is foldable


def test_what_is_too_deep_is_not_folded() -> None:
    deep: Any = 1
    for _ in range(39):
        deep = [deep]
    assert text.foldable(deep)
    assert not text.foldable([deep])
