"""Random lists of jobs, read entry by entry: the result is that of Python's json, which parses the whole response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.server import list_parser
from mr_celery.server.job_list import Reader, entries
from mr_celery.server.list_parser import BrokenList, Entry, NotAList
from support.fuzzing import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["id", "jobs", "status", '"', "\\", '\\"', "[", "]", "{", "}", "\\u0041", "\u2028", "😀", "\x00"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
ANSWERS = st.tuples(
    st.dictionaries(TEXT.filter(lambda name: name != "jobs"), VALUES, max_size=3),
    st.lists(VALUES, max_size=8),
    st.dictionaries(TEXT.filter(lambda name: name != "jobs"), VALUES, max_size=3),
)


def read(body: bytes, size: int) -> Iterator[Entry]:
    return entries(body[start : start + size] for start in range(0, len(body), size))


def values(found: list[Entry]) -> list[Any]:
    assert [entry.problem for entry in found] == [""] * len(found)
    return [entry.value for entry in found]


def written(answer: tuple[dict[str, Any], list[Any], dict[str, Any]], *, ascii_only: bool, indent: int | None) -> bytes:
    before, jobs, after = answer
    return json.dumps({**before, "jobs": jobs, **after}, ensure_ascii=ascii_only, indent=indent).encode()


@examples(150)
@given(ANSWERS, st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 2]))
def test_a_list_gives_what_the_whole_answer_has(
    answer: tuple[Any, list[Any], Any], size: int, ascii_only: bool, indent: int | None
) -> None:
    body = written(answer, ascii_only=ascii_only, indent=indent)
    assert values(list(read(body, size))) == json.loads(body)["jobs"]


@examples(300)
@given(ANSWERS, st.integers(1, 40), st.data())
def test_mutated_bytes_raise_nothing_but_the_documented_errors(
    answer: tuple[Any, list[Any], Any], size: int, data: st.DataObject
) -> None:
    body = bytearray(written(answer, ascii_only=False, indent=None))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        byte = data.draw(st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b"\\"]))
        body[at : at + data.draw(st.integers(0, 3))] = byte
    try:
        found: list[Any] | None = [entry.value for entry in read(bytes(body), size) if not entry.problem]
    except (NotAList, BrokenList):
        found = None
    try:
        whole = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return
    # If the whole response can be parsed, so can each entry. If there are two lists, json.loads keeps the last.
    if isinstance(whole, dict) and isinstance(whole.get("jobs"), list) and found is not None:
        count = len(whole["jobs"])
        assert found[len(found) - count :] == whole["jobs"]


@examples(100)
@given(ANSWERS, st.integers(1, 40), st.data())
def test_a_list_that_is_cut_gives_its_complete_entries(
    answer: tuple[Any, list[Any], Any], size: int, data: st.DataObject
) -> None:
    body = written(answer, ascii_only=True, indent=None)
    cut = body[: data.draw(st.integers(1, len(body) - 1))]
    found: list[Entry] = []
    with pytest.raises((BrokenList, NotAList)):
        found.extend(read(cut, size))
    assert values(found) == answer[1][: len(found)]


# -- texts that are like a list ---------------------------------------------------------------------------

TOKENS = st.sampled_from(
    [
        *("{", "}", "[", "]", ",", ":", '"', "\\", " ", "\n", "\t", "\ufeff", "\u2028", "\x00", "\x1f", "\x7f"),
        *(
            '"jobs"',
            '"jobs":[',
            '{"jobs":[',
            "]}",
            '"\\u006aobs":[',
            '"id":',
            '"id":7',
            '"status":"running"',
            '{"id":7}',
        ),
        *("1", "-", "0", "00", "1.", ".5", "1e5", "1e999", "-0", "9" * 25, "true", "tru", "null", "NaN", "-Infinity"),
        *('"\\ud800"', '"\\ud83d\\ude00"', '"\\x"', '"\\u12"', '"a\nb"', "'x'", "//", "/*", "é", "\U0001f600"),
        *("[" * 101, "]" * 101, '{"a":' * 101, "}" * 101, '"' + "x" * 300 + '"'),
    ]
)
LIKE_LISTS = st.lists(TOKENS | st.text(max_size=3), max_size=25).map(
    lambda parts: "".join(parts).encode("utf-8", "replace")
)
WITHIN = LIKE_LISTS.map(lambda inner: b'{"jobs":[' + inner + b"]}")
BYTES = LIKE_LISTS | WITHIN | st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b'{"jobs":["' + b + b'"]}')


def read_until_damage(body: bytes, size: int) -> tuple[list[Entry], bool]:
    """The entries from the incremental parser, and whether the response was read to its end."""
    found: list[Entry] = []
    try:
        found.extend(list_parser.entries(body[start : start + size] for start in range(0, len(body), size)))
    except (NotAList, BrokenList):
        return found, False
    return found, True


def jobs_of(text: str) -> list[Any] | None:
    """The jobs as Python's json reads them; ``None`` if it does not."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    jobs = answer.get("jobs") if isinstance(answer, dict) else None
    return jobs if isinstance(jobs, list) else None


