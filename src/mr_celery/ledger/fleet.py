"""The fleet: which Celery workers are online, and what they can run.

Workers announce themselves here, whatever worker name their jobs come from. So the bridge knows the
fleet without asking it, on any broker, and a worker that dies is gone from it after one lease.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .register import Register
from .scripts import Scripts

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
        self._redis = Scripts(url, timeout)
        self._register = Register(self._redis, f"{KEY}nodes", f"{KEY}online")

    def announce(self, node: Node, *, seconds: float) -> None:
        """``node`` is online, for ``seconds`` from now unless it announces itself again."""
        self._register.announce(node.hostname, asdict(node), seconds=seconds)

    def withdraw(self, hostname: str) -> None:
        """The worker takes no more tasks."""
        self._register.withdraw(hostname)

    def online(self) -> list[Node]:
        """The workers that are online."""
        return [_node(about) for about in self._register.online()]

    def clock_difference(self) -> float:
        """How many seconds this host's clock is ahead of Redis' clock."""
        with self._redis.errors():
            seconds, microseconds = self._redis.client.time()
        return time.time() - (float(seconds) + float(microseconds) / 1_000_000)


def _node(fields: Mapping[str, Any]) -> Node:
    return Node(
        hostname=str(fields["hostname"]),
        concurrency=int(fields["concurrency"]),
        queues=tuple(fields["queues"]),
        tasks=tuple(fields["tasks"]),
        version=str(fields.get("version", "")),
    )
