"""An installation as processes: bridges and Celery workers with one sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from mr_celery.sandbox import Sandbox

from . import fork_server
from .ports import until

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


class Process:
    """A command in its own process group, with its output in a file.

    Args:
        name: the name of the file.
        command: the path of a script, and its arguments.
        environment: its environment.
        folder: the folder of the file.
        forks: whether the fork server may start it. The system then lists it with the fork server's arguments.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], folder: Path, *, forks: bool = True
    ) -> None:
        self.log = folder / f"{name}.log"
        self._file = self.log.open("w")
        self._command = command
        self._environment = environment
        self._start = fork_server.start if forks else fork_server.start_anew
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start the command, or restart it. Output is appended to the same file."""
        self.starts += 1
        self.popen = self._start(self._command, self._environment, self._file)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def says(self, text: str, seconds: float = 30.0) -> None:
        """Wait until the output contains a text."""
        try:
            until(lambda: text in self.output, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{self.log.name} does not say {text!r}:\n{self.output[-5000:]}") from None

    def terminate(self, seconds: float = 60.0) -> int:
        """Terminate the process, and return its exit code. A bridge may exceed its shutdown_timeout (30 s)."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # makes it print the stacks of its threads
            self.popen.wait(seconds)
            raise AssertionError(f"{self.log.name} did not end:\n{self.output[-8000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children, such as SIGSTOP and SIGCONT."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """Kill the process and all its children."""
        self.signal(signal.SIGKILL)
        self.popen.wait()


class Fleet:
    """Bridges and workers of an application, by default ``support.proj``, for a worker name, by default ``w``."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        broker: str,
        ledger: str,
        folder: Path,
        app: str = "support.proj",
        name: str = "w",
    ) -> None:
        self.sandbox = sandbox
        self.app = app
        self.name = name
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.touch()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "PYTHONFAULTHANDLER": "1",
            "PROJ_BROKER": broker,
            "PROJ_RUNS": str(self.runs),
            "MODELREINS_URL": sandbox.url,
            "MODELREINS_TOKEN": sandbox.token,
            "MODELREINS_NAME": name,
            "MODELREINS_LEDGER_URL": ledger,
            "MODELREINS_POLL_INTERVAL": "1",
            "MODELREINS_HEARTBEAT_INTERVAL": "1",
            "MODELREINS_LEASE": "4",
        }
        self.processes: list[Process] = []
        self.forks = True
        self._keeping: threading.Thread | None = None
        self._stopping = threading.Event()
        self._numbers = count(1)

    def keep_running(self) -> None:
        """Restart every process that ends from now on, like a service manager."""

        def keep() -> None:
            while not self._stopping.wait(0.1):
                for process in [each for each in self.processes if each.popen.poll() is not None]:
                    process.signal(signal.SIGKILL)  # kills any remaining children
                    process.start()

        self._keeping = threading.Thread(target=keep, daemon=True)
        self._keeping.start()

    def _start(self, name: str, command: list[str], *, inside: Sequence[str] = (), **changes: str) -> Process:
        environment = {**self.environment, **changes}
        whole = [*inside, str(BIN / command[0]), *command[1:]]
        process = Process(f"{name}-{len(self.processes)}", whole, environment, self.folder, forks=self.forks)
        self.processes.append(process)
        return process

    def bridge(self, *options: str, ready: bool = True, **changes: str) -> Process:
        process = self._start("bridge", ["celery", "-A", self.app, "modelreins", "bridge", *options], **changes)
        if ready:
            process.says("ready")
        return process

    def worker(
        self, *options: str, ready: bool = True, app: str | None = None, inside: Sequence[str] = (), **changes: str
    ) -> Process:
        """Start a Celery worker.

        Args:
            options: options of the command.
            ready: wait until it is ready.
            app: the application, if not the fleet's.
            inside: a command that runs it, such as ``unshare --net``.
            changes: changes to the environment.
        """
        name = f"w{len(self.processes)}@test"
        command = ["celery", "-A", app or self.app, "worker", "-l", "INFO", "-n", name, *(options or ("-c", "2"))]
        process = self._start("worker", command, inside=inside, **changes)
        if ready:
            process.says("ready.")
        return process

    def dispatch(self, prompt: str, capability: str | None = None, **fields: Any) -> int:
        """Dispatch a job. Returns its id."""
        if capability is not None:
            fields["capability"] = capability
        return int(self.sandbox.dispatch(prompt, worker=self.name, **fields)["id"])

    def job(self, job_id: int) -> dict[str, Any]:
        return self.sandbox.store.job(job_id)

    def ended(self, *job_ids: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until all these jobs are over, and return them."""

        left = list(job_ids)

        def over() -> bool:
            while left and self.job(left[-1])["status"] not in ("pending", "running"):
                left.pop()
            return not left

        try:
            until(over, seconds=seconds)
        except AssertionError:
            states = Counter(self.job(job_id)["status"] for job_id in job_ids)
            tails = "\n".join(f"--- {process.log.name}\n{process.output[-3000:]}" for process in self.processes)
            raise AssertionError(f"jobs not over: {dict(states)}\n{tails}") from None
        return [self.job(job_id) for job_id in job_ids]

    def events(self, job_id: int) -> list[str]:
        """The server's events of a job, including refused requests."""
        return [event["event"] for event in self.sandbox.store.events(job_id)]

    def starts(self) -> Counter[str]:
        """Number of started handlers by prompt."""
        return Counter(self.runs.read_text().split("\n"))

    def started(self, prompt: str) -> int:
        """Number of started handlers with this prompt."""
        return self.starts()[prompt]

    def next_number(self) -> int:
        """A number that has not been used yet."""
        return next(self._numbers)

    def stop(self) -> None:
        self._stopping.set()
        if self._keeping is not None:
            self._keeping.join()
        for process in self.processes:
            process.kill()
