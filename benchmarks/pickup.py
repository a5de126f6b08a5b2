"""Time until a new job is started, and until a free slot is used again.

Jobs arrive at random at a constant rate (a Poisson process), as from many independent users.
Each stream of jobs has its own installation. They run side by side, since they hardly use the machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles

from installation import Place, place
from report import Report

PART = "Pickup"

SEED = 1

WARM = 5
"""Jobs of a stream that are not counted."""

QUIET_SECONDS = 30.0
"""The pause before a burst: by then the inbox is polled at the poll interval."""

BURST = 20
BURST_RATE = 10.0
"""Jobs of a burst, and how many of them come a second."""


@dataclass
class Found:
    """The measurements of a stream of jobs.

    Args:
        waits: seconds from the server to the handler, by job.
        polls: requests for the inbox.
        seconds: the duration of the stream.
    """

    waits: list[float] = field(default_factory=list)
    polls: int = 0
    seconds: float = 0.0


def arrive(at: Place, rate: float, count: int, dice: random.Random) -> None:
    """Dispatch ``count`` jobs at random times, ``rate`` per second on average."""
    due = time.monotonic()
    for _ in range(count):
        due += dice.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        at.server.dispatch(1, capability="since", prompt="now")


def observed(at: Place, arrivals: Callable[[], None], done_before: int, jobs: int) -> Found:
    """Measure while these jobs arrive, until the last of them is done."""
    begun = time.time()
    arrivals()
    ended = time.time()
    at.server.until_done(done_before + jobs)
    waits = [float(each) for each in at.server.results()[done_before:]]
    return Found(waits, sum(begun <= look <= ended for look in at.server.looks()), ended - begun)


def steady(at: Place, rate: float, count: int) -> Found:
    """Measure jobs that arrive at random, without breaks."""
    dice = random.Random(SEED)
    arrive(at, rate, WARM, dice)
    at.server.until_done(WARM)
    return observed(at, lambda: arrive(at, rate, count, dice), WARM, count)


def bursts(at: Place, count: int, quiet_seconds: float) -> Found:
    """Measure bursts of jobs, each after a pause. Counts only the polls while jobs arrive."""
    dice, found = random.Random(SEED), Found()
    arrive(at, BURST_RATE, WARM, dice)
    at.server.until_done(WARM)
    for number in range(count):
        time.sleep(quiet_seconds + dice.uniform(0.0, 5.0))
        one = observed(at, lambda: arrive(at, BURST_RATE, BURST, dice), WARM + number * BURST, BURST)
        found = Found(found.waits + one.waits, found.polls + one.polls, found.seconds + one.seconds)
    return found


def used_again(at: Place, jobs: int) -> list[float]:
    """Seconds from the end of a handler to the claim of the next job, with one slot and many pending jobs."""
    at.worker("-P", "threads", "-c", "1")
    at.bridge(MODELREINS_MAX_INFLIGHT="1")
    at.server.dispatch(jobs, capability="nap", seconds=0.05)
    at.server.until_done(jobs)
    ended = [float(each) for each in at.server.results()]
    claimed = [at_time for _, at_time in at.server.claims()]
    return [claim - end for end, claim in zip(ended, claimed[1:], strict=False)]


def measure(report: Report) -> None:
    """Run all measurements."""
    streams: dict[str, Callable[[Place], Found]] = {
        "0.2 jobs/s": lambda at: steady(at, 0.2, report.jobs(30)),
        "1 job/s": lambda at: steady(at, 1.0, report.jobs(150)),
        "5 jobs/s": lambda at: steady(at, 5.0, report.jobs(500)),
        f"{BURST} jobs in 2 s after {QUIET_SECONDS:g} s without": lambda at: bursts(
            at, max(1, round(4 * report.scale)), report.seconds(QUIET_SECONDS)
        ),
    }
    with ExitStack() as stack, ThreadPoolExecutor(len(streams)) as pool:
        places = [stack.enter_context(place()) for _ in streams]
        for at in places:
            at.worker("-P", "threads", "-c", "8")
            at.bridge()
        found = dict(zip(streams, pool.map(lambda stream, at: stream(at), streams.values(), places), strict=True))
    for name, each in found.items():
        target = name == "1 job/s"
        report.add(PART, f"{name}: server → handler", "s", [median(each.waits)], **({"at_most": 0.2} if target else {}))
        within = quantiles(each.waits, n=20)[-1]
        report.add(PART, f"{name}: 95 % within", "s", [within], **({"at_most": 0.8} if target else {}))
        polls = each.polls / each.seconds
        report.add(PART, f"{name}: inbox requests while they come", "/s", [polls], at_most=4.0)
    with place() as at:
        gaps = [each * 1000 for each in used_again(at, report.jobs(100))]
    report.add(PART, "a slot is free → the next job is claimed", "ms", [median(gaps)], at_most=50.0)
    report.add(PART, "a slot is free → the next job is claimed: 95 % within", "ms", [quantiles(gaps, n=20)[-1]])
