"""Jobs per second in steady state, compared with the official SDK, an ideal pool and plain Celery."""

from __future__ import annotations

import sys
import time
from typing import Any

from installation import NAME, Place, cpu_seconds, place, resident_bytes
from report import Report

PART = "Throughput"

LATENCY = 0.05
"""Delay of the server's answers in the comparison with the SDK, in seconds."""

SDK_PROCESSES = 4

THREADS = 32

SDK = f"""
from modelreins_worker import Worker
Worker(name="{NAME}").run(handler=lambda job: "")
"""

PLAIN = """
import os, sys, time
import redis
from application import burn

waiting = redis.Redis.from_url(os.environ["BENCH_BROKER"])

def feed(seconds):
    sent, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(40 - waiting.llen("celery")):
            burn.delay("x")
            sent += 1
        time.sleep(0.05)
    return sent

feed(float(sys.argv[1]))
before, begun = waiting.llen("celery"), time.monotonic()
sent = feed(float(sys.argv[2]))
print((before + sent - waiting.llen("celery")) / (time.monotonic() - begun))
"""
"""A producer that keeps 40 tasks queued, and prints how many tasks workers received per second."""


def sdk(at: Place, processes: int, *, seconds: float) -> float:
    """Run the official SDK's loop in several processes with one worker name and an empty handler."""
    at.server.slow(LATENCY)
    at.server.dispatch(int(20 * processes * (seconds + 5)))
    for _ in range(processes):
        at.start([sys.executable, "-c", SDK])
    return at.server.rate(warm=seconds / 5, seconds=seconds)


def ours(at: Place, pool: tuple[str, ...], jobs_per_second: int, *, seconds: float, **job: Any) -> float:
    """Run one bridge and one worker with more pending jobs than they can finish."""
    at.worker(*pool)
    at.bridge()
    warm = seconds / 3
    at.server.dispatch(int(jobs_per_second * (warm + seconds + 2)), **job)
    return at.server.rate(warm=warm, seconds=seconds)


def plain_celery(at: Place, pool: tuple[str, ...], *, seconds: float) -> float:
    """Run the CPU-bound task with plain Celery, with a producer that calls ``delay``."""
    at.worker(*pool)
    return float(at.python(PLAIN, seconds / 3, seconds))


def beside_the_sdk(report: Report) -> None:
    """Measure an empty handler with a slow server."""
    with place() as at:
        alone = sdk(at, 1, seconds=report.seconds(5))
    with place() as at:
        several = sdk(at, SDK_PROCESSES, seconds=report.seconds(5))
    with place() as at:
        at.server.slow(LATENCY)
        rate = ours(at, ("-P", "threads", "-c", str(THREADS)), 1000, seconds=report.seconds(8))
    slow = f"responses take {LATENCY * 1000:.0f} ms"
    report.add(PART, f"{slow}: official SDK, one process", "jobs/s", [alone])
    report.add(PART, f"{slow}: official SDK, {SDK_PROCESSES} processes with one name", "jobs/s", [several])
    report.add(PART, f"{slow}: mr-celery, one worker with {THREADS} threads", "jobs/s", [rate])
    report.add(PART, f"{slow}: mr-celery / official SDK, one process", "", [rate / alone], at_least=25.0)


def beside_the_ideal(report: Report) -> None:
    """Measure a handler that sleeps for 100 ms."""
    ideal = THREADS / 0.1
    with place() as at:
        pool = ("-P", "threads", "-c", str(THREADS))
        rate = ours(at, pool, int(ideal), seconds=report.seconds(9), capability="wait")
    report.add(PART, f"handler waits 100 ms, {THREADS} threads", "jobs/s", [rate])
    report.add(PART, f"handler waits 100 ms: of the ideal {ideal:.0f} jobs/s", "", [rate / ideal], at_least=0.9)


def beside_plain_celery(report: Report) -> None:
    """Measure a handler that uses 20 ms of CPU time."""
    pool, found, plain = ("-c", "2"), [], []
    for _ in range(min(2, report.rounds)):
        with place() as at:
            plain.append(plain_celery(at, pool, seconds=report.seconds(9)))
        with place() as at:
            found.append(ours(at, pool, 100, seconds=report.seconds(9), capability="burn"))
    ratios = [each / beside for each, beside in zip(found, plain, strict=True)]
    report.add(PART, "handler uses 20 ms of CPU, 2 processes: plain Celery", "jobs/s", plain)
    report.add(PART, "handler uses 20 ms of CPU, 2 processes: mr-celery", "jobs/s", found)
    report.add(PART, "handler uses 20 ms of CPU: mr-celery / plain Celery", "", ratios, at_least=0.9)


def while_awaiting(report: Report) -> None:
    """Measure an ``async def`` handler that awaits for 1 s, in a pool of 200 threads."""
    threads, jobs = 200, 1000
    with place() as at:
        worker = at.worker("-P", "threads", "-c", str(threads))
        at.bridge()
        at.server.dispatch(1, capability="await")
        at.server.until_done(1)
        cpu, resident = cpu_seconds(worker), resident_bytes(worker)
        began = time.monotonic()
        at.server.dispatch(jobs, capability="await")
        at.server.until_running(threads)
        waiting = resident_bytes(worker) - resident
        at.server.until_done(jobs + 1)
        took = time.monotonic() - began
        cpu = cpu_seconds(worker) - cpu
    what = f"{jobs} async jobs await 1 s, {threads} threads"
    report.add(PART, what, "jobs/s", [jobs / took])
    report.add(PART, f"{what}: of the ideal {threads} jobs/s", "", [jobs / took / threads])
    report.add(PART, f"{what}: CPU of the worker for a job", "ms", [cpu / jobs * 1000])
    report.add(PART, f"{what}: memory of the worker for a waiting job", "KiB", [waiting / threads / 1024])


def measure(report: Report) -> None:
    """Run all measurements."""
    beside_the_sdk(report)
    beside_the_ideal(report)
    beside_plain_celery(report)
    while_awaiting(report)
