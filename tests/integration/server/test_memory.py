"""The memory that is needed to read hostile JSON."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mr_celery.server.answers import read_long
from mr_celery.server.list_parser import entries, members


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("value", [b"[]", b'{"a":1}', b'"xy"'])
def test_the_memory_of_many_values_is_bounded(value: bytes) -> None:
    """This includes entries of a list, and a response that is read for one member."""
    size = 2**18
    many = b"[" + (value + b",") * (2**20 // (len(value) + 1)) + b"0]"
    readings: list[Callable[[], object]] = [
        lambda: list(entries(pieces(b'{"jobs":[{"id":1,"x":' + many + b'},{"id":2}],"more":' + many + b"}", size))),
        lambda: read_long(pieces(many, size), ("id",)),
        lambda: read_long(pieces(b'{"x":' + many + b',"id":2}', size), ("id",)),
        lambda: read_long(pieces(b'{"id":' + many + b"}", size), ("id",)),
        lambda: [name for name, _ in members(pieces(b'{"x":' + many + b"}", size))],
    ]
    for read in readings:
        tracemalloc.start()
        try:
            with suppress(ValueError):  # nothing can be read of a member with so many values
                read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 40 * 2**20
