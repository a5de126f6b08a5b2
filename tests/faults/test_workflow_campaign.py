"""Many workflows while nodes are killed and jobs aborted at random: every job ends once, with its right result."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer

RESULTS = {
    "chain": "10",
    "chord": "12",
    "chord-in-chain": "17",
    "group-in-chain": "[3, 4]",
    "nested": "26",
    "flaky": "KILLED AFTER 2",
    "grows": "13",
    "swaps-header": "104",
    "naps-short": "killed killed",
}
FAILING = ("errback", "header-fails", "body-fails", "nested-fails")
SECONDS = 12.0


@pytest.fixture(params=["redis", "rabbitmq"])
def fleet(
    request: pytest.FixtureRequest, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> Iterator[Fleet]:
    broker = redis_server.url(0)
    if request.param == "rabbitmq":
        rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
        broker = rabbit.url
    made = Fleet(
        sandbox,
        broker=broker,
        ledger=redis_server.url(1),
        folder=tmp_path,
        app="support.proj_workflows",
    )
    made.environment |= {"PROJ_BACKEND": redis_server.url(2), "MODELREINS_LEASE": "3"}
    yield made
    made.stop()


def is_right(name: str, job: dict[str, Any]) -> bool:
    if name in FAILING:
        return job["status"] == "failed" and "ValueError: it broke" in job["result"]
    return (job["status"], job["result"]) == ("done", RESULTS[name])


def test_nodes_are_killed_and_jobs_aborted_at_random(fleet: Fleet) -> None:
    choice = random.Random(1)
    nodes = [fleet.worker("-c", "2", "--without-mingle", "--without-gossip") for _ in range(2)]
    fleet.bridge()
    fleet.keep_running()
    jobs = {fleet.dispatch("killed", "often", input=name): name for name in [*RESULTS, *FAILING] * 2}
    aborted = {fleet.dispatch(f"aborted {number}", "often", input="naps") for number in range(4)}
    to_abort = sorted(aborted)
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at or to_abort:
        time.sleep(choice.uniform(1.0, 3.0))  # the times of the faults, not a wait for an effect
        choice.choice(nodes).signal(signal.SIGKILL)
        if to_abort:
            fleet.sandbox.store.abort(to_abort.pop())
    ended = fleet.ended(*jobs, seconds=150)
    wrong = {jobs[job["id"]]: job["result"] for job in ended if not is_right(jobs[job["id"]], job)}
    assert not wrong
    for job_id, name in jobs.items():
        closes = [event for event in fleet.events(job_id) if event.startswith("close")]
        assert closes == ["close failed" if name in FAILING else "close done"]
    for job_id in aborted:
        assert not [event for event in fleet.events(job_id) if event.startswith("close")]
    assert not [text for text in fleet.starts() if text.startswith("end aborted")]  # a nap of 30 s
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: ledger.in_flight() == {}, what="nothing is left in flight")
