"""Celery retries of a job's handler: the attempt continues with another message."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from functools import partial

from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import maybe_iso8601, maybe_make_aware

from ..backoff import retry_until
from ..errors import JobAborted, LedgerUnavailable, as_text
from ..ledger import Ledger
from ..message import Message
from ..outcome import Outcome
from ..telemetry.quantities import duration
from .current import RequestedRetry
from .publishing import PUBLISH_SECONDS, CannotContinue, Continuation

logger = logging.getLogger("mr_celery.runner")


def announce_retry(ledger: Ledger, message: Message, nonce: str, retries: int) -> None:
    """Record that a run is about to publish its retry. Otherwise the retry could not start before the run has ended.

    Args:
        ledger: the ledger of the job's worker name.
        message: the message of the run.
        nonce: distinguishes the run from others of the same attempt.
        retries: the number of Celery retries of the message that follows.
    """
    step = partial(ledger.announce_retry, message.key, retries, nonce=nonce)
    try:
        retry_until(step, errors=LedgerUnavailable, seconds=PUBLISH_SECONDS)
    except LedgerUnavailable as error:
        # Once the run has ended, the bridge sends the message again.
        message.log(logger).warning("not_announced", f"its retry could not be announced: {error}", reason=str(error))


class Retries(Continuation):
    """Records the retries that a handler asks for, and publishes those that Celery could not publish."""

    def after(self, error: Retry) -> BaseException:
        """Record a retry that Celery has published. Returns the exception for Celery.

        Raises:
            CannotContinue: the handler raised ``Retry`` itself.
        """
        if not self._run.retries:
            raise CannotContinue(
                "the handler raised celery.exceptions.Retry itself: use self.retry(), or nothing runs it again",
                error,
            )
        self._start_again(self._retry(self._run.retries[-1]), seconds_until(error.when))
        return error

    def after_rejection(self, rejection: Reject) -> BaseException:
        """Record a ``Reject``. Celery raises it if it cannot publish a retry. Returns the exception for Celery.

        Raises:
            CannotContinue: the handler rejected its message, or the retry can never be published.
        """
        if rejection.requeue:  # type: ignore[attr-defined]
            self._start_again(partial(self._ledger.give_back, self._message.key, nonce=self._nonce), 0.0)
            return rejection
        reason = rejection.reason  # type: ignore[attr-defined]
        if not (isinstance(reason, Exception) and self._run.retries):
            raise CannotContinue(f"the handler rejected its task: {as_text(reason)}", rejection)
        retry = self._run.retries[-1]
        options = retry.signature.options
        seconds = seconds_until(options.get("eta") or options.get("countdown"))
        if not retry.own:
            self._start_again(self._retry(retry), seconds)
            self._leave_to_the_bridge(reason, seconds)
            return Retry(exc=reason, when=seconds)  # type: ignore[arg-type]
        try:
            self._publish_retry(retry, reason)
        except JobAborted as stopped:
            self._log.info("stopped", "stopped before it was retried: it was aborted")
            return Ignore(str(stopped))
        self._start_again(self._retry(retry), seconds)
        return Retry(exc=reason, when=seconds)  # type: ignore[arg-type]

    def _retry(self, retry: RequestedRetry) -> Callable[..., bool]:
        return partial(self._ledger.retry, self._message.key, nonce=self._nonce, own=retry.own)

    def _start_again(self, step: Callable[..., bool], seconds: float) -> None:
        """Let the attempt continue with another message in some seconds."""
        wait = seconds + self._clients.settings.lease
        retry_until(lambda: step(wait_seconds=wait), errors=LedgerUnavailable, seconds=PUBLISH_SECONDS)
        self._log.info("retried", f"starts again in {duration(seconds)}, as its handler requested", seconds=seconds)

    def _leave_to_the_bridge(self, reason: Exception, seconds: float) -> None:
        """Let the bridge publish a retry that the broker did not accept.

        If the broker has accepted it nevertheless, the fence lets one of the two messages through.
        """
        why = f"the broker did not accept the handler's retry: {type(reason).__name__}"
        retry_until(
            lambda: self._ledger.resend(
                self._message.job_id,
                self._message.task_id,
                why=why,
                budget=None,  # because it is the broker's fault
                wait_seconds=seconds,
                exhausted=Outcome.failed(why, reason=why),
            ),
            errors=LedgerUnavailable,
            seconds=PUBLISH_SECONDS,
        )
        self._log.warning("not_published", f"{why}; the bridge publishes it in {duration(seconds)}", reason=why)

    def _publish_retry(self, retry: RequestedRetry, reason: Exception) -> None:
        """Publish a retry with arguments of the handler's own, which the bridge does not have.

        Args:
            retry: the retry.
            reason: why Celery could not publish it.

        Raises:
            CannotContinue: it can never be published.
            JobAborted: the job was aborted meanwhile.
        """
        first = [reason]

        def step() -> None:
            if first:
                raise first.pop()
            retry.signature.apply_async()

        self._publish(step, what="the retry", refused_by="the broker")


def seconds_until(when: object) -> float:
    """Seconds until a countdown or an ETA. As in Celery, an ETA without a time zone is UTC."""
    if isinstance(when, (int, float)) and not isinstance(when, bool):
        return max(float(when), 0.0)
    if isinstance(when, str):
        try:
            when = maybe_iso8601(when)
        except ValueError:
            return 0.0
    if isinstance(when, dt.datetime):
        return max((maybe_make_aware(when) - dt.datetime.now(dt.timezone.utc)).total_seconds(), 0.0)
    return 0.0
