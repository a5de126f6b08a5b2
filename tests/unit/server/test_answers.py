from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.server.answers import MOST_PARSED, TooLong, read_long
from mr_celery.server.list_parser import MOST_VALUES, TOO_LONG, TOO_MANY, BrokenList

PADDING = b" " * MOST_PARSED


def pieces(body: bytes, size: int = 2**16) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("needed", [(), ("id",)])
@pytest.mark.parametrize("body", [b"<html>" + PADDING, PADDING + b"null", b"7" * 100_000, b'"' + b"x" * 100_000])
def test_a_long_answer_must_look_like_json(body: bytes, needed: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        read_long(pieces(body), needed)


def test_a_long_answer_that_nobody_needs_is_not_read_to_its_end() -> None:
    assert read_long(endless(b'{"id": 1,'), ()) == {}
    assert read_long(endless(b"[1,"), ()) == []


def test_a_long_answer_is_read_up_to_what_is_needed() -> None:
    assert read_long(endless(b'{"x": {"id": 1}, "slug": "s", "url": "/s/s",'), ("slug", "url")) == {
        "slug": "s",
        "url": "/s/s",
    }


@pytest.mark.parametrize("found", [{}, {"id": 5}, {"id": None}, {"id": {"id": 1}}])
def test_a_long_answer_has_what_is_needed_wherever_it_is(found: dict[str, Any]) -> None:
    body = json.dumps({"prompt": '"id": 9 \\" ' * 20_000, "more": [[{"id": 8}]] * 3, **found, "z": "x"}).encode()
    assert read_long(pieces(body), ("id", "status")) == found


def test_a_long_answer_that_ends_in_the_middle_is_an_error() -> None:
    with pytest.raises(BrokenList):
        read_long(pieces(b'{"x": 1' + PADDING), ("id",))


def test_a_needed_member_that_is_too_large_is_left_out_with_the_reason() -> None:
    problems: dict[str, str] = {}
    job = b'{"id": 7, "status": "done", "x": [' + b"[]," * MOST_VALUES + b"[]]}"
    body = b'{"result": "' + b"x" * 5 * 2**20 + b'", "job": ' + job + b', "status": "done"}'
    read = read_long(pieces(body), ("job", "result", "status"), problems)
    assert read == {"result": {}, "job": {"id": 7, "status": "done"}, "status": "done"}
    assert problems == {"result": TOO_LONG, "job": TOO_MANY}


def test_an_answer_without_what_is_needed_is_read_up_to_a_bound() -> None:
    with pytest.raises(TooLong, match="longer than 67108864 bytes"):
        read_long(endless(b'{"x": "', 2**22, b"x"), ("id",))


def endless(start: bytes, size: int = 2**16, filler: bytes = b" ") -> Iterator[bytes]:
    yield start
    block = filler * size
    while True:
        yield block
