"""One run of a handler.

start under the fence → handler → outcome recorded → delivered from here, or by the courier.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import isawaitable
from itertools import count
from typing import Any

from celery.canvas import Signature
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from ..backoff import CircuitBreaker, retry_until
from ..clients import Clients
from ..delivery import DeliveryRequest, PackedOutcome, pack, pack_failure
from ..delivery.attachments import Attachments
from ..errors import LedgerUnavailable
from ..handlers import Arguments, Declaration, bind
from ..job import Job
from ..ledger import DeliveryKey, Ledger, Started
from ..message import Message
from ..outcome import Outcome
from ..result import Deferred
from ..telemetry import tracing
from ..telemetry.logs import JobLog
from ..telemetry.printing import printable
from ..telemetry.quantities import counted, duration
from .current import CURRENT, AbortCheck, Run
from .deferral import Deferral, reference_of
from .ending import Ending, HandlerEnding, NoOutcome
from .event_loop import EventLoop
from .function_retries import FUNCTION_RETRIES, FunctionRetries
from .handing_over import Replaced
from .handler_errors import for_celery, raised_by_a_signal, readable, reason_of, traceback_of
from .retries import announce_retry

logger = logging.getLogger("mr_celery.runner")

START_RETRY_SECONDS = 30.0
"""Seconds for which a start is retried while the ledger is unreachable. Then the reaper handles the message."""

GIVEN_BACK_TIMES = 1_000_000
"""Limit, practically none, for giving back an attempt whose start was not confirmed. The end of the outage ends it."""

FINISH_RETRY_SECONDS = 3600.0
"""Seconds for which an outcome is kept in memory while the ledger is unreachable.

