"""A relay in front of a server, which counts commands and bytes."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import installation  # noqa: F401 - it makes the tests' helpers importable

from support.ports import free_port

COMMAND = re.compile(rb"\*\d+\r\n\$")
"""The beginning of a command to Redis."""


@dataclass
class Passed:
    """The traffic of a relay.

    Args:
        commands: the number of commands to Redis.
        to_redis: bytes of the commands.
        from_redis: bytes of the replies.
    """

    commands: int = 0
    to_redis: int = 0
    from_redis: int = 0

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.to_redis + self.from_redis


class Relay:
    """Relays connections to a Redis on this machine.

    Args:
        port: the port of that Redis.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._passed = Passed()

    def so_far(self) -> Passed:
        """The traffic since its start."""
        return replace(self._passed)

    @contextmanager
    def running(self) -> Iterator[Relay]:
        """Relay connections inside the block."""
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        thread.start()
        started.wait()
        yield self
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()

    async def _run(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        started.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(ConnectionError, asyncio.CancelledError):  # the latter at the end of the block
            await asyncio.gather(self._commands(reader, to_redis), self._answers(from_redis, writer))

    async def _commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._passed.to_redis += len(data)
            self._passed.commands += len(COMMAND.findall(data))
            writer.write(data)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._passed.from_redis += len(data)
            writer.write(data)
        writer.close()
