"""The reaper: finds what is stuck, and sends it again or ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from ..errors import LedgerUnavailable
from ..log import tell_lost, tell_not_started
from ..outcome import Outcome
from ..texts import RESEND_BUDGET, lost_texts, never_started
from .office import Office
from .sender import NotPublished

QUEUED_PATIENCE = 120.0
"""Seconds that a message may be out of sight behind others in its queue, before it is sent again in any case."""

PUBLISH_HOLD = 10.0
"""Seconds that one bridge has for publishing, before another one may try. Publishing twice is safe, only useless."""


class Reaper:
    """Looks after runs whose lease has run out, messages that nobody started, and jobs not published."""

    def __init__(self, office: Office) -> None:
        self._office = office

    @property
    def _interval(self) -> float:
        return min(1.0, self._office.settings.lease / 10)

    def run_once(self) -> float:
        """Look once. Returns seconds until the next look.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        ledger, lease = self._office.ledger, self._office.settings.lease
        self._each(ledger.lost(lease=lease), self._lose)
        # However many wait in a queue, the broker is asked once.
        waiting = cache(self._office.sender.waiting)
        self._each(ledger.take("sent", hold_seconds=lease), lambda job_id: self._look_for(job_id, waiting))
        unsent = ledger.take("claimed", hold_seconds=PUBLISH_HOLD)
        random.shuffle(unsent)  # so that one that can't be published does not always stand before the same others
        self._each(unsent, self._publish)
        return self._interval

    def _each(self, job_ids: list[int], step: Callable[[int], None]) -> None:
        """Do ``step`` for each job; what is wrong with one does not keep the others waiting."""
        for job_id in job_ids:
            try:
                step(job_id)
            except NotPublished:
                return  # each try at a broker that is away takes seconds, and leases are looked after here, too
            except LedgerUnavailable:
                raise
            except Exception as error:
                self._office.log(job_id).error("not_looked_after", "could not be looked after", error=error)

    def _lose(self, job_id: int) -> None:
        """A run gave no sign of life for a whole lease."""
        ledger = self._office.ledger
        record = ledger.read(job_id)
        if record is None:
            return
        why = f"no sign of life from {record.node} for {self._office.settings.lease:g} s, attempt {record.attempt}"
        must_not, too_often = lost_texts(why)
        result = ledger.lose(
            job_id,
            record.task_id,
            retries=None,
            why=why,
            must_not=Outcome.failed(must_not),
            too_often=Outcome.failed(too_often),
        )
        tell_lost(self._office.log(job_id, record.task_id, record.route.task), result, why)

    def _look_for(self, job_id: int, waiting_in: Callable[[str], int | None]) -> None:
        """No worker has told for a while that it has this message: is it still in the broker?"""
        office = self._office
        record = office.ledger.read(job_id)
        if record is None or record.state != "sent":
            return
        queue = record.route.queue
        waiting = waiting_in(queue)
        age = office.ledger.survey().now - record.times["sent"]
        if record.held:
            why = "the worker that had its message fell silent before it started the task"
        elif waiting != 0 and age < QUEUED_PATIENCE:
            return  # most likely it waits its turn
        else:
            why = record.why or f"its message is not in queue {queue} any more, and no worker has it"
        result = office.ledger.resend(
            job_id,
            record.task_id,
            why=why,
            # It is not the job's fault that its worker died, nor that it waits for long behind other messages.
            budget=RESEND_BUDGET if waiting == 0 and not record.held else None,
            wait_seconds=0.0,
            exhausted=Outcome.failed(never_started(why)),
        )
        tell_not_started(office.log(job_id, record.task_id, record.route.task), result, why, seconds=age)

    def _publish(self, job_id: int) -> None:
        """A claimed job is to be sent: a new attempt, a second sending, or its bridge died before the first."""
        office = self._office
        record = office.ledger.read(job_id)
        if record is None or record.state != "claimed" or record.job is None:
            return
        office.publish(
            job_id,
            record.route,
            record.task_id,
            priority=record.job.priority,
            retries=record.retries,
            trace=record.trace,
            again=record.attempt > 1 or record.resends > 0,
        )
