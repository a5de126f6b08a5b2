"""uvicorn with limits, in the main thread or in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..errors import MrCeleryError
from .connection import Connection, Places
from .limits import Limits

_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the limit is applied. They take file descriptors beyond it for a moment."""

_QUEUED = 128
"""Connections that may wait in the kernel until they are accepted."""

_START_SECONDS = 30.0
_STOP_SECONDS = 3


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: the address, IPv4 or IPv6.
        port: the port; 0 for a free one.

    Raises:
        OSError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    # asyncio sets TCP_NODELAY only if the socket's protocol is TCP. Without it each response is delayed by 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())


class Server(uvicorn.Server):
    """uvicorn with limits and an event for its start, and without changes to the process's logging.

    While idle, it wakes up once a second. uvicorn alone would check ten times a second whether it should exit, and
    double the CPU time of an idle bridge.

    Args:
        app: the application.
        limits: the limits for its clients.
        log_level: the level of uvicorn's loggers.

    Attributes:
        up: set once it accepts connections.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, app: ASGIApp, limits: Limits, *, log_level: str = "warning") -> None:
        places = Places(limits)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(Connection, places),  # type: ignore[arg-type]
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=log_level,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_ACCEPTED_AT_ONCE,
                h11_max_incomplete_event_size=limits.header_bytes,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        self.up = threading.Event()

    @property
    def should_exit(self) -> bool:
        """Whether it should stop. Set by any thread, and by signal handlers."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if value and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has stopped
                self._loop.call_soon_threadsafe(self._exit.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._exit = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_QUEUED)
        self.up.set()

    async def main_loop(self) -> None:
        """Serve until it should exit."""
        while not await self.on_tick(0):  # renews the Date header
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._exit.wait(), timeout=1.0)


class BackgroundServer:
    """A server in a thread.

    Args:
        app: the application.
        listening: the socket, which the server closes.
        limits: the limits for its clients.
        name: the name of the thread.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket, limits: Limits, *, name: str) -> None:
        self._server = Server(app, limits, log_level="error")
        self._listening = listening
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name=name, daemon=True
        )

    @property
    def address(self) -> tuple[Any, ...]:
        """The address it listens on."""
        return self._listening.getsockname()  # type: ignore[no-any-return]

    def start(self) -> None:
        """Start the thread, and return when it accepts connections.

        Raises:
            MrCeleryError: it did not start in time.
        """
        self._thread.start()
        if not self._server.up.wait(_START_SECONDS):
            raise MrCeleryError(f"the HTTP server did not start within {_START_SECONDS:g} s")

    def stop(self) -> None:
        """Wait a few seconds for open requests to finish, and close the socket."""
        self._server.should_exit = True
        if self._thread.ident is None:
            self._listening.close()
        else:
            self._thread.join(2 * _STOP_SECONDS)
