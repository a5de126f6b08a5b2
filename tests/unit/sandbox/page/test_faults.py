"""Preset faults, custom rules and their descriptions."""

from __future__ import annotations

import pytest
from starlette.datastructures import FormData

from mr_celery.sandbox.chaos import ROUTES, Rule
from mr_celery.sandbox.page import faults
from mr_celery.sandbox.values import MalformedError


@pytest.mark.parametrize("name", list(faults.PRESETS))
def test_from_preset(name: str) -> None:
    assert faults.from_preset(name, "30").seconds == 30
    assert faults.from_preset(name, "").seconds is None


@pytest.mark.parametrize(("name", "seconds"), [("nope", ""), ("outage", "x"), ("outage", "-1"), ("outage", "nan")])
def test_from_preset_refuses_invalid_input(name: str, seconds: str) -> None:
    with pytest.raises(MalformedError):
        faults.from_preset(name, seconds)


def test_from_form() -> None:
    empty = [(name, "") for name in ("share", "seconds", "times", "status", "retry_after", "delay")]
    assert faults.from_form(FormData([("fault", "drop"), *empty])) == Rule("drop", routes=ROUTES)
    form = [("fault", "status"), ("routes", "claim"), ("routes", "close"), ("share", "12.5"), ("times", "3")]
    form += [("status", "503"), ("retry_after", "4"), ("after", "1"), ("seconds", "9")]
    expected = Rule(
        "status", routes=("claim", "close"), rate=0.125, times=3, status=503, retry_after=4, after=True, seconds=9
    )
    assert faults.from_form(FormData(form)) == expected
    for wrong in (("fault", "nope"), ("share", "x"), ("share", "101"), ("times", "1.5"), ("status", "")):
        with pytest.raises(MalformedError):
            faults.from_form(FormData([*(each for each in form if each[0] != wrong[0]), wrong]))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("drop"), "drop for all requests"),
        (Rule("status", status=429, retry_after=3, rate=0.5), "429 with Retry-After: 3 for 50% of requests"),
        (Rule("hang", routes=("claim",), times=2), "hang of 3600 s for all claim requests (2 more)"),
        (Rule("wrong_types", after=True), "wrong types for all requests after they took effect"),
    ],
)
def test_description(rule: Rule, words: str) -> None:
    assert faults.description(rule) == words


@pytest.mark.parametrize("name", list(faults.PRESETS))
def test_title_of(name: str) -> None:
    assert faults.title_of(faults.from_preset(name, "30")) == faults.PRESETS[name].title
    assert faults.title_of(Rule("drop", times=3)) == ""


def test_names() -> None:
    rules = [faults.from_preset("slow", "30"), Rule("drop", routes=("claim",))]
    assert faults.names(rules) == "Slow; drop for all claim requests"
