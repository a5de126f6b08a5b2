"""An installation for the benchmarks: processes, a server, and separate Redis servers."""

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
    """Total user and system time of a process and its children, in seconds."""
    found = 0.0
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            found += times.user + times.system
    return found


def redis_cpu_seconds(redis: RedisServer) -> float:
    """Total user and system time of a Redis server, in seconds, as reported by itself."""
    info = redis.client().info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def script_seconds(redis: RedisServer) -> float:
    """Total wall-clock seconds of the scripts in a Redis server. On a busy machine this exceeds their CPU time."""
    stats = redis.client().info("commandstats")
    return sum(float(stats.get(f"cmdstat_{name}", {}).get("usec", 0)) for name in ("evalsha", "eval")) / 1e6


def resident_bytes(process: subprocess.Popen[Any]) -> int:
    """Memory of a process and its children, in bytes."""
    found = 0
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            found += each.memory_info().rss
    return found


class Server:
    """The server of ``server.py`` in a separate process."""

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
        """Create jobs. Returns their ids."""
        ids: list[int] = self._ask("dispatch", count=count, job={"prompt": "x", **job})
        return ids

    def slow(self, seconds: float) -> None:
        """Delay every response by this time from now on."""
        self._ask("slow", seconds=seconds)

    def counts(self) -> dict[str, Any]:
        """Numbers of jobs by status, ``requests`` by route, ``uploaded`` bytes, and the time of the ``first_claim``."""
        counts: dict[str, Any] = self._ask("counts")
        return counts

    def results(self) -> list[str]:
        """The last outputs of closed jobs, without empty ones."""
        results: list[str] = self._ask("results")
        return results

    def claims(self) -> list[tuple[int, float]]:
        """The last claims, as pairs of a job's id and the time."""
        return [(job_id, at) for job_id, at in self._ask("times")["claims"]]

    def closes(self) -> list[tuple[int, float]]:
        """The last closes, as pairs of a job's id and the time."""
        return [(job_id, at) for job_id, at in self._ask("times")["closes"]]

    def looks(self) -> list[float]:
        """Times of the last inbox requests."""
        return list(self._ask("times")["looks"])

    def presences(self) -> list[tuple[str, float]]:
        """The last presence reports, as pairs of a worker name and the time."""
        return [(name, at) for name, at in self._ask("times")["presences"]]

    def uploads(self) -> list[tuple[int, float]]:
        """The last uploads, as pairs of bytes and seconds from the request's head to its last byte."""
        return [(size, ended - begun) for size, begun, ended in self._ask("times")["uploads"]]

    def reset(self) -> None:
        """Delete all jobs and counts."""
        self._ask("reset")

    def done(self) -> int:
        """Number of jobs that were closed as done."""
        return int(self.counts().get("done", 0))

    def until_done(self, jobs: int, *, seconds: float = 300.0, look: float = 0.02) -> None:
        """Wait until this number of jobs is closed as done."""
        deadline = time.monotonic() + seconds
        while self.done() < jobs:
            assert time.monotonic() < deadline, f"not done in {seconds:g} s: {self.counts()}"
            time.sleep(look)

    def until_running(self, jobs: int, *, seconds: float = 300.0) -> None:
        """Wait until this number of jobs is claimed and not closed."""
        until(lambda: self.counts()["running"] >= jobs, seconds=seconds, what=f"{jobs} jobs are running")

    def feed(self, jobs: int, *, pending: int = 1000, look: Callable[[int], None] = lambda done: None) -> None:
        """Dispatch jobs, at most ``pending`` at a time, until all are done. Calls ``look`` with the number done."""
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
        """Measure jobs done per second for ``seconds``, starting ``warm`` seconds after the next job is done."""
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
    """A server, a broker and a ledger, and the processes that use them.

    Args:
        server: the server.
        broker: the Redis of the broker.
        ledger: the Redis of the ledger.
        folder: the folder for logs.
    """

    server: Server
    broker: RedisServer
    ledger: RedisServer
    folder: Path
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all processes."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODELREINS_")},
            "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("BENCH_SOURCE")]), str(HERE)]),
            "BENCH_BROKER": self.broker.url(),
            "MODELREINS_URL": self.server.url,
            "MODELREINS_TOKEN": TOKEN,
            "MODELREINS_NAME": NAME,
            "MODELREINS_LEDGER_URL": self.ledger.url(),
        }

    def start(self, command: Sequence[str], *, says: str = "", **changes: str) -> subprocess.Popen[Any]:
        """Start a command, and wait until its output contains a text."""
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
        """Run a script, and return its output."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def worker(self, *options: str, app: str = "application", **changes: str) -> subprocess.Popen[Any]:
        """Start a Celery worker, and wait until it is ready."""
        command = [str(BIN / "celery"), "-A", app, "worker", "-l", "WARNING", *options]
        bound = self._bound()
        worker = self.start(command, **changes)
        until(lambda: self._bound() - bound, seconds=60, what="the worker is ready")
        return worker

    def _bound(self) -> set[bytes]:
        """The remote control mailboxes of the workers that are ready."""
        return set(self.broker.client().smembers("_kombu.binding.celery.pidbox"))

    def bridge(self, *options: str, app: str = "application", **changes: str) -> subprocess.Popen[Any]:
        """Start a bridge, and wait until it is ready."""
        command = [str(BIN / "celery"), "-A", app, "modelreins", "bridge", *options]
        return self.start(command, says="ready", **changes)

    def end(self, process: subprocess.Popen[Any], *, how: int = signal.SIGTERM) -> None:
        """Terminate a process."""
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.processes.remove(process)

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """Kill a process and its children, as if their machine had failed."""
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
    """Start the servers for the block."""
    folder = Path(tempfile.mkdtemp(prefix="mr-bench-"))
    made = Place(Server(), RedisServer(), RedisServer(), folder)
    try:
        yield made
    finally:
        made.stop()
        made.server.stop()
        made.broker.stop()
        made.ledger.stop()
