"""In-flight sync: what the server says of the jobs that are in flight.

It settles claims whose answer was lost, adopts jobs that the ledger does not know, and notices jobs that
an operator has aborted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ..errors import JobError, RoutingError, WorkerError
from ..job import Job
from ..outcome import Outcome
from .candidates import refused_route
from .office import CLAIM_LEASE, Office

logger = logging.getLogger("mr_celery.bridge")

MISSES = 2
"""In how many answers in a row a job must be missing before it counts as aborted."""

MISSES_IN_EMPTY = 4
"""The same, if those answers list nothing at all: an empty list may as well be a server's lapse."""

LOOK_SECONDS = 1.0
"""Seconds between two looks for claims that are to be settled."""

TERMINAL = ("done", "failed", "escalated")


@dataclass(frozen=True)
class Missing:
    """The jobs that the server lists neither as running nor as pending, with the misses in a row."""

    misses: Mapping[int, int]
    aborted: frozenset[int]


def missing(
    in_flight: Mapping[int, str],
    running: Set[int],
    pending: Set[int],
    earlier: Mapping[int, int],
    *,
    trusted: bool,
) -> Missing:
    """What it means that jobs in flight are not listed.

    Args:
        in_flight: the ledger's jobs with their states, from before the server was asked.
        running: what the server lists as running.
        pending: what the server lists as pending.
        earlier: the misses in a row up to now.
        trusted: whether this server's list of running jobs has ever shown one of ours. If not, it may
            not have such a list, and a job that is missing in it means nothing.
    """
    if not trusted:
        return Missing({}, frozenset())
    gone = [
        job_id
        for job_id, state in in_flight.items()
        if state != "admitted" and job_id not in running and job_id not in pending
    ]
    misses = {job_id: earlier.get(job_id, 0) + 1 for job_id in gone}
    limit = MISSES if running or pending else MISSES_IN_EMPTY
    return Missing(misses, frozenset(job_id for job_id, count in misses.items() if count >= limit))


class InFlightSync:
    """Compares the ledger's jobs in flight with the server's lists, while there are any.

    With nothing in flight it asks nothing, but once when the ledger is new: then what an earlier ledger
    knew is found again.

    Args:
        office: the bridge's parts.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._misses: Mapping[int, int] = {}
        self._trusted = False
        self._asked_for_orphans = False
        self._next_comparison = float("-inf")

    @property
    def _interval(self) -> float:
        return self._office.settings.poll_interval

    def run_once(self) -> float:
        """Compare once, if it is this bridge's turn. Returns seconds until the next time.

        Raises:
            WorkerError: the server could not be asked, or its answer is none: then nothing is concluded.
            LedgerUnavailable: the ledger is away.
        """
        office = self._office
        if office.token_rejected.is_set():
            return LOOK_SECONDS
        settling = office.ledger.take("admitted", hold_seconds=CLAIM_LEASE)
        if office.clock() >= self._next_comparison:
            if office.ledger.found():
                self._asked_for_orphans = False  # the ledger is new, or was emptied under us
            due = office.ledger.survey().in_flight and office.ledger.my_turn("sync", self._interval * 0.9)
            self._next_comparison = office.clock() + self._interval
        else:
            due = False
        if settling or due or not self._asked_for_orphans:
            self._compare(settling)
            self._asked_for_orphans = True
        return min(self._interval, LOOK_SECONDS)

    def _compare(self, settling: list[int]) -> None:
        office = self._office
        asked_at = office.ledger.survey().now
        in_flight = office.ledger.in_flight()
        try:
            running = {job["id"]: job for job in office.api.jobs("running")}
            unlisted = [job_id for job_id in in_flight if job_id not in running]
            pending = {job["id"] for job in office.api.jobs("pending")} if unlisted else set()
        except WorkerError as error:
            if error.unauthorized:
                office.reject_token(error)
                return
            raise
        self._trusted = self._trusted or any(job_id in running for job_id in in_flight)
        for job_id in settling:
            self._settle(job_id, listed_running=job_id in running)
        found = missing(in_flight, running.keys(), pending, self._misses, trusted=self._trusted)
        self._misses = {job_id: count for job_id, count in found.misses.items() if job_id not in found.aborted}
        for job_id in found.aborted:
            try:
                self._abort(job_id)
            except WorkerError as error:
                logger.warning("job=%d may be aborted, the server cannot tell now: %s", job_id, error.summary)
        for job_id, fields in running.items():
            if job_id not in in_flight:
                self._adopt(fields, asked_at)

    def _settle(self, job_id: int, *, listed_running: bool) -> None:
        """A claim without a clear answer, or a bridge that died while claiming."""
        office = self._office
        if not listed_running:
            # Pending: it is claimed from the inbox as ever. Nowhere: it is somebody else's, or over.
            if office.ledger.drop(job_id):
                logger.info("job=%d claim had not happened", job_id)
            return
        task_id = office.ledger.claimed(job_id)
        record = office.ledger.read(job_id)
        if task_id is None or record is None or record.job is None:
            return
        logger.info("job=%d claim had happened", job_id)
        if record.route == refused_route():
            office.ledger.fail(job_id, task_id, Outcome.failed("no handler of this worker takes the job"))
            return
        office.publish(job_id, record.route, task_id, priority=record.job.priority)

    def _abort(self, job_id: int) -> None:
        """The lists miss the job often enough; where the server tells of single jobs, that decides."""
        office = self._office
        known = office.api.job(job_id)
        status = (known or {}).get("status")
        if isinstance(status, str) and status not in TERMINAL:
            return
        record = office.ledger.read(job_id)
        if record is not None and record.state == "finished" and record.deliveries > 0:
            return  # its close may just have been done: the delivery finds out by itself
        task_id = office.ledger.abort(job_id, "aborted on the server")
        if task_id is not None:
            logger.warning("job=%d aborted on the server: its task is revoked", job_id)
            try:
                office.app.control.revoke(task_id, terminate=True)
            except Exception as error:
                logger.warning("job=%d task not revoked: %s: %s", job_id, type(error).__name__, error)

    def _adopt(self, fields: Mapping[str, Any], asked_at: float) -> None:
        """The server says the job is ours and running, and the ledger has never heard of it."""
        office = self._office
        try:
            job = Job(fields)
        except JobError:
            return
        if job.assigned_to not in ("", office.ledger.worker):
            return
        refusal = ""
        try:
            route = office.routes[office.registry.route(job).name]
        except RoutingError as error:
            route, refusal = refused_route(), str(error)
        # A worker that still runs it gets time to end; its outcome is not ours any more, but it is not doubled.
        wait = office.settings.lease
        if not office.ledger.adopt(job, route, asked_at=asked_at, wait_seconds=wait):
            return
        logger.warning("job=%d adopted: running on the server, unknown to the ledger", job.id)
        if refusal:
            record = office.ledger.read(job.id)
            if record is not None:
                office.ledger.fail(job.id, record.task_id, Outcome.failed(refusal))
