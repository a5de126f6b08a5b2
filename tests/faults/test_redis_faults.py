"""A Redis that pauses, restarts or cuts its connections costs time, but never a job.

Assumption shared with the code: a ledger is whole or empty. ``test_damaged_ledger.py`` loses any part of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.campaign import all_survive
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A separate Redis for the test, which keeps its data."""
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


def test_restarted_while_messages_are_to_be_acknowledged_late(
    sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path
) -> None:
    fleet = Fleet(sandbox, broker=own_redis.url(0), ledger=own_redis.url(1), folder=tmp_path)
    try:
        fleet.worker("-c", "2")
        fleet.bridge()
        gate = tmp_path / "gate"
        ids = [fleet.dispatch("late", "late", seconds=0, gate=str(gate)) for _ in range(4)]
        until(lambda: fleet.started("late") == 2, what="two run")
        own_redis.kill()
        until(lambda: "Connection to broker lost" in fleet.processes[0].output, what="the worker has noticed")
        own_redis.start()
        until(lambda: fleet.processes[0].output.count("Connected to redis") == 2, what="it is back")
        gate.touch()
        with all_survive(fleet):
            jobs = fleet.ended(*ids)
        assert {job["status"] for job in jobs} == {"done"}
        assert "Couldn't ack" in fleet.processes[0].output, "the test shows nothing otherwise"
    finally:
        fleet.stop()


def assert_all_done_once(fleet: Fleet) -> None:
    jobs = fleet.ended(*range(1, 151), seconds=120)
    assert {job["status"] for job in jobs} == {"done"}
    assert all(fleet.events(job["id"]).count("close done") == 1 for job in jobs)


def test_restarted_with_its_data(busy: Fleet, own_redis: RedisServer) -> None:
    own_redis.kill()
    own_redis.start()
    with all_survive(busy):
        assert_all_done_once(busy)


def test_losing_all_data(busy: Fleet, own_redis: RedisServer) -> None:
    """Broker and ledger are suddenly empty. As documented, jobs that were running may run again."""
    own_redis.client().flushall()
    assert_all_done_once(busy)
    assert sum(count > 1 for prompt, count in busy.starts().items() if prompt) <= 8


def test_restarted_without_its_data(busy: Fleet, own_redis: RedisServer) -> None:
    own_redis.kill()
    for file in own_redis.folder.rglob("*.aof*"):
        file.unlink()
    own_redis.start()
    with all_survive(busy):
        assert_all_done_once(busy)


def test_a_read_only_replica_for_a_while(busy: Fleet, own_redis: RedisServer) -> None:
    """Broker and ledger refuse every write for longer than the lease."""
    own_redis.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    with all_survive(busy):
        threading.Event().wait(6)
        own_redis.client().execute_command("REPLICAOF", "NO", "ONE")
        all_done_once(busy)


def test_a_full_memory_for_a_while(busy: Fleet, own_redis: RedisServer) -> None:
    """Broker and ledger refuse commands that need memory, for longer than the lease."""
    own_redis.client().config_set("maxmemory", "1mb")
    with all_survive(busy):
        threading.Event().wait(6)
        own_redis.client().config_set("maxmemory", "0")
        all_done_once(busy)


@pytest.fixture
def ledger_apart(
    sandbox: Sandbox, redis_server: RedisServer, own_redis: RedisServer, tmp_path: Path
) -> Iterator[Fleet]:
    """An installation in the middle of 150 jobs, with a separate Redis for the ledger."""
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=own_redis.url(1), folder=tmp_path)
    made.worker("-c", "4")
    made.bridge()
    for n in range(150):
        made.dispatch(f"job number {n}", "sleep", seconds=0.05)
    until(lambda: made.runs.read_text().count("\n") > 20, what="some have run")
    yield made
    made.stop()


def test_a_ledger_that_is_a_read_only_replica_for_a_while(ledger_apart: Fleet, own_redis: RedisServer) -> None:
    own_redis.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    threading.Event().wait(6)  # longer than the lease
    own_redis.client().execute_command("REPLICAOF", "NO", "ONE")
    with all_survive(ledger_apart):
        all_done_once(ledger_apart)


def test_a_ledger_whose_memory_is_full(ledger_apart: Fleet, own_redis: RedisServer) -> None:
    """Claimed jobs end, and no more are claimed until there is room."""
    own_redis.client().config_set("maxmemory", "1mb")
    done = lambda: sum(ledger_apart.job(n)["status"] == "done" for n in range(1, 151))  # noqa: E731
    claimed = lambda: sum(ledger_apart.job(n)["status"] != "pending" for n in range(1, 151))  # noqa: E731
    until(lambda: done() == claimed(), what="what was taken in has ended")
    assert done() < 150, "or this test shows nothing"
    own_redis.client().config_set("maxmemory", "0")
    with all_survive(ledger_apart):
        all_done_once(ledger_apart)


def test_a_ledger_that_pauses_does_not_hold_up_presence(
    sandbox: Sandbox, ledger_apart: Fleet, own_redis: RedisServer
) -> None:
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        for _ in range(4):
            seen = sandbox.store.workers()[0]["seen_at"]
            until(lambda seen=seen: sandbox.store.workers()[0]["seen_at"] > seen, seconds=15)  # type: ignore[misc]
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)
    all_done_once(ledger_apart)


def test_cutting_every_connection(busy: Fleet, own_redis: RedisServer) -> None:
    for kind in ("normal", "pubsub"):
        own_redis.client().execute_command("CLIENT", "KILL", "TYPE", kind)
    all_done_once(busy)
