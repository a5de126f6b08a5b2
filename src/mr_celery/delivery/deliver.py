"""Bringing an outcome to the server: artifacts, then reviews, then the close."""

from __future__ import annotations

import logging
import time

from .. import tracing
from ..backoff import backoff
from ..client import TERMINAL, Api, status_of
from ..errors import WorkerError
from ..ledger import Ledger
from ..log import JobLog
from ..outcome import Outcome
from ..spool import SpoolUnavailable
from .answers import Answers
from .consignment import Consignment
from .hold import HOLD_SECONDS, Hold, Overtaken
from .shipment import Shipment, Undeliverable, content
from .stores import Stores

logger = logging.getLogger("mr_celery.delivery")

NOT_RUNNING = (404, 409, 410)
"""Statuses with which a server says that there is no such job to close."""

UNHEARD_OF = 5
"""How many deliveries a server may answer with 404 and a job it lists nowhere, before the job counts as gone."""

REFUSAL = "the server refused"
"""How the output of a job begins of which the server did not take something."""

OUTPUT, THE_OUTPUT = "output", "the job's output"
OUTPUT_REFUSED = f"{REFUSAL} {THE_OUTPUT}"


class Delivery:
    """Delivers outcomes; each step is written down, so that a later try goes on where the last one stopped.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
        stores: where the bytes of its uploads wait.
        hold_seconds: how long a delivery keeps its job from others, from one sign of life to the next.
    """

    def __init__(
        self, api: Api, ledger: Ledger, stores: Stores | None = None, *, hold_seconds: float = HOLD_SECONDS
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._stores = stores or Stores(ledger, None)
        self._hold_seconds = hold_seconds

    def deliver(self, consignment: Consignment) -> WorkerError | None:
        """Deliver what is left, and record the close. Returns the error that put the rest off; ``None`` if none did.

        A delivery that was put off is recorded with the time of the next one, which is the courier's.

        Raises:
            LedgerUnavailable: a step could not be written down; it is repeated by the courier.
        """
        key = consignment.key
        with tracing.deliver(self._ledger.worker, key.job_id, key.task_id, key.number) as span:
            return self._try(consignment, span)

    def _try(self, consignment: Consignment, span: tracing.Span) -> WorkerError | None:
        began = time.monotonic()
        job_id, hold = consignment.job_id, Hold(self._ledger, consignment.key, self._hold_seconds)
        try:
            how = self._deliver(consignment, hold)
        except Overtaken:
            span.set({tracing.DELIVERY_OUTCOME: "overtaken"})
            why = f"delivery {consignment.number} ended: the job is not its any more"
            self._log(consignment).info("overtaken", why, number=consignment.number)
            return None
        except Undeliverable as problem:
            span.set({tracing.DELIVERY_OUTCOME: "refused"})
            span.fail(problem.error or problem)
            return self._replace(consignment, problem)
        except SpoolUnavailable as error:
            _put_off_in(span, error)
            return self._put_off(consignment, WorkerError(str(error)), why=str(error))
        except WorkerError as error:
            _put_off_in(span, error)
            return self._put_off(consignment, error, why=error.summary)
        span.set({tracing.DELIVERY_OUTCOME: how})
        if self._ledger.close(job_id, consignment.key.task_id, how):
            self._tell_closed(consignment, how, time.monotonic() - began)
        return None

    def _log(self, consignment: Consignment) -> JobLog:
        key = consignment.key
        return JobLog(logger, key.job_id, worker_name=self._ledger.worker, task_id=key.task_id)

    def _tell_closed(self, consignment: Consignment, how: str, seconds: float) -> None:
        log, number, status = self._log(consignment), consignment.number, consignment.outcome.status
        if how == "superseded":
            log.warning("superseded", "superseded: the server says it was closed by somebody else", number=number)
        else:
            log.info(
                "delivered",
                f"delivered as {status} after {seconds:.3f} s, try {number}",
                status=status,
                seconds=seconds,
                number=number,
            )

    def _deliver(self, consignment: Consignment, hold: Hold) -> str:
        """Deliver. Returns how the job is closed then."""
        if consignment.number > 1 and consignment.parts_left:
            # It waited: for a job that was aborted meanwhile nothing is uploaded or filed.
            status = status_of(self._api, consignment.job_id)
            if status in TERMINAL:
                return self._superseded(consignment, status)
        shipment = Shipment(self._api, self._stores, consignment, hold)
        shipment.ship()
        hold.confirm()
        return self._close(consignment, closing_text(consignment.outcome, shipment.answers))

    def _close(self, consignment: Consignment, text: str) -> str:
        job_id, status = consignment.job_id, consignment.outcome.status
        try:
            with content(THE_OUTPUT, OUTPUT):
                self._api.close(job_id, text, status)
        except WorkerError as refusal:
            if refusal.status not in NOT_RUNNING:
                raise
            return self._close_refused(consignment, text, refusal)
        return "delivered"

    def _close_refused(self, consignment: Consignment, text: str, refusal: WorkerError) -> str:
        """What it means that the server has no such job to close, by its own lists."""
        job_id = consignment.job_id
        status = status_of(self._api, job_id)
        if status == "pending":
            # The server gave the job up and put it back: it is ours as soon as we claim it again.
            self._api.claim(job_id)
            with content(THE_OUTPUT, OUTPUT):
                self._api.close(job_id, text, consignment.outcome.status)
            return "delivered"
        if status is not None and status not in TERMINAL:
            raise WorkerError(
                f"{refusal.summary} (though the server says that the job is {status[:40]})",
                status=refusal.status,
                retryable=True,
            )
        if status is None and refusal.status == 404 and consignment.number < UNHEARD_OF:
            raise refusal  # it may as well be a lapse of whatever stands before the server
        return self._superseded(consignment, status)

    def _superseded(self, consignment: Consignment, status: str | None) -> str:
        """The job is over on the server: by an earlier delivery whose answer was lost, or by somebody else."""
        if consignment.number > 1 and status in (None, consignment.outcome.status):
            return "delivered"
        return "superseded"

    def _replace(self, consignment: Consignment, problem: Undeliverable) -> WorkerError | None:
        """The job fails and says what can't be delivered; if the server does not take that either, it is put off."""
        outcome, error, why = consignment.outcome, problem.error, problem.why
        if error is not None:
            why = f"{REFUSAL} {why}"
        if OUTPUT not in problem.parts:
            why = outcome.text_after(why)
        elif error is not None and outcome.text.startswith(OUTPUT_REFUSED):
            return self._put_off(consignment, error, why=error.summary)
        self._ledger.replace_outcome(
            consignment.key, outcome.failing(why).without(problem.parts), note=", ".join(problem.parts)
        )
        reason = error.summary if error else problem.why
        self._log(consignment).error("refused", f"failed, what it made can't be delivered: {reason}", reason=reason)
        return error

    def _put_off(self, consignment: Consignment, error: WorkerError, *, why: str) -> WorkerError:
        pause = backoff(consignment.number, first=0.5, most=15.0)
        if error.unauthorized:
            pause = max(pause, 5.0)
        if error.retry_after is not None:
            pause = max(pause, error.retry_after)
        self._ledger.undelivered(consignment.key, why[:500], wait_seconds=pause, error=error.label)
        self._log(consignment).warning(
            "put_off",
            f"not delivered yet, next try in {pause:.1f} s: {why}",
            reason=why,
            seconds=pause,
            number=consignment.number,
        )
        return error


def closing_text(outcome: Outcome, answers: Answers) -> str:
    """The output that the job is closed with: what the handler said, and of a job that failed what there is of it."""
    text = answers.resolved(outcome.text)
    refused = any(upload.refused for upload in outcome.uploads) or text.startswith(REFUSAL)
    if refused and answers.uploads:
        text += f"\n\nThe server has these artifacts of the job:\n{answers.kept()}"
    return text


def _put_off_in(span: tracing.Span, error: Exception) -> None:
    """Tell a trace that a delivery was put off."""
    span.set({tracing.DELIVERY_OUTCOME: "put_off"})
    span.fail(error)
