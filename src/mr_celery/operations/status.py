"""How the work of one worker name stands, as a value: for a screen, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..bridge.capacity import Capacity, capacity_of, shared
from ..ledger import IN_FLIGHT, Aged, BridgeProcess, Fleet, Ledger, Node, Pause, Route

PERIODS = (60.0, 600.0, 3600.0)
"""The seconds that the rates look back."""


@dataclass(frozen=True)
class Status:
    """How the work of a worker name stands.

    Args:
        worker_name: the worker name.
        at: the ledger's time, in seconds since 1970.
        pause: the pause; ``None``: jobs are claimed.
        bridges: the bridges that are online.
        nodes: the Celery workers that are online and take jobs.
        capacity: how many jobs may be claimed and not yet finished, beside those of other worker names.
        taken: how many are.
        states: how many jobs are in each state in flight.
        waiting: the job that has waited longest for a worker.
        undelivered: the oldest outcome that is not delivered.
        ended: how many jobs ended, by seconds that are looked back and by how they ended.
        shared: whether the capacity is a part of the fleet's, beside other worker names.
    """

    worker_name: str
    at: float
    pause: Pause | None
    bridges: Sequence[BridgeProcess]
    nodes: Sequence[Node]
    capacity: int
    taken: int
    states: Mapping[str, int]
    waiting: Aged | None
    undelivered: Aged | None
    ended: Mapping[float, Mapping[str, int]]
    shared: bool = False

    @property
    def pending(self) -> int | None:
        """How many jobs are pending on the server, by the last look of a bridge; ``None``: not known."""
        return max((bridge.pending for bridge in self.bridges if bridge.pending is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """The same as what JSON can say."""
        fields = asdict(self)
        fields["ended"] = {f"{seconds:g}": counts for seconds, counts in self.ended.items()}
        return {**fields, "pending": self.pending}


def look(
    ledger: Ledger,
    fleet: Fleet,
    routes: Mapping[str, Route],
    max_inflight: int | None,
    neighbours: Sequence[Ledger] = (),
) -> Status:
    """How the work of the ledger's worker name stands now. It asks neither the server nor the broker.

    Args:
        ledger: the ledger.
        fleet: the register of workers.
        routes: each handler's route, by task name.
        max_inflight: the setting.
        neighbours: the ledgers of other worker names on the same fleet.

    Raises:
        LedgerUnavailable: the ledger is away.
    """
    survey, standing, nodes = ledger.survey(), ledger.standing(PERIODS), fleet.online()
    queues = sorted({route.queue for route in routes.values()})
    others = [each.survey(queues) for each in neighbours]
    capacity: Capacity = shared(capacity_of(nodes, routes, max_inflight), others)
    return Status(
        worker_name=ledger.worker,
        at=survey.now,
        pause=standing.pause,
        bridges=ledger.bridges(),
        nodes=sorted(nodes, key=lambda node: node.hostname),
        capacity=capacity.shown,
        taken=survey.slots_taken,
        states={state: survey.states[state] for state in IN_FLIGHT},
        waiting=standing.waiting,
        undelivered=standing.undelivered,
        ended=standing.ended,
        shared=bool(neighbours),
    )
