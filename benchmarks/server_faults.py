"""Results of the same jobs with an unreliable server: the official SDK's loop compared with mr-celery.

    python benchmarks/server_faults.py [--jobs 200] [--seed 1]

Prints the Markdown table of docs/why.md. Both work for one worker name against the sandbox with the same faults;
mr-celery runs as one bridge and one Celery worker with two processes, the SDK as one process, as intended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from mr_celery.sandbox import Rule, Sandbox
from support.fleet import Fleet
from support.servers import RedisServer

FAULTS = {
    "none": [],
    "10 % of the closes: 503": [Rule("status", status=503, routes=("close",), rate=0.1)],
    "10 % of the closes: connection cut after the effect": [Rule("drop", after=True, routes=("close",), rate=0.1)],
    "10 % of all requests: 503": [Rule("status", status=503, rate=0.1)],
    "10 % of all requests: an HTML page": [Rule("html", rate=0.1)],
    "10 % of the claims: connection cut after the effect": [Rule("drop", after=True, routes=("claim",), rate=0.1)],
    "10 % of all answers: cut in the middle": [Rule("truncated", after=True, rate=0.1)],
    "the server hangs for 5 s on 1 % of all requests": [Rule("hang", delay=5, rate=0.01)],
}

SDK = """
from modelreins_worker import Worker
Worker(name="w", poll_interval=0.2, timeout=3).run(handler=lambda job: job["prompt"].upper())
"""

TIMEOUT = 20.0
"""Seconds without a finished job after which the remaining jobs count as left behind."""


def wait_until_nothing_happens(sandbox: Sandbox, jobs: dict[int, str], lives: Callable[[], bool]) -> None:
    over, since = -1, time.monotonic()
    while over < len(jobs) and time.monotonic() - since < TIMEOUT and (lives() or time.monotonic() - since < 2):
        now = sum(sandbox.store.job(job_id)["status"] not in ("pending", "running") for job_id in jobs)
        if now != over:
            over, since = now, time.monotonic()
        time.sleep(0.1)


def verdicts(sandbox: Sandbox, jobs: dict[int, str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for job_id, expected in jobs.items():
        job = sandbox.store.job(job_id)
        right = job["status"] == "done" and job["result"] == expected
        found["right" if right else "left" if job["status"] in ("pending", "running") else "wrong"] += 1
    return found


def run_sdk(rules: list[Rule], count: int, seed: int) -> tuple[Counter[str], bool]:
    with Sandbox() as sandbox, tempfile.TemporaryFile() as output:
        jobs = {int(sandbox.dispatch(f"job {n}", worker="w")["id"]): f"JOB {n}" for n in range(count)}
        sandbox.chaos.set(rules, seed=seed)
        process = subprocess.Popen(
            [sys.executable, "-c", SDK],
            env={"MODELREINS_TOKEN": sandbox.token, "MODELREINS_URL": sandbox.url},
            stdout=output,
            stderr=output,
        )
        wait_until_nothing_happens(sandbox, jobs, lambda: process.poll() is None)
        alive = process.poll() is None
        process.kill()
        process.wait()
        return verdicts(sandbox, jobs), alive


def run_mr_celery(rules: list[Rule], count: int, seed: int) -> tuple[Counter[str], bool]:
    with Sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        redis = RedisServer()
        fleet = Fleet(sandbox, broker=redis.url(0), ledger=redis.url(1), folder=Path(folder))
        fleet.environment["MODELREINS_TIMEOUT"] = "3"
        try:
            bridge, worker = fleet.bridge(), fleet.worker("-c", "2")
            jobs = {fleet.dispatch(f"job {n}"): f"JOB {n}" for n in range(count)}
            sandbox.chaos.set(rules, seed=seed)
            wait_until_nothing_happens(sandbox, jobs, lambda: True)
            alive = bridge.popen.poll() is None and worker.popen.poll() is None
            starts = fleet.starts()
            found = verdicts(sandbox, jobs)
            found["twice"] = sum(starts[text.lower()] > 1 for text in jobs.values())
            return found, alive
        finally:
            fleet.stop()
            redis.stop()


def cells(found: Counter[str], alive: bool, count: int) -> str:
    parts = [f"{found['right']} of {count} right"]
    for kind, words in (("wrong", "wrongly failed"), ("left", "left behind"), ("twice", "run twice")):
        if found[kind]:
            parts.append(f"{found[kind]} {words}")
    if not alive:
        parts.append("process ended")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| fault of the server | official SDK 0.2.0 | mr-celery |\n| --- | --- | --- |")
    for name, rules in FAULTS.items():
        sdk = cells(*run_sdk(rules, options.jobs, options.seed), options.jobs)
        ours = cells(*run_mr_celery(rules, options.jobs, options.seed), options.jobs)
        print(f"| {name} | {sdk} | {ours} |", flush=True)


if __name__ == "__main__":
    main()
