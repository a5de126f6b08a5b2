"""Each fault of the server, on every route: one request in ten, and all of them for a while.

``make campaign`` runs it with 500 jobs each, and with each fault alone, on all routes at once and on each.

Assumptions shared with the code: faults pass, lists are short, headers are sensible, and the server is the sandbox.
``test_endless_deliveries.py``, ``test_lists.py`` and ``test_retry_after.py`` drop them, with servers of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.sandbox import Rule, Sandbox
from mr_celery.sandbox.chaos import ROUTES
from support.campaign import FULL, Campaign, all_survive, jobs_each, seed
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer

TIMEOUT = 1.0
"""Seconds: the installation's ``MODELREINS_TIMEOUT``."""

FAULTS = {
    "500": {"fault": "status", "status": 500},
    "500 after the effect": {"fault": "status", "status": 500, "after": True},
    "502": {"fault": "status", "status": 502},
    "503": {"fault": "status", "status": 503},
    "503 with Retry-After": {"fault": "status", "status": 503, "retry_after": 1},
    "429 with Retry-After": {"fault": "status", "status": 429, "retry_after": 1},
    "401": {"fault": "status", "status": 401},
    "403": {"fault": "status", "status": 403},
    "404": {"fault": "status", "status": 404},
    "404 after the effect": {"fault": "status", "status": 404, "after": True},
    "409": {"fault": "status", "status": 409},
    "409 after the effect": {"fault": "status", "status": 409, "after": True},
    "html": {"fault": "html"},
    "html after the effect": {"fault": "html", "after": True},
    "truncated": {"fault": "truncated"},
    "truncated after the effect": {"fault": "truncated", "after": True},
    "wrong types": {"fault": "wrong_types"},
    "null": {"fault": "null"},
    "list": {"fault": "list"},
    "empty lists": {"fault": "empty_list"},
    "10 MB": {"fault": "large"},
    "dropped": {"fault": "drop"},
    "dropped after the effect": {"fault": "drop", "after": True},
    "hanging": {"fault": "hang", "delay": 1.5 * TIMEOUT},
    "hanging after the effect": {"fault": "hang", "delay": 1.5 * TIMEOUT, "after": True},
    "trickle": {"fault": "trickle", "delay": 0.05 * TIMEOUT},
}

GROUPS = [*([(route,) for route in ROUTES] if FULL else []), ROUTES]
MIXES = {"all faults": [*FAULTS], **({fault: [fault] for fault in FAULTS} if FULL else {})}


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fleet(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One installation for all of these tests."""
    with Sandbox() as sandbox:
        made = Fleet(sandbox, broker=own_redis.url(0), ledger=own_redis.url(1), folder=tmp_path_factory.mktemp("fleet"))
        made.environment["MODELREINS_TIMEOUT"] = str(TIMEOUT)
        made.bridge()
        made.worker("-c", "4")
        yield made
        made.stop()


def rules(faults: list[str], routes: tuple[str, ...], *, rate: float, **more: Any) -> list[Rule]:
    """Rules that hit a share of the requests to these routes, with equally frequent faults."""
    made = []
    for number, fault in enumerate(faults):
        # Any 2xx means claimed. A server that returns it without claiming breaks the protocol.
        hit = tuple(route for route in routes if route != "claim" or fault not in ("null", "list"))
        if hit and not (fault == "empty lists" and not {"inbox", "running"} & set(hit)):
            # Rules are tried one after the other, so later ones need better odds.
            odds = rate / len(faults) / (1 - rate * number / len(faults))
            made.append(Rule(**FAULTS[fault], routes=hit, rate=odds, **more))
    return made


def some_jobs(fleet: Fleet, few: int) -> Campaign:
    campaign = Campaign(fleet)
    campaign.dispatch(jobs_each(few))
    campaign.dispatch(jobs_each(few) // 10, "poster")
    return campaign


def shown(routes: tuple[str, ...]) -> str:
    return "all routes" if routes == ROUTES else routes[0]


@pytest.mark.long
@pytest.mark.parametrize("routes", GROUPS, ids=shown)
@pytest.mark.parametrize("mix", MIXES)
def test_one_request_in_ten(fleet: Fleet, mix: str, routes: tuple[str, ...]) -> None:
    chaos = fleet.sandbox.chaos
    chaos.set(rules(MIXES[mix], routes, rate=0.1), seed=seed())
    try:
        with all_survive(fleet):
            some_jobs(fleet, 500).audit()
    finally:
        chaos.clear()


@pytest.mark.parametrize("routes", GROUPS, ids=shown)
@pytest.mark.parametrize("fault", FAULTS)
def test_all_requests_for_a_while(fleet: Fleet, fault: str, routes: tuple[str, ...]) -> None:
    chaos = fleet.sandbox.chaos
    campaign = some_jobs(fleet, 100)
    until(lambda: campaign.done() > 5, what="work is under way")
    before = sum(chaos.counts.values())
    chaos.set(rules([fault], routes, rate=1.0), seed=seed())
    try:
        with all_survive(fleet):
            if routes == ROUTES:
                until(lambda: sum(chaos.counts.values()) > before, what="a request is hit")
            chaos.set(rules([fault], routes, rate=1.0, seconds=3.0), seed=seed())
            campaign.audit()
    finally:
        chaos.clear()
