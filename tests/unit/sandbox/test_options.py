"""Options of the simulated server."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox.options import ServerOptions, parse_words


@pytest.mark.parametrize(
    ("version", "has_artifacts"), [("4.5", False), ("4.5.9", False), ("4.6", True), ("4.10.0", True), ("5.0", True)]
)
def test_version_decides_about_artifacts(version: str, has_artifacts: bool) -> None:
    assert ServerOptions(version=version).has_artifacts is has_artifacts


def test_words_for_the_ends_of_jobs() -> None:
    assert ServerOptions().closed == ("done", "failed", "escalated")
    other = ServerOptions(words={"done": "completed", "failed": "Error"})
    assert [other.word(end) for end in ("done", "failed", "escalated", "aborted")] == [
        "completed", "Error", "escalated", "Error",
    ]  # fmt: skip
    assert ServerOptions(words={"aborted": "cancelled"}).closed == ("done", "failed", "escalated", "cancelled")


def test_words_are_parsed() -> None:
    assert parse_words(("done=completed", "aborted = timed out")) == {"done": "completed", "aborted": "timed out"}
    with pytest.raises(MrCeleryError, match="END=WORD"):
        parse_words(("done",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": "4.4"}, "'4.4' must be 4.5 or later"),
        ({"version": "4"}, "must be 4.5 or later"),
        ({"version": "new"}, "must be 4.5 or later"),
        ({"words": {"over": "x"}}, "'over' is not an end of a job"),
        ({"words": {"done": "Pending"}}, "'Pending' cannot be the word for done"),
        ({"words": {"done": " "}}, "cannot be the word"),
        ({"words": {"done": "7"}}, "cannot be the word"),
        ({"requeue_after": 0}, "requeue_after must be"),
        ({"link_seconds": -1}, "link_seconds must be"),
    ],
)
def test_invalid_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MrCeleryError, match=message):
        ServerOptions(**values)
