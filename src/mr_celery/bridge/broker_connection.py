"""The connection that a bridge publishes on."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from kombu.transport import redis

from ..errors import SettingsError

UNREADABLE = (
    "broker_url: the address cannot be read: write the reserved characters of user and password percent-encoded, such "
    "as %2F for /, and no options that kombu does not have"
)
"""The description of an address that kombu refuses."""


class _Channel(redis.Channel):
    """kombu's Redis channel, with one client on one connection for all its commands.

    kombu's channel creates a client for each command, which takes longer than the command.
    """

    _one: nullcontext[Any] = nullcontext()

    def conn_or_acquire(self, client: Any = None) -> Any:
        if client is not None:
            return nullcontext(client)
        one = self._one.enter_result
        if one is None or one.connection_pool is not self.pool:
            self._one = nullcontext(self.Client(connection_pool=self.pool, single_connection_client=True))
        return self._one


class _Transport(redis.Transport):
    Channel = _Channel


def publishing(app: Any) -> Any:
    """Create a ``kombu.Connection`` to the application's broker, for publishing.

    Raises:
        SettingsError: its address cannot be read.
    """
    try:
        connection = app.connection_for_write()
    except (ValueError, TypeError):  # its text may repeat a part of the password
        raise SettingsError(UNREADABLE) from None
    if connection.get_transport_cls() is redis.Transport:
        connection.transport_cls = _Transport
    return connection