@examples(1500)
@given(body=BYTES, size=st.integers(1, 50))
def test_any_bytes_give_the_jobs_that_json_has(body: bytes, size: int) -> None:
    found, whole = read_until_damage(body, size)
    text = body.decode(errors="surrogateescape").removeprefix("\ufeff")
    jobs = jobs_of(text)
    if jobs is not None and whole:  # it is refused if another member of that name is no list
        last = found[len(found) - len(jobs) :]  # of two lists json keeps the last
        kept = [(entry.value, job) for entry, job in zip(last, jobs, strict=True) if not entry.problem]
        assert repr([value for value, _ in kept]) == repr([job for _, job in kept])
    elif whole:
        assert any(entry.problem for entry in found), "json reads it, too"
    elif found and not any(entry.problem for entry in found):
        ends = (jobs_of(text[:cut] + "]}") for cut in range(len(text) + 1))
        assert repr([entry.value for entry in found]) in map(repr, ends)


@examples(1500)
@given(body=BYTES, size=st.integers(1, 50))
def test_an_answer_in_parts_is_read_as_one_that_came_at_once(body: bytes, size: int) -> None:
    def read_in(parts: list[bytes]) -> str:
        reader = Reader("pending", None, None)
        try:
            reader.read(parts)
        except (NotAList, BrokenList):
            return "refused"
        return repr((reader.listing(), reader.left_out))

    assert read_in([body]) == read_in([body[start : start + size] for start in range(0, len(body), size)])


@pytest.mark.parametrize(
    "body",
    [
        b'{"jobs":[{"id":7}],"\\u006aobs":[{"id":8}]}',
        b'{"\\u006aobs":[{"id":7}],"jobs":[{"id":8}]}',
        b'{"\\u006aobs":{},"jobs":[{"id":8}]}',
        b'{"jobs":[{"id":8}],"\\u006Aobs":null}',
    ],
)
def test_a_second_list_under_an_escaped_name(body: bytes) -> None:
    for parts in ([body], [body[:9], body[9:]]):
        reader = Reader("pending", None, None)
        try:
            reader.read(parts)
        except NotAList:
            continue
        assert not reader.listing().whole


@examples(150)
@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(1, 40), st.integers(1, 30), st.booleans())
def test_long_entries_end_where_they_end(inner: list[Any], size: int, window: int, ascii_only: bool) -> None:
    """Long entries of several chunks have their brackets counted in windows."""
    jobs = [{"id": 1, "more": inner * 30}, [inner * 30], {"id": 2, "status": "done"}]
    body = json.dumps({"jobs": jobs}, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_parser, "_WINDOW", window)
        patch.setattr(list_parser, "_PATIENCE", 3)
        assert values(list(read(body, size))) == jobs
        patch.setattr(list_parser, "MOST_VALUES", 3)
        found = list(read(body, size))
    assert [entry.value or entry.members for entry in found] == [{"id": 1}, {}, jobs[2]]
