"""Which pending jobs may be claimed, and in which order: decisions without I/O."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import JobError, RoutingError
from ..job import PRIORITIES, Job
from ..ledger import Route
from ..routing import Registry
from .capacity import REFUSED_QUEUE, Capacity

MOST = 1000
"""How many candidates are kept of one answer of the inbox."""

_RANK = {priority: rank for rank, priority in enumerate(PRIORITIES)}


@dataclass(frozen=True)
class Candidate:
    """A pending job that may be claimed.

    Args:
        job: the job.
        route: how it is run.
        refusal: why no handler takes it: then it is claimed to be closed as failed.
    """

    job: Job
    route: Route
    refusal: str = ""


def urgency(job: Job) -> tuple[int, int]:
    """The order in which jobs are claimed: high before normal before low, then by id."""
    return (_RANK[job.priority], job.id)


def candidates(
    listed: Iterable[Mapping[str, Any]],
    registry: Registry,
    routes: Mapping[str, Route],
    capacity: Capacity,
    *,
    unrouted: str,
    most: int = MOST,
) -> list[Candidate]:
    """The jobs of an inbox that this bridge may claim, the most urgent first.

    Args:
        listed: the jobs as the server listed them.
        registry: the handlers.
        routes: each handler's route, by task name.
        capacity: what the fleet can run; jobs for others stay pending.
        unrouted: ``fail`` or ``leave``: what becomes of jobs that no handler takes.
        most: how many are returned at most.
    """
    runnable = _runnable(listed, registry, routes, capacity, unrouted)
    return heapq.nsmallest(most, runnable, key=lambda candidate: urgency(candidate.job))


def _runnable(
    listed: Iterable[Mapping[str, Any]],
    registry: Registry,
    routes: Mapping[str, Route],
    capacity: Capacity,
    unrouted: str,
) -> Iterable[Candidate]:
    for fields in listed:
        try:
            job = Job(fields)
        except JobError:
            continue
        try:
            handler = registry.route(job)
        except RoutingError as error:
            if unrouted == "fail":
                yield Candidate(job, refused_route(), refusal=str(error))
            continue
        if handler.name in capacity.runnable:
            yield Candidate(job, routes[handler.name])


def refused_route() -> Route:
    """The route of a job that no handler takes."""
    return Route(task="", queue=REFUSED_QUEUE)
