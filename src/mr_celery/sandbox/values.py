"""What a request may say: checks of its values, whose errors name the field and what it must be."""

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
    """The request is not what the protocol says (400)."""


def parse_object(data: bytes) -> Body:
    """A JSON object of which every value can be kept and answered again.

    NaN and infinities, which Python's parser takes, are not JSON; lone surrogates, which are, become U+FFFD.
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
    """The JSON value with every text in it as UTF-8 can say it."""
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
    """The text with lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def required_text(body: Body, name: str) -> str:
    """A string that is not empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{name} must be a non-empty string")
    return value


def any_text(body: Body, name: str) -> str:
    """A string, which may be empty."""
    value = body.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be a string")
    return value


def optional_text(body: Body, name: str) -> str | None:
    """A string or null."""
    return None if body.get(name) is None else any_text(body, name)


def one_of(body: Body, name: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    value = body.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise MalformedError(f"{name} must be one of {', '.join(allowed)}")
    return value


def optional_integer(body: Body, name: str) -> int | None:
    """An integer that the store can keep, or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise MalformedError(f"{name} must be an integer of at most 64 bits, or null")
    return value


def number(texts: Mapping[str, str], name: str) -> int | None:
    """A whole number of a query or a form; ``None`` where it is absent."""
    text = texts.get(name)
    if text is None:
        return None
    value = digits(text)
    if value is None:
        raise MalformedError(f"{name} must be a whole number")
    return value


def digits(text: str) -> int | None:
    """The number that ASCII digits say, if it is one that the store can keep."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def timestamp(text: str, name: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; without a time zone it is UTC."""
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
