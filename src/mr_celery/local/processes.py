"""Runs a group of processes with a common output, and stops them together."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..backoff import backoff
from ..telemetry.quantities import duration

STOP_SECONDS = 60.0
"""Time a process has to stop before it is killed, in seconds."""

SETTLED_SECONDS = 10.0
"""A process that ends within this time after its first start is misconfigured and not restarted."""


@dataclass
class Program:
    """A command to run.

    Args:
        name: prefix of its output.
        arguments: arguments of the Python interpreter.
    """

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    ends: int = 0


class Processes:
    """Runs programs side by side and restarts those that end.

    Args:
        programs: in the order in which to start them. They are stopped in reverse order.
        environment: the environment of all programs.
        say: called with the program's name and a line of output.
        umask: the programs' mask for new files; -1 for that of this process.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        environment: Mapping[str, str],
        say: Callable[[str, str], None],
        *,
        umask: int = -1,
    ) -> None:
        self._programs = programs
        self._environment = dict(environment)
        self._say = say
        self._umask = umask

    def start(self) -> None:
        """Start all programs."""
        for program in self._programs:
            self._start(program)

    def _start(self, program: Program) -> None:
        program.started_at = time.monotonic()
        program.process = subprocess.Popen(
            [sys.executable, *program.arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=self._umask,
            start_new_session=True,  # Ctrl-C must not reach it: stop() ends the programs in order
        )
        threading.Thread(target=self._relay, args=(program, program.process), daemon=True).start()

    def _relay(self, program: Program, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            self._say(program.name, line.rstrip("\n"))

    def watch(self, stop: threading.Event) -> bool:
        """Restart programs that end, until ``stop`` is set. Returns ``False`` if one ended right after its start."""
        while not stop.wait(0.2):
            for program in self._programs:
                if program.process is None or program.process.poll() is None:
                    continue
                code = program.process.returncode
                if program.ends == 0 and time.monotonic() - program.started_at < SETTLED_SECONDS:
                    self._say(program.name, f"exited with code {code} right after its start: see its output above")
                    return False
                program.ends += 1
                pause = backoff(program.ends, first=1.0, most=30.0)
                self._say(program.name, f"exited with code {code}; restarting in {duration(pause)}")
                if stop.wait(pause):
                    break
                self._start(program)
        return True

    def process_id(self, name: str) -> int | None:
        """The process id of a program that was started, or ``None``."""
        return next((each.process.pid for each in self._programs if each.name == name and each.process), None)

    @property
    def ended(self) -> str:
        """The name of a program that is not running, or empty if all are running."""
        stopped = (each.name for each in self._programs if each.process is None or each.process.poll() is not None)
        return next(stopped, "")

    def stop(self) -> None:
        """Terminate the programs in reverse order, and wait for each to end."""
        for program in reversed(self._programs):
            process = program.process
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._say(program.name, f"did not stop within {duration(STOP_SECONDS)}; killed")
                process.kill()
                process.wait()
