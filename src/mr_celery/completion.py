"""Ends deferred jobs from any process that has the ledger's address."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .backoff import retry_until
from .celery_compat import application_of_thread
from .clients import Clients
from .delivery import PackedOutcome, Staging, pack, pack_failure
from .delivery.attachments import Attachments
from .errors import JobError, LedgerUnavailable, MrCeleryError
from .handlers import Declaration, handlers_of
from .job import Job
from .ledger import AttemptKey, Completion, Ledger
from .ledger.reference import digest_of, read_reference
from .result import Artifact, Deferred
from .settings import Settings, load
from .telemetry.logs import JobLog
from .telemetry.tracebacks import hides_variables

T = TypeVar("T")

logger = logging.getLogger("mr_celery.completion")

RETRY_SECONDS = 10.0
"""Seconds for which a call is repeated while the ledger is unreachable. A web hook cannot wait longer."""

HOLD_SECONDS = 5.0
"""Seconds that a handler has to return after its outcome was reported, before the courier delivers the outcome."""

_WHY_NOT: Mapping[Completion, str] = {
    "completed": "job {job} was completed before",
    "ended": "job {job} has ended before: its handler returned a result or failed, or an operator ended it",
    "aborted": "job {job} was aborted",
    "superseded": "the reference is of attempt {attempt} of job {job}, which was lost: another attempt has begun",
    "unknown": "this is not the reference of a job, or the job ended long ago",
}


@dataclass(frozen=True)
class Answer:
    """Whether a call with a job's reference was accepted. It is true if it was.

    Args:
        reason: ``accepted``, or why not: ``completed`` (by an earlier call), ``ended`` (otherwise), ``aborted``,
            ``superseded`` (the reference is of an earlier attempt) or ``unknown``.
        text: the same as a sentence. It does not repeat the reference.
    """

    reason: Completion
    text: str

    @property
    def accepted(self) -> bool:
        """Whether the call was accepted."""
        return self.reason == "accepted"

    def __bool__(self) -> bool:
        return self.accepted


@hides_variables
def complete(ref: str, value: Any = None, *, app: Any = None) -> Answer:
    """End a deferred job with a result.

    It works from any process that has the ledger's address: a Django view, a Flask route, a Celery task, a script. A
    bridge delivers the outcome. A second call changes nothing, and neither does one for an earlier attempt. A call
    that comes before the handler has returned is accepted: whatever the handler returns then is discarded.

    Args:
        ref: the job's :attr:`~mr_celery.Job.ref`.
        value: whatever a handler may return, except for another :class:`Deferred` and Celery signatures.
        app: the Celery application with the settings and the handlers; default: the current application, or in
            a thread without one the only application of the process.

    Returns:
        Whether the call was accepted, and if not, why.

    Raises:
        JobError: the value cannot be a result, or its large artifacts cannot be stored. The job still waits.
        MrCeleryError: the handler declares ``result=`` or ``review=``, and this process does not have its task.
        LedgerUnavailable: the ledger is unreachable for longer than 10 s. The call may be repeated.
        SettingsError: a setting is invalid, or no ledger is configured.

    Example::

        @flask_app.post("/hooks/images/<ref>")
        def image_is_ready(ref):
            answer = complete(ref, Artifact(data=request.data, content_type="image/png"))
            return (answer.text, 200 if answer.reason in ("accepted", "completed") else 410)
    """
    return Caller(ref, app).complete(value)


@hides_variables
def fail(ref: str, why: object = "", *, artifacts: Sequence[Artifact] = (), app: Any = None) -> Answer:
    """End a deferred job as failed. Otherwise like :func:`complete`.

    Args:
        ref: the job's :attr:`~mr_celery.Job.ref`.
        why: the job's output.
        artifacts: files to upload all the same.
        app: as for :func:`complete`.
    """
    return Caller(ref, app).fail(why, artifacts=artifacts)


@hides_variables
def escalate(ref: str, why: object = "", *, app: Any = None) -> Answer:
    """Close a deferred job as escalated: a person has to look at it. Otherwise like :func:`fail`."""
    return Caller(ref, app).escalate(why)


@hides_variables
def extend(ref: str, seconds: float, *, app: Any = None) -> Answer:
    """Let a deferred job wait until ``seconds`` from now. A later deadline stays as it is.

    Args:
        ref: the job's :attr:`~mr_celery.Job.ref`.
        seconds: seconds from now, as for :class:`Deferred`.
        app: as for :func:`complete`.

    Raises:
        JobError: ``seconds`` is not allowed.
        LedgerUnavailable: as for :func:`complete`.
        SettingsError: as for :func:`complete`.
    """
    return Caller(ref, app).extend(seconds)


class Caller:
    """One caller with a reference. The methods are the functions of this module.

    Args:
        ref: the reference.
        app: the application; ``None``: the current one.
        settings: the settings; default: those of the application.
    """

    def __init__(self, ref: str, app: Any = None, *, settings: Settings | None = None) -> None:
        self._app = application_of_thread() if app is None else app
        self._clients = _clients_of(self._app) if settings is None else Clients(settings)
        used = self._clients.settings
        self._names = (*(each.name for each in used.each()), *used.neighbours)
        self._ref = ref

    @cached_property
    def _read(self) -> tuple[str, AttemptKey] | None:
        """The worker name and the key of the reference; ``None`` if the text is not a reference."""
        return read_reference(self._ref, self._name_of)

    def _name_of(self, digest: str) -> str | None:
        """The worker name for a digest: one in the settings, or else one in the ledger."""
        names = (each for each in self._names if digest_of(each) == digest)
        return next(names, None) or _retried(lambda: self._clients.fleet().name_of(digest))

    @hides_variables
    def complete(self, value: Any) -> Answer:
        """End the job with a result. See :func:`complete`."""
        if isinstance(value, Deferred):
            raise JobError("complete() takes a result: use extend() to wait longer")

        def packed(job: Job, declaration: Declaration | None) -> PackedOutcome:
            result, review = (declaration.result, declaration.review) if declaration else (None, None)
            return pack(value, job, Attachments(), result=result, review=review)

        return self._end(packed, shaped=True)

    @hides_variables
    def fail(self, why: object, *, artifacts: Sequence[Artifact] = ()) -> Answer:
        """End the job as failed. See :func:`fail`."""
        reason = "a call of mr_celery.fail() ended it"
        return self._end(lambda *_: pack_failure(why, None, artifacts, reason=reason))

    @hides_variables
    def escalate(self, why: object) -> Answer:
        """Close the job as escalated. See :func:`escalate`."""
        reason = "a call of mr_celery.escalate() ended it"
        return self._end(lambda *_: pack_failure(why, status="escalated", reason=reason))

    @hides_variables
    def extend(self, seconds: float) -> Answer:
        """Move the deadline. See :func:`extend`."""
        checked = Deferred(timeout=seconds).timeout
        if self._read is None:
            return _answer("unknown")
        ledger, key = self._ledger(self._read[0]), self._read[1]
        return _answer(_retried(lambda: ledger.extend(key, checked)), key)

    def _ledger(self, worker_name: str) -> Ledger:
        """The ledger of a worker name. Only those of the settings are kept, because anybody can make up a reference."""
        if worker_name in self._names:
            return self._clients.ledger(worker_name)
        return self._clients.new_ledger(worker_name)

    def _end(self, packed: Callable[[Job, Declaration | None], PackedOutcome], *, shaped: bool = False) -> Answer:
        """End the job with an outcome.

        Args:
            packed: packs it, given the job and the handler's declaration, if the handler's task is in this process.
            shaped: whether the outcome depends on a declaration with ``result=`` or ``review=``.
        """
        if self._read is None:
            return _answer("unknown")
        ledger, key = self._ledger(self._read[0]), self._read[1]
        refusal = _retried(lambda: ledger.extend(key, 0.0))  # before anything is stored for a call that is too late
        record = _retried(lambda: ledger.read(key.job_id))
        if refusal != "accepted" or record is None:
            return _answer(refusal, key)
        declaration = self._declaration_of(record.route.task_name)
        if shaped and declaration is None and record.shaped:
            raise MrCeleryError(
                f"{record.route.task_name} declares result= or review=, and this process does not have the task: "
                "import its module, and give the application as app="
            )
        call = secrets.token_hex(8)
        job = record.job or Job({"id": key.job_id})
        secret_values = job.hide_secrets(declaration.requires_secrets if declaration else ())
        made = packed(job, declaration).masked(secret_values)
        made = self._staged(made.within(self._clients.settings.result_limit), ledger, key, record.task_id, call)
        reason, status = self._recorded(made, ledger, key, call)
        if reason == "accepted":
            log = JobLog(logger, key.job_id, worker_name=ledger.worker_name, task_id=record.task_id)
            log.info("completed", f"completed through its reference as {status}", status=status)
        return _answer(reason, key)

    def _recorded(self, made: PackedOutcome, ledger: Ledger, key: AttemptKey, call: str) -> tuple[Completion, str]:
        """Record the outcome after the attachments of the job's runs. Returns the verdict and the outcome's status."""
        while True:
            attached = _retried(lambda: ledger.attached(key.job_id))
            filled, blobs = made.after(attached).with_blobs()
            step = partial(
                ledger.complete,
                key,
                filled.outcome,
                blobs=blobs,
                call=call,
                attached=len(attached),
                hold_seconds=HOLD_SECONDS,
            )
            reason = _retried(step)
            if reason != "changed":
                return reason, filled.outcome.status

    def _declaration_of(self, task_name: str) -> Declaration | None:
        """The declaration of the job's handler; ``None`` if this process does not have the handler."""
        found = [each.declaration for each in handlers_of(self._app) if each.name == task_name]
        return found[0] if found else None

    def _staged(self, made: PackedOutcome, ledger: Ledger, key: AttemptKey, task_id: str, call: str) -> PackedOutcome:
        """The packed outcome with its large artifacts stored.

        Raises:
            JobError: one of them cannot be stored.
        """
        if not made.large:
            return made
        clients, name = self._clients, ledger.worker_name
        delivers = clients.delivers(name)
        stage = Staging(
            key.job_id,
            task_id,
            call,
            spool=clients.spool(name),
            api=(lambda: clients.api(name)) if delivers else None,
            routes=(lambda: clients.delivery(name).routes) if delivers else None,
            beat=lambda: None,
            retry_seconds=RETRY_SECONDS,
        )
        staged, problem = stage.stage(made)
        if problem is not None:
            raise problem
        return staged


def _answer(reason: Completion, key: AttemptKey | None = None) -> Answer:
    if reason == "accepted":
        return Answer(reason, "accepted")
    about = {"job": key.job_id, "attempt": key.attempt} if key else {}
    return Answer(reason, _WHY_NOT[reason].format(**about))


def _retried(step: Callable[[], T]) -> T:
    return retry_until(step, errors=LedgerUnavailable, seconds=RETRY_SECONDS, most=1.0)


_made: WeakKeyDictionary[Any, Clients] = WeakKeyDictionary()


@contextmanager
def connected(app: Any, clients: Clients) -> Iterator[None]:
    """Make calls in this process use these clients for an application inside the block. For tests."""
    before = _made.get(app)
    _made[app] = clients
    try:
        yield
    finally:
        if before is None:
            _made.pop(app, None)
        else:
            _made[app] = before


def _clients_of(app: Any) -> Clients:
    clients = _made.get(app)
    if clients is None:
        clients = _made[app] = Clients(load(app.conf))
    return clients
