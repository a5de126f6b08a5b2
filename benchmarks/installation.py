"""What the benchmarks measure: an installation as processes, with a server and Redis servers apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

HERE = Path(__file__).parent
sys.path[:0] = [each for each in (str(HERE.parent / "tests"), str(HERE)) if each not in sys.path]

from support.ports import free_port, listens, until
from support.servers import RedisServer

BIN = Path(sys.executable).parent
TOKEN = "benchmark"
NAME = "w"


def family(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """A process and its children."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """User and system time of a process and its children so far, in seconds."""
    found = 0.0
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            found += times.user + times.system
    return found


def resident_bytes(process: subprocess.Popen[Any]) -> int:
    """The memory that a process and its children have, in bytes."""
    found = 0
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            found += each.memory_info().rss
    return found


class Server:
    """The server in ``server.py``, in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._process = subprocess.Popen([sys.executable, str(HERE / "server.py"), str(self.port)])
        until(lambda: listens(self.port), what="the server listens")

    def _ask(self, what: str, **told: Any) -> Any:
        return self._session.post(f"{self.url}/bench/{what}", json=told, timeout=60).json()

    def dispatch(self, count: int, **job: Any) -> list[int]:
        """New jobs; their ids."""
        ids: list[int] = self._ask("dispatch", count=count, job={"prompt": "x", **job})
        return ids

    def slow(self, seconds: float) -> None:
        """From now on every answer comes that much later."""
        self._ask("slow", seconds=seconds)

    def counts(self) -> dict[str, Any]:
        """Jobs by status; ``requests`` by route; ``uploaded`` bytes; the time of the ``first_claim``."""
        counts: dict[str, Any] = self._ask("counts")
        return counts

    def results(self) -> list[str]:
        """The last outputs of closed jobs, where they have one."""
        results: list[str] = self._ask("results")
        return results

    def claims(self) -> list[tuple[int, float]]:
        """The last claims: each job, and its time."""
        return [(job_id, at) for job_id, at in self._ask("times")["claims"]]

    def closes(self) -> list[tuple[int, float]]:
        """The last closes: each job, and its time."""
        return [(job_id, at) for job_id, at in self._ask("times")["closes"]]

    def looks(self) -> list[float]:
        """When the inbox was looked into."""
        return list(self._ask("times")["looks"])

    def uploads(self) -> list[tuple[int, float]]:
        """The uploads: bytes, and the seconds from the request's head to its last byte."""
        return [(size, ended - begun) for size, begun, ended in self._ask("times")["uploads"]]

    def reset(self) -> None:
        """No jobs, no counts."""
        self._ask("reset")

    def done(self) -> int:
        """How many jobs were closed as done."""
        return int(self.counts().get("done", 0))

    def until_done(self, jobs: int, *, seconds: float = 300.0, look: float = 0.02) -> None:
        """Wait until that many jobs are closed as done."""
        deadline = time.monotonic() + seconds
        while self.done() < jobs:
            assert time.monotonic() < deadline, f"not done in {seconds:g} s: {self.counts()}"
            time.sleep(look)

    def until_running(self, jobs: int, *, seconds: float = 300.0) -> None:
        """Wait until that many jobs are claimed and not closed."""
        until(lambda: self.counts()["running"] >= jobs, seconds=seconds, what=f"{jobs} jobs are running")

    def feed(self, jobs: int, *, pending: int = 1000, look: Callable[[int], None] = lambda done: None) -> None:
        """Dispatch jobs so that at most ``pending`` wait at a time, until all are done; ``look`` at how many are."""
        before, dispatched, done = self.done(), 0, 0
        while done < jobs:
            counts = self.counts()
            done = counts.get("done", 0) - before
            more = min(jobs - dispatched, pending - counts["pending"])
            if more > 0:
                self.dispatch(more)
                dispatched += more
            look(done)
            time.sleep(0.1)

    def rate(self, *, warm: float, seconds: float) -> float:
        """Jobs done per second, over ``seconds`` that begin ``warm`` seconds after the next job is done."""
        begun = self.done()
        until(lambda: self.done() > begun, seconds=60, what="a job is done")
        time.sleep(warm)
        before, since = self.done(), time.monotonic()
        time.sleep(seconds)
        done, passed = self.done() - before, time.monotonic() - since
        assert self.counts()["pending"], "it ran out of jobs: dispatch more"
        return done / passed

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@dataclass
class Place:
    """A server, a broker and a ledger, and what has been started beside them.

    Args:
        server: the server.
        broker: the Redis of the broker.
        ledger: the Redis of the ledger.
        folder: for logs.
    """

    server: Server
    broker: RedisServer
    ledger: RedisServer
    folder: Path
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What each process is told."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODELREINS_")},
            "PYTHONPATH": str(HERE),
            "BENCH_BROKER": self.broker.url(),
            "MODELREINS_URL": self.server.url,
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

    def python(self, code: str, *arguments: object) -> str:
        """What a script prints."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def worker(self, *options: str, app: str = "application", **changes: str) -> subprocess.Popen[Any]:
        """A Celery worker of the application, ready for messages."""
        command = [str(BIN / "celery"), "-A", app, "worker", "-l", "WARNING", *options]
        bound = self._bound()
        worker = self.start(command, **changes)
        until(lambda: self._bound() - bound, seconds=60, what="the worker is ready")
        return worker

    def _bound(self) -> set[bytes]:
        """The mailboxes of the workers that are ready."""
        return set(self.broker.client().smembers("_kombu.binding.celery.pidbox"))

    def bridge(self, *options: str, app: str = "application", **changes: str) -> subprocess.Popen[Any]:
        """A bridge of the application, that works."""
        command = [str(BIN / "celery"), "-A", app, "modelreins", "bridge", *options]
        return self.start(command, says="ready", **changes)

    def end(self, process: subprocess.Popen[Any], *, how: int = signal.SIGTERM) -> None:
        """End a process."""
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.processes.remove(process)

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """SIGKILL to a process and its children, as if its machine were gone."""
        for each in family(process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        self.processes.remove(process)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in list(self.processes):
            self.end(process)


@contextmanager
def place() -> Iterator[Place]:
    """A place with its servers, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="mr-bench-"))
    made = Place(Server(), RedisServer(), RedisServer(), folder)
    try:
        yield made
    finally:
        made.stop()
        made.server.stop()
        made.broker.stop()
        made.ledger.stop()
