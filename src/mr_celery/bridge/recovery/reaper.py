"""The reaper: finds stuck jobs, and sends them again or closes them as failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from ...errors import LedgerUnavailable
from ...failure_texts import RESEND_BUDGET, log_lost, log_not_started, lost_texts, never_started
from ...ledger import MemberKey, OverdueMember, Record, Unstarted
from ...ledger.scripts import PAGE
from ...outcome import Outcome
from ...telemetry.quantities import duration
from ..context import BridgeContext
from ..limits import (
    LONGEST_PAUSE,
    MEMBER_OVERTAKEN_SECONDS,
    OVERTAKEN_SECONDS,
    PUBLISH_TIMEOUT,
    SILENT_QUEUE_SECONDS,
)
from ..publisher import MessageRefused, NotPublished


class Reaper:
    """Handles expired leases and deadlines, messages that no worker started, and claimed jobs without a message."""

    def __init__(self, context: BridgeContext) -> None:
        self._context = context

    def run_once(self) -> float:
        """Handle the due jobs. Returns the seconds until the next run, unless the loop is woken earlier.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        ledger, lease = self._context.ledger, self._context.settings.lease
        self._each(ledger.lost(lease=lease), self._lose)
        all_seen = self._resend_unstarted()
        # During the lease, no other bridge publishes the same jobs. Publishing twice is safe, but useless.
        unsent = ledger.take("claimed", PAGE, lease=2 * PUBLISH_TIMEOUT)
        random.shuffle(unsent)  # a job that cannot be published must not always delay the same others
        self._each(unsent, self._publish)
        return LONGEST_PAUSE if all_seen and len(unsent) < PAGE else 0.0

    def _each(self, job_ids: list[int], step: Callable[[int], None]) -> None:
        """Call ``step`` for each job. An error of one job does not stop the others, unless the broker is down."""
        for job_id in job_ids:
            try:
                step(job_id)
            except NotPublished:
                return  # each attempt takes seconds while the broker is unreachable, and expired leases must not wait
            except LedgerUnavailable:
                raise
            except Exception as error:
                self._context.log(job_id).error("not_looked_after", "recovery failed, will be retried", error=error)

    def _lose(self, job_id: int) -> None:
        """Running or deferred → claimed or finished, for a job whose lease or deadline has passed."""
        ledger = self._context.ledger
        record = ledger.read(job_id)
        if record is None:
            return
        if record.workflow and self._check_workflow(record):
            return
        lease = duration(self._context.settings.lease)
        why = f"no sign of life from {record.node} for {lease}, attempt {record.attempt}"
        if not record.node:  # adopted as running, in case a worker still runs it
            why = f"the ledger had lost its record, and no worker renewed its lease for {lease}"
        if record.state == "deferred":
            why = deferred_too_long(record)
        must_not, too_often = lost_texts(why)
        result = ledger.lose(
            job_id,
            record.task_id,
            retries=None,
            why=why,
            must_not=Outcome.failed(must_not),
            too_often=Outcome.failed(too_often),
        )
        log_lost(self._context.log(job_id, record.task_id, record.route.task_name), result, why)

    def _check_workflow(self, record: Record) -> bool:
        """Check the members that hold a job. Returns ``False`` if none do, because its run still hands it over."""
        ledger, lease = self._context.ledger, self._context.settings.lease
        overdue = ledger.overdue_member(record.id, lease=lease)
        if overdue.verdict == "none":
            return False
        if overdue.verdict == "idle":
            self._lose_member(record, None, f"its workflow stopped: no member of it is left, attempt {overdue.attempt}")
        for member in overdue.members:
            if overdue.verdict == "lost":
                had = "ran" if member.state == "running" else "had"
                why = f"no sign of life for {duration(lease)} from {member.node}, which {had} {member}"
                self._lose_member(record, member, f"{why}, attempt {overdue.attempt}")
            elif why := self._lost_message(member):
                self._lose_member(record, member, f"{why}, attempt {overdue.attempt}")
                break
        return True

    def _lost_message(self, member: OverdueMember) -> str:
        """Why the message of a member counts as lost; empty if it may still be in its queue.

        Unlike a job's message it cannot be sent again, and losing it costs an attempt.
        """
        waiting = self._context.publisher.waiting(member.queue) if member.queue else None
        if waiting == 0:
            return f"the message of {member} is no longer in queue {member.queue}, and no worker has it"
        if member.overtaken > MEMBER_OVERTAKEN_SECONDS or (
            waiting is None and min(member.silence, member.seconds) > SILENT_QUEUE_SECONDS
        ):
            return f"no worker started {member}, though later messages of queue {member.queue} have started"
        return ""

    def _lose_member(self, record: Record, member: OverdueMember | None, why: str) -> None:
        """Running → claimed or finished, for a workflow that has lost a member; ``None``: all of them."""
        context = self._context
        must_not, too_often = lost_texts(why)
        nodes = context.ledger.nodes(record)
        result = context.ledger.lose_member(
            MemberKey(record.id, record.task_id, member.member_id if member else ""),
            member.state if member else "",
            due=member is not None and member.state != "sent",
            why=why,
            must_not=Outcome.failed(must_not),
            too_often=Outcome.failed(too_often),
        )
        log = context.log(record.id, record.task_id, record.route.task_name)
        log_lost(log, result, why)
        if result != "kept":
            # Its other members notice by themselves, but not at once.
            for node in nodes:
                try:
                    context.publisher.announce_abort(record.task_id, node)
                except Exception as error:
                    log.debug("abort_not_announced", "not announced", reason=type(error).__name__)
                    break

    def _resend_unstarted(self) -> bool:
        """Check the messages that no worker has reported. Returns whether all of them were checked."""
        # The broker is asked only once for each queue.
        waiting_in = cache(self._context.publisher.waiting)
        # At most ten pages in one run, so that expired leases do not wait for long.
        return any(self._resend_page(waiting_in) < PAGE for _ in range(10))

    def _resend_page(self, waiting_in: Callable[[str], int | None]) -> int:
        """Check one page of messages. Returns its length."""
        ledger, lease = self._context.ledger, self._context.settings.lease
        found = ledger.unstarted(
            PAGE, lease=lease, overtaken_seconds=OVERTAKEN_SECONDS, silent_seconds=SILENT_QUEUE_SECONDS
        )
        messages = {each.job_id: each for each in found}
        self._each(list(messages), lambda job_id: self._resend(messages[job_id], waiting_in))
        return len(found)

    def _resend(self, message: Unstarted, waiting_in: Callable[[str], int | None]) -> None:
        """Send a job again, unless its message is still in the broker."""
        context, job_id = self._context, message.job_id
        waiting = waiting_in(message.queue)
        if message.received:
            why = "the worker that had its message stopped reporting before it started the task"
        elif waiting == 0 or message.overtaken:
            why = message.why or f"its message is no longer in queue {message.queue}, and no worker has it"
        else:
            return  # still queued
        result = context.ledger.resend(
            job_id,
            message.task_id,
            why=why,
            # Unlimited if the worker died or the queue is long: neither is caused by the job.
            budget=RESEND_BUDGET if waiting == 0 and not message.received else None,
            wait_seconds=0.0,
            exhausted=Outcome.failed(never_started(why)),
        )
        log = context.log(job_id, message.task_id, message.task_name)
        log_not_started(log, result, why, seconds=message.seconds)

    def _publish(self, job_id: int) -> None:
        """Claimed → sent, for a new attempt, a resend, or a job whose bridge died before it published."""
        context = self._context
        record = context.ledger.read(job_id)
        if record is None or record.state != "claimed" or record.job is None:
            return
        with suppress(MessageRefused):  # retried later; the other jobs can still be published
            context.sender.publish(
                job_id,
                record.route,
                record.task_id,
                priority=record.job.priority,
                retries=record.retries,
                trace=record.trace,
                again=record.attempt > 1 or record.resends > 0,
                job=record.job,
            )


def deferred_too_long(record: Record) -> str:
    """Why a deferred job is lost: its outcome has not come in time."""
    waited = max(0.0, (record.deadline or 0.0) - record.times.get("deferred", 0.0))
    return f"no outcome came within {duration(waited)} after its handler had deferred it, attempt {record.attempt}"
