"""Operators see how the work stands, and decide: pause, drain, requeue, fail."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from support.fleet import BIN, Fleet
from support.ports import until


def command(fleet: Fleet, *arguments: str, code: int = 0) -> str:
    """What a command prints, after checking what it exits with."""
    whole = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    done = subprocess.run(whole, env=fleet.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def story(fleet: Fleet, job_id: int) -> list[str]:
    """What has happened to a job, in order."""
    told = json.loads(command(fleet, "jobs", str(job_id), "--json"))
    return [line["event"] for line in told["story"]]


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
    assert seen["states"] == {"admitted": 0, "claimed": 0, "sent": 0, "running": 1, "finished": 0}
    assert (seen["ended"]["60"]["done"], seen["ended"]["60"]["failed"]) == (1, 1)
    (bridge,) = seen["bridges"]
    assert bridge["presence_age"] is not None
    assert not bridge["token_rejected"]

    screen = command(fleet, "status")
    assert "claiming" in screen
    assert "\x1b[" not in screen  # plain where it is no terminal
    listed = command(fleet, "jobs")
    assert listed.splitlines()[1].split()[:2] == [str(waits), "running"]
    assert "no jobs" in command(fleet, "jobs", "--state", "escalated")
    failed = command(fleet, "jobs", "--state", "failed", "--json").splitlines()
    assert [json.loads(line)["state"] for line in failed] == ["failed"]
    gate.touch()
    fleet.ended(waits)
    until(lambda: story(fleet, waits)[-1] == "closed", seconds=20, what="the story has its end")
    told = [event for event in story(fleet, waits) if event != "sent"]  # a worker may be quicker than the bridge's note
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
    # Each bridge has reported its presence as paused, and so has looked.
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
    until(lambda: story(fleet, job_id)[-1] == "closed", seconds=20)
    assert story(fleet, job_id).count("started") == 2
    assert "requeued" in story(fleet, job_id)
    told = command(fleet, "requeue", str(job_id), code=1)
    assert told.count("\n") == 1
    assert "it is closed" in told
    assert "not in the ledger" in command(fleet, "requeue", "999999", code=1)


def test_a_job_that_must_not_be_started_twice_is_requeued_by_force_only(fleet: Fleet) -> None:
    fleet.bridge()
    fleet.worker()
    job_id = fleet.dispatch("once", "hang")
    running(fleet, "once")
    assert "--force" in command(fleet, "requeue", str(job_id), code=1)
    command(fleet, "requeue", str(job_id), "--force")
    running(fleet, "once", times=2)


def test_a_job_that_an_operator_fails_is_closed_with_his_words_and_its_run_is_stopped(fleet: Fleet, gate: Path) -> None:
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
    assert "cannot be failed: it is closed" in command(fleet, "fail", str(job_id), "--why", "again", code=1)


def test_an_absent_ledger_is_told_in_one_line(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_LEDGER_URL"] = "redis://127.0.0.1:1/0"
    for line in ("status", "jobs", "pause", "resume", "drain", "requeue 1", "fail 1 --why x"):
        told = command(fleet, *line.split(), code=1)
        assert told.count(os.linesep) == 1
        assert "the ledger at redis://127.0.0.1:1/0" in told
