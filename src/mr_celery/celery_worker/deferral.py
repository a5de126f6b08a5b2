"""The end of a run whose handler defers the job's outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..backoff import retry_until
from ..delivery import PackedOutcome, pack_failure
from ..errors import LedgerUnavailable
from ..handlers import Declaration
from ..ledger import GivenReference, Ledger
from ..ledger.reference import reference
from ..message import Message
from ..result import Deferred
from ..telemetry.printing import printable
from ..telemetry.quantities import duration
from .current import ReferenceRefused, Run
from .ending import Ending
from .handler_errors import raised_by_a_signal

T = TypeVar("T")

logger = logging.getLogger("mr_celery.runner")

DEFER_SECONDS = 3600.0
"""Seconds for which a deferral is kept in memory while the ledger is unreachable."""

REFERENCE_SECONDS = 30.0
"""Seconds for which a request for a reference is repeated while the ledger is unreachable."""

UNREFERENCED = (
    "the handler returned Deferred, and nobody has the job's reference: give job.ref to whoever completes the job"
)


class Deferral:
    """Records that a job waits for its outcome.

    Args:
        ledger: the ledger of the job's worker name.
        message: the job's message.
        nonce: distinguishes the run from others of the same attempt.
    """

    def __init__(self, ledger: Ledger, message: Message, nonce: str) -> None:
        self._ledger = ledger
        self._message = message
        self._nonce = nonce
        self._log = message.log(logger)

    def recorded(self, ending: Ending, deferred: Deferred) -> Ending:
        """Record the deferral. Returns the ending, or a failure to record instead."""
        packed, blobs = ending.packed.with_blobs()
        if packed.outcome.status == "failed":
            return Ending(packed)
        attached = packed.outcome if packed.outcome.uploads or packed.outcome.reviews else None
        step = partial(
            self._ledger.defer,
            self._message.key,
            nonce=self._nonce,
            seconds=deferred.timeout,
            note=deferred.note,
            given=ending.given,
            attachments=attached,
            blobs=blobs,
        )
        try:
            answer = self._kept(step)
        except LedgerUnavailable as error:
            why = f"it could not be deferred, it will be run again: {error}"
            self._log.error("not_recorded", why, reason=str(error))
            return ending
        if answer == "unreferenced":
            return Ending(pack_failure(UNREFERENCED, reason=UNREFERENCED))
        if answer == "deferred":
            note = f": {printable(deferred.note, 200)}" if deferred.note else ""
            text = f"deferred, its outcome is expected within {duration(deferred.timeout)}{note}"
            self._log.info("deferred", text, seconds=deferred.timeout)
        elif answer == "completed":
            self._log.info("completed", "completed through its reference before its handler returned")
            self._add_attachments(packed, blobs)
        else:
            self._log.warning("dropped", f"not deferred: the job is {answer}", reason=answer)
        return ending

    def _kept(self, step: Callable[[], T]) -> T:
        """Run a step. It is repeated while the ledger is unreachable, and once after an interruption (a time limit).

        Raises:
            LedgerUnavailable: the ledger is unreachable for too long.
        """
        try:
            return retry_until(step, errors=LedgerUnavailable, seconds=DEFER_SECONDS)
        except LedgerUnavailable:
            raise
        except BaseException as error:
            if raised_by_a_signal(error):
                raise
            self._log.error("not_recorded", "its deferral could not be recorded at once", error=error)
            return retry_until(step, errors=LedgerUnavailable, seconds=DEFER_SECONDS)

    def _add_attachments(self, packed: PackedOutcome, blobs: list[bytes]) -> None:
        """Add the handler's attachments to an outcome that came before it returned."""
        ledger, message, own = self._ledger, self._message, packed.outcome
        if not own.uploads and not own.reviews:
            with suppress(LedgerUnavailable):  # a courier delivers in a moment in any case
                ledger.amend(message.key, nonce=self._nonce)
            return

        def add() -> bool:
            record = ledger.read(message.job_id)
            if record is None or record.outcome is None:  # perhaps because it was added and delivered
                return ledger.amend(message.key, nonce=self._nonce)
            first = len(record.outcome.uploads)
            added = PackedOutcome(record.outcome).followed_by(packed).outcome
            outcome = replace(record.outcome, uploads=added.uploads, reviews=added.reviews)
            return ledger.amend(message.key, nonce=self._nonce, outcome=outcome, first=first, blobs=blobs)

        with suppress(LedgerUnavailable):
            if self._kept(add):
                return
        what = f"{len(own.uploads)} artifacts and {len(own.reviews)} reviews"
        self._log.error(
            "not_attached",
            f"{what} from its handler are lost: the outcome was delivered before the handler returned",
            reason=what,
        )


def reference_of(run: Run, ledger: Ledger, message: Message, declaration: Declaration) -> str:
    """The reference of a run's job, for :attr:`~mr_celery.Job.ref`. The ledger is asked for it once.

    Args:
        run: the run, which keeps it.
        ledger: the ledger of the job's worker name.
        message: the job's message.
        declaration: the declaration of the handler.

    Raises:
        ReferenceRefused: the run has lost the job, or the ledger has.
        LedgerUnavailable: the ledger is unreachable for too long.
    """
    if run.reference:
        return run.reference
    shaped = declaration.result is not None or declaration.review is not None
    key = retry_until(
        lambda: ledger.reference(message.key, shaped=shaped), errors=LedgerUnavailable, seconds=REFERENCE_SECONDS
    )
    if key is None:
        why = "was aborted, given to another worker, or lost from the ledger"
        raise ReferenceRefused(f"job {message.job_id} {why}: the handler must stop")
    run.given = GivenReference(key.secret, shaped)
    run.reference = reference(message.worker_name, key)
    return run.reference
