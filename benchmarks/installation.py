"""What the benchmarks measure: an installation as processes, with a server and Redis servers apart."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from requests.adapters import HTTPAdapter

from support.ports import free_port, listens, until
from support.servers import RedisServer

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
TOKEN = "benchmark"
NAME = "w"


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """User and system time of a process and its children so far, in seconds."""
    parent = psutil.Process(process.pid)
    found = 0.0
    for each in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            found += times.user + times.system
    return found


@dataclass
class Place:
    """A server, a broker and a ledger, and what has been started beside them.

    Args:
        url: the server's address.
        broker: the Redis of the broker.
        ledger: the Redis of the ledger.
        folder: for logs.
    """

    url: str
    broker: RedisServer
    ledger: RedisServer
    folder: Path
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = requests.Session()
        self.session.mount("http://", HTTPAdapter(pool_maxsize=64))
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "BENCH_BROKER": self.broker.url(),
            "MODELREINS_URL": self.url,
            "MODELREINS_TOKEN": TOKEN,
            "MODELREINS_NAME": NAME,
            "MODELREINS_LEDGER_URL": self.ledger.url(),
        }

    def start(self, command: Sequence[str], *, says: str = "", **changes: str) -> subprocess.Popen[Any]:
        """Start a command, and wait until it says a text."""
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, env={**self.environment, **changes}, stdout=file, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        if says:
            until(lambda: says in log.read_text(), seconds=60, what=f"{log} says {says!r}")
        return process

    def worker(self, *options: str, **changes: str) -> subprocess.Popen[Any]:
        """A Celery worker of the application."""
        command = [str(BIN / "celery"), "-A", "application", "worker", "-l", "WARNING", *options]
        worker = self.start(command, **changes)
        until(self._answers, seconds=60, what="the worker is ready")
        return worker

    def _answers(self) -> bool:
        """Whether a worker has bound its queue."""
        return any("_kombu.binding" in key.decode() for key in self.broker.client().keys("_kombu*"))

    def bridge(self, *options: str, **changes: str) -> subprocess.Popen[Any]:
        """A bridge of the application."""
        command = [str(BIN / "celery"), "-A", "application", "modelreins", "bridge", *options]
        return self.start(command, says="ready", **changes)

    def dispatch(self, jobs: int, **fields: Any) -> list[int]:
        """New jobs; their ids."""
        body = {"prompt": "x", "worker": NAME, **fields}
        return [self.session.post(f"{self.url}/dispatch", json=body).json()["id"] for _ in range(jobs)]

    def open_jobs(self) -> int:
        """How many jobs are not over."""
        return sum(len(self._listed(status)) for status in ("pending", "running"))

    def _listed(self, status: str) -> list[Any]:
        listed: list[Any] = self.session.get(f"{self.url}/my-jobs", params={"worker": NAME, "status": status}).json()[
            "jobs"
        ]
        return listed

    def until_all_are_over(self, seconds: float = 300.0, *, look: float = 0.05) -> None:
        """Wait until no job is pending or running."""
        deadline = time.monotonic() + seconds
        while self.open_jobs():
            assert time.monotonic() < deadline, "jobs are left"
            time.sleep(look)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def place() -> Iterator[Place]:
    """A place with its servers, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="mr-bench-"))
    port = free_port()
    broker, ledger = RedisServer(), RedisServer()
    server = subprocess.Popen(
        [str(BIN / "mr-celery"), "sandbox", "--port", str(port), "--token", TOKEN], stdout=subprocess.DEVNULL
    )
    made = Place(f"http://127.0.0.1:{port}", broker, ledger, folder)
    try:
        until(lambda: listens(port), what="the server listens")
        yield made
    finally:
        made.stop()
        server.terminate()
        server.wait(10)
        broker.stop()
        ledger.stop()
