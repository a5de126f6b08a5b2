"""The connection on which a bridge publishes."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

from ..ledger.connection import Client


class _Channel(redis.Channel):
    """kombu's channel to a Redis, which makes its client once.

    kombu's own makes one for each command, which takes longer than the command.
    """

    _made: Client | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous or self.global_keyprefix:
            return super()._create_client(asynchronous)  # type: ignore[misc]
        if self._made is None or self._made.connection_pool is not self.pool:
            self._made = Client(connection_pool=self.pool)
        return self._made


class _Transport(redis.Transport):
    Channel = _Channel


def publishing(app: Any) -> Any:
    """A ``kombu.Connection`` to the application's broker, to publish on."""
    connection = app.connection_for_write()
    if connection.get_transport_cls() is redis.Transport:
        connection.transport_cls = _Transport
    return connection
