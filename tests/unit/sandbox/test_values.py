"""Validation of request values, and its error messages."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from mr_celery.sandbox import values
from mr_celery.sandbox.values import MalformedError


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON|nested deeper"),
        (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", "nested deeper than 100"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
    ],
)
def test_parse_object_refuses_other_input(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        values.parse_object(data)


def test_parse_object_replaces_only_lone_surrogates() -> None:
    body = {"a\ud800": ["x\udfffy", {"b": "\ud83d"}], "ok": "\u0000 é 😀", "n": 10**400, "f": 1.5, "z": None, "t": True}
    parsed = values.parse_object(json.dumps(body).encode())
    assert parsed == {
        "a\ufffd": ["x\ufffdy", {"b": "\ufffd"}],
        "ok": "\u0000 é 😀",
        "n": 10**400,
        "f": 1.5,
        "z": None,
        "t": True,
    }
    json.dumps(parsed, ensure_ascii=False).encode()


@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_wrong_type_names_the_field(value: Any) -> None:
    with pytest.raises(MalformedError, match="title must be a non-empty string"):
        values.required_text({"title": value}, "title")
    with pytest.raises(MalformedError, match="title must be a string"):
        values.any_text({"title": value}, "title")


def test_empty_and_missing_texts() -> None:
    with pytest.raises(MalformedError, match="non-empty"):
        values.required_text({"title": ""}, "title")
    assert values.any_text({"title": ""}, "title") == ""
    assert values.optional_text({}, "title") is None
    assert values.optional_text({"title": None}, "title") is None


@pytest.mark.parametrize("value", ["nope", "", None, 1, ["done"], {}])
def test_one_of(value: Any) -> None:
    with pytest.raises(MalformedError, match="status must be one of done, failed"):
        values.one_of({"status": value}, "status", ("done", "failed"))


@pytest.mark.parametrize("value", ["1", True, 1.0, 2**63, -(2**63), 10**400])
def test_optional_integer_refuses_other_values(value: Any) -> None:
    with pytest.raises(MalformedError, match="job_id must be an integer"):
        values.optional_integer({"job_id": value}, "job_id")


@pytest.mark.parametrize("text", ["", "-1", "1.0", " 1", "x", "١", "²", "9" * 19, "1_0", "\x00"])
def test_number_refuses_other_texts(text: str) -> None:
    assert values.digits(text) is None
    with pytest.raises(MalformedError, match="limit must be a whole number"):
        values.number({"limit": text}, "limit")


def test_number() -> None:
    assert values.number({}, "limit") is None
    assert values.number({"limit": "007"}, "limit") == 7
    assert values.digits("9" * 18) == 10**18 - 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T00:01:00+00:00", 60),
        ("1970-01-01T00:01:00", 60),
        ("1970-01-01T01:01:00+01:00", 60),
        ("1970-01-02", 86400),
    ],
)
def test_timestamp(text: str, seconds: float) -> None:
    assert values.timestamp(text, "expires_at") == seconds


@pytest.mark.parametrize("text", ["", "tomorrow", "1e9", "2030-13-01", "\x00", "2030-01-01T00:00:00ZZ"])
def test_timestamp_refuses_other_texts(text: str) -> None:
    with pytest.raises(MalformedError, match="expires_at must be an ISO 8601 time"):
        values.timestamp(text, "expires_at")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_timestamps_at_the_limits(text: str) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(values.timestamp(text, "expires_at"), float)
