"""Which pending jobs may be claimed, and in which order: decisions without I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from types import NoneType
from typing import Any

from ..errors import JobError, RoutingError
from ..job import PRIORITIES, Job, priority_of
from ..ledger import Route
from ..log import JobLog
from ..routing import Registry
from .capacity import REFUSED_QUEUE, Capacity

logger = logging.getLogger("mr_celery.bridge")

MOST = 10_000
"""How many candidates are kept of one answer of the inbox: about 1 kB each, and the prompt."""

DOUBT_SECONDS = 300.0
"""How long an entry must stay doubtful before it is taken for what it says."""

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


def doubt(fields: Mapping[str, Any]) -> str:
    """What is wrong with an entry in the fields that say what is to be done and by whom; empty if nothing is."""
    if not isinstance(fields.get("prompt"), str):
        return f"its prompt is {type(fields.get('prompt')).__name__}"
    if not isinstance(fields.get("capability"), (str, NoneType)):
        return f"its capability is {type(fields['capability']).__name__}"
    for name in ("capabilities", "tags"):
        value = fields.get(name)
        if not isinstance(value, (str, list, NoneType)):
            return f"its {name} are {type(value).__name__}"
        if isinstance(value, list) and not all(isinstance(item, (str, dict)) for item in value):
            return f"its {name} are not all texts"
    return ""


class Doubts:
    """Which entries of the server's lists to believe.

    An answer that was garbled on its way must not decide what a handler gets to do. So a job whose prompt, capability
    or tags have a type that the protocol does not know, or that is listed twice and differently, waits for a better
    answer; and if none comes for :data:`DOUBT_SECONDS`, it is taken as it is.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def believed(self, listed: Sequence[Mapping[str, Any]], now: float) -> list[Mapping[str, Any]]:
        """The entries to believe.

        Args:
            listed: the entries, each with an integer ``id``.
            now: seconds.
        """
        first: dict[int, Mapping[str, Any]] = {}
        reasons: dict[int, str] = {}
        for fields in listed:
            job_id = fields["id"]
            reason = doubt(fields)
            before = first.setdefault(job_id, fields)
            if before is not fields and before != fields:
                reason = "it is listed twice, and differently"
            if reason:
                reasons[job_id] = reason
        for job_id, reason in reasons.items():
            if job_id not in self._since:
                why = f"waits for a better answer of the server: {reason}"
                JobLog(logger, job_id).warning("doubted", why, reason=reason)
        self._since = {job_id: self._since.get(job_id, now) for job_id in reasons}
        return [
            fields
            for job_id, fields in first.items()
            if job_id not in reasons or now - self._since[job_id] >= DOUBT_SECONDS
        ]


def urgency(job: Job) -> tuple[int, int]:
    """The order in which jobs are claimed: high before normal before low, then by id."""
    return (_RANK[job.priority], job.id)


def by_urgency(listed: Iterable[Mapping[str, Any]]) -> Iterator[Job]:
    """The jobs in the order of their :func:`urgency`.

    There may be very many, of which the first are wanted: the others are sorted, and not made jobs. What is no job is
    left out.
    """
    ranks: tuple[list[Mapping[str, Any]], ...] = tuple([] for _ in PRIORITIES)
    for fields in listed:
        if isinstance(fields.get("id"), int):
            ranks[_RANK[priority_of(fields)]].append(fields)
    for rank in ranks:
        rank.sort(key=itemgetter("id"))
        for fields in rank:
            with suppress(JobError):
                yield Job(fields)


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
    found: list[Candidate] = []
    for job in by_urgency(listed):
        if len(found) >= most:
            break
        try:
            handler = registry.route(job)
        except RoutingError as error:
            if unrouted == "fail":
                found.append(Candidate(job, refused_route(), refusal=str(error)))
            continue
        if handler.name in capacity.runnable:
            found.append(Candidate(job, routes[handler.name]))
    return found


def refused_route() -> Route:
    """The route of a job that no handler takes."""
    return Route(task="", queue=REFUSED_QUEUE)
