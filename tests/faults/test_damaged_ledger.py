"""A ledger that loses keys under load: evicted by Redis, or deleted at random.

The assumption that code and tests shared before: a ledger is whole or empty (``test_redis_faults.py`` empties it). Here
any subset of its keys is lost at any moment: of the jobs in flight, of the lists, of the registers. Every job ends,
once; none runs twice at the same time; what must not be run twice is not; and nothing is left over.
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
    """A Redis of the ledger's own."""
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
    """Within the block, keys are lost; yields how many of each kind were."""
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
    """New jobs of two kinds: those that may be run again, and those that must not; each with its prompt."""
    kinds: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for number in range(count):
        once = number % 4 == 0
        prompt = f"job-{number}"
        seconds = chance.choice((0.1, 0.3, 1.0, 3.0, 9.0 if number % 10 == 0 else 0.5))
        job_id = fleet.dispatch(prompt, "span-once" if once else "span", seconds=seconds)
        kinds[once][job_id] = prompt
    return kinds


def overlaps(fleet: Fleet) -> list[str]:
    """The jobs of which two runs went on at the same time."""
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
    """Every job is over, once, with the right end; nothing is left; and the audit finds nothing."""
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
    """Jobs while keys are lost, until most are over; they must all end as they should. Returns the losses."""
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
    """Within the block, a cache beside the ledger fills Redis' memory; yields how many of the ledger's keys go."""
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
    """The bridge says so when it starts; and no job is the worse for it."""
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
    if policy == "allkeys-random":  # with the other one it is mostly the cache that goes
        assert lost.total() > 30, "or this test shows nothing"
