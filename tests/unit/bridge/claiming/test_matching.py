"""The handlers of pending jobs are found while ``match=`` raises."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery import Job
from mr_celery.bridge.claiming.inbox import Matching
from mr_celery.bridge.limits import ROUTING_SECONDS
from mr_celery.handlers import Declaration, Handler, MatchRaised, Registry
from support.clock import Clock

SLOW = ROUTING_SECONDS / 2 + 0.1
"""Seconds of a call of which two exceed the time of a poll."""


class Away:
    """A ``match=`` function whose database is unreachable."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.calls = 0
        self.works = False

    def __call__(self, job: Job) -> bool:
        self.calls += 1
        self.clock.advance(self.seconds)
        if not self.works:
            raise sqlite3.OperationalError("away")
        return True


def handler(name: str, **declaration: Any) -> Handler:
    return Handler(SimpleNamespace(name=name, run=lambda prompt="": None), Declaration(**declaration))


def handlers_of(matching: Matching, *capabilities: str) -> list[str]:
    """The handler of each job, or the reason why it is unknown."""
    found = []
    for number, capability in enumerate(capabilities, 1):
        try:
            found.append(matching.handler_of(Job({"id": number, "prompt": "", "capability": capability})).name)
        except MatchRaised as error:
            found.append(error.why.partition(", in ")[0])
    return found


RAISED = "match= raised OperationalError"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def matching_of(clock: Clock, seconds: float) -> tuple[Matching, Away]:
    away = Away(clock, seconds)
    registry = Registry(
        [handler("asks", capabilities=("asks",), match=away), handler("plain", capabilities=("plain",))]
    )
    return Matching(registry, clock=clock), away


def test_a_job_is_asked_about_again_at_the_next_poll(clock: Clock) -> None:
    matching, away = matching_of(clock, 0.0)
    matching.begin_poll()
    assert handlers_of(matching, "asks", "plain", "asks") == [RAISED, "plain", RAISED]
    assert away.calls == 2
    away.works = True
    matching.begin_poll()
    assert handlers_of(matching, "asks", "plain", "asks") == ["asks", "plain", "asks"]


def test_slow_failures_do_not_delay_the_other_handlers(clock: Clock) -> None:
    matching, away = matching_of(clock, SLOW)
    matching.begin_poll()
    assert handlers_of(matching, *["asks"] * 50, "plain") == [*[RAISED] * 50, "plain"]
    assert away.calls == 2
    matching.begin_poll()
    assert handlers_of(matching, "asks") == [RAISED]
    assert away.calls == 3


def test_slow_successes_are_not_limited(clock: Clock) -> None:
    matching, away = matching_of(clock, SLOW)
    away.works = True
    matching.begin_poll()
    assert handlers_of(matching, *["asks"] * 5) == ["asks"] * 5
