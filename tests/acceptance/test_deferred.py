"""Deferred jobs, with real bridges and workers, and with callers in other processes."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from mr_celery import Artifact, Result, Review, complete, escalate, extend
from mr_celery import fail as fail_by_reference
from mr_celery.errors import JobError
from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RedisServer

ELSEWHERE = Celery("elsewhere", set_as_current=False)
"""An application without handlers, as that of a process that only receives web hooks."""

HOOK = """
import sys
from mr_celery import Artifact, Result, Review, complete
picture = Artifact(data=b"picture", content_type="image/png", filename="picture.png")
review = Review(type="image", title="Picture", content="look", preview=picture)
answer = complete(sys.argv[1], Result("made elsewhere", artifacts=[picture], reviews=[review]))
print(answer.reason)
"""
"""A script that knows the ledger's address and nothing else."""


@pytest.fixture
def fleet(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    made = Fleet(
        sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path, app="support.proj_deferred"
    )
    made.environment["PROJ_GATE"] = str(tmp_path / "gate")
    monkeypatch.setenv("MODELREINS_LEDGER_URL", redis_server.url(1))
    yield made
    made.stop()


def command(fleet: Fleet, *arguments: str, code: int = 0, **options: Any) -> str:
    """The output of a command, after checking its exit code."""
    whole = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    done = fork_server.run(whole, env=fleet.environment, timeout=90, **options)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def ledger_of(fleet: Fleet) -> Ledger:
    return Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)


def deferred(fleet: Fleet, *job_ids: int) -> None:
    """Wait until these jobs are deferred."""

    def states() -> set[str]:
        return {record.state if (record := ledger_of(fleet).read(each)) else "" for each in job_ids}

    until(lambda: states() == {"deferred"}, seconds=60, what=f"{job_ids} are deferred")


def references(fleet: Fleet, prompt: str, count: int = 1) -> list[str]:
    """The references that runs with this prompt have given out, after waiting for that many."""
    file = Path(f"{fleet.runs}.refs")

    def given() -> list[str]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [ref for each, ref in (line.split("\t") for line in lines) if each == prompt]

    until(lambda: len(given()) >= count, seconds=60, what=f"{count} references of {prompt!r}")
    return given()


def closes(fleet: Fleet, job_id: int) -> list[str]:
    return [event for event in fleet.events(job_id) if event.startswith("close")]


