"""Running the scripts in ``lua/``, and turning every failure of Redis into one kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis

from ..errors import LedgerUnavailable
from .connection import connect, shown


@cache
def _source(names: tuple[str, ...]) -> str:
    folder = files(__package__).joinpath("lua")
    return "\n".join(folder.joinpath(f"{name}.lua").read_text() for name in names)


class Scripts:
    """A Redis, reached by scripts.

    Args:
        url: its address.
        timeout: seconds that one step may take.

    Attributes:
        client: the connection, for plain reads inside of :meth:`errors`.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._registered: dict[tuple[str, ...], Any] = {}
        self.client = connect(url, timeout=timeout)

    def run(self, *names: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run a script, made of the named files one after the other.

        Raises:
            LedgerUnavailable: Redis cannot be reached, or refuses.
        """
        script = self._registered.get(names)
        if script is None:
            script = self._registered[names] = self.client.register_script(_source(names))
        with self.errors():
            return script(keys=list(keys), args=list(arguments))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what goes wrong with Redis inside of the block into a :class:`LedgerUnavailable`."""
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise LedgerUnavailable(f"the ledger at {shown(self._url)}: {type(error).__name__}: {error}") from error
