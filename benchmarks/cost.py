"""CPU seconds of a job that does nothing: mr-celery, and the floor of plain Celery and two plain requests.

    python benchmarks/cost.py [--jobs 2000] [--rounds 3]

Counted is the user and system time of everything that would run beside a server and a Redis: bridge and worker for
mr-celery; the producer and the worker for plain Celery; a script with a ``requests.Session`` for claim and close.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent)]

from installation import NAME, TOKEN, Place, cpu_seconds, place

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


def ours(jobs: int) -> float:
    """mr-celery: seconds for one job."""
    with place() as at:
        processes = [at.worker(*POOL), at.bridge()]
        at.dispatch(200)
        at.until_all_are_over()
        before = [cpu_seconds(each) for each in processes]
        at.dispatch(jobs)
        at.until_all_are_over(look=0.5)
        used = [cpu_seconds(each) - since for each, since in zip(processes, before, strict=True)]
        print(f"    worker {used[0] / jobs * 1e3:.2f} ms, bridge {used[1] / jobs * 1e3:.2f} ms", file=sys.stderr)
        return sum(used) / jobs


def output_of(at: Place, code: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=at.environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def plain_celery(jobs: int) -> float:
    """A task of plain Celery, from ``delay`` to its end: seconds."""
    with place() as at:
        worker = at.worker(*POOL)
        output_of(at, PRODUCER, "200")
        until_quiet(worker)
        before = cpu_seconds(worker)
        produced = output_of(at, PRODUCER, str(jobs))
        until_quiet(worker)
        return (produced + cpu_seconds(worker) - before) / jobs


def until_quiet(worker: subprocess.Popen[Any]) -> None:
    """Wait until a process has used next to nothing for a second."""
    used = -1.0
    while (now := cpu_seconds(worker)) - used > 0.02:
        used = now
        time.sleep(1)


def plain_requests(jobs: int) -> float:
    """A claim and a close by plain ``requests``: seconds."""
    with place() as at:
        ids = at.dispatch(jobs)
        return output_of(at, REQUESTS, at.url, TOKEN, str(ids[0]), str(ids[-1]), NAME) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"mr-celery": [], "plain Celery": [], "plain requests": []}
    for _ in range(options.rounds):
        found["mr-celery"].append(ours(options.jobs))
        found["plain Celery"].append(plain_celery(options.jobs))
        found["plain requests"].append(plain_requests(options.jobs))
    floor = median(found["plain Celery"]) + median(found["plain requests"])
    for name, values in found.items():
        spread = (max(values) - min(values)) / 2
        print(f"{name:<15} {median(values) * 1e3:6.2f} ms ± {spread * 1e3:.2f}")
    print(f"{'floor':<15} {floor * 1e3:6.2f} ms; mr-celery is {median(found['mr-celery']) / floor:.2f} of it")


if __name__ == "__main__":
    main()
