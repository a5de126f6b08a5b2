"""CPU seconds of a job that does nothing: mr-celery, and the floor of plain Celery and two plain requests.

Counted is the user and system time of everything that would run beside a server and a Redis: bridge and worker for
mr-celery; the producer and the worker for plain Celery; a script with a ``requests.Session`` for claim and close.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

from installation import NAME, TOKEN, Place, cpu_seconds, place
from report import Report

PART = "CPU of a job that does nothing"

JOBS = 2000

POOL = ("-P", "threads", "-c", "8")

PRODUCER = """
import sys, time
from application import nothing
nothing.delay("x")
begun = time.process_time()
for _ in range(int(sys.argv[1])):
    nothing.delay("x")
print(time.process_time() - begun)
"""

REQUESTS = """
import sys, time, requests
session = requests.Session()
session.headers["Authorization"] = "Bearer " + sys.argv[2]
begun = time.process_time()
for job in range(int(sys.argv[3]), int(sys.argv[4]) + 1):
    session.post(f"{sys.argv[1]}/jobs/{job}/claim", json={"worker": sys.argv[5]}, timeout=10).json()
    session.post(f"{sys.argv[1]}/jobs/{job}/close", json={"result": "", "status": "done"}, timeout=10).json()
print(time.process_time() - begun)
"""


def ours(at: Place, jobs: int) -> tuple[float, float]:
    """mr-celery: seconds of the worker and of the bridge for one job."""
    processes = [at.worker(*POOL), at.bridge()]
    at.server.dispatch(300)
    at.server.until_done(300)
    before = [cpu_seconds(each) for each in processes]
    at.server.dispatch(jobs)
    at.server.until_done(300 + jobs, look=0.2)
    worker, bridge = ((cpu_seconds(each) - since) / jobs for each, since in zip(processes, before, strict=True))
    return worker, bridge


def plain_celery(at: Place, jobs: int) -> float:
    """A task of plain Celery, from ``delay`` to its end: seconds."""
    worker = at.worker(*POOL)
    at.python(PRODUCER, 300)
    until_quiet(worker)
    before = cpu_seconds(worker)
    produced = float(at.python(PRODUCER, jobs))
    until_quiet(worker)
    return (produced + cpu_seconds(worker) - before) / jobs


def until_quiet(worker: subprocess.Popen[Any]) -> None:
    """Wait until a process has used next to nothing for half a second."""
    used = -1.0
    while (now := cpu_seconds(worker)) - used > 0.01:
        used = now
        time.sleep(0.5)


def plain_requests(at: Place, jobs: int) -> float:
    """A claim and a close by plain ``requests``: seconds."""
    ids = at.server.dispatch(jobs)
    return float(at.python(REQUESTS, at.server.url, TOKEN, ids[0], ids[-1], NAME)) / jobs


def measure(report: Report) -> None:
    """All of them, round by round."""
    workers, bridges, celery, requests = [], [], [], []
    jobs = report.jobs(JOBS)
    for _ in range(report.rounds):
        with place() as at:
            worker, bridge = ours(at, jobs)
        workers.append(worker * 1e3)
        bridges.append(bridge * 1e3)
        with place() as at:
            celery.append(plain_celery(at, jobs) * 1e3)
        with place() as at:
            requests.append(plain_requests(at, jobs) * 1e3)
    report.add(PART, "plain Celery: `delay` of a task that does nothing", "ms", celery)
    report.add(PART, "plain `requests`: a claim and a close", "ms", requests)
    report.add(PART, "mr-celery: worker", "ms", workers)
    report.add(PART, "mr-celery: bridge", "ms", bridges)
    whole = [sum(each) for each in zip(workers, bridges, strict=True)]
    report.add(PART, "mr-celery: in all", "ms", whole)
    # Each round by itself: how fast the machine is may change from one to the next.
    floors = [sum(each) for each in zip(celery, requests, strict=True)]
    ratios = [each / floor for each, floor in zip(whole, floors, strict=True)]
    report.add(PART, "mr-celery / (plain Celery + plain `requests`)", "", ratios, at_most=1.25)
