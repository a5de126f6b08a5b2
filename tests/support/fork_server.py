"""Starts commands of Celery and mr-celery as forks of a process that has imported both.

This takes a tenth of the CPU time of a normal start, which mostly goes into imports. The fork is a separate process
with its own session, environment and output. It runs the command's script from the beginning. Commands whose
environment changes Python itself, or whose pool patches the standard library, are started in the usual way.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

TESTS = Path(__file__).parent.parent
SCRIPTS = ("celery", "modelreins", "mr-celery")
PATCHING = ("gevent", "eventlet")
IMPORTED = (
    "celery.bin.celery",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "mr_celery.bridge",
    "mr_celery.celery_worker",
    "mr_celery.cli.main",
    "mr_celery.cli.modelreins",
)
"""What a command imports before the application, or what no application replaces parts of.

An error tracker, for instance, replaces functions of Celery's modules before ``celery.worker.consumer`` imports them.
"""

AT_STARTUP = ("PYTHON", "LD_", "TZ", "C_FORCE_ROOT", "KOMBU_", "OTEL_")
"""How the names of variables begin that are read when Python starts or a module is imported."""

MOST_BYTES = 2**18


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[str],
    *,
    errors: IO[str] | None = None,
    given: IO[str] | None = None,
    cwd: Path | None = None,
) -> Started:
    """Start a command in its own session, as a fork if it can be one.

    Args:
        command: the path of a script, and its arguments.
        environment: its environment.
        output: the file for its output.
        errors: the file for its standard error; default: also ``output``.
        given: the file for its input; default: none.
        cwd: its folder; default: that of this process.
    """
    if not _is_forkable(command, environment):
        return start_anew(command, environment, output, errors=errors, given=given, cwd=cwd)
    with open(os.devnull) as nothing:
        files = (given or nothing, output, errors or output)
        return Forked(command, environment, [file.fileno() for file in files], cwd or Path.cwd())


def start_anew(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[str],
    *,
    errors: IO[str] | None = None,
    given: IO[str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a command in its own session, as :func:`start` does, but with a new Python interpreter."""
    return subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdin=given or subprocess.DEVNULL,
        stdout=output,
        stderr=errors or output,
        start_new_session=True,
        text=True,
    )


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float = 60.0,
    check: bool = False,
    input: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, as ``subprocess.run`` does with ``capture_output`` and ``text``."""
    with TemporaryFile("w+") as given, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        given.write(input)
        given.seek(0)
        process = start(command, env, output, errors=errors, given=given, cwd=cwd)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        errors.seek(0)
        done = subprocess.CompletedProcess(command, code, output.read(), errors.read())
    if check:
        done.check_returncode()
    return done


def _is_forkable(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    changed = {name for name in environment.keys() | os.environ.keys() if environment.get(name) != os.environ.get(name)}
    return (
        Path(command[0]).parent == Path(sys.executable).parent
        and Path(command[0]).name in SCRIPTS
        and not any(pool in argument for argument in command for pool in PATCHING)
        and environment.get("PYTHONPATH") in (None, str(TESTS))
        and not any(name.startswith(AT_STARTUP) for name in changed - {"PYTHONPATH", "PYTHONFAULTHANDLER"})
    )


class Forked:
    """A command that the fork server has started, with the interface of ``Popen``.

    Attributes:
        pid: its process id.
        returncode: its exit code; ``None`` until :meth:`poll` or :meth:`wait` has seen its end.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], files: Sequence[int], folder: Path
    ) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_server())
        request = json.dumps({"argv": self.args, "environment": dict(environment), "folder": str(folder)}).encode()
        socket.send_fds(self._connection, [request], files)
        self.pid = int(self._connection.recv(MOST_BYTES))

    def poll(self) -> int | None:
        """Its exit code; ``None`` while it is running."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Returns its exit code, which is negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(MOST_BYTES)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._connection.close()
            self.returncode = int(answer)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


Started = subprocess.Popen[str] | Forked


@cache
def _server() -> str:
    """Start the fork server of this process. Returns its address. It ends with this process."""
    folder = TemporaryDirectory(prefix="mr-forks-")
    address = f"{folder.name}/socket"
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen(
        [sys.executable, __file__, address],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def stop() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(stop)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return address


def serve(address: str) -> list[str]:
    """Fork a process for each request. Returns only in the forks, with the arguments of the command."""
    for name in IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()  # otherwise the first collection in each fork would copy all imported modules
    children: dict[int, socket.socket] = {}
    woken, waking = socket.socketpair()
    woken.setblocking(False)
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        for source in (listener, woken, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:  # the tests have ended
                    os._exit(0)
                if key.fileobj is woken:
                    woken.recv(MOST_BYTES)
                    _report_ends(children)
                    continue
                connection, _ = listener.accept()
                request, files, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for inherited in (connection, woken, waking, *children.values()):
                        inherited.close()
                    return _become(json.loads(request), files)
                for file in files:
                    os.close(file)
                children[pid] = connection
                connection.send(str(pid).encode())


def _report_ends(children: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with children.pop(pid) as connection, suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], files: Sequence[int]) -> list[str]:
    """Take on the session, files, folder and environment of a request. Returns the arguments of its command."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "PYTHONPATH" not in os.environ:
        sys.path.remove(str(TESTS))
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    arguments: list[str] = request["argv"]
    return arguments


if __name__ == "__main__":
    sys.argv = serve(sys.argv[1])
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as Python does for a script
    runpy.run_path(sys.argv[0], run_name="__main__")
