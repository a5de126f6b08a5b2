"""Claims one admitted job on the server, and publishes its task."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from ...backoff import backoff, pause_after
from ...databases import DJANGO, close_old_connections
from ...errors import LedgerUnavailable, WorkerError
from ...ledger import Admission
from ...telemetry import tracing
from ...telemetry.logs import JobLog
from ...telemetry.quantities import duration
from ..context import BridgeContext
from ..counters import ClaimResult
from ..limits import LONGEST_IMPOSED_PAUSE, LONGEST_PAUSE, UNCLEAR_SECONDS
from ..publisher import NotPublished
from .inbox import Candidate

logger = logging.getLogger("mr_celery.bridge")


@dataclass(frozen=True)
class EndedClaim:
    """A claim that has ended.

    Args:
        job_id: the job.
        succeeded: whether the server has given the job to this worker name.
        sent_as: the task id under which the job was published; empty if it was not published.
    """

    job_id: int
    succeeded: bool = False
    sent_as: str = ""


class JobClaimer:
    """Brings single jobs from *admitted* to the broker: claim → claimed → publish. Thread-safe.

    Args:
        context: the objects that the loops share.
    """

    def __init__(self, context: BridgeContext) -> None:
        self._context = context
        self._log = partial(JobLog, logger, worker_name=context.ledger.worker_name)
        self._refusals: dict[int, tuple[int, float]] = {}

    def refused(self) -> Collection[int]:
        """The jobs of which a claim failed recently and must not be retried yet."""
        if not self._refusals:
            return ()
        now = self._context.clock()
        return {job_id for job_id, (_, until) in list(self._refusals.items()) if until > now}

    def claim(self, candidate: Candidate, admission: Admission, polled_at: float, began: int) -> EndedClaim:
        """Claim and publish a job. Handles every exception.

        Args:
            candidate: the job.
            admission: the ledger's answer: ``again`` if the job is in flight, and the server had requeued it.
            polled_at: the ledger's time before the poll that found the job.
            began: the time at which its claim began, in nanoseconds since 1970.
        """
        job_id = candidate.job.id
        if DJANGO in sys.modules:
            close_old_connections()
        try:
            if admission == "again":
                if self._request(job_id, admitted=False) is None:
                    self._log(job_id).info("claimed_again", "claimed again: the server had requeued it")
            else:
                return self._claim_admitted(candidate, polled_at, began)
        except LedgerUnavailable as error:
            why = f"claiming interrupted, will be settled later: {error}"
            self._log(job_id).warning("claim_interrupted", why, reason=str(error))
        except BaseException as error:  # functions of the application, such as receivers of signals, may raise anything
            self._log(job_id).error("claim_interrupted", "claiming interrupted, will be settled later", error=error)
        finally:
            if DJANGO in sys.modules:
                close_old_connections()
        return EndedClaim(job_id)

    def _claim_admitted(self, candidate: Candidate, polled_at: float, began: int) -> EndedClaim:
        context, job, route = self._context, candidate.job, candidate.route
        with tracing.claim(context.ledger.worker_name, job.id, since=began) as span:
            refusal = self._request(job.id, admitted=True)
            if refusal is not None:
                span.fail(refusal)
                return EndedClaim(job.id)
            task_id = context.ledger.claimed(job.id, trace=tracing.carrier())
            if task_id is None:
                # The claim took so long that another bridge settled it. If that bridge found no claim, the job is
                # adopted here.
                trace = tracing.carrier()
                context.ledger.adopt(job, route, asked_at=polled_at, wait_seconds=0.0, trace=trace, unsent=True)
                return EndedClaim(job.id, succeeded=True)
            span.set({tracing.ATTEMPT: 1, tracing.TASK: task_id})
            if candidate.refusal:
                context.sender.fail_unhandled(job.id, task_id, refusal=candidate.refusal)
                span.fail()
                return EndedClaim(job.id, succeeded=True)
            log = self._log(job.id, task_id=task_id, task_name=route.task_name)
            log.debug("claimed", seconds=(time.time_ns() - began) / 1e9)
            try:
                sent = context.sender.send(job.id, route, task_id, priority=job.priority, job=job)
            except NotPublished:
                sent = False
        return EndedClaim(job.id, succeeded=True, sent_as=task_id if sent else "")

    def _request(self, job_id: int, *, admitted: bool) -> WorkerError | None:
        """Claim a job on the server. Returns the error if it failed or its result is unclear; ``None`` on success."""
        renewed = self._context.renewer.claims
        try:
            renewed.add(job_id)
            try:
                self._context.api.claim(job_id)
            finally:
                renewed.discard(job_id)
        except WorkerError as error:
            self._note_failure(job_id, error, admitted=admitted)
            return error
        self._count("claimed")
        self._context.token.refusals = 0
        return None

    def _note_failure(self, job_id: int, error: WorkerError, *, admitted: bool) -> None:
        """Handle a claim that failed or whose result is unclear.

        Even a definite refusal is compared with the server's lists. A 409 can mean that an earlier attempt of the same
        claim succeeded, and a proxy can return any error after it has forwarded the request.
        """
        context = self._context
        self._count("conflict" if error.status == 409 else "unclear")
        failures = self._refusals.get(job_id, (0, 0.0))[0] + 1
        # A job that the server refuses is probably another worker's, which is tried less often than a failing server.
        most = LONGEST_PAUSE if error.trouble else 300.0
        usual = pause = backoff(failures, first=context.settings.poll_interval, most=most)
        why = error.summary
        if longer := error.longer_than(usual):
            pause = pause_after(error, usual, most=LONGEST_IMPOSED_PAUSE)
            why = f"{why}; {longer}, next try in {duration(pause)}"
        self._refuse(job_id, failures, pause)
        if error.unauthorized:
            context.token.reject(error)
        if not admitted:
            return
        context.claims_unclear_until = context.clock() + UNCLEAR_SECONDS
        # The server gets a moment to finish the claim. The job occupies a slot until then, so it is a short one.
        context.ledger.settle_later(job_id, pause_after(error, 2.0, most=15.0), trace=tracing.carrier())
        why = f"claim failed or unclear, will be compared with the server's lists: {why}"
        self._log(job_id).warning("claim_unclear", why, reason=error.summary)

    def _refuse(self, job_id: int, failures: int, pause: float) -> None:
        """Leave a job alone for ``pause`` seconds. Refusals that ended ten minutes ago are forgotten."""
        now = self._context.clock()
        for other, (_, until) in list(self._refusals.items()):  # an atomic copy, because other threads add to it
            if until <= now - 600.0:
                self._refusals.pop(other, None)
        self._refusals[job_id] = (failures, now + pause)

    def _count(self, result: ClaimResult) -> None:
        with self._context.counters.lock:
            self._context.counters.claims[result] += 1
