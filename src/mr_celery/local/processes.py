"""A few processes that belong together: their output in one stream, and one end for all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..backoff import backoff

STOP_SECONDS = 60.0
"""How long a process may take to stop, before it is killed."""

SETTLED_SECONDS = 10.0
"""A process that ends sooner than this after its first start is set up wrongly: it is not started again."""


@dataclass
class Program:
    """A command that is to run.

    Args:
        name: what its output is marked with.
        arguments: the arguments for this Python interpreter.
    """

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    ends: int = 0


class Processes:
    """Runs programs side by side; one that ends is started again.

    Args:
        programs: in the order in which they are started; they are stopped in reverse.
        environment: their environment.
        say: called with each line of output and the program's name.
    """

    def __init__(
        self, programs: Sequence[Program], environment: Mapping[str, str], say: Callable[[str, str], None]
    ) -> None:
        self._programs = programs
        self._environment = dict(environment)
        self._say = say

    def start(self) -> None:
        """Start all."""
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
            start_new_session=True,  # Ctrl-C is passed on by stop(), in order
        )
        threading.Thread(target=self._relay, args=(program, program.process), daemon=True).start()

    def _relay(self, program: Program, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            self._say(program.name, line.rstrip("\n"))

    def watch(self, told_to_stop: threading.Event) -> bool:
        """Start again what ends, until told to stop. Returns ``False`` if a program ended right after its start."""
        while not told_to_stop.wait(0.2):
            for program in self._programs:
                if program.process is None or program.process.poll() is None:
                    continue
                code = program.process.returncode
                if program.ends == 0 and time.monotonic() - program.started_at < SETTLED_SECONDS:
                    self._say(program.name, f"ended with {code} right after its start: see its message above")
                    return False
                program.ends += 1
                pause = backoff(program.ends, first=1.0, most=30.0)
                self._say(program.name, f"ended with {code}; it is started again in {pause:.0f} s")
                if told_to_stop.wait(pause):
                    break
                self._start(program)
        return True

    @property
    def ended(self) -> str:
        """The name of a program that is not running; empty if all are."""
        stopped = (each.name for each in self._programs if each.process is None or each.process.poll() is not None)
        return next(stopped, "")

    def stop(self) -> None:
        """SIGTERM to each, the last started first, and wait for its end."""
        for program in reversed(self._programs):
            process = program.process
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._say(program.name, f"did not stop within {STOP_SECONDS:.0f} s: killed")
                process.kill()
                process.wait()
