"""How soon a job that comes is begun, and a slot that becomes free is used."""

from __future__ import annotations

import time
from statistics import median, quantiles

from installation import Place, place
from report import Report

PART = "Pickup"


def trickle(at: Place, jobs: int) -> None:
    """One job per second."""
    begun = time.monotonic()
    for number in range(jobs):
        time.sleep(max(0.0, begun + number - time.monotonic()))
        at.server.dispatch(1, capability="since", prompt="now")


def picked_up(at: Place, *, warm: int, jobs: int) -> tuple[list[float], float]:
    """Seconds from the server to the handler under a steady trickle, and inbox requests per second meanwhile."""
    at.worker("-P", "threads", "-c", "8")
    at.bridge()
    begun = time.time()
    trickle(at, warm + jobs)
    at.server.until_done(warm + jobs)
    looks = [look for look in at.server.looks() if look > begun + warm]
    rate = (len(looks) - 1) / (looks[-1] - looks[0])
    return [float(each) for each in at.server.results()[warm:]], rate


def used_again(at: Place, jobs: int) -> list[float]:
    """Seconds from the end of a handler to the claim of the next job, with room for one and many that wait."""
    at.worker("-P", "threads", "-c", "1")
    at.bridge(MODELREINS_MAX_INFLIGHT="1")
    at.server.dispatch(jobs, capability="nap", seconds=0.05)
    at.server.until_done(jobs)
    ended = [float(each) for each in at.server.results()]
    claimed = [at_time for _, at_time in at.server.claims()]
    return [claim - end for end, claim in zip(ended, claimed[1:], strict=False)]


def measure(report: Report) -> None:
    """Both."""
    with place() as at:
        seconds, inbox = picked_up(at, warm=report.jobs(10), jobs=report.jobs(40))
    with place() as at:
        gaps = [each * 1000 for each in used_again(at, report.jobs(100))]
    trickled = "one job per second, idle poll interval 5 s"
    report.add(PART, f"{trickled}: server → handler", "s", [median(seconds)], at_most=0.3)
    report.add(PART, f"{trickled}: the slowest of {len(seconds)}", "s", [max(seconds)])
    report.add(PART, f"{trickled}: inbox requests", "/s", [inbox], at_most=1.0)
    report.add(PART, "a slot is free → the next job is claimed", "ms", [median(gaps)], at_most=50.0)
    report.add(PART, "a slot is free → the next job is claimed: 95 % within", "ms", [quantiles(gaps, n=20)[-1]])