No other job could start meanwhile.
"""

MOST_LOGGED = 10_000
"""Characters of an output that are logged with ``modelreins_show_output``."""

NOT_KNOWN = (
    "the ledger does not know the job: it has lost it, or this worker uses another ledger than the bridge "
    "(MODELREINS_LEDGER_URL)"
)


UNRECORDED = (
    "its message is not the one that the ledger has recorded: it is for another task, or has another number of retries"
)

_invented = count(1)


def log_not_run(clients: Clients, log: JobLog, refusal: str, what: str = "") -> None:
    """Log that a message was refused. For unknown worker names, only the 1st, 2nd, 4th, 8th, … message is logged.

    Args:
        clients: the connections of the application.
        log: the log of the message's job.
        refusal: the ledger's answer.
        what: names the member, if the message is for one.
    """
    prefix = f"{what} not run" if what else "not run"
    if refusal == "unknown" and not clients.has_name(log.worker_name):
        times = next(_invented)
        if times & (times - 1) == 0:  # the 1st, 2nd, 4th, 8th, …
            name = printable(log.worker_name, 60)
            seen = counted(times, "message")
            why = f"the ledger has no such job, and worker name {name} is not configured here ({seen})"
            log.warning("not_run", f"{prefix}: {why}", reason=refusal)
    elif refusal in ("unknown", "unrecorded"):
        why = NOT_KNOWN if refusal == "unknown" else UNRECORDED
        log.warning("not_run", f"{prefix}: {why}", reason=refusal)
    else:
        log.info("not_run", f"{prefix}: {refusal}", reason=refusal)


def new_run(
    clients: Clients,
    ledger: Ledger,
    message: Message,
    declaration: Declaration,
    job: Job,
    attempt: int,
    *,
    task_id: str,
    nonce: str,
    wait_for: Callable[[Job, Awaitable[Any]], Any],
    announce_retry: Callable[[int], object] | None = None,
) -> Run:
    """Make a run of a job's handler, or of a member of its workflow.

    Args:
        clients: the connections of the application.
        ledger: the ledger of the job's worker name.
        message: the message of the handler's run.
        declaration: the declaration of the handler.
        job: the job.
        attempt: the number of the attempt, from 1.
        task_id: the task id of the handler, or of the member.
        nonce: distinguishes the run from others with the same task id.
        wait_for: runs an awaitable for the job.
        announce_retry: as of :class:`.Run`.
    """
    name, delivers = message.worker_name, clients.delivers(message.worker_name)
    watched = job.watched(
        AbortCheck(lambda: ledger.holds(message.key)).aborted, lambda: reference_of(run, ledger, message, declaration)
    )
    run = Run(
        task_id,
        watched,
        attempt,
        worker_name=name,
        url=clients.settings.url,
        api=(lambda: clients.run_api(name)) if delivers else None,
        routes=(lambda: clients.delivery(name).routes) if delivers else None,
        keys=map(f"{task_id}-{nonce}-call-{{}}".format, count(1)),
        wait_for=partial(wait_for, watched),
        attachments=Attachments(),
        announce_retry=announce_retry,
    )
    return run


@dataclass(frozen=True)
class Returned:
    """The return value of a run.

    Args:
        status: the job's status, ``deferred`` or ``handed over``, which Celery shows as the task's result.
        value: what the handler returned, for the task's hooks and signals.
    """

    status: str
    value: Any = field(default=None, repr=False)


class Runner:
    """Runs the handlers of jobs.

    Args:
        clients: this application's connections.
        node: this Celery worker's node name.
        holder: identifies this worker as the holder of leases, also against an earlier one of the same name.
        hard_limit: returns the hard time limit in seconds of tasks that set none.
        event_loop: runs ``async def`` handlers. Default: a loop that is created for the first of them.
        function_retries: how long jobs wait for what their ``arguments=``, ``result=`` and ``review=`` need.
        app: the application, which publishes the workflows that handlers return.
    """

    def __init__(
        self,
        clients: Clients,
        node: str,
        holder: str,
        *,
        hard_limit: Callable[[], float | None] = lambda: None,
        event_loop: EventLoop | None = None,
        function_retries: FunctionRetries = FUNCTION_RETRIES,
        app: Any = None,
    ) -> None:
        self._app = app
        self._event_loop = event_loop
        self._function_retries = function_retries
        self._clients = clients
        self._node = node
        self._holder = holder
        self._hard_limit = hard_limit
        # Spares a run the wait for a server in trouble. The courier delivers until a trial succeeds.
        self._circuit = CircuitBreaker(failures=3, seconds=30.0)

    def run(
        self,
        message: Message,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Returned:
        """Run a handler for the job of a message.

        Args:
            message: the job's message.
            handler: the task's own ``run``.
            declaration: the task's declaration.
            args: the message's positional arguments. Only a handler's Celery retry has some.
            kwargs: the message's keyword arguments, likewise.

        Raises:
            Ignore: the message must not run (a copy, an aborted job, a lost attempt), or the handler stopped because
                the job was aborted.
            BaseException: a signal ends this pool process or the worker, or the gevent pool's hard time limit is over.
            Exception: the handler's exception, which Celery treats as any other.
        """
        ledger, asked = self._clients.ledger(message.worker_name), time.monotonic()
        started = self._start(ledger, message)
        if started.job is None:
            log_not_run(self._clients, message.log(logger), started.refusal)
            raise Ignore(f"job {message.job_id} is {started.refusal}")
        began = time.monotonic()
        with tracing.following(started.trace):
            try:
                ending = self._traced(
                    ledger, message, started, started.job, handler, declaration, args, kwargs, waited=began - asked
                )
            except BaseException as error:
                if raised_by_a_signal(error):
                    raise
                ending = _broken(message, error)
            if isinstance(ending, Ending):
                self._end(ledger, message, started.nonce, ending, time.monotonic() - began)
        if isinstance(ending, Ending):
            if ending.error is not None:
                raise for_celery(ending.error)
            return Returned(_status(ending), ending.value)
        if ending.workflow is not None:
            return Returned("handed over", ending.workflow)
        raise ending.error

    def _traced(
        self,
        ledger: Ledger,
        message: Message,
        started: Started,
        job: Job,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        waited: float,
    ) -> Ending | NoOutcome:
        """Run the handler inside a span, until its ending can be recorded."""
        secret_values = job.hide_secrets(declaration.requires_secrets)
        clients = self._clients
        run = new_run(
            clients,
            ledger,
            message,
            declaration,
            job,
            started.attempt,
            task_id=message.task_id,
            nonce=started.nonce,
            wait_for=partial(self._wait_for, message),
            announce_retry=partial(announce_retry, ledger, message, started.nonce),
        )
        if waited > clients.settings.lease and run.job.aborted:
            # The worker was frozen meanwhile, and another run may have the job by now.
            message.log(logger).info(
                "not_run", "not run: its lease was over before it began", reason="its lease was over"
            )
            return NoOutcome(Ignore(f"job {message.job_id} was lost before its handler began"))
        if logger.isEnabledFor(logging.DEBUG):
            message.log(logger).debug("started", retries=message.retries or None)
        end = partial(
            HandlerEnding,
            clients,
            ledger,
            message,
            started.nonce,
            declaration,
            run,
            hard_limit=self._hard_limit,
            function_retries=self._function_retries,
            app=self._app,
        )
        ending: Ending | NoOutcome | None = None
        outer = CURRENT.set(run)
        try:
            with tracing.run(message.worker_name, message.job_id, started.attempt, message.task_id) as span:
                try:
                    ending = _packed(handler, declaration, args, kwargs, message, self._function_retries, run)
                except BaseException as error:
                    ending = end().by(readable(error))
                if isinstance(ending, Ending):
                    packed = ending.packed.masked(secret_values) if secret_values else ending.packed
                    packed = packed.within(clients.settings.result_limit)
                    if packed is not ending.packed:
                        ending = replace(ending, packed=packed)
                    if packed.outcome.uploads and packed.large:
                        ending = end().staged(ending)
                if isinstance(ending, NoOutcome):
                    raise ending.error  # so that the span records it
                status = _status(ending)
                span.set({tracing.RUN_STATUS: status})
                if status == "failed":
                    span.fail(ending.error)
        except BaseException as error:
            if ending is None or (raised_by_a_signal(error) and error is not ending.error):
                raise
            if error is not ending.error:
                message.log(logger).error("not_traced", "its span raised", error=error)
        finally:
            CURRENT.reset(outer)
        return ending

    def _wait_for(self, message: Message, job: Job, awaitable: Awaitable[Any]) -> Any:
        """The value of an ``async def`` handler's awaitable."""
        if self._event_loop is None:
            self._event_loop = EventLoop()
        return self._event_loop.run(
            awaitable, task_id=message.task_id, lost=lambda: job.aborted, soft_limit=message.soft_limit
        )

    def _start(self, ledger: Ledger, message: Message) -> Started:
        """Start the run under the fence. A job that cannot be loaded fails.

        Raises:
            SoftTimeLimitExceeded: the ledger was slow. The bridge recovers the job from its recorded state.
            Exception: loading the job raised it.
        """
        nonce = os.urandom(4).hex()
        step = partial(
            ledger.start,
            message.key,
            task_name=message.task_name,
            node=self._node,
            holder=self._holder,
            lease=self._clients.settings.lease,
            nonce=nonce,
        )
        raised: Exception | None = None
        try:
            try:
                try:
                    started = step()
                except LedgerUnavailable as error:
                    started = retry_until(step, errors=LedgerUnavailable, seconds=START_RETRY_SECONDS, failed=error)
            except (LedgerUnavailable, SoftTimeLimitExceeded):
                raise
            except Exception as error:
                # In the ledger, the run has started nevertheless.
                raised = error
                started = Started(unloadable=f"the worker could not load the job: {type(error).__name__}")
            if started.unloadable:
                self._fail_unloadable(ledger, message, started.unloadable, raised)
                started = Started(refusal=f"failed: {started.unloadable}")
        except LedgerUnavailable as error:
            message.log(logger).error("not_started", f"not started, it will be sent again: {error}", reason=str(error))
            self._give_back(ledger, message, nonce)
            return Started(refusal="cannot start: the ledger is unreachable")
        if raised is not None:
            raise for_celery(raised) from None
        return started

    def _give_back(self, ledger: Ledger, message: Message, nonce: str) -> None:
        """Give the attempt back, in case the ledger works and only lacks replicas. The outage then costs no attempt."""
        with suppress(LedgerUnavailable):
            ledger.postpone(
                message.key, nonce=nonce, why="its start was not confirmed", times=GIVEN_BACK_TIMES, wait_seconds=1.0
            )

    def _fail_unloadable(self, ledger: Ledger, message: Message, why: str, error: Exception | None) -> None:
        """Fail a job that this worker cannot load, because each further attempt would end the same way.

        Args:
            ledger: the ledger.
            message: the job's message.
            why: the reason.
            error: the unexpected exception, whose traceback becomes the job's output.

        Raises:
            LedgerUnavailable: the failure could not be recorded.
        """
        text = why if error is None else f"{why}\n\n{traceback_of(error)}"
        retry_until(
            lambda: ledger.fail(
                message.job_id,
                message.task_id,
                Outcome.failed(text, reason=why),
                retries=message.retries,
                holder=self._holder,
            ),
            errors=LedgerUnavailable,
            seconds=START_RETRY_SECONDS,
        )
        message.log(logger).error("not_loaded", f"failed: {why}", reason=why, error=error)

    def _end(self, ledger: Ledger, message: Message, nonce: str, ending: Ending, seconds: float) -> None:
        if ending.deferred is not None:
            ending = Deferral(ledger, message, nonce).recorded(ending, ending.deferred)
            if ending.deferred is not None:
                return
        deliver_here = self._clients.delivers(ledger.worker_name) and (
            not self._circuit.failures or self._circuit.allows()
        )
        try:
            answer, outcome, blobs = self._record(ledger, message, ending.packed, deliver_here=deliver_here)
        except LedgerUnavailable as error:
            why = f"its outcome could not be recorded, it will be run again: {error}"
            message.log(logger).error("not_recorded", why, reason=str(error))
            return
        if answer == "completed":
            why = "the job was already completed through its reference"
            message.log(logger).info("completed", f"result dropped: {why}", status=outcome.status)
            return
        if answer == "kept":
            why = "the ledger has lost its record: its outcome is delivered once the server lists the job as running"
            message.log(logger).warning("kept", why, status=outcome.status)
            return
        if answer not in ("finished", "taken_over"):
            message.log(logger).warning("dropped", f"outcome dropped: the job is {answer}", reason=answer)
            return
        delivers = deliver_here and answer == "finished"
        self._log_finished(message, outcome, seconds, left="" if delivers else ", left to the bridge for delivery")
        if delivers:
            self._deliver(message, outcome, blobs)

    def _log_finished(self, message: Message, outcome: Outcome, seconds: float, *, left: str) -> None:
        level = logging.WARNING if outcome.status == "failed" else logging.INFO
        if not logger.isEnabledFor(level):
            return
        log, text = message.log(logger), f"{outcome.status} after {duration(seconds)}"
        facts = {"status": outcome.status, "seconds": seconds}
        if outcome.status == "done":
            log.info("finished", f"{text}{left}", **facts)
        else:
            why = f": {outcome.reason}" if outcome.reason else ""
            where = self._clients.output_of(message.worker_name, message.job_id)
            report = log.warning if outcome.status == "failed" else log.info
            report("finished", f"{text}{why}{left}; output: {where}", reason=outcome.reason or None, **facts)
        if self._clients.settings.logs_output:
            more = len(outcome.text) - MOST_LOGGED
            cut = f"\n… and {counted(more, 'more character')}" if more > 0 else ""
            log.show_output(f"{outcome.text[:MOST_LOGGED]}{cut}")

    def _record(
        self, ledger: Ledger, message: Message, packed: PackedOutcome, *, deliver_here: bool
    ) -> tuple[str, Outcome, list[bytes]]:
        """Record the outcome in the ledger. Return the ledger's answer, and the outcome and blobs that it has.

        After an interruption (a soft time limit, a killed greenlet) it is repeated. An outcome that cannot be recorded
        at all becomes a failure with the reason.

        Raises:
            LedgerUnavailable: the ledger is unreachable for too long.
        """
        for further in (2, 1, 0):
            try:
                filled, blobs = packed.with_blobs()
                step = partial(
                    ledger.finish,
                    message.key,
                    filled.outcome,
                    blobs=blobs,
                    deliver_seconds=self._clients.settings.lease if deliver_here else 0,
                )
                try:
                    answer = step()
                except LedgerUnavailable as error:
                    answer = retry_until(
                        step,
                        failed=error,
                        errors=LedgerUnavailable,
                        seconds=FINISH_RETRY_SECONDS,
                        on_first_error=partial(_log_kept, message),
                    )
                return answer, filled.outcome, blobs
            except LedgerUnavailable:
                raise
            except BaseException as error:
                if raised_by_a_signal(error) or further == 0:
                    raise
                message.log(logger).error("not_recorded", "its outcome could not be recorded at once", error=error)
                if further == 1:
                    why = packed.outcome.text_after(f"the outcome could not be recorded: {traceback_of(error)}")
                    packed = pack_failure(why, reason=f"not recorded: {type(error).__name__}")
                    packed = packed.within(self._clients.settings.result_limit)
        raise AssertionError("it has returned or raised")

    def _deliver(self, message: Message, outcome: Outcome, blobs: list[bytes]) -> None:
        key = DeliveryKey(message.job_id, message.task_id, 1)
        delivery_request = DeliveryRequest(key, outcome, parts={}, blobs=blobs)
        until = time.monotonic() + delivery_request.usual_seconds
        try:
            delivery = self._clients.delivery(message.worker_name)
            error = delivery.deliver(delivery_request, is_over=lambda: time.monotonic() > until)
        except BaseException as failure:
            # The outcome is recorded, so the courier can deliver it.
            if raised_by_a_signal(failure):
                raise
            why = type(failure).__name__
            message.log(logger).warning("put_off", f"left to the bridge for delivery: {why}", reason=why)
        else:
            if error is None:
                if self._circuit.failures:
                    self._circuit.succeeded()
            elif error.trouble or time.monotonic() > until:
                self._circuit.failed()


