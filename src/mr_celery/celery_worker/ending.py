"""The ending of a run: an outcome to record, or an exception for Celery if the run has none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from ..backoff import retry_until
from ..clients import Clients
from ..delivery import PackedOutcome, Staging, pack_attachments, pack_failure
from ..errors import Escalate, JobAborted, JobError, LedgerUnavailable, as_text
from ..handlers import Declaration
from ..ledger import GivenReference, Ledger
from ..message import Message
from ..result import Artifact, Deferred, JobFailed
from ..telemetry.tracebacks import hide_variables
from .current import ReferenceRefused, Run
from .function_retries import FunctionRetries, NotReady
from .handing_over import HandingOver, Replaced
from .handler_errors import is_greenlet_exit, is_hard_limit, raised_by_a_signal, reason_of, traceback_of
from .publishing import PUBLISH_SECONDS, CannotContinue
from .retries import Retries

logger = logging.getLogger("mr_celery.runner")


@dataclass(frozen=True)
class Ending:
    """The end of a run.

    Args:
        packed: its outcome; of a deferred job only the handler's attachments.
        error: the exception to raise to Celery.
        deferred: how long the job waits for its outcome; ``None`` unless it is deferred.
        value: what the handler returned, or raised as its answer (``Deferred``, ``Escalate``).
        given: of a deferred job: the reference that the run has got.
    """

    packed: PackedOutcome
    error: BaseException | None = None
    deferred: Deferred | None = None
    value: object = field(default=None, repr=False)
    given: GivenReference | None = None

    @classmethod
    def deferring(cls, run: Run, deferred: Deferred) -> Ending:
        """The end of a run that defers its job."""
        return cls(pack_attachments(run.attachments), deferred=deferred, value=deferred, given=run.given)


@dataclass(frozen=True)
class NoOutcome:
    """The end of a run without an outcome: the job continues elsewhere, is lost, or was aborted.

    Args:
        error: the exception to raise to Celery.
        workflow: the signature that the handler returned, if any. The task then returns it instead of raising.
    """

    error: BaseException
    workflow: object = field(default=None, repr=False)


class HandlerEnding:
    """Decides how a run ends if its handler raised, or if large artifacts have to be stored first.

    Args:
        clients: the connections of the application.
        ledger: the ledger of the job's worker name.
        message: the job's message.
        nonce: distinguishes the run from others of the same attempt.
        declaration: the task's declaration.
        run: the run.
        hard_limit: the task's hard time limit in seconds.
        function_retries: how long the job waits for what its ``arguments=`` needs.
        app: the application; ``None``: the job cannot be handed over to a workflow.
    """

    def __init__(
        self,
        clients: Clients,
        ledger: Ledger,
        message: Message,
        nonce: str,
        declaration: Declaration,
        run: Run,
        *,
        hard_limit: Callable[[], float | None],
        function_retries: FunctionRetries,
        app: Any = None,
    ) -> None:
        self._app = app
        self._clients = clients
        self._ledger = ledger
        self._message = message
        self._nonce = nonce
        self._declaration = declaration
        self._run = run
        self._hard_limit = hard_limit
        self._function_retries = function_retries
        self._log = message.log(logger)

    def by(self, error: BaseException) -> Ending | NoOutcome:
        """The ending if the handler, or the packing of its result, raised ``error``."""
        run = self._run
        if self._ends_the_process(error):
            return NoOutcome(error)  # the worker's main process reports it, or the lease ends
        if isinstance(error, NotReady):
            return self._postponed(error)
        if isinstance(error, (Retry, Reject)):
            return self._by_retry(error)
        if isinstance(error, Replaced):
            return self._by_workflow(error)
        if isinstance(error, Escalate):
            why = getattr(error, "why", error)
            packed = pack_failure(why, run.attachments, status="escalated", reason=reason_of(error))
            return Ending(packed, value=error)
        if isinstance(error, Deferred):
            return Ending.deferring(run, error)
        if isinstance(error, JobAborted) and run.job.aborted:
            self._log.info("stopped", "stopped by its handler: it was aborted or given to another worker")
            return NoOutcome(Ignore(as_text(error)))
        if isinstance(error, ReferenceRefused):
            # If the ledger has lost the job, it is adopted and runs again, once the server has listed it.
            self._log.info("stopped", f"stopped by its handler: {as_text(error)}", reason="no reference")
            return NoOutcome(Ignore(as_text(error)))
        if isinstance(error, Ignore) and not isinstance(error, JobAborted):
            why = "the handler raised celery.exceptions.Ignore: it ended without a result"
            return self.failed(error, why)
        if is_greenlet_exit(error) and self._is_lost():
            self._log.info("stopped", "stopped in its greenlet: it was aborted or given to another worker")
            return NoOutcome(Ignore(f"job {self._message.job_id} was aborted or given to another worker"))
        if isinstance(error, JobFailed):
            return self.failed(error, getattr(error, "why", error), getattr(error, "artifacts", ()))
        if isinstance(error, JobError):
            return self.failed(error, error)
        killed = "the greenlet of the handler was killed:\n\n" if is_greenlet_exit(error) else ""
        return self.failed(error, killed + traceback_of(error))

    def failed(self, error: BaseException, why: object, artifacts: Sequence[Artifact] = ()) -> Ending:
        """The ending with a failure whose output is ``why``. ``on_error=`` is called."""
        self._call_on_error(error)
        packed = pack_failure(why, self._run.attachments, artifacts, reason=reason_of(error))
        return Ending(packed, error)

    def staged(self, ending: Ending) -> Ending | NoOutcome:
        """The ending with its large artifacts stored, or a failure if they cannot be."""
        message, clients, run = self._message, self._clients, self._run
        problem: BaseException | None
        try:
            stage = Staging(
                message.job_id,
                message.task_id,
                self._nonce,
                spool=clients.spool(message.worker_name),
                # Not run_api(), which ends slow uploads early: without a spool, this artifact cannot be uploaded later.
                api=(lambda: clients.api(message.worker_name)) if run.api else None,
                routes=run.routes,
                beat=run.job.raise_if_aborted,
            )
            packed, problem = stage.stage(ending.packed)
        except JobAborted as stopped:
            self._log.info("stopped", "stopped while its artifacts were stored: it was aborted")
            return NoOutcome(Ignore(str(stopped)))
        except BaseException as error:  # a soft time limit, for instance
            if self._ends_the_process(error):
                return NoOutcome(error)
            self._log.error("not_stored", "its artifacts could not be stored", error=error)
            packed, problem = pack_failure(traceback_of(error), reason=reason_of(error)), error
        if problem is None or ending.error is not None:
            return replace(ending, packed=packed)
        self._call_on_error(problem)
        return Ending(packed, problem)

    def _by_retry(self, error: Retry | Reject) -> Ending | NoOutcome:
        """The ending if the handler asked for a retry (``self.retry``), or rejected its message."""
        retries = Retries(self._clients, self._ledger, self._message, self._nonce, self._run)
        try:
            return NoOutcome(retries.after(error) if isinstance(error, Retry) else retries.after_rejection(error))
        except CannotContinue as impossible:
            return self.failed(impossible.error, str(impossible))

    def _postponed(self, error: NotReady) -> Ending | NoOutcome:
        """The ending before the handler has begun: the attempt is given back for a while, or the job fails."""
        why, function_retries = str(error), self._function_retries
        answer = retry_until(
            lambda: self._ledger.postpone(
                self._message.key,
                nonce=self._nonce,
                why=why,
                times=function_retries.times,
                wait_seconds=function_retries.wait_seconds,
            ),
            errors=LedgerUnavailable,
            seconds=PUBLISH_SECONDS,
        )
        if answer == "spent" and error.__cause__ is not None:
            return self.by(error.__cause__)
        if answer == "again":
            self._log.warning("postponed", f"{why}; it is sent again later", reason=why)
        return NoOutcome(Ignore(why))

    def _by_workflow(self, replaced: Replaced) -> Ending | NoOutcome:
        """The ending if the handler returned a signature, or replaced its task by one (``self.replace``)."""
        over = HandingOver(self._clients, self._ledger, self._message, self._nonce, self._run)
        try:
            self._attach()
            if over.to(replaced.signature, self._app):
                return NoOutcome(replaced, workflow=replaced.signature if replaced.returned else None)
            self._log.info("stopped", "not handed over: it was aborted or given to another worker")
            return NoOutcome(Ignore(f"job {self._message.job_id} was aborted or given to another worker"))
        except JobAborted as stopped:
            self._log.info("stopped", "stopped before it was handed over: it was aborted")
            return NoOutcome(Ignore(str(stopped)))
        except CannotContinue as impossible:
            return self.failed(impossible.error, str(impossible))
        except LedgerUnavailable as error:
            return NoOutcome(Ignore(f"job {self._message.job_id} could not be handed over: {error}"))
        except Exception as error:
            return self.failed(error, traceback_of(error))

    def _attach(self) -> None:
        """Keep the handler's uploads and reviews that the server does not have, for the one that finishes the job."""
        attachments = self._run.attachments
        if not attachments.uploads and not attachments.reviews:
            return
        ending = self.staged(Ending(pack_attachments(attachments)))
        if isinstance(ending, NoOutcome):
            raise ending.error
        if ending.error is not None:
            raise CannotContinue(ending.packed.outcome.text, ending.error)
        packed, blobs = ending.packed.with_blobs()
        step = partial(self._ledger.attach, self._message.key, packed.outcome, blobs)
        retry_until(step, errors=LedgerUnavailable, seconds=PUBLISH_SECONDS)

    def _ends_the_process(self, error: BaseException) -> bool:
        return raised_by_a_signal(error) or is_hard_limit(error, self._message.hard_limit or self._hard_limit())

    def _is_lost(self) -> bool:
        """Whether the run has lost its job in the ledger."""
        try:
            return not self._ledger.holds(self._message.key)
        except LedgerUnavailable:
            return False

    def _call_on_error(self, error: BaseException) -> None:
        """Call the declaration's ``on_error=``. Exceptions that it raises are logged."""
        if self._declaration.on_error is not None:
            hide_variables(error)
            try:
                self._declaration.on_error(self._run.job, error)
            except BaseException as failure:
                if raised_by_a_signal(failure):
                    raise
                self._log.error("on_error_raised", "on_error= raised", error=failure)
