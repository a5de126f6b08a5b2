"""A connection of uvicorn that is closed if its client is slow, or if new connections need its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits


class Places:
    """The open connections of a server, in the order in which they are closed to make room for new ones.

    Args:
        limits: the limits of each connection.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._count = limits.possible_connections
        self._idle: dict[Connection, None] = {}
        self._sending: dict[Connection, None] = {}
        self._busy: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._idle) + len(self._sending) + len(self._busy)

    def idle(self, connection: Connection) -> None:
        """Record that a connection has no request, or only parts of its headers."""
        self._move(connection, self._idle)

    def sending(self, connection: Connection) -> None:
        """Record that a connection sends the body of its request."""
        self._move(connection, self._sending)

    def busy(self, connection: Connection) -> None:
        """Record that a connection waits for the response to its request."""
        self._move(connection, self._busy)

    def gone(self, connection: Connection) -> None:
        """Record that a connection is closed."""
        self._move(connection, None)

    def make_room(self) -> None:
        """Close connections until there is room for one. Those that wait for a response come last."""
        while len(self) >= self._count:
            oldest = next(iter(self._idle or self._sending or self._busy))
            oldest.abort()

    def _move(self, connection: Connection, target: dict[Connection, None] | None) -> None:
        for place in (self._idle, self._sending, self._busy):
            if place is not target:
                place.pop(connection, None)
        if target is not None:
            target.setdefault(connection)


class Connection(H11Protocol):
    """uvicorn's connection with deadlines. uvicorn itself has none for a request that arrives byte by byte.

    Args:
        places: the open connections of the server.
        arguments: the arguments of uvicorn's class.
    """

    def __init__(self, places: Places, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._places = places
        self._limits = places.limits
        self._received = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Close the connection at once, without sending what is left of a response."""
        self._places.gone(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._places.make_room()
        self._begin_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.gone(self)
        self._within(None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return
        if not self.cycle.more_body:
            self._places.busy(self)
            if self.cycle is not before or self._limits.request_seconds is None:
                self._within(self._limits.request_seconds)
        elif self.cycle is not before:
            self._places.sending(self)
            self._expect_body()

    def send_400_response(self, msg: str) -> None:
        """Reject data that is not HTTP. If a response has begun, only close the connection.

        The rest of a response in progress is discarded, for which uvicorn itself would log a traceback.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        self._begin_idle()
        super().on_response_complete()  # starts a request that has already arrived

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._limits.stalled_seconds, self.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _begin_idle(self) -> None:
        self._places.idle(self)
        self._within(self._limits.header_seconds)

    def _expect_body(self) -> None:
        """Start a period in which the client must send enough of the body. At its end, the next one starts."""
        seconds = self._limits.request_seconds or self._limits.header_seconds
        self._received = 0
        self._within(seconds, self._check_body)

    def _check_body(self) -> None:
        enough = self._received >= self._limits.body_rate * self._limits.header_seconds
        # While the application reads nothing, neither does uvicorn, so the client is not at fault.
        if self._limits.request_seconds is None and (enough or self.flow.read_paused):
            self._expect_body()
        else:
            self.abort()

    def _within(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        """Set the deadline of the current state. At the deadline, call ``then``, or close the connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, then or self.abort)
