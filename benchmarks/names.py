"""Cost of many worker names in one bridge, idle and with a few jobs at random names."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import psutil
from idle import Commands, ports
from installation import Place, cpu_seconds, place, resident_bytes
from report import Report

PART = "Many worker names"

NAMES = (10, 100, 1000)


def measure(report: Report) -> None:
    """Run all measurements, for two minutes."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for count in NAMES:
        with place() as at:
            names = [f"name-{number:04}" for number in range(max(2, int(count * min(1.0, report.scale))))]
            bridge = at.bridge(MODELREINS_NAME="", MODELREINS_WORKERS=json.dumps({name: {} for name in names}))
            at.worker("-c", "2", MODELREINS_NAME="", MODELREINS_WORKERS=json.dumps({name: {} for name in names}))
            time.sleep(report.seconds(10))
            seconds = report.seconds(12)
            for how, jobs in (("idle", 0), ("10 jobs a second", int(10 * seconds))):
                commands, cpu = run(at, bridge, names, seconds, report, how, jobs=jobs)
                curves[f"Redis commands a second for a name over worker names: {how}"].append((len(names), commands))
                curves[f"CPU for a name in % over worker names: {how}"].append((len(names), cpu))
    for name, points in curves.items():
        report.curve(name, points)


def run(
    at: Place, bridge: subprocess.Popen[Any], names: list[str], seconds: float, report: Report, how: str, *, jobs: int
) -> tuple[float, float]:
    """Measure the bridge for some seconds, while jobs for random names arrive at random.

    Returns Redis commands per second and CPU in percent, both per name.
    """
    process, threads, files = psutil.Process(bridge.pid), 0, 0
    at.server.reset()
    commands = Commands(at.ledger.client())
    used: set[int] = set()
    before, since, cpu = commands.so_far(), time.monotonic(), cpu_seconds(bridge)
    due = sorted(random.uniform(0, seconds * 0.9) for _ in range(jobs))
    while (now := time.monotonic() - since) < seconds:
        while due and due[0] <= now:
            due.pop(0)
            at.server.dispatch(1, assigned_to=random.choice(names))
        threads, files = max(threads, process.num_threads()), max(files, process.num_fds())
        used |= ports(bridge)
        time.sleep(0.05)
    passed, got = time.monotonic() - since, commands.so_far() - before
    cpu = cpu_seconds(bridge) - cpu
    presences: dict[str, list[float]] = defaultdict(list)
    for name, reported_at in at.server.presences():
        presences[name].append(reported_at)
    assert presences.keys() == set(names), f"{len(names) - len(presences)} names have reported no presence"
    gaps = [later - earlier for times in presences.values() for earlier, later in pairwise(times)]
    count, label = len(names), f"{len(names)} names, {how}"
    report.add(PART, f"{label}: threads", "", [threads], at_most=60.0)
    report.add(PART, f"{label}: file descriptors", "", [files])
    per_name = sum(got[port] for port in used) / passed / count, cpu / passed / count * 100
    report.add(PART, f"{label}: Redis commands for a name", "/s", [per_name[0]])
    report.add(PART, f"{label}: CPU for a name", "% of a core", [per_name[1]])
    report.add(PART, f"{label}: RSS", "MiB", [resident_bytes(bridge) / 2**20])
    report.add(PART, f"{label}: longest gap between presences", "s", [max(gaps)], at_most=7.5)
    if jobs:
        at.server.until_done(jobs, seconds=60)
    return per_name
