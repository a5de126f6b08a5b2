"""Formatting of results and texts on the page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from markupsafe import Markup

from mr_celery.sandbox.page import text


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
def test_output_kind(result: str, kind: str) -> None:
    shown = text.output(result)
    assert shown.kind == kind
    assert shown.cut is (len(result) > 200_000)


def test_last_line_of_a_traceback() -> None:
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
def test_markdown_is_safe(source: str, html: str) -> None:
    assert text.markdown(source).strip() == f"<p>{html}</p>"


def test_markdown_table_has_no_inline_styles() -> None:
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
def test_slug_in(address: str, slug: str | None) -> None:
    assert text.slug_in(address) == slug


@pytest.mark.parametrize(("value", "foldable"), [({}, True), ([1] * 2000, True), ([1] * 2001, False), ("x", True)])
def test_foldable(value: Any, foldable: bool) -> None:
    assert text.foldable(value) is foldable


def test_deep_data_is_not_foldable() -> None:
    deep: Any = 1
    for _ in range(39):
        deep = [deep]
    assert text.foldable(deep)
    assert not text.foldable([deep])


@pytest.mark.parametrize("source", ["[" * 20_000, "a\n=" * 6000, "> - " * 5000, "*a_ " * 5000, "[a]: b\n" * 2500])
def test_markdown_that_takes_too_long_is_shown_as_it_is(source: str) -> None:
    assert text.markdown(source, 0.0) == Markup("<pre>{}</pre>").format(source)


def test_a_table_that_would_become_huge_is_none() -> None:
    columns = 100
    header = "|".join("a" * columns) + "\n" + "|".join("-" * columns) + "\n"
    assert "<table>" in text.markdown(header + "a\n" * 40)
    assert "<table>" not in text.markdown(header + "a\n" * 60)
    assert "<table>" in text.markdown(header + "a\n" * 40 + "\n" + "b\n" * 1000)
