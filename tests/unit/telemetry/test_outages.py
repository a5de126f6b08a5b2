"""The log of an outage."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from mr_celery.telemetry.outages import FIRST_REMINDER, LEAST_SECONDS, Outage
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="outages")
    return caplog


@pytest.fixture
def outage(clock: Clock, log: pytest.LogCaptureFixture) -> Outage:
    return Outage("the server at http://s", "No job is claimed", logging.getLogger("outages"), clock=clock)


def fail(outage: Outage, clock: Clock, seconds: int, why: str = "refused") -> None:
    """Fail ten times a second."""
    for _ in range(seconds * 10):
        outage.failed(why)
        clock.now += 0.1


def test_a_short_lapse_is_not_logged(outage: Outage, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        fail(outage, clock, int(LEAST_SECONDS) - 1)
        assert outage.seconds is None
        outage.works()
    assert log.records == []


def test_an_outage_has_a_line_when_it_begins_and_when_it_ends(
    outage: Outage, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    outage.works()
    clock.now += 5
    fail(outage, clock, 30)
    assert outage.seconds == pytest.approx(30)
    assert outage.answer_age == pytest.approx(35)
    outage.works()
    outage.works()
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        (
            "WARNING",
            "the server at http://s has been unreachable for 2.0 s (last answer 7.0 s ago): refused. No job is claimed",
        ),
        ("INFO", "the server at http://s answers again, after 30 s"),
    ]
    assert outage.seconds is None
    assert outage.why == ""


def test_reminders_come_at_growing_intervals(outage: Outage, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    fail(outage, clock, 7200)
    stamps = [record.seconds for record in log.records]  # type: ignore[attr-defined]
    gaps = [later - earlier for earlier, later in pairwise(stamps)]
    assert gaps == pytest.approx([FIRST_REMINDER * 2**number for number in range(len(gaps))], abs=0.2)
    assert len(log.records) == 7
    assert log.records[1].getMessage() == "the server at http://s is still unreachable, for 62 s: refused"


def test_the_name_of_the_thing_is_not_repeated(outage: Outage, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        outage.failed(f"{outage.what}: refused")
        clock.now += LEAST_SECONDS
    assert outage.why == "refused"
    assert log.messages[0].count(outage.what) == 1


def test_the_last_failure_is_known(outage: Outage, clock: Clock) -> None:
    fail(outage, clock, 3, "refused")
    fail(outage, clock, 1, "no answer in time")
    assert outage.why == "no answer in time"


def test_the_next_outage_is_logged_again(outage: Outage, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        fail(outage, clock, 3)
        outage.works()
    assert len(log.records) == 4


def test_the_first_answer_is_reported_once(outage: Outage) -> None:
    seen: list[bool] = []
    outage.on_first_answer(lambda: seen.append(outage.answered))
    assert not outage.answered
    outage.works()
    outage.works()
    assert seen == [True]
