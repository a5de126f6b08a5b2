"""Delivers an outcome to the server: artifacts, then reviews, then the close."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ..errors import LedgerUnavailable, WorkerError
from ..ledger import DeliveryKey, Ledger
from ..outcome import Outcome
from ..server import Api, is_same_end, phase_of, status_of
from ..server.api import UPLOAD_TIMEOUT
from ..spool import Spool, SpoolUnavailable
from ..telemetry import tracing
from ..telemetry.logs import JobLog
from ..telemetry.quantities import duration
from .blobs import BlobStore
from .failed_delivery import DeliveryProgress, FailedDelivery, superseded
from .giving_up import BOUNDS, Bound, Evidence, Failures
from .parts import OUTPUT, PartDelivery, Undeliverable, raise_if_refused
from .placeholders import Placeholders
from .server_routes import ServerRoutes
from .texts import GIVEN_UP, REFUSAL, THE_OUTPUT

logger = logging.getLogger("mr_celery.delivery")

DELIVERY_LEASE = 15.0
"""Seconds after which a delivery's claim on its job expires without a renewal, unless a lease is shorter."""

NOT_RUNNING = (404, 409, 410)
"""Statuses of a server that has no such job to close."""

UNHEARD_OF = 5
"""Delivery number from which a 404 to the close means that the job is gone, if the server lists it nowhere."""

USUAL_RATE = 32 * 2**10
"""Bytes per second below which a delivery counts as slow. A run then leaves it to the courier, which waits for longer.

Otherwise a server that reads slowly would hold the slots of workers.
"""

TOO_SLOW = "the server reads too slowly"
"""The reason of a delivery that ended because it took too long."""

MOST_UNREADABLE = 8
"""Number of deliveries after which a job fails if its outcome cannot be read from the ledger."""


@dataclass(frozen=True)
class DeliveryRequest:
    """The request to deliver an outcome.

    Args:
        key: identifies the delivery and its job, and fences its records in the ledger.
        outcome: the outcome to deliver.
        parts: the server's responses to the delivered parts: ``artifact:0``, ``review:0``, …
        blobs: the contents of the uploads that the ledger stores, in order, if the caller has them.
        failures: the failures of earlier deliveries, as :class:`~.failures.Failures` wrote them.
    """

    key: DeliveryKey
    outcome: Outcome
    parts: Mapping[str, str]
    blobs: Sequence[bytes] | None = field(default=None, repr=False)
    failures: str = field(default="", repr=False)

    @property
    def job_id(self) -> int:
        """The job's id."""
        return self.key.job_id

    @property
    def number(self) -> int:
        """The number of this delivery of the job, from 1."""
        return self.key.number

    @property
    def parts_left(self) -> tuple[str, ...]:
        """The artifacts and reviews that were not delivered when this delivery began."""
        uploads = (
            f"artifact:{index}"
            for index, upload in enumerate(self.outcome.uploads)
            if not (upload.slug or upload.refused)
        )
        reviews = (f"review:{index}" for index, review in enumerate(self.outcome.reviews) if not review.refused)
        return tuple(part for part in (*uploads, *reviews) if part not in self.parts)

    @property
    def has_parts(self) -> bool:
        """Whether this delivery, or an earlier one, may have delivered artifacts or reviews."""
        return bool(self.parts or self.outcome.uploads or self.outcome.reviews)

    @property
    def usual_seconds(self) -> float:
        """Seconds after which the delivery counts as slow."""
        size = len(self.outcome.text)
        for upload in self.outcome.uploads:
            size += 0 if upload.slug else upload.size
        return UPLOAD_TIMEOUT + size / USUAL_RATE

    def linked_elsewhere(self, part: str) -> bool:
        """Whether a part refers to another job, or to a review that is not in this outcome."""
        kind, _, index = part.partition(":")
        if kind == "artifact":
            upload = self.outcome.uploads[int(index)]
            return upload.review_id is not None or upload.job_id not in (None, self.job_id)
        return self.outcome.reviews[int(index)].job_id not in (None, self.job_id)


class Overtaken(Exception):
    """Another delivery has taken the job, or the job was aborted."""


class TookTooLong(Exception):
    """The caller of a delivery waits no longer. A later delivery continues."""


