"""In-flight sync: compares the jobs in flight with the server's lists.

It settles claims with an unclear result, adopts jobs that the ledger does not know, and detects jobs that an operator
has aborted. Before each comparison it repairs damaged records of jobs in flight.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import nullcontext, suppress
from typing import Literal

from ...databases import close_old_connections
from ...errors import RoutingError, WorkerError
from ...handlers import MatchRaised
from ...job import Job
from ...ledger import Adoption, Damage, Mending, Missed, Route
from ...server import Api, Listing, PartialList, Take, keep_nothing, listed_status, phase_of, status_of
from ...server.job_list import MostUrgent
from ...telemetry import tracing
from ...telemetry.quantities import counted
from ..capacity import REFUSED_QUEUE, UNROUTED
from ..context import BridgeContext
from ..limits import (
    CHECK_SECONDS,
    CLAIM_LEASE,
    LIST_WORK,
    LONGEST_PAUSE,
    LOOKUPS,
    MISSES,
    REFUSED_SLOTS,
    SILENT_SECONDS,
    UNCLEAR_SECONDS,
)
from ..loops import Idle
from ..publisher import NotPublished
from ..waiting import WaitingJobs, match_raised

logger = logging.getLogger("mr_celery.bridge")

DAMAGES: dict[Damage | Literal["mended"], str] = {
    "lists": "it was missing from the list of its state, and was added",
    "record": "its record was lost; it is adopted again if the server lists it as running",
    "outcome": "its outcome was lost; it is adopted again if the server lists it as running",
    "restored": "its record was lost; its outcome was not, and is delivered",
    "mended": "its record was incomplete, and was restored from the server's list",
}
"""Kinds of damage to the ledger, with the consequence for the job."""

Verdict = Literal["aborted", "open", "ask again"]


def verdict(missed: Missed | None, status: str | None, *, seen: bool, lists_empty: bool) -> Verdict:
    """Decide about a job in flight that is listed neither as running nor as pending.

    Args:
        missed: how long the job has been missing; ``None`` if the lists are incomplete and may contain it.
        status: the status that the server reports for the job; ``None`` if it reports none.
        seen: whether the server has listed the job as running before. If not, the server may not list all its jobs.
        lists_empty: whether all lists are empty, because of an operator's killswitch or a server fault.
    """
    phase = phase_of(status)
    if phase == "over":
        return "aborted"
    if phase != "unknown":
        return "open"
    if missed is None or not seen:
        return "ask again"
    sure = (missed.times >= MISSES and not lists_empty) or missed.seconds >= SILENT_SECONDS
    return "aborted" if sure else "ask again"


class _Lists:
    """The server's lists of jobs in one comparison, each read once.

    Args:
        api: the server.
        about: the jobs whose status is needed.

    Attributes:
        error: why a list could not be read to its end; ``None`` if all lists were complete.
    """

    def __init__(self, api: Api, about: Collection[int]) -> None:
        self._api = api
        self._about = about
        self._read: dict[str, Listing] = {}
        self.error: WorkerError | None = None

    def __call__(self, status: str) -> Listing:
        """Return the list of one status.

        Raises:
            WorkerError: the list could not be read at all.
        """
        return self._read[status] if status in self._read else self.read(status)

    def read(self, status: str, take: Take = keep_nothing) -> Listing:
        """Read the list of one status, passing each entry to ``take``."""
        try:
            listing = self._api.jobs(status, take=take, about=self._about)
        except PartialList as error:
            listing, self.error = error.listing, error
        self._read[status] = listing
        return listing

    @property
    def empty(self) -> bool:
        """Whether the lists of running and pending jobs are both empty."""
        return not any(self(status).count for status in ("running", "pending"))


class InFlightSync:
    """Compares the jobs in flight with the server's lists.

    It compares while jobs are in flight, and once more after the last one. With nothing in flight it compares only:

    - after a claim with an unclear result,
    - after any claim, once, because the ledger may have lost every trace of the job,
    - once with a new or emptied ledger, to find the jobs of the previous one.

    An entry of a list counts even if the list is truncated or other entries are malformed. The absence of a job counts
    only if the list was read to its end and every entry has a valid id.

    Args:
        context: the objects that the loops share.
    """

    def __init__(self, context: BridgeContext) -> None:
        self._context = context
        self._seen: frozenset[int] = frozenset()
        self._settled = False
        self._next_comparison = float("-inf")
        self._work = 0.0
        self._claims = 0
        self._unadopted = WaitingJobs(clock=context.clock)
        self._waiting = 0

    @property
    def _interval(self) -> float:
        """Seconds from one comparison to the next: the poll interval, or more if comparisons are expensive."""
        return max(self._context.settings.poll_interval, min(LIST_WORK * self._work, LONGEST_PAUSE))

    def run_once(self) -> float:
        """Compare once if it is this bridge's turn, and settle the due claims.

        Returns:
            The seconds until the next run, unless the loop is woken earlier to settle a claim.

        Raises:
            WorkerError: a request failed or its response is unusable; nothing is concluded then.
            LedgerUnavailable: the ledger is unreachable.
        """
        context = self._context
        if context.token.rejected:
            return CHECK_SECONDS
        settling = context.ledger.take("admitted", lease=CLAIM_LEASE)
        due = False
        if context.clock() >= self._next_comparison:
            self._next_comparison = context.clock() + self._interval
            due = self._is_due()
        if settling or due:
            began = time.thread_time()
            self._compare(settling)
            self._work = time.thread_time() - began
            return max(0.0, self._next_comparison - context.clock())
        return Idle(max(0.0, self._next_comparison - context.clock()))

    @property
    def _claims_are_unclear(self) -> bool:
        """Whether the job of a recent claim may still appear as running."""
        return self._context.clock() < self._context.claims_unclear_until

    def _is_due(self) -> bool:
        """Whether a comparison may find something, and no other bridge compares now."""
        context = self._context
        if context.ledger.mark_in_use():
            self._settled = False  # the ledger is new, or was emptied while the bridge ran
        claims = context.counters.claims["claimed"]
        if claims != self._claims:
            self._claims, self._settled = claims, False
        survey = context.ledger.survey(context.capacity.queues)
        busy = survey.in_flight > 0 or any(survey.load.values()) or self._claims_are_unclear
        if not busy and self._settled:
            return False
        return context.ledger.my_turn("sync", self._interval * 0.9)

    def _compare(self, settling: list[int]) -> None:
        context = self._context
        self._settled = False
        asked_at = context.ledger.survey().now
        mending = self._repair()
        in_flight = mending.in_flight
        known = in_flight.keys() - mending.bare
        ours = ("", context.ledger.worker_name)
        unknown = MostUrgent(lambda job: job if job.id not in known and job.assigned_to in ours else None)
        lists = _Lists(context.api, about={*in_flight, *settling})
        try:
            running = lists.read("running", take=unknown.take)
            unlisted = {job_id for job_id, state in in_flight.items() if state != "admitted"} - running.ids("running")
            pending = lists.read("pending") if unlisted else Listing()
        except WorkerError as error:
            if error.unauthorized:
                context.token.reject(error)
                return
            raise
        self._seen = (self._seen | running.ids("running")) & in_flight.keys()
        for job_id in settling:
            self._settle(job_id, lists, asked_at)
        listed = {job_id: listed_status(job_id, (running, pending)) for job_id in unlisted}
        missing = {job_id for job_id, status in listed.items() if status is None or phase_of(status) == "over"}
        self._check_missing(missing, lists, whole=running.whole and pending.whole)
        self._adopt_all(unknown, asked_at)
        # Jobs that run on the server and were unknown are compared again, whether they were adopted or not.
        has_unknown = running.count > len(running.ids("running"))
        self._settled = not (in_flight or has_unknown or self._claims_are_unclear) and running.whole
        if lists.error is not None:
            raise lists.error

    def _repair(self) -> Mending:
        """Repair damaged records in the ledger. Returns the jobs in flight."""
        context = self._context
        mending = context.ledger.mend([*context.capacity.queues, REFUSED_QUEUE], wait_seconds=context.settings.lease)
        for job_id, damage in mending.mended.items():
            context.log(job_id).warning("mended", f"the ledger is damaged: {DAMAGES[damage]}", reason=damage)
        return mending

    def _check_missing(self, missing: Collection[int], lists: _Lists, *, whole: bool) -> None:
        """Abort the jobs in flight that the server has ended.

        Args:
            missing: the jobs that the server lists neither as running nor as pending.
            lists: the lists.
            whole: whether the lists are complete, so that absence counts. If not, only the status of the single job
                counts.
        """
        missed = self._context.ledger.missed(missing) if whole else {}
        suspects = [job_id for job_id in missing if not whole or missed[job_id].times >= MISSES]
        failed: frozenset[int] = frozenset()
        if len(suspects) > LOOKUPS:
            try:
                failed = lists("failed").ids("over")
            except WorkerError as error:
                if error.retryable:
                    text = "%d jobs may have been aborted on the server, but their status cannot be read: %s"
                    logger.warning(text, len(suspects), error.summary)
                    return
                logger.debug("the server has no list of failed jobs: %s", error.summary)
        for job_id in failed.intersection(suspects):
            self._abort(job_id)
        left = [job_id for job_id in suspects if job_id not in failed]
        for job_id in random.sample(left, min(LOOKUPS, len(left))):
            try:
                status = status_of(self._context.api, job_id, listing=lists)
            except WorkerError as error:
                why = f"may have been aborted on the server, but its status cannot be read: {error.summary}"
                self._context.log(job_id).warning("maybe_aborted", why, reason=error.summary)
                continue
            seen = job_id in self._seen
            if verdict(missed.get(job_id), status, seen=seen, lists_empty=lists.empty) == "aborted":
                self._abort(job_id)

    def _settle(self, job_id: int, lists: _Lists, asked_at: float) -> None:
        """Settle a claim with an unclear result, or of a bridge that died while claiming."""
        context = self._context
        running = lists("running")
        status = listed_status(job_id, [running])
        if phase_of(status) != "running" and not running.whole:
            status = listed_status(job_id, [running, lists("pending")])
        if phase_of(status) != "running":
            # A pending job is claimed from the inbox as usual. One that is not listed is over, or another worker's.
            unclear = not status and (status == "" or not running.whole)
            # If the claim did succeed, the job is adopted as soon as the lists show it.
            if unclear and not self._is_long_admitted(job_id, asked_at):
                return
            if context.ledger.drop(job_id):
                context.log(job_id).info(
                    "not_claimed", "the claim did not take effect: the server does not list the job as running"
                )
            return
        record = context.ledger.read(job_id)
        if record is None or record.job is None:
            return
        with tracing.following(record.trace), tracing.settle(context.ledger.worker_name, job_id):
            task_id = context.ledger.claimed(job_id, trace=tracing.carrier())
            if task_id is None:
                return
            log = context.log(job_id, task_id, record.route.task_name)
            log.info("claimed", "the claim succeeded: the server lists the job as running")
            with suppress(NotPublished):
                context.sender.publish(job_id, record.route, task_id, priority=record.job.priority, job=record.job)

    def _is_long_admitted(self, job_id: int, now: float) -> bool:
        record = self._context.ledger.read(job_id)
        return record is not None and now - record.times.get("admitted", now) > UNCLEAR_SECONDS

    def _abort(self, job_id: int) -> None:
        """Stop the run of a job that the server has ended, and discard its outcome."""
        context = self._context
        record = context.ledger.read(job_id)
        if record is not None and record.state == "finished" and record.deliveries > 0:
            return  # it may just have been closed, which its delivery will find out
        nodes = (context.ledger.nodes(record) if record else None) or [""]
        task_id = context.ledger.abort(job_id, "aborted on the server")
        if task_id is None:
            return
        log = context.log(job_id, task_id, record.route.task_name if record else "")
        log.warning("aborted", "aborted on the server: its run is stopped")
        try:
            for node in nodes:
                context.publisher.announce_abort(task_id, node)
        except Exception as error:
            # The worker notices when it renews the lease.
            why = type(error).__name__
            log.warning("abort_not_announced", f"abort not announced: {why}", reason=why)

    def _adopt_all(self, jobs: Iterable[Job], asked_at: float) -> None:
        """Adopt jobs. Those for which a ``match=`` raises wait for the next comparison."""
        context, raised, waiting = self._context, list[MatchRaised](), Counter[str]()
        for job in jobs:
            try:
                route, refusal = self._route(job)
            except MatchRaised as error:
                close_old_connections()
                raised.append(error)
                continue
            if self._adopt(job, route, refusal, asked_at, traced=route.queue not in waiting) == "full":
                waiting[route.queue] += 1
        self._unadopted.replace(map(match_raised, raised))
        self._report_waiting(waiting.total())
        context.unadopted = (frozenset(waiting), context.clock())

    def _report_waiting(self, count: int) -> None:
        """Log when jobs begin to wait for a slot to be adopted, and when none waits any more."""
        if bool(count) == bool(self._waiting):
            return
        self._waiting = count
        if count:
            jobs = f"{counted(count, 'job')} running on the server but unknown to the ledger"
            text = f"{jobs}: to be adopted as slots become free"
            logger.warning("%s", text, extra={"event": "adoption_waits", "count": count})
        else:
            logger.info("no job waits to be adopted any more", extra={"event": "adoption_waits", "count": 0})

    def _route(self, job: Job) -> tuple[Route, str]:
        """The route of a job to adopt, and the reason if no handler takes it.

        Raises:
            MatchRaised: a ``match=`` raised.
        """
        context = self._context
        try:
            return context.routes.of_adopted(context.registry.route(job), job), ""
        except RoutingError as error:
            return UNROUTED, str(error)

    def _adopt(self, job: Job, route: Route, refusal: str, asked_at: float, *, traced: bool) -> Adoption:
        """Adopt a job that the server lists as running for this worker name and the ledger does not know."""
        context, capacity = self._context, self._context.capacity.latest()
        # A job that no handler takes gets its outcome at once and leaves its slot. So the number of undelivered
        # outcomes limits how many such jobs are adopted.
        most = capacity.limit(route.queue)
        if refusal and context.ledger.survey().states["finished"] >= REFUSED_SLOTS:
            most = 0
        # A worker that still runs the job has one lease to report it. The job then does not run twice.
        wait = context.settings.lease
        with tracing.adopt(context.ledger.worker_name, job.id) if traced else nullcontext() as span:
            adoption = context.ledger.adopt(
                job,
                route,
                asked_at=asked_at,
                wait_seconds=wait,
                trace=tracing.carrier() if span else "",
                total_limit=capacity.total,
                queue_limit=most,
            )
            if span:
                span.set({tracing.ADOPTION: adoption})
        if adoption == "redelivered":
            why = "closed once more: the server lists it as running, though it accepted the close"
            context.log(job.id, task_name=route.task_name).warning("closed_again", why)
        elif adoption == "mended" or adoption == "restored":
            context.log(job.id, task_name=route.task_name).warning(
                "mended", f"the ledger is damaged: {DAMAGES[adoption]}", reason=adoption
            )
        if adoption != "adopted":
            return adoption
        log = context.log(job.id, task_name=route.task_name)
        log.warning("adopted", "adopted: running on the server, unknown to the ledger")
        if refusal and (record := context.ledger.read(job.id)) is not None:
            context.sender.fail_unhandled(job.id, record.task_id, refusal=refusal)
        return adoption
