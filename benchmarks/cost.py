"""CPU time of a job with an empty handler, compared with plain Celery and two plain requests.

It counts user and system time of all processes except the server and Redis: bridge and worker for
mr-celery; the producer and the worker for plain Celery; a script with a ``requests.Session`` for claim and close.
The CPU time of mr-celery's Redis servers is reported separately: of the ledger, of its scripts, and of the broker.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import astuple, dataclass
from typing import Any

from installation import NAME, TOKEN, Place, cpu_seconds, place, redis_cpu_seconds, script_seconds
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


@dataclass(frozen=True)
class Used:
    """CPU seconds of mr-celery. ``scripts`` is a part of ``ledger``."""

    worker: float
    bridge: float
    ledger: float
    scripts: float
    broker: float


def ours(at: Place, jobs: int) -> Used:
    """CPU seconds per job."""
    worker, bridge = at.worker(*POOL), at.bridge()

    def used() -> Used:
        return Used(
            cpu_seconds(worker),
            cpu_seconds(bridge),
            redis_cpu_seconds(at.ledger),
            script_seconds(at.ledger),
            redis_cpu_seconds(at.broker),
        )

    at.server.dispatch(300)
    at.server.until_done(300)
    before = used()
    at.server.dispatch(jobs)
    at.server.until_done(300 + jobs, look=0.2)
    return Used(*((now - since) / jobs for now, since in zip(astuple(used()), astuple(before), strict=True)))


def plain_celery(at: Place, jobs: int) -> float:
    """CPU seconds per task of plain Celery, from ``delay`` to its end."""
    worker = at.worker(*POOL)
    at.python(PRODUCER, 300)
    until_quiet(worker)
    before = cpu_seconds(worker)
    produced = float(at.python(PRODUCER, jobs))
    until_quiet(worker)
    return (produced + cpu_seconds(worker) - before) / jobs


def until_quiet(worker: subprocess.Popen[Any]) -> None:
    """Wait until a process has used almost no CPU for half a second."""
    used = -1.0
    while (now := cpu_seconds(worker)) - used > 0.01:
        used = now
        time.sleep(0.5)


def plain_requests(at: Place, jobs: int) -> float:
    """CPU seconds of a claim and a close with plain ``requests``."""
    ids = at.server.dispatch(jobs)
    return float(at.python(REQUESTS, at.server.url, TOKEN, ids[0], ids[-1], NAME)) / jobs


def measure(report: Report) -> None:
    """Run all measurements, round by round."""
    used: list[Used] = []
    celery, requests = [], []
    jobs = report.jobs(JOBS)
    for _ in range(report.rounds):
        with place() as at:
            used.append(ours(at, jobs))
        with place() as at:
            celery.append(plain_celery(at, jobs) * 1e3)
        with place() as at:
            requests.append(plain_requests(at, jobs) * 1e3)
    report.add(PART, "plain Celery: `delay` of a task that does nothing", "ms", celery)
    report.add(PART, "plain `requests`: a claim and a close", "ms", requests)
    report.add(PART, "mr-celery: worker", "ms", [each.worker * 1e3 for each in used])
    report.add(PART, "mr-celery: bridge", "ms", [each.bridge * 1e3 for each in used])
    whole = [(each.worker + each.bridge) * 1e3 for each in used]
    report.add(PART, "mr-celery: in all", "ms", whole)
    # Ratios are computed per round, because the speed of the machine may change between rounds.
    floors = [sum(each) for each in zip(celery, requests, strict=True)]
    ratios = [each / floor for each, floor in zip(whole, floors, strict=True)]
    report.add(PART, "mr-celery / (plain Celery + plain `requests`)", "", ratios, at_most=1.25)
    report.add(PART, "Redis: ledger", "ms", [each.ledger * 1e3 for each in used])
    report.add(PART, "Redis: ledger, in scripts", "ms", [each.scripts * 1e3 for each in used])
    report.add(PART, "Redis: ledger, share of scripts", "%", [each.scripts / each.ledger * 100 for each in used])
    report.add(PART, "Redis: broker", "ms", [each.broker * 1e3 for each in used])
