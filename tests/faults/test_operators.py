"""Actions of operators on the server, at every moment of a job's life.

Assumption shared with the code: a job that is over has one of three statuses. ``test_lists.py`` uses other statuses,
and a server that shares no code with the sandbox.
"""

from __future__ import annotations

import threading

import pytest

from mr_celery.ledger import Ledger, Record
from mr_celery.sandbox import Rule
from support.campaign import Campaign, all_survive
from support.fleet import Fleet
from support.ports import until

NO_SINGLE_JOBS = Rule("status", status=403, routes=("job",))
"""A worker's token may not ask for single jobs, as the protocol allows a server to say."""


def record_of(fleet: Fleet, job_id: int) -> Record:
    record = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name).read(job_id)
    assert record is not None
    return record


def test_a_job_aborted_while_it_waits_is_never_run(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    first = fleet.dispatch("first", "nap", seconds=6)
    until(lambda: fleet.started("first") == 1, what="the worker is busy")
    waiting = fleet.dispatch("waiting", "nap")
    until(lambda: fleet.job(waiting)["status"] == "running", what="it is claimed")
    fleet.sandbox.store.abort(waiting)
    until(lambda: record_of(fleet, waiting).state == "aborted", what="the ledger knows")
    fleet.ended(first)
    fleet.ended(fleet.dispatch("after it"))
    assert fleet.started("waiting") == 0
    assert fleet.job(waiting)["result"] == "aborted by an operator"


def test_nothing_is_delivered_for_a_job_aborted_after_its_end(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    away = Rule("status", status=503, routes=("close", "artifact", "review"))
    fleet.sandbox.chaos.set([away])
    job_id = fleet.dispatch("poster", "poster")
    until(lambda: fleet.job(job_id)["status"] == "running", what="it is claimed")
    until(lambda: record_of(fleet, job_id).why, what="its outcome waits")
    fleet.sandbox.store.abort(job_id)
    fleet.sandbox.chaos.clear()
    until(lambda: record_of(fleet, job_id).state in ("closed", "aborted"), what="the ledger knows")
    assert fleet.job(job_id)["result"] == "aborted by an operator"
    assert fleet.sandbox.store.artifacts(job_id) == []
    assert fleet.sandbox.store.reviews() == []


@pytest.mark.parametrize("rules", [[], [NO_SINGLE_JOBS]], ids=["asked for single jobs", "by lists alone"])
def test_the_killswitch_stops_everything(fleet: Fleet, rules: list[Rule]) -> None:
    fleet.sandbox.chaos.set(rules)
    worker = fleet.worker("-c", "2")
    fleet.bridge()
    jobs = [fleet.dispatch(f"job {n}", "nap", seconds=60) for n in range(6)]
    until(lambda: sum(fleet.starts().values()) >= 2 and fleet.job(jobs[3])["status"] == "running", what="they run")
    fleet.sandbox.store.abort_all()
    until(lambda: worker.output.count("interrupted: it was aborted") == 2, what="both handlers are interrupted")
    (after,) = fleet.ended(fleet.dispatch("after it"))
    assert after["result"] == "AFTER IT"
    assert {fleet.job(job_id)["result"] for job_id in jobs} == {"aborted by an operator"}
    assert sum(fleet.started(f"job {n}") for n in range(6)) == 2


def test_lists_that_are_empty_by_mistake_abort_nothing(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    bridge = fleet.bridge()
    job_id = fleet.dispatch("goes on", "nap", seconds=14)
    until(lambda: fleet.started("goes on") == 1, what="it runs")
    threading.Event().wait(2)  # so that the server has listed it
    fleet.sandbox.chaos.set([NO_SINGLE_JOBS, Rule("empty_list", seconds=10)])
    (job,) = fleet.ended(job_id)
    assert job["result"] == "GOES ON"
    assert fleet.sandbox.chaos.counts["running", "empty_list"] >= 5
    assert "aborted" not in bridge.output + worker.output


@pytest.mark.parametrize("fault", ["wrong_types", "truncated", "html", "null"])
def test_lists_that_are_broken_abort_nothing(fleet: Fleet, fault: str) -> None:
    worker = fleet.worker("-c", "1")
    bridge = fleet.bridge()
    job_id = fleet.dispatch("goes on", "nap", seconds=8)
    until(lambda: fleet.started("goes on") == 1, what="it runs")
    fleet.sandbox.chaos.set([NO_SINGLE_JOBS, Rule(fault, routes=("running", "inbox"))])
    (job,) = fleet.ended(job_id)
    assert job["result"] == "GOES ON"
    assert "aborted" not in bridge.output + worker.output
    assert fleet.started("goes on") == 1


def test_a_token_that_is_revoked_and_restored(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = "0.5"
    fleet.worker("-c", "2")
    bridge = fleet.bridge()
    campaign = Campaign(fleet)
    campaign.dispatch(20, "nap", seconds=0.5)
    until(lambda: campaign.done() > 2, what="work is under way")
    with all_survive(fleet):
        fleet.sandbox.chaos.set([Rule("status", status=401)])
        bridge.says("the server refuses the token")
        campaign.dispatch(20)
        until(lambda: "finished" in record_states(fleet) <= {"finished", "admitted"}, what="what ran waits")
        check = fleet._start("check", ["celery", "-A", "support.proj", "modelreins", "check"])
        assert check.popen.wait(30) == 1
        fleet.processes.remove(check)
        fleet.sandbox.chaos.clear()
        campaign.audit()
    bridge.says("the server accepts the token again")


def record_states(fleet: Fleet) -> set[str]:
    return set(Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name).in_flight().values())
