"""The Celery workers that are online, as values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

NAMED = 5
"""Number of workers of a kind that are named in messages."""


@dataclass(frozen=True)
class Node:
    """A Celery worker that is online.

    Args:
        hostname: its node name (``celery@host``).
        concurrency: the number of tasks that it runs at once.
        queues: the queues it consumes.
        tasks: the tasks it has registered that take jobs.
        version: its version of mr-celery.
        app_version: the version of the application.
    """

    hostname: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    version: str = ""
    app_version: str = ""


@dataclass(frozen=True)
class Kind:
    """The online workers that have the same queues, tasks and versions.

    Args:
        queues: the queues they consume.
        tasks: the tasks they have registered that take jobs.
        version: their version of mr-celery.
        app_version: the version of the application.
        workers: their number.
        slots: the number of tasks that they run at once, in all.
        named: the node names of the first :data:`NAMED` of them.
    """

    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    version: str
    app_version: str
    workers: int
    slots: int
    named: tuple[str, ...]

    def runs(self, task: str, queue: str) -> bool:
        """Whether they take ``task`` from ``queue``."""
        return task in self.tasks and queue in self.queues


class Nodes(tuple[Node, ...]):
    """The online workers.

    Most workers of a large fleet are of the same kind. So what depends only on the kind is calculated from these.
    """

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the workers."""
        found: dict[tuple[tuple[str, ...], tuple[str, ...], str, str], list[Node]] = {}
        for node in self:
            found.setdefault((node.queues, node.tasks, node.version, node.app_version), []).append(node)
        return tuple(
            Kind(*kind, len(nodes), sum(node.concurrency for node in nodes), tuple(n.hostname for n in nodes[:NAMED]))
            for kind, nodes in found.items()
        )
