"""Wraps undocumented names of redis-py. ``tests/integration/ledger/test_connection.py`` checks them."""

from __future__ import annotations

from typing import Any

import redis

from .socket_timeouts import let_kernel_watch


class OneConnectionClient(redis.Redis):
    """A client with a single connection, for one step at a time.

    It saves the lock and the time measurement that redis-py adds to each command.

    Attributes:
        repeated: the errors after which a command is retried once, on a new connection.
    """

    repeated: tuple[type[Exception], ...] = (redis.ConnectionError, redis.TimeoutError)

    def execute_command(self, *command: Any, **options: Any) -> Any:
        """Send a command, and return the reply.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses the command.
        """
        connection: Any = self.connection
        try:
            return self._exchange(connection, command, options)
        except self.repeated:
            connection.disconnect()
        return self._exchange(connection, command, options)

    def _exchange(self, connection: Any, command: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            connection.send_command(*command)
            return self.parse_response(connection, command[0], **options)  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if isinstance(error.__context__, BlockingIOError):
                raise redis.TimeoutError(f"no answer in {connection.socket_timeout:g} s") from None
            raise


class WatchedConnection(redis.Connection):
    """A connection whose timeout the kernel enforces."""

    def watch(self) -> None:
        """Leave the timeout to the kernel again. redis-py sets Python's when it checks for unread data."""
        let_kernel_watch(self._sock, self.socket_timeout)

    def _connect(self) -> Any:
        sock = super()._connect()  # type: ignore[no-untyped-call]
        let_kernel_watch(sock, self.socket_timeout)
        return sock
