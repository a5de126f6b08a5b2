"""Registers of processes that are online: each announces itself there, and is gone from it when it falls silent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .scripts import Scripts


class Register:
    """One register.

    Args:
        redis: the ledger's Redis.
        hash_key: the key that holds what each process is.
        online_key: the key that holds until when each counts as online.

    Methods raise :class:`LedgerUnavailable` when Redis cannot be reached.
    """

    def __init__(self, redis: Scripts, hash_key: str, online_key: str) -> None:
        self._redis = redis
        self._keys = [hash_key, online_key]

    def _run(self, name: str, *arguments: object) -> Any:
        return self._redis.run(name, keys=self._keys, arguments=arguments)

    def announce(self, name: str, about: Mapping[str, Any], *, seconds: float) -> None:
        """A process is online, for ``seconds`` from now unless it announces itself again."""
        self._run("announce", name, json.dumps(about), seconds)

    def withdraw(self, name: str) -> None:
        """A process is online no more."""
        self._run("withdraw", name)

    def online(self) -> list[Mapping[str, Any]]:
        """What each process that is online has said of itself."""
        return [json.loads(about) for about in self._run("online")]
