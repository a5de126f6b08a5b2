"""The faults that are a click away, and rules in words."""

from __future__ import annotations

import pytest
from starlette.datastructures import FormData

from mr_celery.sandbox.chaos import ROUTES, Rule
from mr_celery.sandbox.page import faults
from mr_celery.sandbox.values import MalformedError


@pytest.mark.parametrize("name", list(faults.PRESETS))
def test_each_preset_is_a_rule_for_a_time_or_without_end(name: str) -> None:
    assert faults.from_preset(name, "30").seconds == 30
    assert faults.from_preset(name, "").seconds is None


@pytest.mark.parametrize(("name", "seconds"), [("nope", ""), ("outage", "x"), ("outage", "-1"), ("outage", "nan")])
def test_what_is_none(name: str, seconds: str) -> None:
    with pytest.raises(MalformedError):
        faults.from_preset(name, seconds)


def test_a_rule_of_ones_own() -> None:
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
        (Rule("drop"), "drop to every request"),
        (Rule("status", status=429, retry_after=3, rate=0.5), "429 with Retry-After: 3 to 50% of the requests"),
        (Rule("hang", routes=("claim",), times=2), "hang of 3600 s to every request for claim 2 times more"),
        (Rule("wrong_types", after=True), "wrong types to every request after they had their effect"),
    ],
)
def test_a_rule_in_words(rule: Rule, words: str) -> None:
    assert faults.told(rule) == words
