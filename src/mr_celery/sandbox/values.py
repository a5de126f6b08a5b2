"""Validates the values of requests. Errors name the field and the allowed values."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import MrCeleryError

MAX_INTEGER = 2**63 - 1
MAX_DEPTH = 100

Body = Mapping[str, Any]


class MalformedError(MrCeleryError):
    """The request does not follow the protocol (400)."""


class NotFoundError(MrCeleryError):
    """The job, worker, review or artifact does not exist (404)."""


def parse_object(data: bytes) -> Body:
    """Parse a JSON object into values that can be stored and serialized again.

    NaN and infinities, which Python's parser accepts, are refused. Lone surrogates become U+FFFD.
    """
    try:
        body = json.loads(data, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise MalformedError("the body must be a JSON object")
    cleaned: Body = clean(body)
    return cleaned


def clean(value: Any, depth: int = 0) -> Any:
    """Make all strings in a JSON value encodable as UTF-8."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"the body is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): clean(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(each, depth + 1) for each in value]
    return value


def clean_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def required_text(body: Body, name: str) -> str:
    """Return a field that must be a non-empty string."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{name} must be a non-empty string")
    return value


def any_text(body: Body, name: str) -> str:
    """Return a field that must be a string."""
    value = body.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be a string")
    return value


def optional_text(body: Body, name: str) -> str | None:
    """Return a field that must be a string or null."""
    return None if body.get(name) is None else any_text(body, name)


def one_of(body: Body, name: str, allowed: tuple[str, ...]) -> str:
    """Return a field that must be one of the allowed strings."""
    value = body.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise MalformedError(f"{name} must be one of {', '.join(allowed)}")
    return value


def optional_integer(body: Body, name: str) -> int | None:
    """Return a field that must be a 64-bit integer or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise MalformedError(f"{name} must be an integer of at most 64 bits, or null")
    return value


def number(texts: Mapping[str, str], name: str) -> int | None:
    """Return a whole number from a query or form, or ``None`` if it is missing."""
    text = texts.get(name)
    if text is None:
        return None
    value = digits(text)
    if value is None:
        raise MalformedError(f"{name} must be a whole number")
    return value


def digits(text: str) -> int | None:
    """Parse ASCII digits, or return ``None`` if they are not a number that fits the store."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def timestamp(text: str, name: str) -> float:
    """Parse an ISO 8601 time to seconds since 1970. Without a time zone it is UTC."""
    try:
        time = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (time if time.tzinfo else time.replace(tzinfo=dt.timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        raise MalformedError(f"{name} must be an ISO 8601 time such as 2030-01-31T12:00:00Z") from None


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
