"""Cost of an idle bridge and worker."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import psutil
import redis
from installation import Place, cpu_seconds, family, place, resident_bytes
from report import Report

PART = "Idle"


class Commands:
    """Counts the commands to a Redis server by client port, without commands inside scripts."""

    def __init__(self, client: Any) -> None:
        self._by_port: Counter[int] = Counter()
        self._client = client  # keeps its connections open
        self._monitor = client.monitor()
        self._monitor.__enter__()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(redis.ConnectionError):
            for command in self._monitor.listen():
                if command["client_type"] == "tcp":
                    self._by_port[int(command["client_port"])] += 1

    def so_far(self) -> Counter[int]:
        """Number of commands by client port."""
        assert self._thread.is_alive(), "Redis does not tell any more"
        return self._by_port.copy()


def ports(process: subprocess.Popen[Any]) -> set[int]:
    """Local ports of the connections of a process and its children."""
    found = set()
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            found |= {connection.laddr.port for connection in each.net_connections("tcp")}
    return found


def idle(at: Place, *, warm: float, seconds: float, report: Report) -> None:
    """Measure an idle bridge and worker."""
    processes = {"bridge": at.bridge(), "worker": at.worker("-c", "2")}
    time.sleep(warm)
    commands = Commands(at.ledger.client())
    used: dict[str, set[int]] = {name: set() for name in processes}
    asked, before, since = sum(at.server.counts()["requests"].values()), commands.so_far(), time.monotonic()
    cpu = {name: cpu_seconds(process) for name, process in processes.items()}
    while time.monotonic() < since + seconds:
        for name, process in processes.items():
            used[name] |= ports(process)
        time.sleep(1.0)
    passed, got = time.monotonic() - since, commands.so_far() - before
    http = (sum(at.server.counts()["requests"].values()) - asked) / passed * 60
    sent = {name: sum(got[port] for port in used[name]) / passed for name in processes}
    share = {name: (cpu_seconds(each) - cpu[name]) / passed * 100 for name, each in processes.items()}
    memory = {name: resident_bytes(each) / 2**20 for name, each in processes.items()}
    report.add(PART, "HTTP requests", "/min", [http], at_most=24.0)
    report.add(PART, "Redis commands to the ledger: bridge", "/s", [sent["bridge"]], at_most=5.0)
    report.add(PART, "Redis commands to the ledger: worker", "/s", [sent["worker"]])
    report.add(PART, "CPU: bridge", "% of a core", [share["bridge"]], at_most=0.5)
    report.add(PART, "CPU: worker, two processes", "% of a core", [share["worker"]])
    report.add(PART, "RSS: bridge", "MiB", [memory["bridge"]], at_most=80.0)
    report.add(PART, "RSS: worker with two processes, shared pages counted thrice", "MiB", [memory["worker"]])


def measure(report: Report) -> None:
    """Run all measurements, for a minute."""
    with place() as at:
        idle(at, warm=report.seconds(6), seconds=report.seconds(60), report=report)
