"""The text form of an attempt's key."""

from __future__ import annotations

import pytest

from mr_celery.ledger import AttemptKey
from mr_celery.ledger.reference import digest_of, read_reference, reference

SECRET = "abcdefghijklmnopqrst-_"
KEY = AttemptKey(7, 1, SECRET)


@pytest.mark.parametrize(
    ("name", "is_long"), [("n" * 100, False), ("n" * 101, True), ("ü" * 50, False), ("ü" * 51, True)]
)
def test_a_long_worker_name_has_a_digest_in_references(name: str, is_long: bool) -> None:
    assert (digest_of(name) is not None) is is_long
    assert read_reference(reference(name, KEY), lambda digest: None) == (None if is_long else (name, KEY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "dw.7.1",
        f"dw.7.1.{SECRET[:-1]}",
        f"dw.7.1.{SECRET}x",
        f"dw.-7.1.{SECRET}",
        f"dw.7.1.{SECRET}\n",
        f"dw.٧.1.{SECRET}",
        f"dw/../x.7.1.{SECRET}",
        f"_w.7.1.{SECRET}",  # it does not decode to UTF-8
        f"d.7.1.{SECRET}",  # a base64 group cannot have a single character
        f"~{'0' * 32}.7.1.{SECRET}",
        "x" * 10_000,
        None,
        7,
        b"dw.7.1.abcdefghijklmnopqrst-_",
    ],
)
def test_what_is_no_reference(text: object) -> None:
    assert read_reference(text, lambda digest: None) is None  # type: ignore[arg-type]
