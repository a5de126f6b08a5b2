"""``check --audit``: an operator checks whether an installation can be trusted."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import cycle

import pytest

from mr_celery.ledger import Ledger
from mr_celery.operations.audit import BRIDGE_SECONDS, CLOSE_SECONDS, GONE, Listed, differences
from mr_celery.sandbox import Rule
from mr_celery.server import Listing
from support.campaign import Campaign
from support.fleet import Fleet, Process
from support.ledgers import LedgerKit
from support.ports import free_port, until
from support.servers import RedisServer


def check(fleet: Fleet, *command: str, **changes: str) -> Process:
    """Run the command to its end. Its process does not belong to the fleet."""
    process = fleet._start(
        "check", list(command) or ["celery", "-A", fleet.app, "modelreins", "check", "--audit"], **changes
    )
    fleet.processes.remove(process)
    process.popen.wait(60)
    return process


def finds(process: Process, *lines: str) -> None:
    """Check that it found exactly these differences, and exited with 1."""
    assert process.popen.returncode == 1
    assert re.findall(r"^(\w+) +FAILED", process.output, re.MULTILINE) == ["audit"] * len(lines), process.output
    for line in lines:
        assert re.search(rf"^audit +FAILED +{line}$", process.output, re.MULTILINE), process.output


def start(fleet: Fleet) -> Process:
    """Start a worker that consumes all queues, so that only the audit can fail, and a bridge. Returns the bridge."""
    fleet.worker("-c", "2", "-Q", "celery,other")
    return fleet.bridge()


def kit(fleet: Fleet) -> LedgerKit:
    """The fleet's ledger."""
    url = fleet.environment["MODELREINS_LEDGER_URL"]
    return LedgerKit(Ledger(url, fleet.name), RedisServer.client_of(url))


def test_ledger_and_server_agree_while_jobs_run_and_after(fleet: Fleet) -> None:
    start(fleet)
    campaign = Campaign(fleet)
    long = fleet.dispatch("long", "sleep", seconds=8)
    campaign.dispatch(150, "nap", seconds=0.1)
    until(lambda: campaign.done() > 5, what="they run")
    under_way = check(fleet)
    assert under_way.popen.returncode == 0, under_way.output
    (in_flight,) = re.findall(
        r"^audit +ok +w: the ledger \((\d+) in flight\) and the server \(\d+ running, \d+ pending\) agree$",
        under_way.output,
        re.MULTILINE,
    )
    assert int(in_flight) > 0
    fleet.ended(long)
    campaign.audit()
    after = check(fleet, "mr-celery", "-A", fleet.app, "check", "--audit")
    assert after.popen.returncode == 0, after.output
    assert "the ledger (0 in flight) and the server (0 running, 0 pending) agree" in after.output


def test_running_jobs_that_no_ledger_knows(fleet: Fleet) -> None:
    start(fleet).terminate()
    lost = [fleet.dispatch("a secret prompt") for _ in range(7)]
    for job_id in lost:
        fleet.sandbox.store.claim(job_id, fleet.name)
    kit(fleet).age_look(seconds=BRIDGE_SECONDS)
    found = check(fleet)
    finds(
        found,
        r"no bridge checks the ledger \(ledger: last checked \d+ (s|min) ago\)",
        *(
            rf"job {job_id}: running on the server, unknown to the ledger \(ledger: unknown; server: running\)"
            for job_id in lost[:5]
        ),
        "2 more jobs: running on the server, unknown to the ledger",
    )
    assert "a bridge takes it over when it starts" in found.output
    assert "secret" not in found.output
    assert fleet.sandbox.token not in found.output
    fleet.bridge()
    fleet.ended(*lost)
    assert check(fleet).popen.returncode == 0


