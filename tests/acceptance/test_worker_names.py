"""Several worker names in one bridge process, each with its own token, presence and jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import free_port, until
from support.servers import RedisServer

from .test_operations import command

TOKENS = {"text-01": "token-of-text", "slow-01": "token-of-slow"}
WORKERS = {
    "text-01": {"token_env": "TEXT_TOKEN"},
    "slow-01": {"token_env": "SLOW_TOKEN", "capabilities": ["gated", "sleep"]},
}


@pytest.fixture
def names(redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with two worker names, each with its own token."""
    with Sandbox(tokens=TOKENS) as sandbox:
        fleet = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
        for needless in ("MODELREINS_NAME", "MODELREINS_TOKEN"):
            del fleet.environment[needless]
        fleet.environment.update(
            MODELREINS_WORKERS=json.dumps(WORKERS),
            TEXT_TOKEN=TOKENS["text-01"],
            SLOW_TOKEN=TOKENS["slow-01"],
            PROJ_GATE=str(tmp_path / "gate"),
        )
        yield fleet
        fleet.stop()


def dispatch(fleet: Fleet, worker: str, prompt: str, capability: str | None = None) -> int:
    fields = {"capability": capability} if capability else {}
    return int(fleet.sandbox.dispatch(prompt, worker=worker, **fields)["id"])


def status(fleet: Fleet, *options: str) -> dict[str, Any]:
    """The output of `status --json` by worker name."""
    told = json.loads(command(fleet, "status", "--json", *options))
    return {each["worker_name"]: each for each in (told if isinstance(told, list) else [told])}


def test_worker_names_have_separate_tokens_presence_and_jobs(names: Fleet) -> None:
    bridge = names.bridge()
    names.worker()
    text = dispatch(names, "text-01", "hello")
    slow = dispatch(names, "slow-01", "slowly", "sleep")
    not_offered = dispatch(names, "slow-01", "not of this name")

    done = names.ended(text, slow, not_offered)
    assert [(job["status"], job["claimed_by"]) for job in done] == [
        ("done", "text-01"),
        ("done", "slow-01"),
        ("failed", "slow-01"),
    ]
    assert "this worker offers: gated, sleep" in done[2]["result"]
    present = {each["instance"]: each for each in names.sandbox.store.workers()}
    assert present.keys() == TOKENS.keys()
    assert present["slow-01"]["tags"] == "gated,sleep"
    assert "gated" in present["text-01"]["tags"]
    assert bridge.terminate() == 0
    assert {each["instance"]: each["status"] for each in names.sandbox.store.workers()} == dict.fromkeys(TOKENS, "idle")


def test_rejected_token_does_not_affect_other_worker_names(names: Fleet) -> None:
    bridge = names.bridge("--http", address := f"127.0.0.1:{free_port()}", SLOW_TOKEN="a-stale-one")
    worker = names.worker()
    bridge.says("refuses the token")

    waits = dispatch(names, "slow-01", "waits", "sleep")
    (job,) = names.ended(dispatch(names, "text-01", "goes on"))
    assert job["status"] == "done"
    assert names.job(waits)["status"] == "pending"

    def trouble() -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"http://{address}/health/ready", timeout=10).json()["trouble"]
        return found

    until(lambda: "token" in trouble().get("slow-01", {}), seconds=30, what="its readiness tells")
    assert trouble().keys() == {"slow-01"}
    metrics = requests.get(f"http://{address}/metrics", timeout=10).text
    assert 'modelreins_token_rejected{worker_name="slow-01"} 1.0' in metrics
    assert 'modelreins_token_rejected{worker_name="text-01"} 0.0' in metrics
    for secret in (*TOKENS.values(), "a-stale-one"):
        assert secret not in bridge.output + worker.output


def test_worker_names_share_the_fleet(names: Fleet) -> None:
    """Worker names share the capacity: one that uses all of it leaves half of the free slots to another."""
    names.bridge()
    names.worker("-c", "2")
    first = [dispatch(names, "text-01", f"text {number}", "gated") for number in range(8)]
    until(lambda: status(names)["text-01"]["taken"] == 4, seconds=30, what="all of it is taken")
    assert status(names)["text-01"]["capacity"] == 4

    second = [dispatch(names, "slow-01", f"slow {number}", "gated") for number in range(8)]
    until(lambda: status(names)["slow-01"]["taken"] == 2, seconds=30, what="the other one has its half")
    seen = status(names)
    assert {name: each["capacity"] for name, each in seen.items()} == {"text-01": 2, "slow-01": 2}
    assert seen["text-01"]["taken"] == 4  # it keeps the slots it has

    Path(names.environment["PROJ_GATE"]).touch()
    assert {job["status"] for job in names.ended(*first, *second)} == {"done"}


def fleet_of(names: int, redis_server: RedisServer, folder: Path, sandbox: Sandbox) -> Fleet:
    """An installation with many worker names, all with one token."""
    fleet = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=folder)
    for needless in ("MODELREINS_NAME", "MODELREINS_TOKEN"):
        del fleet.environment[needless]
    workers = {f"name-{number}": {"token_env": f"TOKEN_{number}"} for number in range(names)}
    fleet.environment.update({f"TOKEN_{number}": f"token-{number}" for number in range(names)})
    fleet.environment["MODELREINS_WORKERS"] = json.dumps(workers)
    return fleet


