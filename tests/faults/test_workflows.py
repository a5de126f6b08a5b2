"""Workflows whose members are killed, lost and aborted: the job ends once, and nothing runs on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(
        sandbox,
        broker=redis_server.url(0),
        ledger=redis_server.url(1),
        folder=tmp_path,
        app="support.proj_workflows",
    )
    made.environment |= {"PROJ_BACKEND": redis_server.url(2), "MODELREINS_LEASE": "3"}
    yield made
    made.stop()


def ledger_of(fleet: Fleet) -> Ledger:
    return Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)


def closes(fleet: Fleet, job_id: int) -> list[str]:
    return [event for event in fleet.events(job_id) if event.startswith(("close", "abort"))]


def test_a_killed_process_of_a_member_costs_the_job_an_attempt(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    jobs = [fleet.dispatch("chain", "return", input="dies"), fleet.dispatch("header", "return", input="dies-header")]
    results = [(job["status"], job["result"]) for job in fleet.ended(*jobs)]
    assert results == [("done", "CHAIN"), ("done", "2 header")]
    assert [fleet.started(f"handler {name}") for name in ("chain", "header")] == [2, 2]
    assert [closes(fleet, job_id) for job_id in jobs] == [["close done"], ["close done"]]


def test_a_member_that_always_dies_fails_its_job_and_is_named(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    often, once = (
        fleet.dispatch("often", "return", input="dies-always"),
        fleet.dispatch("once", "once", input="dies-always"),
    )
    for job in fleet.ended(often, once):
        assert job["status"] == "failed"
        assert "member support.proj_workflows.dies" in job["result"]
    assert (fleet.started("handler often"), fleet.started("handler once")) == (3, 1)


def test_a_member_that_is_lost_with_its_node_costs_the_job_an_attempt(fleet: Fleet) -> None:
    first = fleet.worker("-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("node", "return", input="short-nap")
    until(lambda: fleet.started("begin node"), what="the member")
    first.signal(signal.SIGKILL)
    fleet.worker("-c", "2")
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("done", "NODE")
    assert fleet.started("handler node") == 2
    assert any(event.event == "lost" and "nap" in event.note for event in ledger_of(fleet).events(job_id))
    assert closes(fleet, job_id) == ["close done"]


def test_a_members_message_that_the_broker_lost_costs_the_job_an_attempt(fleet: Fleet) -> None:
    fleet.worker("-c", "2")  # consumes the queue celery only
    fleet.bridge()
    job_id = fleet.dispatch("lost", "return", input="queue")
    broker = RedisServer.client_of(fleet.environment["PROJ_BROKER"])
    until(lambda: broker.llen("other") == 1, what="the member's message")
    broker.delete("other")
    until(lambda: broker.llen("other") == 1, what="the next attempt's message")
    fleet.worker("-c", "2", "-Q", "celery,other")
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("done", "6")
    assert fleet.started("handler lost") == 2


def test_a_message_that_waits_in_its_queue_is_not_lost(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("waits", "return", input="queue")
    broker = RedisServer.client_of(fleet.environment["PROJ_BROKER"])
    until(lambda: broker.llen("other") == 1, what="the member's message")
    ledger = ledger_of(fleet)
    checked = ledger.inventory().looked
    assert checked is not None
    since = ledger.survey().now
    until(lambda: ledger.survey().now - since > 8, what="two leases")
    fleet.worker("-c", "2", "-Q", "other")
    (job,) = fleet.ended(job_id)
    assert (job["result"], fleet.started("handler waits")) == ("6", 1)


@pytest.mark.parametrize(("pool", "name"), [("prefork", "naps"), ("prefork", "nap"), ("threads", "patient")])
def test_an_abort_stops_the_members_that_run_and_no_other_starts(fleet: Fleet, pool: str, name: str) -> None:
    fleet.worker("-c", "2", "-P", pool)
    fleet.worker("-c", "2", "-P", pool)
    fleet.bridge()
    job_id = fleet.dispatch("abort", "return", input=name)
    begun = ["begin abort 0", "begin abort 1"] if name == "naps" else ["begin abort"]
    until(lambda: all(fleet.started(each) == 1 for each in begun), what="the members")
    fleet.sandbox.store.abort(job_id)
    words = "interrupted: it was aborted" if pool == "prefork" else "was aborted"
    until(lambda: sum(each.output.count(words) for each in fleet.processes) >= len(begun), what="the interruption")
    (next_one,) = fleet.ended(fleet.dispatch("next", "return", input="single"))
    assert next_one["result"] == "NEXT"
    assert not any(text.startswith(("end abort", "upper abort")) for text in fleet.starts())
    assert closes(fleet, job_id) == ["abort"]


def test_late_members_of_an_earlier_attempt_change_nothing(fleet: Fleet) -> None:
    """A node is frozen while it runs a member, and continues when the job has ended."""
    first = fleet.worker("-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("late", "return", input="short-nap")
    until(lambda: fleet.started("begin late"), what="the member")
    first.signal(signal.SIGSTOP)
    fleet.worker("-c", "2")
    try:
        (job,) = fleet.ended(job_id)
    finally:
        first.signal(signal.SIGCONT)
    assert (job["status"], job["result"]) == ("done", "LATE")
    (next_one,) = fleet.ended(fleet.dispatch("next", "return", input="chain"))
    assert next_one["result"] == "10"
    assert closes(fleet, job_id) == ["close done"]


def test_a_broker_that_is_away_when_a_member_has_ended(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Celery cannot publish the successor. The job gets another attempt, once the broker is back."""
    broker = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    fleet = Fleet(
        sandbox, broker=broker.url(0), ledger=redis_server.url(1), folder=tmp_path, app="support.proj_workflows"
    )
    fleet.environment |= {"PROJ_BACKEND": redis_server.url(2), "MODELREINS_LEASE": "3"}
    try:
        worker = fleet.worker("-c", "2")
        fleet.bridge()
        job_id = fleet.dispatch("away", "return", input="short-nap")
        until(lambda: fleet.started("begin away"), what="the member")
        broker.kill()
        worker.says(
            "the broker did not accept the next message of the workflow, after member support.proj_workflows.nap"
        )
        broker.start()
        (job,) = fleet.ended(job_id, seconds=90)
        assert (job["status"], job["result"]) == ("done", "AWAY")
        assert fleet.started("handler away") == 2
        assert closes(fleet, job_id) == ["close done"]
    finally:
        fleet.stop()
        broker.stop()
