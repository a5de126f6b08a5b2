"""The list of jobs, read entry by entry: the same as parsing the whole response, and more of it if that fails."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.server import job_list, list_parser
from mr_celery.server.job_list import entries
from mr_celery.server.list_parser import (
    MOST_NESTING,
    NOT_JSON,
    NOT_UTF8,
    SECOND_LIST,
    TOO_DEEP,
    TOO_LONG,
    TOO_MANY_DIGITS,
    BrokenList,
    Entry,
    NotAList,
)

MOST_ENTRY = 2**16
"""Bytes of the longest entry that these tests allow. The real bound takes a second to read."""


@pytest.fixture(autouse=True)
def small_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (job_list, list_parser):
        monkeypatch.setattr(module, "MOST_ENTRY", MOST_ENTRY)
    monkeypatch.setattr(list_parser, "MOST_WIDE_ENTRY", MOST_ENTRY // 4)


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(body: bytes | str, size: int = 7) -> list[Entry]:
    return list(entries(in_pieces(body.encode() if isinstance(body, str) else body, size)))


def values(found: list[Entry]) -> list[Any]:
    assert [entry.problem for entry in found] == [""] * len(found)
    return [entry.value for entry in found]


def problems(found: list[Entry]) -> list[str]:
    return [entry.problem for entry in found]


ID = '{"id": 1}'


class TestEntries:
    @pytest.mark.parametrize(
        ("body", "found"),
        [
            ('{"jobs":[]}', []),
            (' \n{ "jobs" :\t[ ] }\r\n', []),
            ('\ufeff{"jobs":[7]}', [7]),
            ('{"\\u006aobs":[1]}', [1]),
            ('{"a":[{"jobs":[1]}],"jobs":[2],"b":{"jobs":[3]}}', [2]),
            ('{"jobs":[1,-2.5e3,true,null,"x",[],{}, NaN]}', None),
            ('{"jobs":["a\\"]","[{\\\\"]}', ['a"]', "[{\\"]),
            ('{"jobs":[{"id":1,"id":2}]}', [{"id": 2}]),
        ],
    )
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
    def test_may_be_written_in_any_way(self, body: str, found: list[Any] | None, size: int) -> None:
        if found is None:
            assert repr(values(read(body, size))) == repr(json.loads(body)["jobs"])
        else:
            assert values(read(body, size)) == found

    @pytest.mark.parametrize(
        ("bad", "problem"),
        [
            ('{"id": 7, "x": ' + "[" * 2000 + "]" * 2000 + "}", TOO_DEEP),
            ('{"id": 7, "x": ' + '{"a":' * 5_000 + "1" + "}" * 5_001, TOO_DEEP),
            ('{"id": 7, "x": ' + "[" * MOST_NESTING + "]" * MOST_NESTING + "}", TOO_DEEP),
            ('{"id": 7, "x": ' + "9" * 5000 + "}", TOO_MANY_DIGITS),
            ('{"id": 7, "x": "' + "y" * MOST_ENTRY + '"}', TOO_LONG),
            ('{"id": 7, "x": "' + '\\"' * (MOST_ENTRY // 2) + '"}', TOO_LONG),
            ('{"id": 7, "x": [' + '"y",' * (MOST_ENTRY // 4) + "1]}", TOO_LONG),
            ('{"id": 7, "x": tru}', NOT_JSON),
            ('{"id": 7, "x": "\n"}', NOT_JSON),
            ('{"id": 7, "x": 01}', NOT_JSON),
            ('{"id": 7, "x" 1}', NOT_JSON),
            ('{"id": 7, "x": [1}, "y": {2]}', NOT_JSON),
            (b'{"id": 7, "x": "\xff"}', NOT_UTF8),
            (b'{"id": 7, "x": "\xed\xa0\x80"}', NOT_UTF8),
        ],
        ids=[
            "lists",
            "objects",
            "just too deep",
            "digits",
            "long",
            "escapes",
            "strings",
            "word",
            "newline",
            "zero",
            "no colon",
            "crossed",
            "byte",
            "surrogate",
        ],
    )
    @pytest.mark.parametrize("size", [17, 100_000])
    def test_that_cannot_be_read_are_skipped_and_their_id_is_found(
        self, bad: bytes | str, problem: str, size: int
    ) -> None:
        bad = bad.encode() if isinstance(bad, str) else bad
        if len(bad) > MOST_ENTRY:
            size = max(size, 10_000)
        found = read(b'{"jobs":[{"id": 1},' + bad + b',{"id": 2}]}', size)
        assert problems(found) == ["", problem, ""]
        assert found[1].members == {"id": 7}
        assert [found[0].value, found[2].value] == [{"id": 1}, {"id": 2}]

    @pytest.mark.parametrize(
        ("members", "found"),
        [
            ('"id": 7, "status": "Running ", ', {"id": 7, "status": "Running "}),
            ('"status":"x", "id" : "7" ,', {"id": "7", "status": "x"}),
            ('"id": 7, "id": 8,', {"id": None}),
            ('"a": {"id": 9}, "b": [{"id": 9}], "c": "id", "\\"id": 9,', {}),
            ('"id": 7.5,', {}),
            ('"id": ' + "9" * 30 + ",", {}),
            ('"id": null, "status": null,', {}),
        ],
    )
    @pytest.mark.parametrize("size", [1, 11, 1000])
    def test_that_cannot_be_read_keep_their_id_and_status(self, members: str, found: dict[str, Any], size: int) -> None:
        (entry,) = read('{"jobs":[{' + members + '"x": tru}]}', size)
        assert (entry.problem, entry.members) == (NOT_JSON, found)

    def test_have_an_id_after_a_field_that_is_too_long(self) -> None:
        (entry,) = read('{"jobs":[{"a": "' + "y" * 2 * MOST_ENTRY + '", "id": 7}]}', 100_000)
        assert (entry.problem, entry.members) == (TOO_LONG, {"id": 7})
        assert entry.size == 2 * MOST_ENTRY + len('{"a": "", "id": 7}')

    def test_may_be_as_deep_and_as_long_as_the_bounds(self) -> None:
        deep = "[" * (MOST_NESTING - 1) + "]" * (MOST_NESTING - 1)
        long = '{"x": "' + "y" * (MOST_ENTRY - len('{"x": ""}')) + '"}'
        wide = json.dumps({"x": [{"y": [1]}] * 500})
        assert len(values(read(f'{{"jobs":[{{"x": {deep}}},{long},{wide}]}}', 100_000))) == 3

    def test_have_as_many_digits_as_python_takes(self) -> None:
        digits = "9" * sys.get_int_max_str_digits()
        assert values(read(f'{{"jobs":[{digits},{digits}]}}', 1000)) == [int(digits)] * 2

    def test_of_a_second_list_come_with_a_mark(self) -> None:
        found = read('{"jobs":[1], "jobs":[2]}')
        assert [(entry.value, entry.problem) for entry in found] == [(1, ""), (None, SECOND_LIST), (2, "")]

    def test_are_parsed_once_where_a_chunk_has_them_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(list_parser, "_skimmed", None)
        assert len(read(json.dumps({"jobs": [{"id": number} for number in range(1000)]}), 10**6)) == 1000


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "shape"),
        [
            ("", "nothing"),
            (" \n", "nothing"),
            ("[]", "list"),
            ('[{"id":1}]', "list"),
            ("null", "null"),
            ("7", "int"),
            ('"x"', "str"),
            ("{}", "an empty object"),
            ('{"error": 1}', "an object with 'error'"),
            ('{"jobs": null}', "an object with 'jobs'"),
            ('{"jobs": {"1": {}}}', "an object with 'jobs'"),
            ('{"jobs": [], "jobs": null}', "an object with 'jobs'"),
            (json.dumps(dict.fromkeys("gfedcba", 1)), "an object with 'c', 'd', 'e', 'f', 'g'"),
        ],
    )
    def test_of_another_shape(self, body: str, shape: str) -> None:
        with pytest.raises(NotAList) as caught:
            read(body)
        assert caught.value.shape == shape

    @pytest.mark.parametrize(
        "body",
        [
            "<html>",
            "{",
            '{"jobs"',
            '{"jobs":',
            '{"jobs":[',
            '{"jobs":[1',
            '{"jobs":[1,',
            '{"jobs":["',
            '{"jobs":["\\',
            '{"jobs":[{"id":1',
            '{"jobs":[]',
            '{"jobs":[],',
            '{"jobs":[],}',
            '{"jobs":[1,]}',
            '{"jobs":[,1]}',
            '{"jobs":[1 2]}',
            '{"jobs":[1}',
            '{"jobs":[1]]',
            '{"jobs":[]} x',
            '{"jobs":[]}{}',
            "{jobs:[]}",
            '{7:[],"jobs":[]}',
            '{"jobs" []}',
            '"x',
            "7 7",
        ],
    )
    @pytest.mark.parametrize("size", [1, 1000])
    def test_that_is_no_json(self, body: str, size: int) -> None:
        with pytest.raises(BrokenList):
            read(body, size)

    def test_are_raised_after_what_is_complete(self) -> None:
        reading = entries(in_pieces(b'{"jobs":[1,2,{"id"', 4))
        assert [next(reading).value, next(reading).value] == [1, 2]
        with pytest.raises(BrokenList, match="it ends in the middle"):
            next(reading)


def test_memory_does_not_grow_with_the_list() -> None:
    entry = b'{"id": 1, "prompt": "' + b"x" * 6000 + b'"},'

    def chunks(count: int) -> Iterator[bytes]:
        yield b'{"jobs":['
        for _ in range(count):
            yield entry
        yield b"{}]}"

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in entries(chunks(count))) == count + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(5000) < 2 * peak(10)


def test_memory_does_not_grow_with_an_entry_that_is_too_long() -> None:
    def chunks(megabytes: int) -> Iterator[bytes]:
        yield b'{"jobs":[{"id": 7, "x": "'
        for _ in range(16 * megabytes):
            yield b"x" * 2**16
        yield b'"}]}'

    tracemalloc.start()
    try:
        (found,) = entries(chunks(10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.problem, found.members) == (TOO_LONG, {"id": 7})
    assert peak < 6 * MOST_ENTRY


@pytest.mark.parametrize("wide", ["\U0001f600", "\\ud83d\\ude00"])
def test_an_entry_with_wide_characters_may_be_a_quarter_as_long(wide: str) -> None:
    def found(length: int, character: str) -> str:
        body = b'{"jobs":[{"id":7,"x":"' + character.encode() + b"x" * length + b'"}]}'
        (entry,) = entries(in_pieces(body, 2**10))
        return entry.problem

    assert found(MOST_ENTRY // 4 - 100, wide) == ""
    assert found(MOST_ENTRY // 4, wide) == TOO_LONG
    assert found(MOST_ENTRY // 2 - 100, "\u00e9\u4e2d") == ""
    assert found(MOST_ENTRY // 2, "\u00e9\u4e2d") == TOO_LONG
    assert found(MOST_ENTRY - 100, "\u00e9") == ""
