"""A ledger that is restored to its state of two seconds ago, while bridge and workers keep running."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_celery.sandbox import Sandbox
from support.campaign import Campaign, all_survive, seed
from support.fleet import Fleet
from support.servers import RedisServer

ANY = 1_000_000


@pytest.fixture
def ledger_redis() -> Iterator[RedisServer]:
    server = RedisServer("--enable-debug-command", "yes")
    yield server
    server.stop()


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, ledger_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=ledger_redis.url(1), folder=tmp_path)
    yield made
    made.stop()


def roll_back(server: RedisServer, seconds: float) -> None:
    """Let jobs run for a while, and then restore the ledger's earlier state."""
    client: Any = server.client()
    client.save()
    time.sleep(seconds)  # the age of the data
    client.execute_command("DEBUG", "RELOAD", "NOSAVE")


def test_a_ledger_that_is_rolled_back_under_load_loses_no_job_and_closes_none_twice(
    fleet: Fleet, ledger_redis: RedisServer
) -> None:
    chance = random.Random(seed())
    fleet.worker("-c", "4", "-Q", "celery,other")
    fleet.bridge()
    campaign = Campaign(fleet)
    with all_survive(fleet):
        for _ in range(3):
            for _ in range(12):
                campaign.dispatch(1, chance.choice(["nap", "late", "poster", "hand-on"]))
            time.sleep(chance.uniform(0.2, 2.0))  # the moment of the fault
            roll_back(ledger_redis, 2.0)
        campaign.audit(seconds=120, reruns=ANY)
