"""HTTP responses as values, and their corruption by faults."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from .chaos import Rule

LARGE_BYTES = 10_000_000
"""Size of a response with the fault ``large``."""

_WRONG_SHARE = 0.3
"""Fraction of the fields that ``wrong_types`` replaces. It replaces at least one."""

_LOGIN_PAGE = b"<!doctype html><html><title>Log in</title><form method=post><input name=password></form></html>"

_VALUES: dict[str, tuple[Any, ...]] = {
    "null": (None,),
    "bool": (True, False),
    "number": (0, -1, 1.5, 2**70),
    "string": ("", "7", "done", "\u0000"),
    "list": ([], [None], [1, "a"]),
    "object": ({}, {"id": 1}),
}


@dataclass(frozen=True)
class Answer:
    """An HTTP response.

    Attributes:
        status: the HTTP status.
        headers: pairs of a lower-case name and a value.
        body: the body. The header ``content-length`` has its length.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def with_body(self, body: bytes) -> Answer:
        """A copy with another body."""
        others = [each for each in self.headers if each[0] != b"content-length"]
        return replace(self, headers=(*others, (b"content-length", str(len(body)).encode())), body=body)


def make_answer(body: bytes, content_type: str = "application/json", status: int = 200) -> Answer:
    """Create a response with a body."""
    return Answer(status, ((b"content-type", content_type.encode()),), b"").with_body(body)


def placeholder() -> Answer:
    """The response to corrupt if the request was not carried out."""
    return make_answer(b'{"success": true, "id": 1, "status": "pending"}')


def corrupt(rule: Rule, answer: Answer, dice: random.Random) -> Answer:
    """Apply a fault to a response. Faults of the transmission, such as ``hang``, do not change it.

    Args:
        rule: the rule with the fault.
        answer: the correct response.
        dice: the random generator for details of the fault.
    """
    fault = rule.fault
    if fault == "status":
        return _status(rule.status or 500, rule.retry_after)
    if fault == "html":
        return make_answer(_LOGIN_PAGE, "text/html; charset=utf-8")
    if fault == "null":
        return make_answer(b"null")
    if fault == "list":
        return make_answer(b"[]")
    if fault == "empty_list":
        return make_answer(b'{"jobs": []}')
    if fault == "wrong_types":
        return answer.with_body(json.dumps(wrong_types(json.loads(answer.body), dice)).encode())
    if fault == "large":
        missing = max(LARGE_BYTES - len(answer.body) - len(b', "padding": ""'), 0)
        padded = {**json.loads(answer.body), "padding": "x" * missing}
        return answer.with_body(json.dumps(padded).encode())
    return answer


def _status(status: int, retry_after: int | None) -> Answer:
    try:
        text = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:  # not standard, such as 520 of some proxies
        text = str(status)
    if status in (204, 304):  # without a body
        return Answer(status, (), b"")
    answer = make_answer(text.encode(), "text/plain; charset=utf-8", status)
    if retry_after is None:
        return answer
    return replace(answer, headers=(*answer.headers, (b"retry-after", str(retry_after).encode())))


def wrong_types(value: Any, dice: random.Random) -> Any:
    """Replace some fields and list entries of a JSON value, at least one, by values of another JSON type."""
    paths = _paths(value)
    chosen = [each for each in paths if dice.random() < _WRONG_SHARE] or (paths and [dice.choice(paths)])
    changed = json.loads(json.dumps(value))
    # Deepest first, because replacing a container removes the paths below it.
    for *path, last in sorted(chosen, key=len, reverse=True):
        container = changed
        for step in path:
            container = container[step]
        container[last] = _value_of_another_type(container[last], dice)
    return changed


def _paths(value: Any) -> list[tuple[Any, ...]]:
    """The paths of all fields and list entries, at any depth."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, each in entries for path in [(key,), *((key, *rest) for rest in _paths(each))]]


def _value_of_another_type(value: Any, dice: random.Random) -> Any:
    other = dice.choice([each for each in _VALUES if each != json_type(value)])
    return dice.choice(_VALUES[other])


def json_type(value: Any) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"
