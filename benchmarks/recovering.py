"""Time until work continues after a process was killed or started."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from installation import Place, place
from report import Report

from support.ports import until

PART = "Recovery"

LEASE = 30.0
"""The default lease, in seconds."""

THREADS = ("-P", "threads", "-c", "8")


def begun(file: Path) -> list[float]:
    """Start times of the runs of a job."""
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def node_killed(at: Place, lease: float) -> float:
    """Seconds from killing a worker until its job runs on another one."""
    runs = at.folder / "runs"
    victim = at.worker("-n", "victim@%h", "-c", "1", MODELREINS_LEASE=str(lease))
    at.bridge(MODELREINS_LEASE=str(lease))
    at.server.dispatch(1, capability="mark", prompt=str(runs))
    until(lambda: begun(runs), what="it runs")
    heir = at.worker("-n", "heir@%h", *THREADS, MODELREINS_LEASE=str(lease))
    killed_at = time.time()
    at.kill(victim)
    until(lambda: len(begun(runs)) == 2, seconds=lease * 3 + 30, what="it runs again")
    at.kill(heir)
    return begun(runs)[1] - killed_at


def bridge_killed(at: Place, seconds: float) -> tuple[float, float]:
    """Longest time without a claim before and after one of two bridges is killed under load."""
    at.worker(*THREADS)
    victim = at.bridge()
    at.bridge()
    at.server.dispatch(int((2 * seconds + 10) * 80), capability="wait")
    at.server.until_done(80)
    begun_at = time.time()
    time.sleep(seconds)
    killed_at = time.time()
    at.kill(victim)
    time.sleep(seconds)
    ended_at = time.time()
    assert at.server.counts()["pending"], "it ran out of jobs: dispatch more"
    times = [when for _, when in at.server.claims()]

    def gap(since: float, to: float) -> float:
        inside = [since, *(when for when in times if since < when < to), to]
        return max(later - earlier for earlier, later in pairwise(inside))

    return gap(begun_at, killed_at), gap(killed_at, ended_at)


def started(at: Place, rounds: int) -> list[float]:
    """Seconds from the start of a bridge's process to its first claim."""
    at.worker(*THREADS)
    found = []
    for _ in range(rounds):
        at.server.reset()
        at.server.dispatch(1)
        started_at = time.time()
        bridge = at.bridge()
        at.server.until_done(1)
        found.append(at.server.counts()["first_claim"] - started_at)
        at.end(bridge)
    return found


def measure(report: Report) -> None:
    """Run all measurements."""
    lease = max(3.0, LEASE * report.scale)
    with place() as at:
        found = started(at, report.rounds)
    report.add(PART, "start of the bridge's process → its first claim", "s", found, at_most=1.5)
    with place() as at:
        before, after = bridge_killed(at, report.seconds(6))
    report.add(PART, "two bridges under load: longest time without a claim", "s", [before])
    report.add(PART, "one of them is killed: longest time without a claim", "s", [after], at_most=2.0)
    with place() as at:
        passed = node_killed(at, lease)
    what = f"a worker is killed, lease {lease:g} s → its job runs on another"
    report.add(PART, what, "s", [passed], at_most=lease + 5)
