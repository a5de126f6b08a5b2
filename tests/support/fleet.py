"""A whole installation as processes: bridges and Celery workers around one sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from mr_celery.sandbox import Sandbox

from .ports import until

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


class Process:
    """A command as a process group, with its output in a file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.log = folder / f"{name}.log"
        self._file = self.log.open("w")
        self.popen = subprocess.Popen(
            command, env=environment, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def says(self, text: str, seconds: float = 30.0) -> None:
        """Wait until its output contains a text."""
        try:
            until(lambda: text in self.output, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{self.log.name} does not say {text!r}:\n{self.output[-5000:]}") from None

    def terminate(self, seconds: float = 30.0) -> int:
        """SIGTERM to the process; its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the process and all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._file.close()


class Fleet:
    """Bridges and workers of the application ``support.proj`` for the worker name ``w``."""

    def __init__(self, sandbox: Sandbox, *, broker: str, ledger: str, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.touch()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "PROJ_BROKER": broker,
            "PROJ_RUNS": str(self.runs),
            "MODELREINS_URL": sandbox.url,
            "MODELREINS_TOKEN": sandbox.token,
            "MODELREINS_NAME": "w",
            "MODELREINS_LEDGER_URL": ledger,
            "MODELREINS_POLL_INTERVAL": "1",
            "MODELREINS_HEARTBEAT_INTERVAL": "1",
            "MODELREINS_LEASE": "4",
        }
        self.processes: list[Process] = []

    def _start(self, name: str, command: list[str], **changes: str) -> Process:
        environment = {**self.environment, **changes}
        process = Process(
            f"{name}-{len(self.processes)}", [str(BIN / command[0]), *command[1:]], environment, self.folder
        )
        self.processes.append(process)
        return process

    def bridge(self, *options: str, ready: bool = True, **changes: str) -> Process:
        process = self._start("bridge", ["celery", "-A", "support.proj", "modelreins", "bridge", *options], **changes)
        if ready:
            process.says("ready")
        return process

    def worker(self, *options: str, ready: bool = True, app: str = "support.proj", **changes: str) -> Process:
        name = f"w{len(self.processes)}@test"
        command = ["celery", "-A", app, "worker", "-l", "INFO", "-n", name, *(options or ("-c", "2"))]
        process = self._start("worker", command, **changes)
        if ready:
            process.says("ready.")
        return process

    def dispatch(self, prompt: str, capability: str | None = None, **fields: Any) -> int:
        """A new job; its id."""
        if capability is not None:
            fields["capability"] = capability
        return int(self.sandbox.dispatch(prompt, worker="w", **fields)["id"])

    def job(self, job_id: int) -> dict[str, Any]:
        return self.sandbox.store.job(job_id)

    def ended(self, *job_ids: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until all these jobs are over; the jobs."""

        def over() -> bool:
            return all(self.job(job_id)["status"] not in ("pending", "running") for job_id in job_ids)

        try:
            until(over, seconds=seconds)
        except AssertionError:
            states = Counter(self.job(job_id)["status"] for job_id in job_ids)
            tails = "\n".join(f"--- {process.log.name}\n{process.output[-3000:]}" for process in self.processes)
            raise AssertionError(f"jobs not over: {dict(states)}\n{tails}") from None
        return [self.job(job_id) for job_id in job_ids]

    def events(self, job_id: int) -> list[str]:
        """What the server accepted and refused of a job, in order."""
        return [event["event"] for event in self.sandbox.store.events(job_id)]

    def started(self, prompt: str) -> int:
        """How often a handler began to run with this prompt."""
        return self.runs.read_text().split("\n").count(prompt)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
