"""The courier: delivers the outcomes that their workers have not delivered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from ..backoff import ConcurrencyLimit, pause_after
from ..delivery import DELIVERY_LEASE, Delivery, DeliveryRequest
from ..errors import LedgerUnavailable, WorkerError
from ..ledger import DeliveryKey
from ..telemetry import tracing
from ..telemetry.quantities import duration
from .context import BridgeContext
from .limits import CHECK_SECONDS, CONCURRENT_DELIVERIES, LONGEST_PAUSE, SLOW_DELIVERIES
from .threads import Pool

logger = logging.getLogger("mr_celery.bridge")


class _Progress:
    """A delivery in progress.

    Attributes:
        slow_at: the time, by the context's clock, from which it counts as slow.
        is_over: set if it is to be put off.
    """

    def __init__(self) -> None:
        self.slow_at = float("inf")
        self.is_over = threading.Event()


class Courier:
    """Takes the due outcomes from the ledger and delivers them, a few at a time.

    Args:
        context: the objects that the loops share.
        pool: the threads of the deliveries; by default its own.
        side_by_side: the maximum number of concurrent deliveries.

    Attributes:
        on_end: called at the end of each delivery, on its thread.
    """

    def __init__(
        self, context: BridgeContext, *, pool: Pool | None = None, side_by_side: int = CONCURRENT_DELIVERIES
    ) -> None:
        self._context = context
        self._lease = min(DELIVERY_LEASE, context.settings.lease)
        self._delivery = Delivery(
            context.api,
            context.ledger,
            spool=lambda: context.spool,
            lease=self._lease,
            without_artifacts=context.settings.without_artifacts,
        )
        self._pool = Pool("deliveries", side_by_side + SLOW_DELIVERIES) if pool is None else pool
        self.on_end: Callable[[], object] = lambda: None
        self._delivering: dict[Future[WorkerError | None], _Progress] = {}
        self._limit = ConcurrencyLimit(side_by_side, most_pause=5.0)
        self._resume_at = float("-inf")

    def run_once(self) -> float:
        """Deliver the due outcomes. Returns the seconds until the next poll, unless the loop is woken earlier.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        self._collect()
        pause = self._resume_at - self._context.clock()
        if pause > 0:
            return pause
        if self._context.token.rejected:
            return CHECK_SECONDS
        free = self._free()
        if free <= 0:
            return CHECK_SECONDS
        taken = self._context.ledger.collect(free, lease=self._lease)
        for key in taken:
            progress = _Progress()
            delivery = self._pool.submit(self._deliver, key, progress)
            self._delivering[delivery] = progress
            delivery.add_done_callback(lambda _: self.on_end())
        if len(taken) == free:
            return 0.0
        return CHECK_SECONDS if self._delivering else LONGEST_PAUSE

    def _free(self) -> int:
        """The number of deliveries that may begin. Up to ``SLOW_DELIVERIES`` slow ones do not count."""
        now, free_threads = self._context.clock(), self._pool.free
        slow = [each for each in self._delivering.values() if now >= each.slow_at]
        free = min(self._limit.size - len(self._delivering) + len(slow[:SLOW_DELIVERIES]), free_threads)
        if free <= 0:
            for each in slow[SLOW_DELIVERIES if free_threads else 1 :]:  # other worker names may wait for a thread
                each.is_over.set()
        return free

    def _collect(self) -> None:
        """Collect the results of the deliveries that have ended."""
        for future in [each for each in self._delivering if each.done()]:
            del self._delivering[future]
            if future.exception() is not None:
                continue  # already logged, and not about the server
            error = future.result()
            if error is None:
                self._limit.succeeded()
                self._context.token.refusals = 0
            elif error.trouble:
                usual, now = self._limit.failed(), self._context.clock()
                # One response pauses all deliveries, so its Retry-After is capped lower than for the delivery itself.
                pause = pause_after(error, usual, most=LONGEST_PAUSE)
                if (why := error.longer_than(usual)) and now >= self._resume_at:
                    logger.warning("%s: %s, next delivery in %s", error.summary, why, duration(pause))
                self._resume_at = max(self._resume_at, now + pause)
                if error.unauthorized:
                    self._context.token.reject(error)

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the deliveries in progress. Uploads that take longer are put off."""
        wait(self._delivering, timeout=timeout)
        for progress in self._delivering.values():
            progress.is_over.set()

    def _deliver(self, key: DeliveryKey, progress: _Progress) -> WorkerError | None:
        """Deliver one outcome. Returns the error that postponed it; after an exception the job becomes due again."""
        ledger, job_id = self._context.ledger, key.job_id
        try:
            try:
                record = ledger.read(job_id)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self._delivery.unreadable(key, error)
                raise
            if record is None or record.state != "finished" or record.outcome is None:
                return None
            delivery_request = DeliveryRequest(key, record.outcome, parts=record.parts, failures=record.failures)
            progress.slow_at = self._context.clock() + delivery_request.usual_seconds
            self._context.renewer.deliveries.add(key)
            try:
                with tracing.following(record.trace):
                    return self._delivery.deliver(delivery_request, is_over=progress.is_over.is_set)
            finally:
                self._context.renewer.deliveries.discard(key)
        except LedgerUnavailable as error:
            log = self._context.log(job_id, key.task_id)
            log.warning("delivery_interrupted", f"delivery interrupted: {error}", reason=str(error))
            raise
        except Exception as error:
            self._context.log(job_id, key.task_id).error("delivery_interrupted", "delivery interrupted", error=error)
            raise
