"""Operators see the state of the work, and act: pause, drain, requeue, fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until


def command(fleet: Fleet, *arguments: str, code: int = 0) -> str:
    """The output of a command, after checking its exit code."""
    whole = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    done = fork_server.run(whole, env=fleet.environment, timeout=60)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def events(fleet: Fleet, job_id: int) -> list[str]:
    """The events of a job, in order."""
    told = json.loads(command(fleet, "jobs", str(job_id), "--json"))
    return [line["event"] for line in told["events"]]


@pytest.fixture
def gate(fleet: Fleet) -> Path:
    """The file for which jobs of the capability ``gated`` wait."""
    file = fleet.folder / "gate"
    fleet.environment["PROJ_GATE"] = str(file)
    return file


def running(fleet: Fleet, prompt: str, *, times: int = 1) -> None:
    until(lambda: fleet.started(prompt) == times, seconds=30, what=f"{prompt!r} has started {times} times")


def test_an_operator_sees_how_the_work_stands(fleet: Fleet, gate: Path) -> None:
    fleet.bridge()
    worker = fleet.worker()
    waits = fleet.dispatch("waits", "gated")
    fleet.ended(fleet.dispatch("hello"), fleet.dispatch("wrong", "raise"))
    running(fleet, "waits")

    def status() -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(command(fleet, "status", "--json"))
        return seen

    until(lambda: status()["pending"] == 0, seconds=20, what="the bridge has told of its inbox")
    seen = status()
    assert seen["worker_name"] == fleet.name
    assert seen["pause"] is None
    assert [node["concurrency"] for node in seen["nodes"]] == [2]
    assert seen["states"] == {"admitted": 0, "claimed": 0, "sent": 0, "running": 1, "deferred": 0, "finished": 0}
    assert (seen["ended"]["60"]["done"], seen["ended"]["60"]["failed"]) == (1, 1)
    (bridge,) = seen["bridges"]
    assert bridge["presence_age"] is not None
    assert bridge["token"] is None

    screen = command(fleet, "status")
    assert "claiming" in screen
    assert "\x1b[" not in screen  # no colors outside a terminal
    listed = command(fleet, "jobs")
    assert listed.splitlines()[1].split()[:2] == [str(waits), "running"]
    assert "no jobs" in command(fleet, "jobs", "--state", "escalated")
    failed = command(fleet, "jobs", "--state", "failed", "--json").splitlines()
    assert [json.loads(line)["state"] for line in failed] == ["failed"]
    gate.touch()
    fleet.ended(waits)
    until(lambda: events(fleet, waits)[-1] == "closed", seconds=20, what="the events has its end")
    told = [
        event for event in events(fleet, waits) if event != "sent"
    ]  # a worker may start the job before the bridge records it
    assert told == ["admitted", "claimed", "started", "finished", "closed"]
    assert worker.popen.poll() is None


def test_a_pause_holds_on_all_bridges_and_over_restarts_until_it_is_ended(fleet: Fleet) -> None:
    first = fleet.bridge()
    fleet.bridge()
    fleet.worker()
    fleet.ended(fleet.dispatch("before"))
    assert "paused" in command(fleet, "pause", "--why", "a new model")
    assert "a new model" in command(fleet, "status")
    first.terminate()
    first.start()
    until(lambda: first.output.count("ready") == 2, seconds=30)
    waiting = fleet.dispatch("later")
    # A presence of "paused" shows that the bridges have polled.
    until(lambda: "paused" in str(fleet.sandbox.store.workers()[0]["details"]), seconds=20)
    assert fleet.job(waiting)["status"] == "pending"
    assert fleet.events(waiting) == ["dispatched"]
    assert "claimed again" in command(fleet, "resume")
    assert fleet.ended(waiting)[0]["result"] == "LATER"
    assert "was not paused" in command(fleet, "resume")


def test_a_drain_waits_until_nothing_is_in_flight(fleet: Fleet, gate: Path) -> None:
    fleet.bridge()
    fleet.worker()
    job_id = fleet.dispatch("waits", "gated")
    running(fleet, "waits")
    late = command(fleet, "drain", "--timeout", "1", code=1)
    assert "1 job in flight" in late
    assert "still paused" in late
    next_one = fleet.dispatch("next")
    gate.touch()
    assert "drained" in command(fleet, "drain", "--timeout", "30")
    assert fleet.job(job_id)["status"] == "done"
    assert fleet.job(next_one)["status"] == "pending"
    command(fleet, "resume")
    fleet.ended(next_one)


def test_a_job_that_an_operator_requeues_runs_again_and_ends_once(fleet: Fleet, gate: Path) -> None:
    fleet.bridge()
    worker = fleet.worker()
    job_id = fleet.dispatch("hangs", "gated")
    running(fleet, "hangs")
    assert "was running: attempt 2" in command(fleet, "requeue", str(job_id))
    worker.says("interrupted: it was given to another worker")
    running(fleet, "hangs", times=2)
    gate.touch()
    assert fleet.ended(job_id)[0]["result"] == "HANGS"
    assert fleet.events(job_id).count("close done") == 1
    until(lambda: events(fleet, job_id)[-1] == "closed", seconds=20)
    assert events(fleet, job_id).count("started") == 2
    assert "requeued" in events(fleet, job_id)
    told = command(fleet, "requeue", str(job_id), code=1)
    assert told.count("\n") == 1
    assert "it has ended (done). Only the server starts an ended job again" in told
    assert "not in the ledger" in command(fleet, "requeue", "999999", code=1)


def test_a_job_that_must_not_be_started_twice_is_requeued_by_force_only(fleet: Fleet) -> None:
    fleet.bridge()
    fleet.worker()
    job_id = fleet.dispatch("once", "hang")
    running(fleet, "once")
    assert "--force" in command(fleet, "requeue", str(job_id), code=1)
    command(fleet, "requeue", str(job_id), "--force")
    running(fleet, "once", times=2)


def test_a_job_that_an_operator_fails_is_closed_with_the_given_text_and_its_run_is_stopped(
    fleet: Fleet, gate: Path
) -> None:
    fleet.bridge()
    worker = fleet.worker()
    job_id = fleet.dispatch("hangs", "gated")
    running(fleet, "hangs")
    command(fleet, "fail", str(job_id), "--why", "the customer cancelled")
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("failed", "the customer cancelled")
    worker.says("interrupted: it was ended by an operator")
    assert command(fleet, "fail", str(job_id), code=2)  # --why is required
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: not ledger.in_flight(), seconds=20)
    assert "cannot be failed: it has ended (failed)" in command(fleet, "fail", str(job_id), "--why", "again", code=1)
    history = command(fleet, "jobs", str(job_id))
    assert "the customer cancelled" in history
    assert f"output: {fleet.sandbox.url}/jobs/{job_id}" in history
    assert "the customer cancelled" in command(fleet, "jobs", "--state", "failed")


def listed(fleet: Fleet, *filters: str) -> dict[int, dict[str, Any]]:
    """The jobs that ``jobs --json`` lists, by id."""
    found = [json.loads(line) for line in command(fleet, "jobs", *filters, "--json").splitlines()]
    return {job["id"]: job for job in found}


def test_jobs_are_listed_by_filters_with_the_reason_of_each_failure(fleet: Fleet, gate: Path) -> None:
    fleet.bridge()
    fleet.worker("-c", "4")
    done, wrong, escalated = fleet.dispatch("hello"), fleet.dispatch("a cat", "raise"), fleet.dispatch("x", "escalate")
    limit, lost, waits = fleet.dispatch("long", "limit"), fleet.dispatch("dies", "die"), fleet.dispatch("w", "gated")
    fleet.ended(done, wrong, escalated, limit, lost)
    running(fleet, "w")
    until(lambda: len(listed(fleet, "--state", "failed")) == 3, seconds=20, what="the ledger has the failures")

    jobs = listed(fleet)
    reasons = {job_id: jobs[job_id]["reason"] for job_id in (done, wrong, escalated, waits)}
    assert reasons == {done: "", wrong: "ValueError", escalated: "Escalate", waits: ""}
    assert "hard time limit" in jobs[limit]["reason"]
    assert jobs[lost]["reason"].startswith("lost 3 times: ")
    assert jobs[wrong]["capability"] == "raise"
    assert "cat" not in command(fleet, "jobs") + command(fleet, "jobs", str(wrong))

    assert set(listed(fleet, "--capability", "raise")) == {wrong}
    assert set(listed(fleet, "--task", "support.proj.dies", "--since", "1h")) == {lost}
    assert set(listed(fleet, "--state", "running")) == {waits}
    assert set(listed(fleet, "--state", "done", "--state", "escalated")) == {done, escalated}
    assert listed(fleet, "--older-than", "1h") == {}
    assert len(listed(fleet, "--limit", "2")) == 2
    gate.touch()
    fleet.ended(waits)


def test_many_jobs_are_requeued_and_failed_by_filters(fleet: Fleet, gate: Path) -> None:
    fleet.bridge()
    worker = fleet.worker("-c", "2")
    fleet.ended(fleet.dispatch("wrong", "raise"))
    waits = [fleet.dispatch(f"waits {each}", "gated") for each in range(4)]
    until(lambda: len(listed(fleet, "--capability", "gated", "--state", "running")) == 2, seconds=30)
    until(lambda: len(listed(fleet, "--capability", "gated", "--state", "sent")) == 2, seconds=30)

    refused = command(fleet, "fail", "--capability", "gated", "--why", "too many", code=2)
    assert "4 jobs would be failed, but there is no terminal to confirm it: add --yes" in refused
    assert set(listed(fleet, "--capability", "gated")) == set(waits)
    assert "cannot be requeued. Only the server starts an ended job again" in command(
        fleet, "requeue", "--state", "failed", "--yes", code=1
    )

    assert "2 of 2 jobs requeued" in command(fleet, "requeue", "--state", "running", "--since", "1h", "--yes")
    worker.says("interrupted: it was given to another worker")
    failed = command(fleet, "fail", "--task", "support.proj.gated", "--why", "too many", "--yes")
    assert "4 of 4 jobs failed" in failed
    assert [job["result"] for job in fleet.ended(*waits)] == ["too many"] * 4
    mixed = command(fleet, "requeue", str(waits[0]), "999999", code=1)
    assert "0 of 2 jobs requeued" in mixed
    assert "it has ended (failed)" in mixed
    assert "job 999999 is not in the ledger" in mixed


def test_an_unreachable_ledger_is_reported_with_what_to_do(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_LEDGER_URL"] = "redis://127.0.0.1:1/0"
    for line in ("status", "jobs", "pause", "resume", "drain", "requeue 1", "fail 1 --why x"):
        told = command(fleet, *line.split(), code=1)
        assert told.count(os.linesep) == 2
        assert "→ start its Redis" in told
        assert "the ledger at redis://127.0.0.1:1/0" in told
