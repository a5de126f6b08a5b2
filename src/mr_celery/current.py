"""The job that is being run here and now, and ``worker``: what a handler of the SDK calls by that name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .attachments import Attachments
from .errors import LedgerUnavailable, MrCeleryError, WorkerError
from .job import Job
from .log import JobLog

if TYPE_CHECKING:
    from .client import Api

logger = logging.getLogger("mr_celery.runner")


@dataclass(frozen=True)
class Run:
    """One execution of a handler.

    Args:
        task_id: the attempt's task id.
        job: the job.
        attempt: which attempt it is, from 1.
        worker: the worker name that the job is assigned to.
        url: the server's address, as this worker knows it.
        api: gives the server; ``None`` where this worker does not deliver.
        keys: a new idempotency key each time.
        attachments: what the handler uploads and files that can't be brought to the server yet.
    """

    task_id: str
    job: Job
    attempt: int
    worker: str
    url: str
    api: Callable[[], Api] | None
    keys: Iterator[str]
    attachments: Attachments


class Watch:
    """What a run knows of whether its job is still its own.

    Args:
        holds: asks the ledger; may raise :class:`LedgerUnavailable`.
        remembered: seconds for which an answer stands.
        clock: the time in seconds.
    """

    def __init__(
        self, holds: Callable[[], bool], *, remembered: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._holds = holds
        self._remembered = remembered
        self._clock = clock
        self._ask_at = float("-inf")
        self._aborted = False

    def aborted(self) -> bool:
        """Whether the run has lost its job. Once it has, it has for ever; what cannot be known is taken as before."""
        began = self._clock()
        if self._aborted or began < self._ask_at:
            return self._aborted
        try:
            self._aborted = not self._holds()
        except LedgerUnavailable as error:
            logger.debug("cannot ask whether a run still has its job: %s", error)
        ended = self._clock()
        # A ledger that answers slowly, or not in time, costs the handler a tenth of its time at most.
        self._ask_at = ended + max(self._remembered, 10 * (ended - began))
        return self._aborted


_current: ContextVar[Run | None] = ContextVar("mr_celery_run", default=None)


def current_run() -> Run | None:
    """The run that this code belongs to; ``None`` outside of a job's handler."""
    return _current.get()


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Make ``run`` the current one."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


def raise_if_aborted() -> None:
    """Stop the handler here if it is to stop: :meth:`Job.raise_if_aborted` of the job that is being run.

    For handlers without a parameter ``job``, and for what they call. Outside of a handler, and in threads that a
    handler starts, it does nothing.

    Raises:
        JobAborted: the handler is to stop; let it through.

    Example::

        from mr_celery import modelreins_job, raise_if_aborted

        @modelreins_job("text.translate")
        @app.task
        def translate(input: list[str]) -> list[str]:
            pages = []
            for page in input:
                raise_if_aborted()
                pages.append(translated(page))
            return pages
    """
    run = _current.get()
    if run is not None:
        run.job.raise_if_aborted()


class CurrentWorker:
    """Inside a handler: the SDK's worker object, for the job that is being run.

    A handler written for the SDK moves over by importing this ``worker`` instead of making one.

    What it uploads or files while the server is away, or where the bridge delivers
    (``MODELREINS_DELIVERY=bridge``), is delivered with the job's result. Its slug or id is a promised one then: in the
    result's text and in reviews the real one takes its place.

    Raises:
        MrCeleryError: it is used outside of a job's handler.
        WorkerError: the server refused.

    Example::

        from mr_celery import modelreins_job, worker

        @modelreins_job("image.generate")
        @app.task
        def generate(prompt: str) -> str:
            art = worker.upload_artifact(data=paint(prompt), content_type="image/png")
            return f"Uploaded artifact {art['slug']}"
    """

    def _run(self) -> Run:
        run = _current.get()
        if run is None:
            raise MrCeleryError("mr_celery.worker works inside the handler of a ModelReins job only")
        return run

    def __repr__(self) -> str:
        return "<mr_celery.worker>"

    @property
    def name(self) -> str:
        """The worker name that the job is assigned to."""
        return self._run().worker

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._run().url

    def upload_artifact(
        self,
        data: bytes,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | None = None,
        expires_at: str | None = None,
    ) -> dict[str, Any]:
        """Upload a file. Parameters and answer are the SDK's; ``job_id`` is this job's where not given."""
        run = self._run()
        fields: dict[str, Any] = {
            "filename": filename,
            "job_id": run.job.id if job_id is None else job_id,
            "review_id": review_id,
            "expires_at": expires_at,
            "idempotency_key": next(run.keys),
        }
        if run.api is not None and not run.attachments.promised_id(review_id):
            upload = run.api().upload
            answer = _unless_away(run, "an artifact", lambda: upload(data, content_type=content_type, **fields))
            if answer is not None:
                return answer
        return run.attachments.upload(data, content_type, **fields)

    def submit_review(
        self,
        type: str,
        title: str,
        content: str,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
    ) -> dict[str, Any]:
        """File a review. Parameters and answer are the SDK's; ``job_id`` is this job's where not given."""
        run = self._run()
        fields: dict[str, Any] = {
            "preview": preview,
            "target": target,
            "job_id": run.job.id if job_id is None else job_id,
            "idempotency_key": next(run.keys),
        }
        if run.api is not None and not run.attachments.promises_in(title, content, preview):
            submit = run.api().review
            answer = _unless_away(run, "a review", lambda: submit(type, title, content, **fields))
            if answer is not None:
                return answer
        return run.attachments.review(type, title, content, **fields)


def _unless_away(run: Run, what: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """The server's answer; ``None`` where it can't take anything now."""
    try:
        return step()
    except WorkerError as error:
        if not error.trouble:
            raise
        log = JobLog(logger, run.job.id, worker_name=run.worker, task_id=run.task_id)
        log.warning("waits", f"{what} waits for the job's result: {error.summary}", reason=error.summary)
        return None


worker = CurrentWorker()
