"""In-flight sync: what the server says of the jobs that are in flight.

It settles claims whose answer was lost, adopts jobs that the ledger does not know, and notices jobs that
an operator has aborted.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal

from .. import tracing
from ..client import TERMINAL, Listing, status_of
from ..errors import JobError, RoutingError, WorkerError
from ..job import Job
from ..ledger import Missed
from ..outcome import Outcome
from .candidates import DOUBT_SECONDS, Doubts, refused_route
from .office import CLAIM_LEASE, Office
from .sender import NotPublished

logger = logging.getLogger("mr_celery.bridge")

MISSES = 2
"""In how many comparisons in a row a job must be missing before it counts as aborted."""

SILENT_SECONDS = 60.0
"""For how long a job must be missing where nothing but its absence tells of an abort, and that could be a lapse."""

FEW = 20
"""For how many jobs at the most the server is asked one by one in one comparison."""

TORN_SECONDS = 60.0
"""Seconds without a comparison of its own after which a bridge does not know whether torn lists had stayed so."""

COMPARE_WORK = 50.0
"""How many times the CPU time of a comparison there are at least from one to the next."""

MOST_INTERVAL_SECONDS = 30.0
"""How many seconds that makes at the most."""

LOOK_SECONDS = 1.0
"""Seconds between two looks whether the server takes the token again."""

Verdict = Literal["aborted", "open", "ask again"]


def verdict(missed: Missed, status: str | None, *, seen: bool, lists_empty: bool) -> Verdict:
    """What it means that a job in flight is listed neither as running nor as pending.

    Args:
        missed: for how long that is so.
        status: what the server says of the job when it is asked for it; ``None``: it does not tell.
        seen: whether the server has listed the job as running before. If not, it may not list all its jobs.
        lists_empty: whether the lists show nothing at all: that is an operator's killswitch, or a server's lapse.
    """
    if status in TERMINAL:
        return "aborted"
    if status is not None:
        return "open"
    if missed.times >= MISSES and seen and not lists_empty:
        return "aborted"
    return "aborted" if seen and missed.seconds >= SILENT_SECONDS else "ask again"


class InFlightSync:
    """Compares the ledger's jobs in flight with the server's lists, while there are any, and once after the last.

    With nothing in flight it asks nothing more, but after a claim without a clear answer, and once when the ledger is
    new: then what an earlier ledger knew is found again.

    Args:
        office: the bridge's parts.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._seen: frozenset[int] = frozenset()
        self._doubts = Doubts()
        self._settled = False
        self._torn: tuple[float, float] | None = None  # the lists: since when, and when last seen so
        self._next_comparison = float("-inf")
        self._work = 0.0

    @property
    def _interval(self) -> float:
        """Seconds from one comparison to the next: the poll interval, and more where they are much work."""
        return max(self._office.settings.poll_interval, min(COMPARE_WORK * self._work, MOST_INTERVAL_SECONDS))

    def run_once(self) -> float:
        """Compare once, if it is this bridge's turn. Returns seconds until the next time; the watch wakes it before,
        when a claim is to be settled.

        Raises:
            WorkerError: the server could not be asked, or its answer is none: then nothing is concluded.
            LedgerUnavailable: the ledger is away.
        """
        office = self._office
        if office.token_rejected:
            return LOOK_SECONDS
        settling = office.ledger.take("admitted", hold_seconds=CLAIM_LEASE)
        due = False
        if office.clock() >= self._next_comparison:
            self._next_comparison = office.clock() + self._interval
            due = self._is_due()
        if settling or due:
            began = time.thread_time()
            self._compare(settling)
            self._work = time.thread_time() - began
        return max(0.0, self._next_comparison - office.clock())

    def _is_due(self) -> bool:
        """Whether there may be something to find, and no other bridge looks for it now."""
        office = self._office
        if office.ledger.found():
            self._settled = False  # the ledger is new, or was emptied under us
        busy = office.ledger.survey().in_flight > 0 or office.claims_unclear
        if not busy and self._settled:
            return False
        return office.ledger.my_turn("sync", self._interval * 0.9)

    def _compare(self, settling: list[int]) -> None:
        office = self._office
        self._settled = False
        asked_at = office.ledger.survey().now
        in_flight = office.ledger.in_flight()
        listing = cache(office.api.jobs)
        try:
            running = listing("running")
            unlisted = {job_id for job_id, state in in_flight.items() if state != "admitted"} - running.ids
            pending = listing("pending") if unlisted else Listing((), whole=True)
        except WorkerError as error:
            if error.unauthorized:
                office.reject_token(error)
                return
            raise
        self._seen = (self._seen | running.ids) & in_flight.keys()
        whole = self._believed_whole(running.whole and pending.whole)
        for job_id in settling:
            # That a job is listed tells of it even where another entry of the list makes no sense.
            if job_id in running.ids or running.whole or whole or job_id in listing("pending").ids:
                self._settle(job_id, listed_running=job_id in running.ids)
        if whole:
            self._look_for(unlisted - pending.ids, listing, lists_empty=not (running.jobs or pending.jobs))
        unknown = [fields for fields in running.jobs if fields["id"] not in in_flight]
        for fields in self._doubts.believed(unknown, office.clock()):
            self._adopt(fields, asked_at)
        # What is running there and not known here is looked at again, whether it was adopted, doubted or left alone.
        self._settled = not (in_flight or unknown or office.claims_unclear) and whole

    def _believed_whole(self, whole: bool) -> bool:
        """Whether to take the lists for all there is: they are whole, or nothing better came for a long time."""
        now = self._office.clock()
        if whole:
            self._torn = None
            return True
        since, last = self._torn or (now, now)
        if now - last > TORN_SECONDS:
            since = now  # another bridge compared meanwhile, and may have seen better ones
        self._torn = (since, now)
        return now - since >= DOUBT_SECONDS

    def _look_for(self, missing: set[int], listing: Callable[[str], Listing], *, lists_empty: bool) -> None:
        """Jobs in flight that the server lists neither as running nor as pending."""
        missed = self._office.ledger.missed(missing)
        suspects = [job_id for job_id, each in missed.items() if each.times >= MISSES]
        failed: frozenset[int] = frozenset()
        if len(suspects) > FEW:
            try:
                failed = listing("failed").ids
            except WorkerError as error:
                if error.retryable:
                    logger.warning(
                        "%d jobs may be aborted, the server cannot tell now: %s", len(suspects), error.summary
                    )
                    return
                logger.debug("the server gives no list of failed jobs: %s", error.summary)
        for job_id in failed.intersection(suspects):
            self._abort(job_id)
        left = [job_id for job_id in suspects if job_id not in failed]
        for job_id in random.sample(left, min(FEW, len(left))):
            try:
                status = status_of(self._office.api, job_id, listing=listing)
            except WorkerError as error:
                why = f"may be aborted, the server cannot tell now: {error.summary}"
                self._office.log(job_id).warning("maybe_aborted", why, reason=error.summary)
                continue
            if verdict(missed[job_id], status, seen=job_id in self._seen, lists_empty=lists_empty) == "aborted":
                self._abort(job_id)

    def _settle(self, job_id: int, *, listed_running: bool) -> None:
        """A claim without a clear answer, or a bridge that died while claiming."""
        office = self._office
        if not listed_running:
            # Pending: it is claimed from the inbox as ever. Nowhere: it is somebody else's, or over.
            if office.ledger.drop(job_id):
                office.log(job_id).info("not_claimed", "claim had not happened")
            return
        record = office.ledger.read(job_id)
        if record is None or record.job is None:
            return
        with tracing.following(record.trace), tracing.settle(office.ledger.worker, job_id):
            task_id = office.ledger.claimed(job_id, trace=tracing.carrier())
            if task_id is None:
                return
            office.log(job_id, task_id, record.route.task).info("claimed", "claim had happened")
            if record.route == refused_route():
                why = "no handler of this worker takes the job"
                if office.ledger.fail(job_id, task_id, Outcome.failed(why)):
                    office.log(job_id, task_id).warning("failed", f"failed: {why}", reason=why)
                return
            with suppress(NotPublished):
                office.publish(job_id, record.route, task_id, priority=record.job.priority)

    def _abort(self, job_id: int) -> None:
        """The server has ended the job: its run is to stop, and nothing of it is delivered."""
        office = self._office
        record = office.ledger.read(job_id)
        if record is not None and record.state == "finished" and record.deliveries > 0:
            return  # its close may just have been done: the delivery finds out by itself
        task_id = office.ledger.abort(job_id, "aborted on the server")
        if task_id is None:
            return
        log = office.log(job_id, task_id, record.route.task if record else "")
        log.warning("aborted", "aborted on the server: its run is stopped")
        try:
            office.sender.announce_abort(task_id, record.node if record else "")
        except Exception as error:
            # The worker finds out when it renews the lease.
            why = f"{type(error).__name__}: {error}"
            log.warning("abort_not_announced", f"abort not announced: {why}", reason=why)

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
        with tracing.adopt(office.ledger.worker, job.id) as span:
            trace = tracing.carrier()
            adoption = office.ledger.adopt(job, route, asked_at=asked_at, wait_seconds=wait, trace=trace)
            span.set({tracing.ADOPTION: adoption})
        if adoption == "redelivered":
            why = "closed once more: the server lists it as running, though it took the close"
            office.log(job.id, task=route.task).warning("closed_again", why)
        if adoption != "adopted":
            return
        log = office.log(job.id, task=route.task)
        log.warning("adopted", "adopted: running on the server, unknown to the ledger")
        if refusal:
            record = office.ledger.read(job.id)
            if record is not None and office.ledger.fail(job.id, record.task_id, Outcome.failed(refusal)):
                why = "no handler takes it"
                office.log(job.id, record.task_id).warning("failed", f"failed: {why}", reason=why)
