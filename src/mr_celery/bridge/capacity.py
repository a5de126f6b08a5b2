"""What the fleet can run, and how much more of it now: decisions without I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ledger import Node, Route, Survey

REFUSED_QUEUE = "(unrouted)"
"""Where a job counts that is claimed only to be closed as failed."""

REFUSED_SLOTS = 8


@dataclass(frozen=True)
class Capacity:
    """What the online workers can run.

    Args:
        runnable: the handlers (task names) that at least one of them runs.
        slots: how many jobs each queue may have in flight; ``None``: only the total counts.
        total: how many jobs may be in flight in all; ``None``: only the queues count.
        workers: how many of them run at least one handler.
    """

    runnable: frozenset[str]
    slots: Mapping[str, int] | None
    total: int | None
    workers: int

    def limit(self, queue: str) -> int | None:
        """How many jobs of one queue may be in flight; ``None``: no limit."""
        if queue == REFUSED_QUEUE:
            return REFUSED_SLOTS
        return None if self.slots is None else self.slots.get(queue, 0)

    @property
    def shown(self) -> int:
        """How many jobs may be in flight in all."""
        return self.total if self.slots is None else sum(self.slots.values())  # type: ignore[return-value]


def capacity_of(nodes: Sequence[Node], routes: Mapping[str, Route], max_inflight: int | None) -> Capacity:
    """What the online workers can run.

    Args:
        nodes: the online workers.
        routes: each handler's route, by task name.
        max_inflight: the setting; ``None`` is ``auto``: twice the concurrency that each queue has.
    """
    runnable: set[str] = set()
    consumers: dict[str, dict[str, int]] = {}
    for task, route in routes.items():
        for node in nodes:
            if node.runs(task, route.queue):
                runnable.add(task)
                consumers.setdefault(route.queue, {})[node.hostname] = node.concurrency
    workers = len({hostname for each in consumers.values() for hostname in each})
    if max_inflight is not None:
        return Capacity(frozenset(runnable), None, max_inflight, workers)
    slots = {queue: 2 * sum(each.values()) for queue, each in consumers.items()}
    return Capacity(frozenset(runnable), slots, None, workers)


def shared(capacity: Capacity, others: Sequence[Survey]) -> Capacity:
    """What of a fleet's capacity is for one worker name, beside others that have jobs on the same fleet.

    It is what the others leave, and at least an even share among those that are busy: so no worker name starves beside
    another one. Where one has taken all before, they exceed the capacity until it has come down to its share.

    Args:
        capacity: what the fleet can run.
        others: what the others have in flight, by queue.
    """

    def part(whole: int, taken: Sequence[int]) -> int:
        busy = 1 + sum(each > 0 for each in taken)
        return max(whole - sum(taken), math.ceil(whole / busy))

    if capacity.slots is None:
        assert capacity.total is not None  # noqa: S101 - one of them is set
        return replace(capacity, total=part(capacity.total, [each.slots_taken for each in others]))
    slots = {
        queue: part(whole, [each.load.get(queue, 0) for each in others]) for queue, whole in capacity.slots.items()
    }
    return replace(capacity, slots=slots)


class Room:
    """How many more jobs may be claimed now.

    Args:
        capacity: what the fleet can run.
        survey: what is in flight.
    """

    def __init__(self, capacity: Capacity, survey: Survey) -> None:
        self._capacity = capacity
        self._survey = survey
        self._taken: dict[str, int] = {}
        self._taken_in_all = 0

    def __bool__(self) -> bool:
        if self._capacity.slots is None:
            return self._total_left()
        return any(self._left(queue) for queue in self._capacity.slots)

    def has(self, queue: str) -> bool:
        """Whether a queue has a slot left."""
        return self._total_left() and self._left(queue)

    def _total_left(self) -> bool:
        total = self._capacity.total
        return total is None or self._survey.slots_taken + self._taken_in_all < total

    def _left(self, queue: str) -> bool:
        limit = self._capacity.limit(queue)
        return limit is None or self._survey.load.get(queue, 0) + self._taken.get(queue, 0) < limit

    def take(self, queue: str) -> bool:
        """Take one slot of a queue. Returns whether there was one."""
        if not self.has(queue):
            return False
        self._taken[queue] = self._taken.get(queue, 0) + 1
        self._taken_in_all += 1
        return True

    def give_back(self, queue: str) -> None:
        """One slot that was taken is not needed."""
        self._taken[queue] -= 1
        self._taken_in_all -= 1