class DeliveryLease:
    """A delivery's exclusive claim on its job. Each step of the delivery checks and renews it.

    Args:
        ledger: the ledger.
        key: the delivery.
        seconds: seconds until the claim expires without a renewal.
        is_over: returns whether the delivery must end, because its caller waits no longer.
    """

    def __init__(
        self, ledger: Ledger, key: DeliveryKey, seconds: float, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_over = is_over
        self._ledger = ledger
        self._key = key
        self._seconds = seconds
        self._confirmed_at = time.monotonic()

    def confirm(self) -> None:
        """Check and renew the claim if a third of its time has passed. This process may have been frozen.

        Raises:
            Overtaken: the claim is lost.
            TookTooLong: the caller waits no longer.
        """
        if self._is_over():
            raise TookTooLong
        now = time.monotonic()
        if now - self._confirmed_at < self._seconds / 3:
            return
        if not self._ledger.renew_delivery(self._key, lease=self._seconds):
            raise Overtaken
        self._confirmed_at = now

    def record(self, part: str, answer: str) -> None:
        """Record that a part is delivered, and renew the claim.

        Raises:
            Overtaken: the claim is lost.
        """
        now = time.monotonic()
        if not self._ledger.delivered_part(self._key, part, answer, lease=self._seconds):
            raise Overtaken
        self._confirmed_at = now


class Delivery:
    """Delivers outcomes. Each step is recorded, so that a later delivery continues after the last one.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
        spool: returns the spool of the same worker name; called for outcomes with artifacts or reviews.
        lease: seconds until the delivery's claim on its job expires without a renewal.
        without_artifacts: the result of a job with artifacts or reviews on a server that accepts none. ``fail`` fails
            the job, ``close`` closes it with the handler's status. Its output lists the missing parts in both cases.
        bounds: the limits after which repeated failures of the same kind end a delivery.
    """

    def __init__(
        self,
        api: Api,
        ledger: Ledger,
        *,
        spool: Callable[[], Spool | None] = lambda: None,
        lease: float = DELIVERY_LEASE,
        without_artifacts: Literal["fail", "close"] = "fail",
        bounds: Mapping[Evidence, Bound] = BOUNDS,
    ) -> None:
        self._bounds = bounds
        self._api = api
        self._ledger = ledger
        self._spool = spool
        self._without_artifacts = without_artifacts
        self._lease = lease

    @cached_property
    def routes(self) -> ServerRoutes:
        """The known routes of the server."""
        bound = self._bounds.get("passes")
        return ServerRoutes(self._api, self._ledger, without=self._without_artifacts, bound=bound)

    def deliver(
        self, delivery_request: DeliveryRequest, *, is_over: Callable[[], bool] = lambda: False
    ) -> WorkerError | None:
        """Deliver the remaining parts and record the close. Returns the error that postponed the rest, if any.

        A postponed delivery is recorded with the time of the next one, which the courier makes.

        Args:
            delivery_request: the outcome.
            is_over: returns whether the rest is to be postponed, because the caller waits no longer. It is called
                before each part, and for each block of an upload.

        Raises:
            LedgerUnavailable: a step could not be recorded; the courier repeats it.
        """
        key = delivery_request.key
        with tracing.deliver(self._ledger.worker_name, key.job_id, key.task_id, key.number) as span:
            return self._try(delivery_request, span, is_over)

    def unreadable(self, key: DeliveryKey, error: Exception) -> None:
        """Fail a job whose outcome was unreadable in ``MOST_UNREADABLE`` deliveries.

        Raises:
            LedgerUnavailable: the failure could not be recorded; the courier repeats it.
        """
        if key.number < MOST_UNREADABLE:
            return
        why = f"{GIVEN_UP} what its handler returned: the ledger's record of it cannot be read ({type(error).__name__})"
        if self._ledger.replace_outcome(
            key, Outcome.failed(why, reason="its outcome cannot be read"), note="unreadable"
        ):
            log = JobLog(logger, key.job_id, worker_name=self._ledger.worker_name, task_id=key.task_id)
            log.error("refused", f"failed: {why}", reason=type(error).__name__)

    def _try(
        self, delivery_request: DeliveryRequest, span: tracing.Span, is_over: Callable[[], bool]
    ) -> WorkerError | None:
        began = time.monotonic()
        lease = DeliveryLease(self._ledger, delivery_request.key, self._lease, is_over)
        progress = DeliveryProgress(delivery_request, lease, span)
        try:
            how = self._deliver(progress)
        except Overtaken:
            span.set({tracing.DELIVERY_OUTCOME: "overtaken"})
            why = f"delivery {delivery_request.number} ended: the job is over, or another delivery has it"
            self._log(delivery_request).info("overtaken", why, number=delivery_request.number)
            return None
        except Undeliverable as problem:
            span.set({tracing.DELIVERY_OUTCOME: "refused"})
            span.fail(problem.error or problem)
            return self._failed(progress).undeliverable(problem)
        except LedgerUnavailable:
            raise
        except (SpoolUnavailable, TookTooLong) as error:
            span.set({tracing.DELIVERY_OUTCOME: "put_off"})
            span.fail(error)
            why = TOO_SLOW if isinstance(error, TookTooLong) else str(error)
            failures = Failures.from_json(delivery_request.failures)
            return self._failed(progress).put_off(WorkerError(why), why, "later", failures)
        except Exception as error:
            span.set({tracing.DELIVERY_OUTCOME: "put_off"})
            span.fail(error)
            return self._failed(progress).failed(error)
        span.set({tracing.DELIVERY_OUTCOME: how})
        self._closed(delivery_request, how, began)
        return None

    def _failed(self, progress: DeliveryProgress) -> FailedDelivery:
        def closed(how: str) -> None:
            self._closed(progress.delivery_request, how, time.monotonic())

        return FailedDelivery(self._api, self._ledger, self.routes, self._bounds, progress, closed)

    def _closed(self, delivery_request: DeliveryRequest, how: str, began: float) -> None:
        key, has_parts = delivery_request.key, delivery_request.has_parts
        is_closed = self._ledger.close(key.job_id, key.task_id, how, has_parts=has_parts)
        if is_closed and logger.isEnabledFor(logging.WARNING if how == "superseded" else logging.INFO):
            self._log_closed(delivery_request, how, time.monotonic() - began)

    def _log(self, delivery_request: DeliveryRequest) -> JobLog:
        key = delivery_request.key
        return JobLog(logger, key.job_id, worker_name=self._ledger.worker_name, task_id=key.task_id)

    def _log_closed(self, delivery_request: DeliveryRequest, how: str, seconds: float) -> None:
        log, number, status = self._log(delivery_request), delivery_request.number, delivery_request.outcome.status
        if how == "superseded":
            log.warning(
                "superseded", "superseded: the job was closed by something else, according to the server", number=number
            )
        else:
            tries = f", try {number}" if number > 1 else ""
            text = f"delivered as {status} in {duration(seconds)}{tries}"
            log.info("delivered", text, status=status, seconds=seconds, number=number)

    def _deliver(self, progress: DeliveryProgress) -> str:
        """Deliver the remaining parts and close the job. Returns ``delivered`` or ``superseded``."""
        delivery_request, text = progress.delivery_request, progress.delivery_request.outcome.text
        if delivery_request.key.number > 1 and delivery_request.parts_left:
            # The job may have been aborted since the last delivery. Then nothing is uploaded or filed.
            status = status_of(self._api, delivery_request.job_id)
            if phase_of(status) == "over":
                return superseded(delivery_request, status)
        if delivery_request.outcome.uploads or delivery_request.outcome.reviews:
            blob_store = BlobStore(self._ledger, self._spool())
            part_delivery = PartDelivery(self._api, blob_store, delivery_request, progress.lease, self.routes)
            progress.part_delivery = part_delivery
            part_delivery.deliver()
            progress.closing = True
            text = closing_text(delivery_request.outcome, part_delivery.placeholders)
        progress.closing = True
        progress.lease.confirm()
        return self._close(delivery_request, text)

    def _close(self, delivery_request: DeliveryRequest, text: str) -> str:
        job_id, status = delivery_request.key.job_id, delivery_request.outcome.status
        try:
            self._api.close(job_id, text, status)
        except WorkerError as refusal:
            raise_if_refused(THE_OUTPUT, OUTPUT, refusal)
            if refusal.status in NOT_RUNNING:
                return self._close_refused(delivery_request, text, refusal)
            if refusal.status is not None and refusal.status < 300:
                now = status_of(self._api, job_id)
                if phase_of(now) == "over":  # the response is unreadable, but the server closed the job
                    return "delivered" if is_same_end(now, status) else "superseded"
            raise
        return "delivered"

    def _close_refused(self, delivery_request: DeliveryRequest, text: str, refusal: WorkerError) -> str:
        """Handle a refused close by the job's status in the server's lists. Returns as :meth:`_deliver`."""
        job_id = delivery_request.job_id
        status = status_of(self._api, job_id)
        phase = phase_of(status)
        if phase == "pending":
            # The server gave the run up and returned the job to its queue. Claim it again to close it.
            self._api.claim(job_id)
            try:
                self._api.close(job_id, text, delivery_request.outcome.status)
            except WorkerError as error:
                raise_if_refused(THE_OUTPUT, OUTPUT, error)
                raise
            return "delivered"
        if phase == "running":
            raise WorkerError(
                f"{refusal.summary} (although the server lists the job as running)",
                status=refusal.status,
                retryable=True,
            )
        if status is None and refusal.status == 404 and delivery_request.number < UNHEARD_OF:
            raise refusal  # the 404 may be a temporary fault of a proxy
        return superseded(delivery_request, status)


def closing_text(outcome: Outcome, placeholders: Placeholders) -> str:
    """The output for the close. For a job with refused parts, it lists the artifacts that the server has."""
    text = placeholders.resolved(outcome.text)
    refused = any(upload.refused for upload in outcome.uploads) or text.startswith((REFUSAL, GIVEN_UP))
    if refused and placeholders.uploads:
        text += f"\n\nThe server has these artifacts of the job:\n{placeholders.kept()}"
    return text
