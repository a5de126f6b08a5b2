"""A RabbitMQ that restarts, loses messages or cuts connections costs time, but never a job.

Assumption shared with the code: a route is a queue, and the broker accepts whatever is published.
``test_routes.py`` drops both. A broker that is unreachable while a handler asks for a retry is in ``test_endings.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.campaign import Campaign
from support.fleet import Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    """A RabbitMQ for these tests alone, since they disturb it."""
    server = RabbitServer()
    yield server
    server.stop()


@pytest.fixture
def fleet(rabbit: RabbitServer, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with RabbitMQ as the broker; no process runs yet."""
    made = Fleet(sandbox, broker=rabbit.url, ledger=redis_server.url(1), folder=tmp_path)
    yield made
    made.stop()
    rabbit.control("purge_queue", "celery")


def test_a_run_keeps_its_lease_while_its_worker_looks_for_the_broker(
    fleet: Fleet, rabbit: RabbitServer, redis_server: RedisServer
) -> None:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("longer than the lease", "sleep", seconds=12)
    until(lambda: fleet.started("longer than the lease") == 1, what="the run")
    rabbit.kill()
    try:
        worker.says("lost")
        (job,) = fleet.ended(job_id)
    finally:
        rabbit.start()
    assert job["result"] == "longer than the lease"
    assert "attempt=2" not in worker.output
    assert redis_server.client(1).hget(f"modelreins:{{w}}:job:{job_id}", "attempt") == b"1"


def in_the_middle(fleet: Fleet) -> Campaign:
    """A campaign in which some jobs have ended, and some have not."""
    fleet.worker("-c", "4")
    fleet.bridge()
    campaign = Campaign(fleet)
    campaign.dispatch(150, "nap", seconds=0.1)
    until(lambda: campaign.done() > 20, what="some have run")
    return campaign


@pytest.mark.long
def test_a_broker_that_restarts(fleet: Fleet, rabbit: RabbitServer) -> None:
    campaign = in_the_middle(fleet)
    rabbit.kill()
    rabbit.start()
    campaign.audit()


def test_a_queue_that_is_purged(fleet: Fleet, rabbit: RabbitServer) -> None:
    fleet.environment["MODELREINS_MAX_INFLIGHT"] = "100"
    campaign = in_the_middle(fleet)
    rabbit.control("purge_queue", "celery")
    campaign.audit()


def test_connections_that_are_cut(fleet: Fleet, rabbit: RabbitServer) -> None:
    campaign = in_the_middle(fleet)
    rabbit.control("close_all_connections", "for a test")
    campaign.audit()
