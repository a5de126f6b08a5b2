"""Stored values may contain fields from a later version, which are ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from mr_celery.delivery.placeholders import Placeholders, Stored
from mr_celery.ledger import BridgeProcess, Pause, Registration, Waiting
from mr_celery.ledger.records import TokenRefusal
from mr_celery.outcome import Outcome, ReviewItem, Upload

OUTCOME = Outcome("done", "made", (Upload("text/plain", "a.txt", 3),), (ReviewItem("text", "Look", "…"),))
BRIDGE = BridgeProcess("h:1", "h", "0.2.0", 5.0, waiting=(Waiting("full", "1 job waits for a slot", 1, 2.0),))


def with_more(value: Any) -> Any:
    """A copy of a value in which each non-empty object has an additional field."""
    if isinstance(value, dict) and value:
        return {**{name: with_more(each) for name, each in value.items()}, "of_a_later_version": 1}
    return [with_more(each) for each in value] if isinstance(value, (list, tuple)) else value


def answer_to_upload(text: str) -> Stored:
    return Placeholders("https://server.test", OUTCOME, {"artifact:0": text}).uploads[0]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (OUTCOME, Outcome.from_json),
        (BRIDGE, lambda text: BridgeProcess.read(json.loads(text))),
        (Pause("ann@host", 1.0, "a move"), Pause.from_json),
        (Registration("https://server.test", {}, 1.0), Registration.from_json),
        (TokenRefusal(1, 401, "no"), TokenRefusal.from_json),
        (Stored("slug", "/s/slug"), answer_to_upload),
    ],
    ids=lambda each: type(each).__name__,
)
def test_fields_of_a_later_version_are_ignored(value: Any, read: Callable[[str], Any]) -> None:
    assert read(json.dumps(with_more(asdict(value)))) == value
