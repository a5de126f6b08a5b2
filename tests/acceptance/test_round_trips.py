"""The number of requests per job to the server and the ledger, so that no added round trip goes unnoticed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from mr_celery.ledger.scripts import source_of
from support.counted import CountedSandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer

JOBS = 200
LEDGER = 1
"""The Redis database of the ledger."""

STEPS = {"admit": "record", "claimed": "move", "sent": "move", "start": "work", "finish": "work", "close": "move"}


def steps() -> dict[str, str]:
    """The steps of a job's life by the digests of their scripts."""
    fronts = {"record": ("record", "mending"), "work": ("record", "known_work"), "move": ("record",)}
    sources = {step: source_of((*fronts[kind], step)) for step, kind in STEPS.items()}
    return {hashlib.sha1(text.encode()).hexdigest(): step for step, text in sources.items()}


@contextmanager
def counted(client: Any) -> Iterator[Counter[str]]:
    """Count requests to the ledger in the block: the steps of a job's life by name, all others as ``other``."""
    found: Counter[str] = Counter()
    names, over = steps(), threading.Event()
    with client.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                if command["command"] == "ECHO over":
                    over.set()
                    return
                if command["db"] == LEDGER and command["client_type"] != "lua":
                    words = command["command"].split(" ", 2)
                    found[names.get(words[1], "other") if words[0] == "EVALSHA" else "other"] += 1

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield found
        finally:
            client.echo("over")
            assert over.wait(20)
            listener.join(20)


@pytest.fixture
def sandbox() -> Iterator[CountedSandbox]:
    with CountedSandbox() as made:
        yield made


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def fleet(sandbox: CountedSandbox, redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation that has already done a job."""
    made = Fleet(sandbox, broker=redis.url(0), ledger=redis.url(LEDGER), folder=tmp_path)
    made.worker("-P", "threads", "-c", "8")
    made.bridge()
    made.ended(made.dispatch("first", "poster"))
    ledger = Ledger(made.environment["MODELREINS_LEDGER_URL"], made.name)
    until(lambda: not ledger.in_flight(), what="its close is recorded, too")
    yield made
    made.stop()


def closed(fleet: Fleet, jobs: list[int]) -> bool:
    return all(fleet.job(job_id)["status"] == "done" for job_id in jobs)


def test_a_job_takes_six_round_trips_to_the_ledger_at_the_most_and_two_requests(
    fleet: Fleet, sandbox: CountedSandbox, redis: RedisServer
) -> None:
    before, began = sandbox.counts(), time.monotonic()
    with counted(redis.client()) as asked:
        jobs = [fleet.dispatch(str(number)) for number in range(JOBS)]
        until(lambda: closed(fleet, jobs), seconds=60, what="all are done")
        until(lambda: asked["close"] == JOBS, what="the ledger knows")
    for step in ("claimed", "start", "finish", "close"):
        assert asked[step] == JOBS, step
    for step in ("admit", "sent"):  # a few jobs at a time
        assert 0 < asked[step] <= JOBS, step
    assert asked.total() - asked["other"] <= 5 * JOBS, asked
    # Surveys, and checks whether the token is refused: fewer than one per job, plus periodic ones.
    assert asked["other"] <= JOBS + 50 * (time.monotonic() - began), asked
    requests = sandbox.counts() - before
    assert requests["POST /jobs/N/claim"] == requests["POST /jobs/N/close"] == JOBS
    assert requests["GET /my-jobs"] <= JOBS / 4, "the inbox is looked at for several jobs at once"
    assert set(requests) <= {"POST /jobs/N/claim", "POST /jobs/N/close", "GET /my-jobs", "PUT /presence"}


def test_an_artifact_and_a_review_take_a_request_and_a_round_trip_each(
    fleet: Fleet, sandbox: CountedSandbox, redis: RedisServer
) -> None:
    before = sandbox.counts()
    with counted(redis.client()) as asked:
        jobs = [fleet.dispatch(str(number), "poster") for number in range(20)]
        until(lambda: closed(fleet, jobs), seconds=60, what="all are done")
        until(lambda: asked["close"] == 20, what="the ledger knows")
    requests = sandbox.counts() - before
    assert requests["POST /artifacts/upload"] == requests["POST /review"] == 20
    assert requests["POST /jobs/N/claim"] == requests["POST /jobs/N/close"] == 20
    for step in ("claimed", "start", "finish", "close"):
        assert asked[step] == 20, step
