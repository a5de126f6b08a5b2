"""Answers as values, and how a fault spoils them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from .chaos import Rule

LARGE_BYTES = 10_000_000
"""How long the fault ``large`` makes an answer."""

_WRONG_SHARE = 0.3
"""The share of the fields that ``wrong_types`` replaces; one at least."""

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
    """An HTTP answer.

    Attributes:
        status: the HTTP status.
        headers: names in lower case, and values.
        body: the body; ``content-length`` among the headers is its length in bytes.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def with_body(self, body: bytes) -> Answer:
        """The same with another body."""
        others = [each for each in self.headers if each[0] != b"content-length"]
        return replace(self, headers=(*others, (b"content-length", str(len(body)).encode())), body=body)


def made_up(body: bytes, content_type: str = "application/json", status: int = 200) -> Answer:
    """An answer out of nothing."""
    return Answer(status, ((b"content-type", content_type.encode()),), b"").with_body(body)


def without_effect() -> Answer:
    """What there is to spoil where the request was not carried out."""
    return made_up(b'{"success": true, "id": 1, "status": "pending"}')


def spoilt(rule: Rule, answer: Answer, dice: random.Random) -> Answer:
    """The answer that a rule gives.

    Args:
        rule: the rule. One that spoils how an answer is sent, and not what it says, leaves it as it is.
        answer: the right answer.
        dice: for what the rule leaves open.
    """
    fault = rule.fault
    if fault == "status":
        return _status(rule.status or 500, rule.retry_after)
    if fault == "html":
        return made_up(_LOGIN_PAGE, "text/html; charset=utf-8")
    if fault == "null":
        return made_up(b"null")
    if fault == "list":
        return made_up(b"[]")
    if fault == "empty_list":
        return made_up(b'{"jobs": []}')
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
    except ValueError:  # one that no standard knows, such as a proxy's 520
        text = str(status)
    if status in (204, 304):  # which have no body
        return Answer(status, (), b"")
    answer = made_up(text.encode(), "text/plain; charset=utf-8", status)
    if retry_after is None:
        return answer
    return replace(answer, headers=(*answer.headers, (b"retry-after", str(retry_after).encode())))


def wrong_types(value: Any, dice: random.Random) -> Any:
    """A JSON value in which some fields and entries, one at least, have another JSON type."""
    places = _places(value)
    chosen = [each for each in places if dice.random() < _WRONG_SHARE] or (places and [dice.choice(places)])
    changed = json.loads(json.dumps(value))
    # The deepest first: else a place may be gone before its turn.
    for *path, last in sorted(chosen, key=len, reverse=True):
        holder = changed
        for step in path:
            holder = holder[step]
        holder[last] = _other(holder[last], dice)
    return changed


def _places(value: Any) -> list[tuple[Any, ...]]:
    """The path of each field and entry, at any depth."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, each in entries for path in [(key,), *((key, *rest) for rest in _places(each))]]


def _other(value: Any, dice: random.Random) -> Any:
    kind = dice.choice([each for each in _VALUES if each != kind_of(value)])
    return dice.choice(_VALUES[kind])


def kind_of(value: Any) -> str:
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