def test_a_slot_is_free_while_a_job_waits_for_its_outcome_from_another_process(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("a picture", "later-attached")
    deferred(fleet, job_id)
    assert fleet.ended(fleet.dispatch("meanwhile"))[0]["result"] == "MEANWHILE"
    assert fleet.job(job_id)["status"] == "running"
    assert "order of a picture" in command(fleet, "jobs", str(job_id))
    assert command(fleet, "jobs", "--state", "deferred").splitlines()[1].split()[:2] == [str(job_id), "deferred"]
    assert json.loads(command(fleet, "status", "--json"))["states"]["deferred"] == 1
    assert "deferred" in command(fleet, "status")

    (ref,) = references(fleet, "a picture")
    environment = {"MODELREINS_LEDGER_URL": fleet.environment["MODELREINS_LEDGER_URL"], "PATH": str(BIN)}
    hook = [sys.executable, "-c", HOOK, ref]
    answers = [fork_server.run(hook, env=environment, timeout=90) for _ in range(2)]
    assert [each.stdout.strip() for each in answers] == ["accepted", "completed"], [each.stderr for each in answers]
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"].splitlines()[0]) == ("done", "made elsewhere")
    assert closes(fleet, job_id) == ["close done"]
    assert fleet.started("a picture") == 1
    assert sorted(each["filename"] for each in fleet.sandbox.store.artifacts(job_id)) == ["picture.png", "sketch.png"]
    assert sorted(each["title"] for each in fleet.sandbox.store.reviews()) == ["Picture", "Sketch"]
    assert all(ref not in process.output for process in fleet.processes)
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_each_way_to_defer_and_to_end_a_job(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("-P", pool, "-c", "1" if pool == "solo" else "2")
    fleet.bridge()
    ways = ["later", "later-raised", "later-async"]
    jobs = {way: fleet.dispatch(f"by {way}", way) for way in ways}
    deferred(fleet, *jobs.values())
    refs = [references(fleet, f"by {way}")[0] for way in ways]
    assert complete(refs[0], {"made": True}, app=ELSEWHERE)
    assert fail_by_reference(refs[1], "no credit", artifacts=[Artifact(data=b"log", filename="log.txt")], app=ELSEWHERE)
    assert extend(refs[2], 60, app=ELSEWHERE)
    assert escalate(refs[2], "odd", app=ELSEWHERE)
    found = [(job["status"], job["result"].splitlines()[0]) for job in fleet.ended(*jobs.values())]
    assert found == [("done", '{"made": true}'), ("failed", "no credit"), ("escalated", "odd")]
    assert [each["filename"] for each in fleet.sandbox.store.artifacts(jobs["later-raised"])] == ["log.txt"]
    assert [fleet.started(f"by {way}") for way in ways] == [1, 1, 1]
    assert [len(closes(fleet, job_id)) for job_id in jobs.values()] == [1, 1, 1]
    assert "Traceback" not in worker.output


def test_after_the_deadline_the_job_runs_again_and_its_first_reference_is_stale(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    bridge = fleet.bridge()
    job_id, once = (
        fleet.dispatch("too late", "later", first_timeout=2),
        fleet.dispatch("only once", "later-once", seconds=2),
    )
    first, second = references(fleet, "too late", 2)
    answer = complete(first, "stale", app=ELSEWHERE)
    assert (answer.reason, bool(answer)) == ("superseded", False)
    assert f"attempt 1 of job {job_id}" in answer.text
    assert complete(second, "in time", app=ELSEWHERE)
    done, lost = fleet.ended(job_id, once)
    assert (done["status"], done["result"]) == ("done", "in time")
    assert lost["status"] == "failed"
    assert "no outcome came within 2.0 s after its handler had deferred it" in lost["result"]
    assert fleet.started("only once") == 1
    assert not complete(references(fleet, "only once")[0], "late", app=ELSEWHERE)
    bridge.says("no outcome came within 2.0 s")
    assert [closes(fleet, each) for each in (job_id, once)] == [["close done"], ["close failed"]]


@pytest.mark.parametrize("returns", ["in time", "too late"])
def test_hooks_from_many_threads_before_the_handler_has_returned(fleet: Fleet, returns: str) -> None:
    fleet.environment["MODELREINS_DELIVERY"] = "bridge"  # so that a handler's uploads wait for its end
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("eager", "slow-to-return")
    (ref,) = references(fleet, "eager")
    barrier = threading.Barrier(16)

    def hook(number: int) -> str:
        barrier.wait()
        return complete(ref, f"hook {number}", app=ELSEWHERE).reason

    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(hook, range(16))) == {"accepted": 1, "completed": 15}
    if returns == "too late":
        fleet.ended(job_id)
    Path(fleet.environment["PROJ_GATE"]).touch()
    (job,) = fleet.ended(job_id)
    assert job["result"].startswith("hook ")
    assert closes(fleet, job_id) == ["close done"]
    if returns == "too late":
        worker.says("are lost: the outcome was delivered before the handler returned")
    else:
        worker.says("completed through its reference before its handler returned")
        assert [each["filename"] for each in fleet.sandbox.store.artifacts(job_id)] == ["sketch.png"]
    assert fleet.ended(fleet.dispatch("next"))[0]["result"] == "NEXT"


def test_an_aborted_job_is_not_completed(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("unwanted", "later")
    deferred(fleet, job_id)
    fleet.sandbox.store.abort(job_id)
    until(lambda: ledger_of(fleet).read(job_id).state == "aborted", seconds=60)  # type: ignore[union-attr]
    answer = complete(references(fleet, "unwanted")[0], "too late", app=ELSEWHERE)
    assert (answer.reason, answer.text) == ("aborted", f"job {job_id} was aborted")
    assert fleet.ended(fleet.dispatch("next"))[0]["result"] == "NEXT"
    assert fleet.job(job_id)["result"] == "aborted by an operator"
    assert closes(fleet, job_id) == []


def test_deferred_jobs_survive_a_drain_and_restarts(fleet: Fleet) -> None:
    worker, bridge = fleet.worker("-c", "1"), fleet.bridge()
    jobs = [fleet.dispatch(f"waits {number}", "later") for number in range(3)]
    deferred(fleet, *jobs)
    assert "3 deferred jobs" in command(fleet, "drain", "--timeout", "60")
    assert "3 jobs in flight" in command(fleet, "drain", "--deferred", "--timeout", "1", code=1)
    assert worker.terminate() == 0
    bridge.kill()
    assert complete(references(fleet, "waits 0")[0], "without a bridge", app=ELSEWHERE)
    worker.start()
    bridge.start()
    assert complete(references(fleet, "waits 1")[0], "meanwhile", app=ELSEWHERE)
    assert [job["result"] for job in fleet.ended(*jobs[:2])] == ["without a bridge", "meanwhile"]
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(command, fleet, "drain", "--deferred", "--timeout", "80")
        assert complete(references(fleet, "waits 2")[0], "at last", app=ELSEWHERE)
        assert "no job is in flight" in drained.result()
    assert [closes(fleet, job_id) for job_id in jobs] == [["close done"]] * 3
    assert [fleet.started(f"waits {number}") for number in range(3)] == [1, 1, 1]


def test_the_command_that_completes(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    prompts = {"plain": "later", "stdin": "later-shaped", "failed": "later", "escalated": "later"}
    jobs = {prompt: fleet.dispatch(prompt, capability) for prompt, capability in prompts.items()}
    deferred(fleet, *jobs.values())
    refs = {prompt: references(fleet, prompt)[0] for prompt in prompts}
    file = tmp_path / "picture.png"
    file.write_bytes(b"picture")

    assert "extended" in command(fleet, "complete", refs["plain"], "--extend", "600")
    assert "not a number of seconds" in command(fleet, "complete", refs["plain"], "--extend", "0", code=1)
    missing = command(fleet, "complete", refs["plain"], "--artifact", str(tmp_path / "absent.png"), code=1)
    assert "absent.png" in missing
    for options in (["--result", "x", "--fail", "y"], ["--extend", "5", "--artifact", str(file)]):
        command(fleet, "complete", refs["plain"], *options, code=2)
    answer = command(fleet, "complete", refs["plain"], "--result", "made", "--artifact", str(file))
    assert answer == "accepted: a bridge closes the job on the server\n"
    assert "was completed before" in command(fleet, "complete", refs["plain"], code=1)
    command(fleet, "complete", refs["stdin"], "--result", "-", input="from stdin")
    command(fleet, "complete", refs["failed"], "--fail", "no credit", "--artifact", str(file))
    command(fleet, "complete", refs["escalated"], "--escalate", "look")
    assert "not the reference of a job" in command(fleet, "complete", "nonsense", code=1)
    found = {job["prompt"]: (job["status"], job["result"].splitlines()[0]) for job in fleet.ended(*jobs.values())}
    assert found == {
        "plain": ("done", "made"),
        "stdin": ("done", "shaped from stdin"),
        "failed": ("failed", "no credit"),
        "escalated": ("escalated", "look"),
    }
    assert [each["filename"] for each in fleet.sandbox.store.artifacts(jobs["plain"])] == ["picture.png"]
    assert [each["title"] for each in fleet.sandbox.store.reviews()] == ["Look at it"]


def test_jobs_that_would_be_deferred_stay_pending_beyond_the_limit(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_MAX_DEFERRED"] = "2"
    fleet.environment["MODELREINS_MAX_INFLIGHT"] = "1"
    fleet.worker("-c", "1")
    fleet.bridge()
    first = [fleet.dispatch(f"waits {number}", "later") for number in range(2)]
    deferred(fleet, *first)
    stays = fleet.dispatch("stays", "later")
    until(
        lambda: "the limit of 2 deferred jobs is reached" in " ".join(command(fleet, "status").split()),
        seconds=60,
        what="the reason in status",
    )
    assert fleet.ended(fleet.dispatch("another task"))[0]["result"] == "ANOTHER TASK"
    assert fleet.job(stays)["status"] == "pending"
    assert complete(references(fleet, "waits 0")[0], "made", app=ELSEWHERE)
    deferred(fleet, stays)


def test_large_artifacts_go_through_the_spool_or_directly_to_the_server(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = str(tmp_path / "spool")
    fleet.environment |= {"MODELREINS_SPOOL_URL": spool, "MODELREINS_DELIVERY": "bridge"}
    fleet.worker("-c", "1")
    fleet.bridge()
    jobs = [fleet.dispatch(f"large {number}", "later-attached") for number in range(2)]
    deferred(fleet, *jobs)
    refs = [references(fleet, f"large {number}")[0] for number in range(2)]
    film = Artifact(data=bytes(2 * 2**20), filename="film.mp4")
    value = Result("x" * 5000, artifacts=[film], reviews=[Review(type="text", title="Film", content="…", preview=film)])
    monkeypatch.setenv("MODELREINS_RESULT_LIMIT", "1024")
    with pytest.raises(JobError, match="MODELREINS_SPOOL_URL"):
        complete(refs[0], value, app=Celery("without", set_as_current=False))
    deferred(fleet, jobs[0])  # it is still waiting

    monkeypatch.setenv("MODELREINS_SPOOL_URL", spool)
    assert complete(refs[0], value, app=Celery("spools", set_as_current=False))
    monkeypatch.delenv("MODELREINS_SPOOL_URL")
    for name in ("MODELREINS_URL", "MODELREINS_TOKEN", "MODELREINS_NAME"):
        monkeypatch.setenv(name, fleet.environment[name])
    assert complete(refs[1], value, app=Celery("uploads", set_as_current=False))
    for job in fleet.ended(*jobs):
        assert len(job["result"]) < 2000
        names = [each["filename"] for each in fleet.sandbox.store.artifacts(job["id"])]
        assert {"film.mp4", "sketch.png"} < set(names)
        assert len(names) == 3, names
    assert sorted(each["title"] for each in fleet.sandbox.store.reviews()) == ["Film", "Film", "Sketch", "Sketch"]
    until(lambda: not list(Path(spool).glob("*/*")), seconds=30, what="the spool is empty")
