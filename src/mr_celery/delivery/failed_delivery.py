"""Decides what follows a delivery that failed: another try, a delivery of less, or a failed job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backoff import backoff, pause_after
from ..errors import WorkerError
from ..ledger import Ledger
from ..outcome import Outcome
from ..server import Api, is_same_end, phase_of, status_of
from ..telemetry import tracing
from ..telemetry.logs import JobLog
from ..telemetry.printing import printable
from ..telemetry.quantities import counted, duration
from .giving_up import PARTS, Bound, Evidence, Failures, Kind, Streak, kind_of
from .parts import OUTPUT, PartDelivery, Undeliverable
from .server_routes import MISSING, ServerRoutes
from .texts import NEEDS, OUTPUT_REFUSED, REFUSAL, THE_OUTPUT, given_up, name_of, without_attachments

if TYPE_CHECKING:
    from .deliver import DeliveryLease, DeliveryRequest

logger = logging.getLogger("mr_celery.delivery")

MOST_RETRY_AFTER = 300.0
"""Maximum seconds by which a ``Retry-After`` postpones a delivery."""


@dataclass
class DeliveryProgress:
    """The progress of one delivery."""

    delivery_request: DeliveryRequest
    lease: DeliveryLease
    span: tracing.Span
    part_delivery: PartDelivery | None = None
    closing: bool = False

    @property
    def delivered(self) -> int:
        """The number of delivered artifacts and reviews."""
        if self.part_delivery is None:
            return len(self.delivery_request.parts)
        return len(self.part_delivery.placeholders.uploads) + len(self.part_delivery.placeholders.reviews)

    @property
    def parts_left(self) -> tuple[str, ...]:
        """The artifacts and reviews that are not delivered yet."""
        if self.part_delivery is None:
            return self.delivery_request.parts_left
        return tuple(part for part in self.delivery_request.parts_left if not self.part_delivery.placeholders.has(part))

    def failed(self, error: Exception) -> tuple[str, ...]:
        """The parts whose delivery failed with an error."""
        return (
            tuple(part for part, each in self.part_delivery.failed.items() if each is error)
            if self.part_delivery
            else ()
        )


class FailedDelivery:
    """One delivery that failed.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
        routes: the known routes of the server.
        bounds: the limits after which repeated failures of the same kind end a delivery.
        progress: the progress of the delivery.
        closed: records that the job is closed: ``delivered`` or ``superseded``.
    """

    def __init__(
        self,
        api: Api,
        ledger: Ledger,
        routes: ServerRoutes,
        bounds: Mapping[Evidence, Bound],
        progress: DeliveryProgress,
        closed: Callable[[str], None],
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._routes = routes
        self._bounds = bounds
        self._progress = progress
        self._request = progress.delivery_request
        self._closed = closed
        key = self._request.key
        self._log = JobLog(logger, key.job_id, worker_name=ledger.worker_name, task_id=key.task_id)

    def undeliverable(self, problem: Undeliverable) -> WorkerError | None:
        """Fail the job with a list of its undeliverable parts, or postpone it if the server refuses that list too."""
        outcome, error = self._request.outcome, problem.error
        if error is not None and OUTPUT in problem.parts and outcome.text.startswith(OUTPUT_REFUSED):
            return self.failed(error)
        reason = problem.about
        new = outcome.failing(self._output_with(problem), reason=f"not delivered: {reason}").without(problem.parts)
        self._ledger.replace_outcome(self._request.key, new, note=", ".join(problem.parts))
        self._log.error("refused", f"failed, a part of its outcome cannot be delivered: {reason}", reason=reason)
        return error

    def _output_with(self, problem: Undeliverable) -> str:
        """The job's output with the parts that cannot be delivered, and without the output if it is one of them."""
        why = problem.why if problem.error is None else f"{REFUSAL} {problem.why}"
        return why if OUTPUT in problem.parts else self._request.outcome.text_after(why)

    def failed(self, error: Exception) -> WorkerError | None:
        """Postpone a failed delivery, or end it after too many failures of the same kind.

        Raises:
            LedgerUnavailable: this could not be recorded.
        """
        kind = kind_of(error)
        missing = self._is_missing(error)
        if missing is not None and isinstance(error, WorkerError):
            try:
                status = status_of(self._api, self._request.job_id)
            except Exception as trouble:
                error, kind, missing = trouble, kind_of(trouble), None
            else:
                if phase_of(status) == "over":
                    self._closed(superseded(self._request, status))
                    return None
                if status is None:
                    kind = "ours"  # the server does not know the job, so that waiting is pointless
                elif self._routes.missing(error):
                    return self._close_without(error)
        route = error.route if isinstance(error, WorkerError) else ""
        failures = Failures.from_json(self._request.failures)
        if kind == "later" and isinstance(error, WorkerError):
            return self.put_off(error, error.summary, kind, failures)
        failures, streak = failures.after(
            kind, route, self._ledger.tally(route), delivered=self._progress.delivered, missing=missing is not None
        )
        if kind == "ours" and not isinstance(error, WorkerError) and streak.seen == 1:
            self._log.error("delivery_interrupted", "delivery interrupted", error=error)
        shown = error
        if not isinstance(shown, WorkerError):
            shown = WorkerError(f"{type(error).__name__} while it was delivered")
        shown.single = kind == "ours" or streak.evidence in ("passes", "away")
        if not self._progress.closing and streak.reached(self._bounds):
            return self._give_up(error, shown, streak, failures.restarted())
        slowly = False
        if self._progress.closing and self._is_futile(streak, kind):
            if self._close_short(given_up(THE_OUTPUT, error, streak), shown):
                return None
            # Only the same request is left to try. A server that accepts nothing at all may soon work again.
            slowly = streak.evidence in ("ours", "passes", "away")
        return self.put_off(shown, shown.summary, kind, failures, streak=streak, slowly=slowly)

    def _is_missing(self, error: Exception) -> str | None:
        """The part whose error means that the server lacks the route; ``None`` if the error does not mean that."""
        if (
            isinstance(error, WorkerError)
            and error.route in PARTS
            and error.status in MISSING
            and not self._progress.closing
        ):
            for part in self._progress.failed(error):
                return None if self._request.linked_elsewhere(part) else part
        return None

    def _is_futile(self, streak: Streak, kind: Kind) -> bool:
        """Whether the close failed often enough to try it without the output, which may be the cause."""
        if kind == "away":
            return streak.reached(self._bounds)
        # Other deliveries do not matter here: the response to the short text is the evidence.
        bound = self._bounds["ours"]
        return streak.seen >= bound.times and streak.last.now - streak.first.now >= bound.seconds

    def _close_without(self, error: WorkerError) -> WorkerError | None:
        """End the job without its artifacts and reviews, because the server has no routes for them."""
        self._progress.span.set({tracing.DELIVERY_OUTCOME: "refused"})
        outcome = without_attachments(self._request.outcome, self._progress.parts_left, error, self._routes.without)
        self._ledger.replace_outcome(self._request.key, outcome, note=", ".join(self._progress.parts_left))
        why = f"the server does not support artifacts and reviews (they need {NEEDS}): {error.summary}"
        if self._routes.without == "close":
            self._log.warning("refused", f"closed without them: {why}", reason=error.summary)
        else:
            self._log.error("refused", f"failed: {why}", reason=error.summary)
        return error

    def _give_up(self, error: Exception, shown: WorkerError, streak: Streak, failures: Failures) -> WorkerError:
        """Fail the job after too many attempts. Its other parts are still delivered, unless they fail as well."""
        outcome = self._request.outcome
        self._progress.span.set({tracing.DELIVERY_OUTCOME: "refused"})
        parts, left = self._progress.failed(error), self._progress.parts_left
        earlier = any(each.refused for each in outcome.uploads) or any(each.refused for each in outcome.reviews)
        names = (name_of(outcome, part) for part in parts[:3])
        new = outcome.failing(
            outcome.text_after(given_up(", ".join(names) or "what it made", error, streak)),
            reason=f"not delivered: {shown.summary}",
        ).without(left if earlier else parts)
        if not parts:
            new = Outcome.failed(new.text, reason=new.reason)
        note = ", ".join(parts or left)
        self._ledger.replace_outcome(self._request.key, new, note=note, failures=failures.to_json())
        why = f"{note} could not be delivered in {counted(streak.times, 'try')}: {shown.summary}"
        self._log.error("refused", f"failed: {why}", reason=shown.summary)
        return shown

    def _close_short(self, why: str, shown: WorkerError) -> bool:
        """Close the job as failed, without the output that the server rejects. Returns whether that succeeded."""
        earlier = self._request.outcome.reason
        outcome = Outcome.failed(why, reason=earlier or f"its output is not accepted: {shown.summary}")
        try:
            self._api.close(self._request.job_id, outcome.text, outcome.status)
        except Exception:
            return False
        key = self._request.key
        if self._ledger.replace_outcome(key, outcome, note=OUTPUT) and self._ledger.close(
            key.job_id, key.task_id, "delivered"
        ):
            reason = shown.summary
            self._log.error("refused", f"failed, its output cannot be delivered: {reason}", reason=reason)
        return True

    def put_off(
        self,
        error: WorkerError,
        why: str,
        kind: Kind,
        failures: Failures,
        *,
        streak: Streak | None = None,
        slowly: bool = False,
    ) -> WorkerError:
        """Postpone the delivery. Returns ``error``.

        Args:
            error: the error.
            why: the reason for log and ledger.
            kind: the kind of failure.
            failures: the failures so far.
            streak: the streak of failures that this one belongs to.
            slowly: whether another delivery is likely to fail in the same way.
        """
        pause = backoff(self._request.number, first=0.5, most=15.0)
        if streak is not None and kind == "ours":
            pause = backoff(streak.times, first=2.0, most=30.0)
        if streak is not None and slowly:
            pause = backoff(streak.times, first=1.0, most=600.0)
        if error.unauthorized:
            pause = max(pause, 5.0)
        longer = error.longer_than(pause)
        if longer:
            pause = pause_after(error, pause, most=MOST_RETRY_AFTER)
        why = printable(why, 500)
        failures, times = failures.because(why)
        self._ledger.undelivered(
            self._request.key,
            why,
            wait_seconds=pause,
            error=error.label,
            failures=failures.to_json(),
            route=error.route if kind == "answer" else "",
        )
        # A repeated reason is a warning at the 1st, 2nd, 4th, 8th, … time.
        write = self._log.debug if times & (times - 1) else self._log.warning
        often = f" ({counted(times, 'time')})" if times > 1 else ""
        wish = f"; {longer}" if longer else ""
        write(
            "put_off",
            f"not delivered yet, next try in {duration(pause)}: {why}{often}{wish}",
            reason=why,
            seconds=pause,
            number=self._request.number,
        )
        return error


def superseded(delivery_request: DeliveryRequest, status: str | None) -> str:
    """Whether an earlier delivery closed the job and its response was lost, or something else closed it.

    Returns ``delivered`` or ``superseded``.
    """
    if delivery_request.number > 1 and (status is None or is_same_end(status, delivery_request.outcome.status)):
        return "delivered"
    return "superseded"
