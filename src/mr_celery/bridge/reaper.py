"""The reaper: finds what is stuck, and sends it again or ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from ..errors import LedgerUnavailable
from ..ledger import Unstarted
from ..log import tell_lost, tell_not_started
from ..outcome import Outcome
from ..texts import RESEND_BUDGET, lost_texts, never_started
from .office import Office
from .sender import NotPublished
from .watch import REST

QUEUED_PATIENCE = 120.0
"""By how many seconds messages may have been sent later that are started before one of their queue, before that counts
as lost and is sent again."""

QUEUED_SILENCE = 600.0
"""Seconds after which a message is sent again though others are in its queue, where none of the queue was started."""

PAGE = 200
"""How many jobs are taken at a time."""

MOST_PAGES = 10
"""After how many pages of messages that nobody started a look is over: leases are looked after here, too."""

PUBLISH_HOLD = 10.0
"""Seconds that one bridge has for publishing, before another one may try. Publishing twice is safe, only useless."""


class Reaper:
    """Looks after runs whose lease has run out, messages that nobody started, and jobs not published."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def run_once(self) -> float:
        """Look once. Returns seconds until the next look; the watch and the bell wake it before.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        ledger, lease = self._office.ledger, self._office.settings.lease
        self._each(ledger.lost(lease=lease), self._lose)
        all_seen = self._look_for_unstarted()
        unsent = ledger.take("claimed", PAGE, hold_seconds=PUBLISH_HOLD)
        random.shuffle(unsent)  # so that one that can't be published does not always stand before the same others
        self._each(unsent, self._publish)
        return REST if all_seen and len(unsent) < PAGE else 0.0

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

    def _look_for_unstarted(self) -> bool:
        """Look at the messages that no worker has told of. Returns whether those were all."""
        # However many wait in a queue, the broker is asked once.
        waiting_in = cache(self._office.sender.waiting)
        return any(self._look_for_page(waiting_in) < PAGE for _ in range(MOST_PAGES))

    def _look_for_page(self, waiting_in: Callable[[str], int | None]) -> int:
        """Look at a page of them. Returns how many they were."""
        ledger, lease = self._office.ledger, self._office.settings.lease
        found = ledger.unstarted(PAGE, hold_seconds=lease, patience=QUEUED_PATIENCE, silence=QUEUED_SILENCE)
        messages = {each.job_id: each for each in found}
        self._each(list(messages), lambda job_id: self._look_for(messages[job_id], waiting_in))
        return len(found)

    def _look_for(self, message: Unstarted, waiting_in: Callable[[str], int | None]) -> None:
        """No worker has told for a while that it has this message: is it still in the broker?"""
        office, job_id = self._office, message.job_id
        waiting = waiting_in(message.queue)
        if message.held:
            why = "the worker that had its message fell silent before it started the task"
        elif waiting == 0 or message.overtaken:
            why = message.why or f"its message is not in queue {message.queue} any more, and no worker has it"
        else:
            return  # it waits its turn
        result = office.ledger.resend(
            job_id,
            message.task_id,
            why=why,
            # It is not the job's fault that its worker died, nor that it waits for long behind other messages.
            budget=RESEND_BUDGET if waiting == 0 and not message.held else None,
            wait_seconds=0.0,
            exhausted=Outcome.failed(never_started(why)),
        )
        log = office.log(job_id, message.task_id, message.task)
        tell_not_started(log, result, why, seconds=message.seconds)

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
