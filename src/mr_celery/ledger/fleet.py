"""The fleet: which Celery workers are online, and what they can run.

Workers announce themselves here, whatever worker name their jobs come from. So the bridge knows the
fleet without asking it, on any broker, and a worker that dies is gone from it after one lease.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis

from ..errors import LedgerUnavailable
from .connection import connect, shown

KEY = "modelreins:{fleet}:"


@dataclass(frozen=True)
class Node:
    """A Celery worker that is online.

    Args:
        hostname: its node name (``celery@host``).
        concurrency: how many tasks it runs at once.
        queues: the queues it consumes.
        tasks: the tasks it has registered that take jobs.
        version: its version of mr-celery.
    """

    hostname: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    version: str = ""

    def runs(self, task: str, queue: str) -> bool:
        """Whether it takes ``task`` from ``queue``."""
        return task in self.tasks and queue in self.queues


class Fleet:
    """The register of online workers.

    Args:
        url: the ledger's Redis address.
        timeout: seconds that one step may take.

    Methods raise :class:`LedgerUnavailable` when Redis cannot be reached.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._url = url
        self._client = connect(url, timeout=timeout)

    def announce(self, node: Node, *, seconds: float) -> None:
        """``node`` is online, for ``seconds`` from now unless it announces itself again."""
        try:
            pipe = self._client.pipeline(transaction=True)
            pipe.hset(f"{KEY}nodes", node.hostname, json.dumps(asdict(node)))
            pipe.zadd(f"{KEY}online", {node.hostname: self._now() + seconds})
            pipe.execute()
        except (redis.RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def withdraw(self, hostname: str) -> None:
        """The worker takes no more tasks."""
        try:
            pipe = self._client.pipeline(transaction=True)
            pipe.zrem(f"{KEY}online", hostname)
            pipe.hdel(f"{KEY}nodes", hostname)
            pipe.execute()
        except (redis.RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def online(self) -> list[Node]:
        """The workers that are online."""
        try:
            gone = self._client.zrangebyscore(f"{KEY}online", "-inf", self._now())
            if gone:
                pipe = self._client.pipeline(transaction=True)
                pipe.zrem(f"{KEY}online", *gone)
                pipe.hdel(f"{KEY}nodes", *gone)
                pipe.execute()
            return [_node(json.loads(text)) for text in self._client.hgetall(f"{KEY}nodes").values()]
        except (redis.RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def clock_difference(self) -> float:
        """How many seconds this host's clock is ahead of Redis' clock."""
        try:
            return time.time() - self._now()
        except (redis.RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds) + float(microseconds) / 1_000_000

    def _unavailable(self, error: Exception) -> LedgerUnavailable:
        return LedgerUnavailable(f"the ledger at {shown(self._url)}: {type(error).__name__}: {error}")


def _node(fields: Mapping[str, Any]) -> Node:
    return Node(
        hostname=str(fields["hostname"]),
        concurrency=int(fields["concurrency"]),
        queues=tuple(fields["queues"]),
        tasks=tuple(fields["tasks"]),
        version=str(fields.get("version", "")),
    )