def test_jobs_in_the_ledger_that_the_server_does_not_have(fleet: Fleet) -> None:
    bridge = start(fleet)
    fleet.sandbox.chaos.set([Rule("status", status=503, routes=("close",))])
    fleet.dispatch("its outcome waits")
    fleet.dispatch("it runs", "sleep", seconds=60)
    ledger = kit(fleet).ledger
    until(lambda: ledger.in_flight() == {1: "finished", 2: "running"}, what="both are there")
    until(lambda: "503" in ledger.read(1).why, what="its worker has given it up")  # type: ignore[union-attr]
    bridge.kill()
    kit(fleet).age(1, "finished", seconds=CLOSE_SECONDS)
    aborted = fleet.dispatch("an operator ends it")
    fleet.sandbox.store.abort_all()
    fleet.sandbox.chaos.clear()
    assert fleet.job(aborted)["status"] == "failed"
    finds(
        check(fleet),
        rf"job 1: {GONE} \(ledger: finished for .*; server: failed\)",
        rf"job 2: {GONE} \(ledger: running for .*; server: failed\)",
    )
    fleet.sandbox.stop()
    fleet.sandbox.start()  # a new one, without any jobs
    kit(fleet).age_look(seconds=BRIDGE_SECONDS)
    finds(
        check(fleet),
        r"no bridge checks the ledger \(ledger: last checked \d+ (s|min) ago\)",
        rf"job 1: {GONE} \(ledger: finished for .*; server: listed nowhere\)",
        rf"job 2: {GONE} \(ledger: running for .*; server: listed nowhere\)",
    )


def test_a_server_and_a_ledger_that_are_away(fleet: Fleet) -> None:
    start(fleet)
    away = check(fleet, MODELREINS_URL="http://127.0.0.1:1")
    assert away.popen.returncode == 1
    assert re.search(r"^audit +FAILED +the server's lists cannot be read: ", away.output, re.MULTILINE)
    away = check(fleet, MODELREINS_LEDGER_URL="redis://127.0.0.1:1/0")
    assert away.popen.returncode == 1
    assert re.search(r"^audit +FAILED +the ledger cannot be read: ", away.output, re.MULTILINE)
    away = check(fleet, MODELREINS_TOKEN="")
    assert away.popen.returncode == 1
    assert re.search(r"^audit +FAILED +not possible$", away.output, re.MULTILINE)
    assert "Traceback" not in away.output


def test_an_inventory_shows_each_job_at_one_moment(redis_server: RedisServer) -> None:
    url = redis_server.url()
    moved, over = LedgerKit(Ledger(url, "w"), RedisServer.client_of(url)), threading.Event()

    def move() -> None:
        for job_id in cycle(range(1, 21)):
            if over.is_set():
                return
            moved.bring("closed", job_id)
            moved.redis.delete(moved.key(f"job:{job_id}"))

    mover = threading.Thread(target=move)
    mover.start()
    try:
        seen: set[str] = set()
        for _ in range(300):
            inventory = moved.ledger.inventory(also=range(1, 21))
            seen.update(row.state for row in inventory.rows.values())
            found = differences(inventory, Listed(Listing((), whole=False), Listing(())))
            assert [each for each in found if each.job_id is not None] == []
    finally:
        over.set()
        mover.join()
    assert len(seen) > 4, seen


@pytest.fixture
def cluster() -> Iterator[RedisServer]:
    """A Redis Cluster of one node that has all slots."""
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    client = server.client()
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    until(lambda: re.search(r"cluster_state\W+ok", str(client.execute_command("CLUSTER INFO"))), what="it is up")
    yield server
    server.stop()


def test_an_inventory_of_a_ledger_on_a_cluster(cluster: RedisServer) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster.port}"
    kit = LedgerKit(Ledger(url, "render 1/{ü}"), RedisServer.client_of(url))
    for job_id in range(1, 1101):
        kit.bring("running" if job_id % 2 else "finished", job_id)
    inventory = kit.ledger.inventory(also=[5000])
    assert len(inventory.rows) == 1101
    assert {(each.state, each.sets, each.slots) for each in inventory.rows.values()} == {
        ("running", ("running",), ("celery",)),
        ("finished", ("finished",), ()),
        ("", (), ()),
    }
