"""Growth of the cost per job with the numbers of jobs in flight, pending jobs and finished jobs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from installation import NAME, Place, cpu_seconds, place, resident_bytes
from report import Report

PART = "Growth"

JOBS = 2000
"""Number of jobs over which the cost is measured."""

IN_FLIGHT = (10, 1_000, 50_000)

PENDING = 100_000

ROOM = 16
"""Limit of jobs in flight, in addition to the jobs that only fill the ledger."""

POOL = ("-P", "threads", "-c", "8")

HOLD = """
import os, sys
from mr_celery.job import Job
from mr_celery.ledger import Ledger, Route
ledger = Ledger(os.environ["MODELREINS_LEDGER_URL"], sys.argv[1])
route = Route(task_name="bench.hold", queue="held", max_attempts=3, on_lost="requeue")
asked_at = ledger.survey().now
ids = range(int(sys.argv[2]), int(sys.argv[3]))
for page in (ids[start : start + 100] for start in range(0, len(ids), 100)):
    fields = {"prompt": "x", "assigned_to": sys.argv[1], "status": "pending", "capability": "hold"}
    jobs = [(Job({"id": job_id, **fields}), route) for job_id in page]
    assert set(ledger.admit(jobs, asked_at=asked_at)) == {"admitted"}
    ledger.sent({job_id: ledger.claimed(job_id) for job_id in page}, wait_seconds=30.0)
"""
"""Writes jobs to the ledger up to *sent* like a bridge, but faster and without messages."""


def hold(at: Place, jobs: int) -> None:
    """Add jobs in flight that no worker runs."""
    if not jobs:
        return
    ids = at.server.dispatch(jobs, status="running", capability="hold")
    middle, end = ids[len(ids) // 2], ids[-1] + 1
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: at.python(HOLD, NAME, *part), [(ids[0], middle), (middle, end)]))


def cost(processes: list[subprocess.Popen[Any]], jobs: int, work: Callable[[], None]) -> float:
    """CPU time of the processes per job, in milliseconds."""
    before = sum(map(cpu_seconds, processes))
    work()
    return (sum(map(cpu_seconds, processes)) - before) / jobs * 1e3


def over_in_flight(at: Place, levels: list[int], jobs: int) -> tuple[list[float], float]:
    """CPU milliseconds per job at each number of jobs in flight, and the ledger's bytes per job in flight."""
    worker = at.worker(*POOL, "-Q", "celery", app="holding")
    holder = at.worker("-n", "holder@%h", "-P", "threads", "-c", "1", "-Q", "held", app="holding")
    costs, size = [], 0.0
    held = 0
    for level in levels:
        if held:
            before = at.ledger.client().info("memory")["used_memory"]
            hold(at, level - held)
            size = (at.ledger.client().info("memory")["used_memory"] - before) / (level - held)
        bridge = at.bridge(app="holding", MODELREINS_MAX_INFLIGHT=str(level + ROOM))
        if not held:
            at.server.dispatch(level, capability="hold")  # most of these wait in the broker
        at.server.until_running(level)
        held = level
        at.server.feed(min(300, jobs))
        costs.append(cost([worker, bridge], jobs, lambda: at.server.feed(jobs)))
        at.end(bridge)
    at.kill(holder)
    return costs, size


def over_pending(at: Place, pending: int, jobs: int) -> tuple[float, float]:
    """CPU milliseconds per job with few and with many pending jobs."""
    worker = at.worker(*POOL)
    bridge = at.bridge(MODELREINS_MAX_INFLIGHT=str(ROOM))
    at.server.feed(min(300, jobs))
    few = cost([worker, bridge], jobs, lambda: at.server.feed(jobs))
    begun = at.server.done()
    at.server.dispatch(pending + jobs)
    at.server.until_done(begun + min(300, jobs))
    begun = at.server.done()
    many = cost([worker, bridge], 1, lambda: at.server.until_done(begun + jobs, look=0.1))
    return few, many / (at.server.done() - begun)


def long_run(at: Place, jobs: int, report: Report) -> None:
    """Memory of a bridge and a worker over a long run."""
    processes = {"worker": at.worker(*POOL), "bridge": at.bridge()}
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    looked_at = 0.0

    def look(done: int) -> None:
        nonlocal looked_at
        if time.monotonic() - looked_at < 1.0 and done < jobs:
            return
        looked_at = time.monotonic()
        for name, process in processes.items():
            curves[name].append((done, resident_bytes(process) / 2**20))

    begun = time.monotonic()
    at.server.feed(jobs, look=look)
    report.add(PART, f"{jobs} jobs through one bridge and one worker", "jobs/s", [jobs / (time.monotonic() - begun)])
    for name, curve in curves.items():
        report.curve(f"RSS in MiB over jobs done: {name}", curve)
        warm = next(memory for done, memory in curve if done >= jobs / 4)
        growth = curve[-1][1] / warm
        report.add(PART, f"{jobs} jobs: RSS of the {name} at the end", "MiB", [curve[-1][1]])
        report.add(PART, f"{jobs} jobs: RSS of the {name}, end / first quarter", "", [growth], at_most=1.05)


def measure(report: Report) -> None:
    """Run all measurements."""
    jobs = report.jobs(JOBS)
    levels = [IN_FLIGHT[0], *(IN_FLIGHT[0] + report.jobs(level - IN_FLIGHT[0]) for level in IN_FLIGHT[1:])]
    with place() as at:
        costs, size = over_in_flight(at, levels, jobs)
    for level, each in zip(levels, costs, strict=True):
        report.add(PART, f"CPU of a job that does nothing, {level} in flight beside it", "ms", [each])
    for level, each in list(zip(levels, costs, strict=True))[1:]:
        report.add(PART, f"{level} in flight / {levels[0]} in flight", "", [each / costs[0]], at_most=1.1)
    report.add(PART, "Redis: bytes of a job in flight beside its prompt", "B", [size], at_most=2048.0)
    report.curve("CPU of a job in ms over jobs in flight", list(zip(map(float, levels), costs, strict=True)))
    pending = report.jobs(PENDING)
    with place() as at:
        few, many = over_pending(at, pending, jobs)
    report.add(PART, "CPU of a job that does nothing, few pending", "ms", [few])
    report.add(PART, f"CPU of a job that does nothing, {pending} pending", "ms", [many])
    report.add(PART, f"{pending} pending / few pending", "", [many / few], at_most=1.1)
    report.curve("CPU of a job in ms over jobs pending", [(1000.0, few), (float(pending), many)])
    with place() as at:
        long_run(at, report.jobs(report.long_run), report)
