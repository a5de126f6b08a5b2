"""Failed requests that count as an outage of the server."""

from __future__ import annotations

import pytest
from celery import Celery

from mr_celery.bridge.outages import outages_of
from mr_celery.errors import WorkerError
from mr_celery.settings import Settings
from support.clock import Clock


@pytest.mark.parametrize(
    ("status", "route", "outage"),
    [
        (None, "presence", True),
        (503, "close", True),
        (404, "inbox", True),  # each ModelReins server has an inbox: the address is wrong
        (405, "inbox", True),
        (404, "presence", None),
        (404, "close", None),
        (409, "close", False),
        (401, "inbox", False),
    ],
)
def test_an_outage_of_the_server_follows_from_its_failures(status: int | None, route: str, outage: bool | None) -> None:
    clock = Clock()
    outages = outages_of(Settings(ledger_url="redis://x"), Celery("x", set_as_current=False), clock=clock)
    error = WorkerError("GET /x -> 0", status=status)
    error.route = route
    for _ in range(3):
        outages.server_failed(error)
        clock.now += 5.0
    assert (outages.server.seconds is not None) == bool(outage)
    assert outages.server.answered == (outage is False)
