"""A ledger that loses keys under load: evicted by Redis, or deleted at random.

``test_redis_faults.py`` assumes that a ledger is whole or empty. Here any subset of its keys is lost at any moment,
from jobs in flight, lists and registers. Every job ends once. No two runs of a job overlap, and jobs that must not run
twice do not. Nothing is left over.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support import fork_server
from support.campaign import all_survive, jobs_each, seed
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RedisServer

EVERY_SECONDS = 0.3
"""Seconds between two losses."""

OURS = "modelreins:*"

pytestmark = pytest.mark.timeout(550)


@pytest.fixture
def ledger_redis() -> Iterator[RedisServer]:
    """A separate Redis for the ledger."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, ledger_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """A worker that can interrupt its runs, and one that cannot. A test starts the bridge."""
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=ledger_redis.url(), folder=tmp_path)
    made.worker("-c", "4")
    made.worker("-P", "threads", "-c", "4")
    yield made
    made.stop()


@contextmanager
def losing_keys(client: Any, chance: random.Random) -> Iterator[Counter[str]]:
    """Delete random keys within the block. Yields the number lost by kind."""
    lost: Counter[str] = Counter()
    ends = threading.Event()

    def lose() -> None:
        while not ends.wait(EVERY_SECONDS):
            keys = sorted(client.scan_iter(match=OURS, count=1000))
            for key in chance.sample(keys, min(len(keys), chance.choice((1, 1, 2, 4, 8)))):
                if client.delete(key):
                    lost[key.decode().split("}:")[1].split(":")[0]] += 1

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    try:
        yield lost
    finally:
        ends.set()
        loser.join()


def dispatch(fleet: Fleet, chance: random.Random, count: int) -> tuple[dict[int, str], dict[int, str]]:
    """Dispatch jobs that may run again, and jobs that must not. Returns the prompts of each kind by id."""
    kinds: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for number in range(count):
        once = number % 4 == 0
        prompt = f"job-{number}"
        seconds = chance.choice((0.1, 0.3, 1.0, 3.0, 9.0 if number % 10 == 0 else 0.5))
        job_id = fleet.dispatch(prompt, "span-once" if once else "span", seconds=seconds)
        kinds[once][job_id] = prompt
    return kinds


def overlaps(fleet: Fleet) -> list[str]:
    """The jobs that had two runs at the same time."""
    going: Counter[str] = Counter()
    found = []
    for line in fleet.runs.read_text().splitlines():
        event, prompt = line.split(" ", 1)
        going[prompt] += 1 if event == "begin" else -1
        if going[prompt] > 1:
            found.append(prompt)
    return found


def begun(fleet: Fleet, prompt: str) -> int:
    return fleet.started(f"begin {prompt}")


def must_have_healed(fleet: Fleet, free: dict[int, str], once: dict[int, str], *, seconds: float = 240.0) -> None:
    """Check that every job ended once, in the right way, that nothing is left, and that the audit finds nothing."""
    jobs = fleet.ended(*free, *once, seconds=seconds)
    for job in jobs:
        closes = [event for event in fleet.events(job["id"]) if event in ("close done", "close failed")]
        assert len(closes) == 1, (job["id"], fleet.events(job["id"]))
        if job["id"] in free:
            assert (job["status"], job["result"]) == ("done", free[job["id"]].upper())
        elif job["status"] == "failed":
            assert "on_lost='fail'" in job["result"]
        else:
            assert job["result"] == once[job["id"]].upper()
    assert overlaps(fleet) == []
    assert [prompt for prompt in once.values() if begun(fleet, prompt) > 1] == []
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: not ledger.in_flight(), seconds=60, what="nothing is in flight")
    slots = lambda: sum(ledger.survey(["celery"]).load.values())  # noqa: E731
    until(lambda: not slots(), seconds=60, what="no slot is taken")
    audit = fork_server.run(
        [str(BIN / "celery"), "-A", fleet.app, "modelreins", "check", "--audit"],
        env=fleet.environment,
        timeout=120,
    )
    assert "agree" in audit.stdout, audit.stdout + audit.stderr


def go_through(fleet: Fleet, chance: random.Random, evil: AbstractContextManager[Counter[str]]) -> Counter[str]:
    """Run jobs while keys are lost, until most are over. Checks that all end as they should. Returns the losses."""
    with all_survive(fleet):
        with evil as lost:
            free, once = dispatch(fleet, chance, jobs_each(120))

            def over() -> int:
                return sum(fleet.job(each)["status"] not in ("pending", "running") for each in (*free, *once))

            until(lambda: over() > 0.6 * len(free | once), seconds=200, what="most are over")
        must_have_healed(fleet, free, once)
    output = "".join(process.output for process in fleet.processes)
    assert "NoneType" not in output
    assert "Error running script" not in output
    return lost


def test_keys_are_lost_at_random_under_load(fleet: Fleet, ledger_redis: RedisServer) -> None:
    fleet.bridge()
    chance = random.Random(seed())
    lost = go_through(fleet, chance, losing_keys(ledger_redis.client(), chance))
    assert lost["job"] > 0
    assert lost.total() > 30, "or this test shows nothing"
    fleet.processes[-1].says("the ledger is damaged")


@contextmanager
def evicting_keys(client: Any, chance: random.Random) -> Iterator[Counter[str]]:
    """Fill Redis' memory with a cache beside the ledger within the block. Yields the number of evicted ledger keys."""
    lost: Counter[str] = Counter()
    ends = threading.Event()

    def fill() -> None:
        while not ends.wait(0.02):
            client.set(f"cache:{chance.randrange(10**9)}", chance.randbytes(20_000))

    def listen() -> None:
        with client.pubsub(ignore_subscribe_messages=True) as events:
            events.subscribe("__keyevent@0__:evicted")
            while not ends.is_set():
                message = events.get_message(timeout=0.2)
                if message and message["data"].startswith(b"modelreins:"):
                    lost[message["data"].decode().split("}:")[1].split(":")[0]] += 1

    threads = [threading.Thread(target=each, daemon=True) for each in (fill, listen)]
    for thread in threads:
        thread.start()
    try:
        yield lost
    finally:
        ends.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("policy", ["allkeys-random", "allkeys-lru"])
def test_a_redis_that_evicts(fleet: Fleet, ledger_redis: RedisServer, policy: str) -> None:
    """The bridge warns about it when it starts, and every job still ends correctly."""
    client = ledger_redis.client()
    used = int(client.info("memory")["used_memory"])
    for name, value in {
        "maxmemory": used + 4_000_000,
        "maxmemory-policy": policy,
        "notify-keyspace-events": "Ee",
    }.items():
        client.config_set(name, value)
    fleet.bridge().says(f"maxmemory-policy {policy}: when its memory is full, it may evict jobs in flight")
    chance = random.Random(seed())
    lost = go_through(fleet, chance, evicting_keys(client, chance))
    if policy == "allkeys-random":  # the other policy evicts mostly the cache
        assert lost.total() > 30, "or this test shows nothing"
