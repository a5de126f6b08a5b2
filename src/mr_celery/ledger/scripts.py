"""Running the scripts in ``lua/``, and turning every failure of Redis into one kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from ..errors import LedgerUnavailable
from .connection import Client, connect, shown


@cache
def source_of(names: tuple[str, ...]) -> str:
    """The source of a script that is made of the named files, one after the other."""
    folder = files(__package__).joinpath("lua")
    return "\n".join(folder.joinpath(f"{name}.lua").read_text() for name in names)


class Scripts:
    """A Redis, reached by scripts.

    Args:
        url: its address.
        timeout: seconds that one step may take.

    It connects when it is first used: a Redis that is away when a process starts is no reason to end it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._registered: dict[tuple[str, ...], Any] = {}

    @property
    def client(self) -> Any:
        """The connection, for plain reads inside of :meth:`errors`."""
        return connect(self._url, timeout=self._timeout)

    def run(self, *names: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run a script, made of the named files one after the other.

        Raises:
            LedgerUnavailable: Redis cannot be reached, or refuses.
        """
        with self.errors():
            client = self.client
            script = self._registered.get(names)
            if script is None:
                script = self._registered[names] = client.register_script(source_of(names))
            return script(keys=keys, args=arguments, client=client)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what goes wrong with Redis inside of the block into a :class:`LedgerUnavailable`."""
        try:
            yield
        except (redis.RedisError, RedisClusterException, OSError) as error:
            if _is_replica(error):
                # By now: its address may belong to another server, which only a new connection reaches.
                # A Cluster's client finds out by itself.
                if isinstance(self.client, Client):
                    self.client.disconnect()
                raise LedgerUnavailable(f"the ledger at {shown(self._url)} is read-only, a replica: {error}") from error
            raise LedgerUnavailable(f"the ledger at {shown(self._url)}: {type(error).__name__}: {error}") from error


def _is_replica(error: Exception) -> bool:
    """Whether Redis refused a write because it is a replica. Redis 6.2 says so inside of a script's error."""
    return isinstance(error, redis.ReadOnlyError) or (
        isinstance(error, redis.ResponseError) and "-READONLY " in str(error)
    )
