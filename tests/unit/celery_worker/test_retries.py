"""Times of Celery retries."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.celery_worker.retries import seconds_until

UTC = dt.timezone.utc
TOKYO = dt.timezone(dt.timedelta(hours=9))


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def later(**options: Any) -> dt.datetime:
    return dt.datetime.now(UTC) + dt.timedelta(**options)


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    "form",
    [
        lambda eta: eta,
        lambda eta: eta.astimezone(TOKYO),
        lambda eta: eta.replace(tzinfo=None),
        lambda eta: eta.isoformat(),
        lambda eta: eta.replace(tzinfo=None).isoformat(),
    ],
    ids=["UTC", "another zone", "naive", "text", "naive text"],
)
def test_an_eta_is_understood_as_celery_does(form: Any) -> None:
    assert seconds_until(form(later(minutes=5))) == pytest.approx(300, abs=5)


@pytest.mark.parametrize(
    ("when", "seconds"), [(7, 7.0), (0.5, 0.5), (-3, 0.0), (None, 0.0), (True, 0.0), ("soon", 0.0), (object(), 0.0)]
)
def test_a_countdown_is_in_seconds_and_an_invalid_time_is_now(when: object, seconds: float) -> None:
    assert seconds_until(when) == seconds


def test_an_eta_in_the_past_is_now() -> None:
    assert seconds_until(later(days=-1)) == 0.0
