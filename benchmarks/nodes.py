"""Cost of many online Celery workers for a bridge at rest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import requests
from installation import BIN, Place, cpu_seconds, place, redis_cpu_seconds
from relay import Relay
from report import Report

from mr_celery.ledger import Fleet, Node
from support.ports import free_port

PART = "Many nodes"

NODES = (10, 1_000, 10_000)

LEASE = 30.0
"""Seconds of a worker's announcement, as by default. It is renewed three times in that time."""

TASKS = ("bench.nothing", *(f"bench.other_{number}" for number in range(19)))

ANNOUNCE = f"""
import os, sys, time
from itertools import cycle
from mr_celery.ledger import Fleet, Node
fleet, count = Fleet(os.environ["MODELREINS_LEDGER_URL"]), int(sys.argv[1])
nodes = [Node(f"celery@host-{{number:05}}", 4, ("celery",), {TASKS!r}, "1", "1") for number in range(count)]
for node in nodes:
    fleet.announce(node, seconds={LEASE})
print("announced", flush=True)
due = time.monotonic()
for node in cycle(nodes):
    due += {LEASE} / 3 / count
    time.sleep(max(0.0, due - time.monotonic()))
    fleet.announce(node, seconds={LEASE})
"""
"""Announces workers, each as often as a real one."""


def announce(at: Place, count: int) -> subprocess.Popen[Any]:
    """Announce workers from now on. Returns the process that does it."""
    return at.start([sys.executable, "-c", ANNOUNCE, str(count)], says="announced")


def at_rest(at: Place, bridge: subprocess.Popen[Any], relay: Relay, seconds: float, report: Report, label: str) -> Any:
    """Measure an idle bridge for some seconds. Returns its CPU in percent and its bytes per second."""
    before, since, cpu, redis_cpu = relay.so_far(), time.monotonic(), cpu_seconds(bridge), redis_cpu_seconds(at.ledger)
    time.sleep(seconds)
    passed, after = time.monotonic() - since, relay.so_far()
    share = (cpu_seconds(bridge) - cpu) / passed * 100
    size = (after.total - before.total) / passed / 1000
    report.add(PART, f"{label}: CPU of the bridge", "% of a core", [share], at_most=0.3)
    report.add(PART, f"{label}: bytes between bridge and Redis", "kB/s", [size], at_most=20.0)
    commands = (after.commands - before.commands) / passed
    report.add(PART, f"{label}: Redis commands of the bridge", "/s", [commands])
    redis_share = (redis_cpu_seconds(at.ledger) - redis_cpu) / passed * 100
    report.add(PART, f"{label}: CPU of Redis, announcements included", "% of a core", [redis_share])
    return share, size


def known_after(at: Place, report: Report, label: str) -> None:
    """Measure how soon the bridge notices a worker that starts, and one that stops, by its claims."""
    fleet = Fleet(at.ledger.url())
    newcomer = Node("celery@newcomer", 1000, ("celery",), ("bench.nap",), "1", "1")

    def dispatch(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            at.server.dispatch(1, capability="nap", seconds=0.0)
            time.sleep(0.1)

    dispatch(2.0)
    came = time.time()
    fleet.announce(newcomer, seconds=LEASE)
    dispatch(3.0)
    gone = time.time()
    fleet.withdraw(newcomer.hostname)
    dispatch(4.0)
    times = [claimed_at for _, claimed_at in at.server.claims()]
    assert times, "no job was claimed for the worker that came"
    report.add(PART, f"{label}: a worker has come, its first job is claimed", "s", [min(times) - came], at_most=2.0)
    known = max(0.0, max(times) - gone)
    report.add(PART, f"{label}: a worker has gone, the last job for it is claimed", "s", [known], at_most=2.0)


def command(at: Place, report: Report, label: str, *command: str) -> None:
    """Measure the time of a command, and the size of its output."""
    since = time.monotonic()
    whole: Sequence[str] = [str(BIN / "celery"), "-A", "application", "modelreins", *command]
    done = subprocess.run(whole, env=at.environment, capture_output=True, check=False)
    name = " ".join(command)
    report.add(PART, f"{label}: {name}", "s", [time.monotonic() - since])
    report.add(PART, f"{label}: output of {name}", "kB", [len(done.stdout) / 1000])


def measure(report: Report) -> None:
    """Run all measurements, for four minutes."""
    shares, sizes = [], []
    counts = [report.jobs(count) for count in NODES]
    for count in counts:
        with place() as at, Relay(at.ledger.port).running() as relay:
            announcer = announce(at, count)
            http = f"127.0.0.1:{free_port()}"
            ledger = f"redis://127.0.0.1:{relay.port}/0"
            bridge = at.bridge(MODELREINS_LEDGER_URL=ledger, MODELREINS_HTTP=http)
            time.sleep(report.seconds(25))  # the poll interval reaches its maximum after 20 s without a job
            label = f"{count} nodes"
            share, size = at_rest(at, bridge, relay, report.seconds(30), report, label)
            shares.append((float(count), share))
            sizes.append((float(count), size))
            since = time.monotonic()
            page = requests.get(f"http://{http}/metrics", timeout=60)
            report.add(PART, f"{label}: a scrape of /metrics", "s", [time.monotonic() - since])
            report.add(PART, f"{label}: size of /metrics", "kB", [len(page.content) / 1000])
            if count == counts[-1]:
                command(at, report, label, "status")
                command(at, report, label, "check")
            known_after(at, report, label)
            at.end(announcer)
    report.curve("CPU of an idle bridge in % over nodes", shares)
    report.curve("kB a second between an idle bridge and Redis over nodes", sizes)