def test_a_hundred_worker_names_need_as_many_threads_as_a_few(redis_server: RedisServer, tmp_path: Path) -> None:
    with Sandbox(tokens={f"name-{number}": f"token-{number}" for number in range(100)}) as sandbox:
        fleet = fleet_of(100, redis_server, tmp_path, sandbox)
        try:
            bridge = fleet.bridge()
            fleet.worker("-c", "2")
            process = psutil.Process(bridge.popen.pid)
            until(lambda: len(sandbox.store.workers()) == 100, seconds=60, what="all have reported presence")
            jobs = [dispatch(fleet, f"name-{number}", f"job {number}") for number in range(100)]
            done = fleet.ended(*jobs, seconds=90)
            assert [(job["status"], job["claimed_by"]) for job in done] == [
                ("done", f"name-{number}") for number in range(100)
            ]
            assert process.num_threads() <= 60
            channels = redis_server.client(1).pubsub_numsub("modelreins:{name-1}:notifications")
            assert [count for _, count in channels] == [1]
            listening = [each for each in redis_server.client(1).client_list() if int(each["sub"]) > 1]
            assert [int(each["sub"]) for each in listening] == [100], "one connection receives those of all names"
            assert bridge.terminate() == 0
            assert {each["status"] for each in sandbox.store.workers()} == {"idle"}
        finally:
            fleet.stop()


def test_no_worker_name_starves_while_the_fleet_is_full(redis_server: RedisServer, tmp_path: Path) -> None:
    with Sandbox(tokens={f"name-{number}": f"token-{number}" for number in range(10)}) as sandbox:
        fleet = fleet_of(10, redis_server, tmp_path, sandbox)
        try:
            jobs = {
                int(sandbox.dispatch(f"{name} job {number}", worker=name, capability="sleep", seconds=0.2)["id"]): name
                for name in (f"name-{number}" for number in range(10))
                for number in range(8)
            }
            fleet.worker("-c", "2")
            fleet.bridge()
            ended = fleet.ended(*jobs, seconds=120)
            first_half = sorted(ended, key=lambda job: job["closed_at"])[:40]
            shares = Counter(jobs[job["id"]] for job in first_half)
            assert all(2 <= shares[name] <= 8 for name in jobs.values()), shares
        finally:
            fleet.stop()


def test_commands_apply_to_all_worker_names_or_one(names: Fleet) -> None:
    names.bridge()
    names.worker("-c", "2", "-Q", "celery,other")
    held = dispatch(names, "slow-01", "held", "gated")
    until(lambda: names.started("held") == 1, seconds=30, what="it runs")

    until(lambda: all(each["bridges"] for each in status(names).values()), seconds=20, what="all are announced")
    assert status(names, "--name", "slow-01").keys() == {"slow-01"}
    screen = command(names, "status")
    assert screen.index("text-01") < screen.index("slow-01")
    assert screen.count("slots  queues") == 1  # they share one fleet
    listed = command(names, "jobs")
    assert listed.index("text-01:") < listed.index("no jobs") < listed.index("slow-01:") < listed.index("running")
    assert json.loads(command(names, "jobs", str(held), "--json"))["worker_name"] == "slow-01"
    assert "is in no ledger of 'text-01', 'slow-01'" in command(names, "jobs", "99", code=1)
    assert "is in no ledger" in command(names, "fail", "99", "--why", "no", code=1)

    checked = command(names, "check", "--audit")
    for line in (
        "worker names 'text-01', 'slow-01'",
        "accepts the token of 'text-01'",
        "accepts the token of 'slow-01'",
    ):
        assert line in checked
    assert "slow-01: the ledger (1 in flight)" in checked

    assert "text-01: paused" in command(names, "pause", "--name", "text-01")
    assert [bool(each["pause"]) for each in status(names).values()] == [True, False]
    assert "not drained" in command(names, "drain", "--timeout", "0", code=1)
    assert all(each["pause"] for each in status(names).values())
    assert command(names, "fail", str(held), "--why", "enough").startswith(f"job {held} was running")
    names.ended(held)
    assert "text-01, slow-01: drained" in command(names, "drain", "--timeout", "30")
    resumed = command(names, "resume")
    assert resumed.splitlines() == ["text-01: jobs are claimed again", "slow-01: jobs are claimed again"]

    requests_ = command(names, "register", "--dry-run")
    assert requests_.count("POST ") == 2
    of_slow = command(names, "register", "--dry-run", "--name", "slow-01")
    assert [each["name"] for each in json.loads(of_slow[of_slow.index("{") :])["capabilities"]] == ["gated", "sleep"]


def test_bridge_for_one_worker_name_ignores_other_jobs(names: Fleet) -> None:
    names.bridge("--name", "slow-01")
    names.worker()
    other = dispatch(names, "text-01", "not here")
    (job,) = names.ended(dispatch(names, "slow-01", "here", "sleep"))
    assert job["status"] == "done"
    assert names.job(other)["status"] == "pending"


def test_invalid_worker_names_fail_with_one_line(names: Fleet) -> None:
    for workers, environment, why in (
        ('{"w": {"token": "hush"}}', {}, "MODELREINS_WORKERS: 'w' has the unknown key 'token'"),
        ('{"w": {"capabilities": ["nope"]}}', {"MODELREINS_TOKEN": "t"}, "'w' names the capability 'nope', which no"),
        (json.dumps(WORKERS), {"SLOW_TOKEN": ""}, "worker name 'slow-01' has no token: set SLOW_TOKEN"),
        (
            json.dumps(WORKERS),
            {"MODELREINS_NAME": "other"},
            "'other' is none of the worker names in modelreins_workers",
        ),
    ):
        bridge = names.bridge(ready=False, MODELREINS_WORKERS=workers, **environment)
        assert bridge.popen.wait(30) == 1
        assert why in bridge.output
        assert "hush" not in bridge.output
        assert "Traceback" not in bridge.output
