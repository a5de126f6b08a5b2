"""The run: what happens around a handler.

start under the fence → handler → outcome recorded → delivered from here, or else by the courier.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown, WorkerTerminate

from . import tracing
from .attachments import Attachments
from .backoff import patiently
from .current import Run, Watch, current_run, running
from .delivery import Away, Consignment, Parcel, Stow, pack, pack_failure
from .errors import Escalate, JobAborted, JobError, JobFailed, LedgerUnavailable
from .job import Job
from .ledger import DeliveryKey, Ledger, RunKey, Started
from .log import JobLog
from .outcome import Outcome
from .result import Artifact
from .routing import Declaration, bind
from .workplace import Workplace

logger = logging.getLogger("mr_celery.runner")

START_PATIENCE = 30.0
"""Seconds for which a start is repeated while the ledger is away; then the message is left to the reaper."""

FINISH_PATIENCE = 3600.0
"""Seconds for which an outcome is kept in memory while the ledger is away: without it, nothing else could run here."""


@dataclass(frozen=True)
class Message:
    """What a task message says of the job that it brings."""

    worker: str
    job_id: int
    task_id: str
    retries: int = 0
    task: str = field(default="", compare=False)

    @property
    def key(self) -> RunKey:
        """The fencing token of the execution that this message starts."""
        return RunKey(self.job_id, self.task_id, self.retries)

    @property
    def log(self) -> JobLog:
        """The log of the attempt."""
        return JobLog(logger, self.job_id, worker_name=self.worker, task_id=self.task_id, task=self.task)


@dataclass(frozen=True)
class _Ending:
    """How the handler ended: what to record, and what Celery is to see."""

    parcel: Parcel
    error: BaseException | None = None


class Runner:
    """Runs handlers for jobs.

    Args:
        workplace: this application's connections.
        node: this Celery worker's node name.
        holder: what tells this worker from others, also from an earlier one of the same name.
    """

    def __init__(self, workplace: Workplace, node: str, holder: str) -> None:
        self._workplace = workplace
        self._node = node
        self._holder = holder
        self._away = Away()

    def run(
        self,
        message: Message,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str:
        """Run ``handler`` for the job of ``message``.

        Args:
            message: what the task message says.
            handler: the task's own ``run``.
            declaration: how the task was declared.
            args: the message's positional arguments: none, but for a retry that the handler gave some.
            kwargs: the message's keyword arguments, likewise.

        Returns:
            One line for Celery's result, which tells nothing of the job's content.

        Raises:
            Ignore: the message is not to be run: a copy, an aborted job, a lost attempt; or its handler stopped
                because the job was aborted.
            SystemExit: this pool process is being ended.
            Exception: what the handler raised, for Celery to treat as ever.
        """
        ledger, asked = self._workplace.ledger(message.worker), time.monotonic()
        started = self._start(ledger, message)
        if started.job is None:
            message.log.info("not_run", f"not run: {started.refusal}", reason=started.refusal)
            raise Ignore(f"job {message.job_id} is {started.refusal}")
        job, began = started.job.watched(Watch(lambda: ledger.holds(message.key)).aborted), time.monotonic()
        if began - asked > self._workplace.settings.lease and job.aborted:
            # The worker was frozen since: another run may have the job by now.
            message.log.info("not_run", "not run: its lease was over before it began", reason="its lease was over")
            raise Ignore(f"job {message.job_id} was lost before its handler began")
        message.log.info("started", retries=message.retries or None)
        run = Run(
            message.task_id,
            job,
            started.attempt,
            worker=message.worker,
            url=self._workplace.settings.url,
            api=(lambda: self._workplace.api(message.worker)) if self._workplace.delivers(message.worker) else None,
            keys=map(f"{message.task_id}-{started.nonce}-call-{{}}".format, count(1)),
            attachments=Attachments(),
        )
        with tracing.following(started.trace):
            with tracing.run(message.worker, job.id, started.attempt, message.task_id) as span, running(run):
                ending = self._call(ledger, message, started.nonce, handler, declaration, run, args, kwargs)
                ending = self._stowed(message, started.nonce, declaration, run, ending)
                span.set({tracing.RUN_STATUS: ending.parcel.outcome.status})
                if ending.parcel.outcome.status == "failed":
                    span.fail(ending.error)
            self._end(ledger, message, job, ending, time.monotonic() - began)
        if ending.error is not None:
            raise ending.error
        return f"ModelReins job {job.id}: {ending.parcel.outcome.status}"

    def _start(self, ledger: Ledger, message: Message) -> Started:
        nonce = secrets.token_hex(4)
        lease = self._workplace.settings.lease
        try:
            return patiently(
                lambda: ledger.start(message.key, node=self._node, holder=self._holder, lease=lease, nonce=nonce),
                errors=LedgerUnavailable,
                seconds=START_PATIENCE,
            )
        except LedgerUnavailable as error:
            message.log.error("not_started", f"not started, it will be sent again: {error}", reason=str(error))
            return Started(refusal="not startable: the ledger is away")

    def _call(
        self,
        ledger: Ledger,
        message: Message,
        nonce: str,
        handler: Callable[..., Any],
        declaration: Declaration,
        run: Run,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> _Ending:
        job = run.job
        try:
            bound = bind(handler, job, arguments=declaration.arguments, given_args=args, given_kwargs=kwargs)
            value = handler(*args, **bound)
            return _Ending(pack(value, job, run.attachments, result=declaration.result, review=declaration.review))
        except Retry as retry:
            self._start_again(message, partial(ledger.retry, message.key, nonce=nonce), _seconds_until(retry.when))
            raise
        except Escalate as escalation:
            parcel = pack_failure(escalation.why, run.attachments)
            return _Ending(replace(parcel, outcome=replace(parcel.outcome, status="escalated")))
        except Reject as rejection:
            if rejection.requeue:  # type: ignore[attr-defined]
                self._start_again(message, partial(ledger.give_back, message.key, nonce=nonce), 0.0)
                raise
            return self._failed(declaration, run, rejection, f"the handler rejected its task: {rejection}")
        except JobAborted as stopped:
            if not job.aborted:
                return self._failed(declaration, run, stopped, _traceback(stopped))
            message.log.info("stopped", "stopped by its handler: it was aborted, or given to another worker")
            raise Ignore(str(stopped)) from None
        except Ignore as ignored:
            why = "the handler raised celery.exceptions.Ignore (or replaced its task): it ended without a result"
            return self._failed(declaration, run, ignored, why)
        except (WorkerShutdown, WorkerTerminate):
            raise  # the worker is going: the lease runs out, and another one takes the job
        except JobFailed as failure:
            return self._failed(declaration, run, failure, failure.why, failure.artifacts)
        except JobError as error:
            return self._failed(declaration, run, error, str(error))
        except Exception as error:
            return self._failed(declaration, run, error, _traceback(error))
        except SystemExit as error:
            if _ends_the_process(error):
                raise  # an abort, or a lost run: the worker or the lease tells which
            exit_ = RuntimeError(f"the handler raised SystemExit({error.code!r})")
            return self._failed(declaration, run, exit_, _traceback(error))

    def _failed(
        self,
        declaration: Declaration,
        run: Run,
        error: BaseException,
        why: str,
        artifacts: Sequence[Artifact] = (),
    ) -> _Ending:
        _tell(declaration, run, error)
        return _Ending(pack_failure(why, run.attachments, artifacts), error)

    def _stowed(self, message: Message, nonce: str, declaration: Declaration, run: Run, ending: _Ending) -> _Ending:
        """The ending in a form that can be recorded: its text cut, its large artifacts where they can wait."""
        workplace = self._workplace
        parcel = ending.parcel.within(workplace.settings.result_limit)
        if not parcel.large:
            return replace(ending, parcel=parcel)
        problem: Exception | None
        try:
            stow = Stow(
                message.job_id,
                message.task_id,
                nonce,
                spool=workplace.spool(message.worker),
                api=run.api,
                beat=run.job.raise_if_aborted,
            )
            parcel, problem = stow.stow(parcel)
        except JobAborted as stopped:
            message.log.info("stopped", "stopped while its artifacts were stored: it was aborted")
            raise Ignore(str(stopped)) from None
        except Exception as error:  # a soft time limit, for instance
            message.log.error("not_stored", "its artifacts could not be stored", error=error)
            parcel, problem = pack_failure(_traceback(error), Attachments()), error
        if problem is None or ending.error is not None:
            return replace(ending, parcel=parcel)
        _tell(declaration, run, problem)
        return _Ending(parcel, problem)

    def _start_again(self, message: Message, step: Callable[..., bool], seconds: float) -> None:
        """The same attempt goes on from another message, ``seconds`` from now."""
        wait = seconds + self._workplace.settings.lease
        patiently(lambda: step(wait_seconds=wait), errors=LedgerUnavailable, seconds=FINISH_PATIENCE)
        message.log.info("retried", f"starts again in {seconds:.1f} s, as its handler asked", seconds=seconds)

    def _end(self, ledger: Ledger, message: Message, job: Job, ending: _Ending, seconds: float) -> None:
        parcel, blobs = ending.parcel.with_blobs()
        outcome = parcel.outcome
        deliver_here = self._workplace.delivers(ledger.worker) and not self._away.likely
        try:
            answer = patiently(
                lambda: ledger.finish(
                    message.key,
                    outcome,
                    blobs=blobs,
                    deliver_seconds=self._workplace.settings.lease if deliver_here else 0,
                ),
                errors=LedgerUnavailable,
                seconds=FINISH_PATIENCE,
            )
        except LedgerUnavailable as error:
            why = f"its outcome could not be recorded, it will be run again: {error}"
            message.log.error("not_recorded", why, reason=str(error))
            return
        if answer not in ("finished", "carried"):
            message.log.warning("dropped", f"outcome dropped: the job is {answer}", reason=answer)
            return
        left = "" if deliver_here and answer == "finished" else ", left to the courier"
        message.log.info(
            "finished", f"{outcome.status} after {seconds:.3f} s{left}", status=outcome.status, seconds=seconds
        )
        if answer == "carried":
            return
        if deliver_here:
            self._deliver(message, outcome, blobs)

    def _deliver(self, message: Message, outcome: Outcome, blobs: list[bytes]) -> None:
        key = DeliveryKey(message.job_id, message.task_id, 1)
        consignment = Consignment(key, outcome, parts={}, blobs=blobs)
        try:
            error = self._workplace.delivery(message.worker).deliver(consignment)
        except Exception as failure:
            # Recorded is recorded: the courier takes over, whatever went wrong here.
            why = type(failure).__name__
            message.log.warning("put_off", f"left to the courier: {why}", reason=why)
        else:
            self._away.learn(error)


def _tell(declaration: Declaration, run: Run, error: BaseException) -> None:
    """Call the declaration's ``on_error=``; what it raises itself changes nothing."""
    if declaration.on_error is not None:
        try:
            declaration.on_error(run.job, error)
        except Exception as failure:
            log = JobLog(logger, run.job.id, worker_name=run.worker, task_id=run.task_id)
            log.error("on_error_raised", "on_error= raised", error=failure)


def running_here(task_id: str) -> bool:
    """Whether this code is called from the handler of that very task."""
    run = current_run()
    return run is not None and run.task_id == task_id


def _ends_the_process(error: SystemExit) -> bool:
    """Whether a signal that ends this pool process raised it, wherever the handler was, and not the handler.

    It is what billiard's own signal handler in a pool process exits with: the number of the signal, less 256.
    """
    return isinstance(error.code, int) and error.code + 256 in _ENDING_SIGNALS


_ENDING_SIGNALS = frozenset(getattr(signal, name) for name in ("SIGTERM", "SIGQUIT") if hasattr(signal, name))


def _seconds_until(when: object) -> float:
    if isinstance(when, (int, float)) and not isinstance(when, bool):
        return max(float(when), 0.0)
    if isinstance(when, dt.datetime):
        return max((when - dt.datetime.now(when.tzinfo)).total_seconds(), 0.0)
    return 0.0


_HERE = os.path.dirname(__file__)


def _traceback(error: BaseException) -> str:
    """The traceback as text, from the handler's first line on."""
    frames = error.__traceback__
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) == _HERE:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).strip()
