"""A Redis that pauses, restarts or cuts its connections costs time, and never a job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, which keeps its data."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.fixture
def busy(sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation in the middle of 150 jobs."""
    made = Fleet(sandbox, broker=own_redis.url(0), ledger=own_redis.url(1), folder=tmp_path)
    made.worker("-c", "4")
    made.bridge()
    for n in range(150):
        made.dispatch(f"job number {n}", "sleep", seconds=0.05)
    until(lambda: made.runs.read_text().count("\n") > 20, what="some have run")
    yield made
    made.stop()


def all_done_once(fleet: Fleet) -> None:
    for job in fleet.ended(*range(1, 151), seconds=120):
        assert job["status"] == "done"
        assert fleet.started(job["prompt"]) == 1
        assert fleet.events(job["id"]).count("close done") == 1


def test_paused_for_longer_than_the_lease(busy: Fleet, own_redis: RedisServer) -> None:
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    threading.Event().wait(8)  # the pause is the fault: there is nothing to wait for
    os.kill(own_redis.process.pid, signal.SIGCONT)
    all_done_once(busy)


def test_restarted_with_its_data(busy: Fleet, own_redis: RedisServer) -> None:
    own_redis.kill()
    own_redis.start()
    busy.worker("-c", "4")  # Celery 5.7's own worker may not survive this, and is started again by whoever runs it
    jobs = busy.ended(*range(1, 151), seconds=120)
    assert {job["status"] for job in jobs} == {"done"}
    assert all(busy.events(job["id"]).count("close done") == 1 for job in jobs)


def test_cutting_every_connection(busy: Fleet, own_redis: RedisServer) -> None:
    for kind in ("normal", "pubsub"):
        own_redis.client().execute_command("CLIENT", "KILL", "TYPE", kind)
    all_done_once(busy)
