"""Runs the members of workflows: the tasks to which a handler has handed its job over.

The fence lets a member start once. What it publishes is recorded before it is published. Its end is recorded after
Celery has published what follows it. The final member's value is the job's result.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import isawaitable
from typing import Any

from celery import states
from celery.canvas import Signature
from celery.exceptions import Ignore, Reject, Retry
from kombu import serialization
from kombu.exceptions import OperationalError

from ..backoff import retry_until
from ..clients import Clients
from ..delivery import PackedOutcome, pack, pack_attachments, pack_failure
from ..errors import LedgerUnavailable
from ..failure_texts import log_lost, lost_texts
from ..handlers import Declaration, handlers_of
from ..ledger import Ledger, NewMember, StartedMember
from ..message import MemberMessage, Message, member_of, member_of_request, stamp_of
from ..outcome import Outcome
from ..result import Artifact, Deferred, Result, Review
from ..telemetry import tracing
from ..telemetry.quantities import duration
from ..telemetry.tracebacks import call_application
from .canvas import UNLOCK, final_signature, stamp_headers, stamped_copy
from .current import Run, running
from .deferral import Deferral
from .ending import Ending, HandlerEnding
from .event_loop import EventLoop
from .function_retries import FUNCTION_RETRIES
from .handler_errors import for_celery, raised_by_a_signal, readable, reason_of, traceback_of
from .publishing import NOT_THE_BROKER
from .retries import seconds_until
from .runner import FINISH_RETRY_SECONDS, START_RETRY_SECONDS, log_not_run, new_run

logger = logging.getLogger("mr_celery.runner")


@dataclass
class MemberRun:
    """One execution of a member.

    Args:
        message: its message.
        job_message: the message of the run that handed the job over.
        started: the ledger's answer to its start.
        nonce: distinguishes the execution from others of the same member.
        run: the run, as handlers have it.
        declaration: the declaration of the job's handler.
        secret_values: the job's secrets, which are masked in its output.
        replaced: whether the member has replaced itself by another signature.
        over: whether nothing of its end is left to record. Otherwise, the end is recorded once Celery has published
            what follows.
    """

    message: MemberMessage
    job_message: Message
    started: StartedMember
    nonce: str
    run: Run
    declaration: Declaration
    secret_values: Collection[str] = field(default=(), repr=False)
    replaced: bool = False
    over: bool = False


class Members:
    """The members of workflows that run in this process.

    Args:
        clients: this application's connections.
        app: the application.
        node: this Celery worker's node name.
        holder: identifies this worker as the holder of leases.
        event_loop: runs ``async def`` members.
        hard_limit: returns the hard time limit in seconds of tasks that set none.
    """

    def __init__(
        self,
        clients: Clients,
        app: Any,
        node: str,
        holder: str,
        *,
        event_loop: EventLoop,
        hard_limit: Callable[[], float | None],
    ) -> None:
        self._clients = clients
        self._app = app
        self._node = node
        self._holder = holder
        self._event_loop = event_loop
        self._hard_limit = hard_limit
        self._running: dict[str, MemberRun] = {}

    def has(self, task_id: str) -> bool:
        """Whether a member runs here."""
        return task_id in self._running

    # -- the run -------------------------------------------------------------------------------------

    def run(self, message: MemberMessage, task: Any, original: Callable[[], Any]) -> Any:
        """Run a member.

        Args:
            message: its message.
            task: its task.
            original: calls the task's own code.

        Returns:
            The task's own value. The final member's is the job's status if Celery cannot store the value.

        Raises:
            Ignore: the member must not run: a copy, an aborted job, a lost attempt.
            BaseException: the task's own code raised it.
        """
        member = self._start(message)
        self._running[message.key.member_id] = member
        began = time.monotonic()
        with (
            tracing.following(member.started.trace),
            tracing.run(message.worker_name, message.key.job_id, member.started.attempt, message.key.member_id) as span,
            running(member.run),
        ):
            try:
                value = call_application(original)
                if isawaitable(value):
                    value = member.run.wait_for(value)
                if not member.started.final:
                    self._attach(member)
                    return value
                if isinstance(value, Signature):
                    return task.replace(value)
                if isinstance(value, Deferred):
                    return self._deferred(member, value)
                packed = self._packed(member, value)
            except BaseException as error:
                if raised_by_a_signal(error):
                    raise
                self._failed(member, readable(error))
                if not isinstance(error, (Ignore, Reject, Retry)):
                    span.fail(error)
                if (shown := for_celery(error)) is not error:
                    raise shown from error
                raise
            span.set({tracing.RUN_STATUS: packed.outcome.status})
        self._finish(member, packed, note="")
        message.log(logger).info(
            "finished",
            f"{packed.outcome.status} after {duration(time.monotonic() - began)}, left to the bridge for delivery",
        )
        return self._plain(value, packed)

    def _start(self, message: MemberMessage) -> MemberRun:
        """Start a member under the fence.

        Raises:
            Ignore: it must not run.
        """
        clients, key, nonce = self._clients, message.key, secrets.token_hex(4)
        ledger = clients.ledger(message.worker_name)
        step = partial(
            ledger.start_member,
            key,
            message.task_name,
            node=self._node,
            holder=self._holder,
            lease=clients.settings.lease,
            nonce=nonce,
        )
        try:
            started = retry_until(step, errors=LedgerUnavailable, seconds=START_RETRY_SECONDS)
        except LedgerUnavailable as error:
            message.log(logger).error("not_started", f"{message} not started: {error}", reason=str(error))
            raise Ignore(f"job {key.job_id} could not be started: the ledger is unreachable") from error
        if started.job is None:
            log_not_run(clients, message.log(logger), started.refusal, str(message))
            raise Ignore(f"job {key.job_id} is {started.refusal}")
        job_message = replace(message.job_message, task_id=key.task_id, retries=started.job_retries)
        declaration = self._declaration(started)
        secret_values = started.job.hide_secrets(declaration.requires_secrets)
        run = new_run(
            clients,
            ledger,
            job_message,
            declaration,
            started.job,
            started.attempt,
            task_id=key.member_id,
            nonce=nonce,
            wait_for=lambda job, awaitable: self._event_loop.run(
                awaitable, task_id=key.member_id, lost=lambda: job.aborted, soft_limit=message.soft_limit
            ),
        )
        message.log(logger).debug("started", f"{message} started")
        return MemberRun(message, job_message, started, nonce, run, declaration, secret_values)

    # -- its end -------------------------------------------------------------------------------------

    def _ledger(self, member: MemberRun) -> Ledger:
        return self._clients.ledger(member.message.worker_name)

    def _declaration(self, started: StartedMember) -> Declaration:
        """The declaration of the job's handler. A worker that does not know the handler uses the defaults."""
        found = {handler.name: handler.declaration for handler in handlers_of(self._app)}
        return found.get(started.handler) or Declaration()

    def _ending(self, member: MemberRun) -> HandlerEnding:
        return HandlerEnding(
            self._clients,
            self._ledger(member),
            member.job_message,
            member.nonce,
            member.declaration,
            member.run,
            hard_limit=self._hard_limit,
            function_retries=FUNCTION_RETRIES,
        )

    def _packed(self, member: MemberRun, value: Any) -> PackedOutcome:
        """Pack the final member's value as a handler's."""
        declaration, run = member.declaration, member.run
        result, review = (
            FUNCTION_RETRIES.retrying(name, function, member.message.job_message, run.job)
            for name, function in (("result=", declaration.result), ("review=", declaration.review))
        )
        packed = pack(value, run.job, run.attachments, result=result, review=review)
        return self._stored(member, packed)

    def _deferred(self, member: MemberRun, deferred: Deferred) -> str:
        """Record that the job waits for its outcome, because the final member has deferred it."""
        ending = Ending.deferring(member.run, deferred)
        deferral = Deferral(self._ledger(member), member.job_message, member.started.job_nonce)
        recorded = deferral.recorded(ending, deferred)
        member.over = True
        if recorded.deferred is None:
            self._finish(member, recorded.packed, note=str(member.message))
            return recorded.packed.outcome.status
        return "deferred"

    def _attach(self, member: MemberRun) -> None:
        """Keep the uploads and reviews that the server does not have yet for the one that finishes the job."""
        attachments = member.run.attachments
        if attachments.uploads or attachments.reviews:
            packed, blobs = self._stored(member, pack_attachments(attachments), earlier=False).with_blobs()
            key = member.job_message.key
            step = partial(self._ledger(member).attach, key, packed.outcome, blobs)
            retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS)

    def _stored(self, member: MemberRun, packed: PackedOutcome, *, earlier: bool = True) -> PackedOutcome:
        """Complete an outcome: with the attachments of other members, without secrets, large artifacts stored."""
        if earlier:
            step = partial(self._ledger(member).attached, member.message.key.job_id)
            packed = packed.after(retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS))
        packed = packed.masked(member.secret_values).within(self._clients.settings.result_limit)
        if packed.large:
            ending = self._ending(member).staged(Ending(packed))
            if not isinstance(ending, Ending):
                raise ending.error
            packed = ending.packed
        return packed

    def _failed(self, member: MemberRun, error: BaseException) -> None:
        """Record the end of a member that raised."""
        message = member.message
        if isinstance(error, Reject) and error.requeue:  # type: ignore[attr-defined]
            self._end(member, "sent")
            return
        reason = getattr(error, "reason", None) if isinstance(error, Reject) else None
        if isinstance(reason, Exception) and not isinstance(reason, NOT_THE_BROKER):
            self._lose(member, f"the broker did not accept the retry of {message}: {type(reason).__name__}")
            return
        if isinstance(error, OperationalError) and member.replaced:
            self._lose(member, f"the broker did not accept the replacement of {message}: {type(error).__name__}")
            return
        if isinstance(error, Ignore) and member.replaced:
            self._attach(member)
            self._end(member, "replaced")
            return
        if isinstance(error, Retry):
            self._attach(member)
            # If it did publish a retry, the ledger has recorded that message and refuses this failure. The failure
            # counts only if there is no retry.
            why = f"{message} raised celery.exceptions.Retry itself: use self.retry(), or nothing runs it again"
            packed = pack_failure(why, reason=f"{message}: Retry")
        elif isinstance(error, Reject):
            packed = pack_failure(f"{message} rejected its task", reason=f"{message}: Reject")
        else:
            ending = self._ending(member).by(error)
            if not isinstance(ending, Ending):
                member.over = True  # it was aborted, or its process ends
                return
            packed = self._named(message, ending.packed)
        try:
            packed = self._stored(member, packed)
        except Exception as failure:
            packed = pack_failure(traceback_of(failure), reason=reason_of(failure))
        if self._finish(member, packed, note=str(message)) == "finished":
            status, reason = packed.outcome.status, packed.outcome.reason
            why = f"{status}: {reason}" if reason else status
            where = self._clients.output_of(message.worker_name, message.key.job_id)
            message.log(logger).warning("finished", f"{why}; output: {where}", reason=reason, status=status)

    @staticmethod
    def _named(message: MemberMessage, packed: PackedOutcome) -> PackedOutcome:
        """A failure that names the member."""
        outcome = packed.outcome
        if outcome.status != "failed":
            return packed
        text, reason = f"{message} failed:\n\n{outcome.text}", f"{message}: {outcome.reason}"
        return replace(packed, outcome=replace(outcome, text=text, reason=reason))

    def _finish(self, member: MemberRun, packed: PackedOutcome, *, note: str) -> str:
        """Record the job's outcome. Returns the ledger's answer."""
        member.over = True
        ledger, message = self._ledger(member), member.message
        filled, blobs = packed.with_blobs()
        step = partial(ledger.finish_member, message.key, filled.outcome, nonce=member.nonce, note=note, blobs=blobs)
        try:
            answer = retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS)
        except LedgerUnavailable as error:
            why = f"its outcome could not be recorded, it will be run again: {error}"
            message.log(logger).error("not_recorded", why, reason=str(error))
            return "lost"
        if answer not in ("finished", "kept") and not (note and answer == "superseded"):
            message.log(logger).info("dropped", f"outcome of {message} dropped: the job is {answer}", reason=answer)
        return answer

    def _end(self, member: MemberRun, state: str) -> None:
        """Record that a member has ended, and that the job goes on."""
        member.over = True
        message = member.message
        step = partial(
            self._ledger(member).end_member,
            message.key,
            state,
            nonce=member.nonce,
            wait_seconds=self._clients.settings.lease,
        )
        try:
            retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS)
        except LedgerUnavailable as error:
            message.log(logger).error("not_recorded", f"the end of {message} could not be recorded: {error}")

    def _lose(self, member: MemberRun, why: str) -> None:
        """Record that the workflow cannot continue, although no member failed."""
        member.over = True
        message = member.message
        must_not, too_often = lost_texts(why)
        step = partial(
            self._ledger(member).lose_member,
            message.key,
            "running",
            retries=message.key.retries,
            holder=self._holder,
            why=why,
            must_not=Outcome.failed(must_not),
            too_often=Outcome.failed(too_often),
        )
        try:
            log_lost(
                message.log(logger), retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS), why
            )
        except LedgerUnavailable as error:
            message.log(logger).error("not_recorded", f"the end of {message} could not be recorded: {error}")

    def _plain(self, value: Any, packed: PackedOutcome) -> Any:
        """The final member's value if Celery can store it, otherwise the job's status."""
        if not isinstance(value, (Result, Artifact, Review)):
            try:
                for name in {self._app.conf.result_serializer, self._app.conf.task_serializer}:
                    serialization.dumps(value, name)
                return value
            except Exception as error:
                logger.debug("a final member's value cannot be serialized for Celery: %s", type(error).__name__)
        return packed.outcome.status

    # -- what Celery reports -------------------------------------------------------------------------

    def ended(self, task_id: str, retries: int, state: str | None) -> None:
        """Record the end of a member, once Celery has published what follows it.

        Args:
            task_id: the member's task id.
            retries: its number of Celery retries. In a pool of threads, its next retry may have begun here meanwhile.
            state: the state that Celery gives it.
        """
        member = self._running.get(task_id)
        if member is None or member.message.key.retries != retries:
            return
        del self._running[task_id]
        if not member.over and state == states.SUCCESS:
            self._end(member, "done")

    def failed_later(self, task_id: str, error: BaseException) -> bool:
        """Record that Celery could not go on after a member's code had returned.

        Returns whether the member runs here.
        """
        member = self._running.get(task_id)
        if member is None:
            return False
        if not member.over:
            if isinstance(error, OperationalError):
                why = f"the broker did not accept the next message of the workflow, after {member.message}"
                self._lose(member, f"{why}: {type(error).__name__}")
            else:
                packed = pack_failure(f"{member.message} failed:\n\n{traceback_of(error)}")
                reason = f"{member.message}: {reason_of(error)}"
                packed = replace(packed, outcome=replace(packed.outcome, reason=reason))
                self._finish(member, self._stored(member, packed), note=str(member.message))
        return True

    def publishing(self, sender: Any, name: str, headers: dict[str, Any], queue: str) -> None:
        """Record a message of a workflow before it is published.

        Args:
            sender: the task that publishes it.
            name: the message's task.
            headers: the message's headers. The task that joins a chord is stamped here.
            queue: the queue that it goes to.
        """
        publisher = self._running.get(sender.request.id)
        if publisher is None:
            return  # a handler's first messages are recorded when it hands its job over
        stamp = stamp_of(publisher.message.worker_name, publisher.message.key.task_id)
        if name == UNLOCK:
            stamp_headers(headers, stamp)
        sent = member_of(headers, headers.get("id"), headers.get("retries"))
        if sent is None or stamp_of(sent.worker_name, sent.key.task_id) != stamp:
            return
        step = partial(
            self._ledger(publisher).member_sent,
            sent.key,
            NewMember(sent.key.member_id, name, queue, seconds_until(headers.get("eta"))),
            sender=publisher.nonce,
            wait_seconds=self._clients.settings.lease,
        )
        try:
            retry_until(step, errors=LedgerUnavailable, seconds=FINISH_RETRY_SECONDS)  # without it, none could start
        except LedgerUnavailable as error:
            publisher.message.log(logger).error("not_recorded", f"{sent} could not be recorded: {error}")

    # -- replacements --------------------------------------------------------------------------------

    def replacement(self, task: Any, signature: Any) -> Any:
        """The signature with which a member replaces itself: its tasks are members, too."""
        member = self._running[task.request.id]
        made = final_signature(signature, self._app, stamp=self._stamp(member))
        member.replaced = True
        return made

    def addition(self, task: Any, signature: Any) -> Any:
        """The signature that a member adds to its chord."""
        return stamped_copy(signature, self._app, self._stamp(self._running[task.request.id]))

    @staticmethod
    def _stamp(member: MemberRun) -> str:
        return stamp_of(member.message.worker_name, member.message.key.task_id)


def running_member(members: Members | None, task: Any) -> bool:
    """Whether a task runs as a member in this context."""
    return members is not None and member_of_request(task.request) is not None and members.has(str(task.request.id))