def _packed(
    handler: Callable[..., Any],
    declaration: Declaration,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    message: Message,
    function_retries: FunctionRetries,
    run: Run,
) -> Ending:
    """Call the handler, and pack what it returns."""

    def make() -> Arguments:  # a partial would show the job's fields in its repr, and so to an error tracker
        bound = bind(
            handler,
            run.job,
            fields=declaration.fields,
            arguments=declaration.arguments,
            given_args=args,
            given_kwargs=kwargs,
        )
        return Arguments(args, bound)

    arguments = make() if declaration.arguments is None else function_retries.arguments(make, message, run.job)
    value = arguments.passed_to(handler)
    if isawaitable(value):
        value = run.wait_for(value)
    if isinstance(value, Signature):
        raise Replaced(value, returned=True)
    if isinstance(value, Deferred):
        return Ending.deferring(run, value)
    result, review = declaration.result, declaration.review
    if result is not None:
        result = function_retries.retrying("result=", result, message, run.job)
    if review is not None:
        review = function_retries.retrying("review=", review, message, run.job)
    return Ending(pack(value, run.job, run.attachments, result=result, review=review), value=value)


def _status(ending: Ending) -> str:
    """The status of an ending's outcome, or ``deferred``."""
    return "deferred" if ending.deferred is not None else ending.packed.outcome.status


def _broken(message: Message, error: BaseException) -> Ending:
    """The ending of a run if our own code fails."""
    message.log(logger).error("not_packed", "its outcome could not be packed", error=error)
    return Ending(pack_failure(traceback_of(error), reason=reason_of(error)), error)


def _log_kept(message: Message, error: Exception) -> None:
    """Log that an outcome cannot be recorded yet. The run keeps it, and its slot, until it can."""
    why = f"its outcome cannot be recorded yet, it is kept and tried again: {error}"
    message.log(logger).warning("not_recorded", why, reason=str(error))
