"""The current run, and ``worker``, the object that SDK handlers call by that name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import JobAborted, LedgerUnavailable, MrCeleryError, WorkerError
from ..job import Job
from ..telemetry.logs import JobLog
from ..telemetry.tracebacks import hides_variables, hides_variables_of_coroutine

if TYPE_CHECKING:
    from ..delivery.attachments import Attachments
    from ..delivery.server_routes import ServerRoutes
    from ..ledger import GivenReference
    from ..server import Api

logger = logging.getLogger("mr_celery.runner")


@dataclass(eq=False)
class Run:
    """One execution of a handler under a lease.

    Args:
        task_id: the attempt's task id.
        job: the job.
        attempt: the number of the attempt, from 1.
        worker_name: the worker name that the job is assigned to.
        url: the server's address in this worker's settings.
        api: returns the client of the server; ``None`` if this worker does not deliver.
        keys: an iterator of idempotency keys.
        wait_for: runs the awaitable of an ``async def`` handler, and returns its value.
        attachments: the handler's uploads and reviews that the server does not have yet.
        routes: returns the routes that the server is known to have; ``None`` if this worker does not deliver.
        retries: the Celery retries that the handler has requested.
        announce_retry: called with the number of Celery retries of a message before the run publishes it as its retry;
            ``None`` for members of workflows.
        reference: the job's reference; empty until the handler asks for it.
        given: what the ledger has stored of the reference.
    """

    task_id: str
    job: Job
    attempt: int
    worker_name: str
    url: str
    api: Callable[[], Api] | None
    keys: Iterator[str]
    wait_for: Callable[[Awaitable[Any]], Any]
    attachments: Attachments
    routes: Callable[[], ServerRoutes] | None = None
    retries: list[RequestedRetry] = field(default_factory=list)
    announce_retry: Callable[[int], object] | None = None
    reference: str = ""
    given: GivenReference | None = None


class ReferenceRefused(JobAborted):
    """The job has no reference for the run: it is not the run's any longer, or the ledger has lost it."""


@dataclass(frozen=True)
class RequestedRetry:
    """A Celery retry that a handler has requested.

    Args:
        signature: the signature that publishes it.
        own: whether it has arguments or options of the handler's own. Then only this process can publish it.
    """

    signature: Any
    own: bool


class AbortCheck:
    """Checks in the ledger whether a run has lost its job, and caches the answer.

    Args:
        holds: returns whether the run holds its job; may raise :class:`LedgerUnavailable`.
        remembered: seconds for which an answer is cached.
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
        """Whether the run has lost its job, which is final. While the ledger is unreachable, the last answer stands."""
        began = self._clock()
        if self._aborted or began < self._ask_at:
            return self._aborted
        try:
            self._aborted = not self._holds()
        except LedgerUnavailable as error:
            logger.debug("cannot check whether a run still has its job: %s", error)
        ended = self._clock()
        # A slow ledger costs the handler at most a tenth of its time.
        self._ask_at = ended + max(self._remembered, 10 * (ended - began))
        return self._aborted


CURRENT: ContextVar[Run | None] = ContextVar("mr_celery_run", default=None)
"""The current run. :func:`running` sets it. The runner sets it directly, which is cheaper than a context manager."""


def current_run() -> Run | None:
    """The run that calls this code, or ``None`` outside of a job's handler."""
    return CURRENT.get()


def running_here(task_id: str) -> bool:
    """Whether this code is called from the handler of a task."""
    run = CURRENT.get()
    return run is not None and run.task_id == task_id


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Make a run the current one inside the block."""
    token = CURRENT.set(run)
    try:
        yield
    finally:
        CURRENT.reset(token)


@hides_variables
def raise_if_aborted() -> None:
    """Raise if the current job was aborted, as :meth:`Job.raise_if_aborted` does.

    For handlers without a parameter ``job``, and for functions that they call. Outside of a handler, and in threads
    that a handler starts, it does nothing.

    Raises:
        JobAborted: the handler must stop. Do not catch it.

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
    run = CURRENT.get()
    if run is not None:
        run.job.raise_if_aborted()


class CurrentWorker:
    """The SDK's worker object for the current job, inside a handler.

    To move a handler over from the SDK, import this ``worker`` instead of making one.

    Uploads and reviews are delivered with the job's result if the server is unreachable, or if the bridge
    delivers (``MODELREINS_DELIVERY=bridge``). Their slug or id is then a placeholder, which is replaced by the real one
    in the result's text and in reviews. Servers before 4.6.0 accept neither. Once that is certain, both methods raise,
    or with ``modelreins_without_artifacts = "close"`` the files are listed in the job's output.

    Raises:
        MrCeleryError: the caller is not inside a job's handler.
        WorkerError: the server refused the request.

    Example::

        from mr_celery import modelreins_job, worker

        @modelreins_job("image.generate")
        @app.task
        def generate(prompt: str) -> str:
            art = worker.upload_artifact(data=paint(prompt), content_type="image/png")
            return f"Uploaded artifact {art['slug']}"
    """

    def _run(self) -> Run:
        run = CURRENT.get()
        if run is None:
            raise MrCeleryError("mr_celery.worker works inside the handler of a ModelReins job only")
        return run

    def __repr__(self) -> str:
        return "<mr_celery.worker>"

    @property
    def name(self) -> str:
        """The worker name that the job is assigned to."""
        return self._run().worker_name

    @property
    def url(self) -> str:
        """The server's address, without a trailing slash."""
        return self._run().url

    @hides_variables
    def upload_artifact(
        self,
        data: bytes,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | None = None,
        expires_at: str | None = None,
    ) -> dict[str, Any]:
        """Upload a file, with the SDK's parameters and response. ``job_id`` defaults to the current job."""
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
            answer = _send_now(
                run, "upload", lambda: upload(data, content_type=content_type, **fields), linked=review_id is not None
            )
            if answer is not None:
                return answer
        return run.attachments.upload(data, content_type, **fields)

    @hides_variables_of_coroutine
    async def aupload_artifact(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Upload a file from an ``async def`` handler, as :meth:`upload_artifact` does, without blocking the loop."""
        return await asyncio.to_thread(self.upload_artifact, *args, **kwargs)

    @hides_variables_of_coroutine
    async def asubmit_review(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """File a review from an ``async def`` handler, as :meth:`submit_review` does, without blocking the loop."""
        return await asyncio.to_thread(self.submit_review, *args, **kwargs)

    @hides_variables
    def submit_review(
        self,
        type: str,
        title: str,
        content: str,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
    ) -> dict[str, Any]:
        """File a review, with the SDK's parameters and response. ``job_id`` defaults to the current job."""
        run = self._run()
        fields: dict[str, Any] = {
            "preview": preview,
            "target": target,
            "job_id": run.job.id if job_id is None else job_id,
            "idempotency_key": next(run.keys),
        }
        if run.api is not None and not run.attachments.promises_in(title, content, preview):
            submit = run.api().review
            answer = _send_now(run, "review", lambda: submit(type, title, content, **fields))
            if answer is not None:
                return answer
        return run.attachments.review(type, title, content, **fields)


def _send_now(
    run: Run, route: str, step: Callable[[], dict[str, Any]], *, linked: bool = False
) -> dict[str, Any] | None:
    """Send a request of a handler, and return the response, or ``None`` if the server cannot take it now.

    Args:
        run: the run.
        route: ``upload`` or ``review``.
        step: sends the request.
        linked: whether it refers to a review that the server may not have.
    """
    routes = run.routes() if run.routes else None
    try:
        answer = step()
    except WorkerError as error:
        if routes and error.status in (404, 405, 501) and not linked:
            # A proxy in front of the server may cause the same status.
            if routes.surely_missing(error) and routes.without == "fail":
                raise routes.explained(error) from error
        elif not error.trouble:
            raise
        log = JobLog(logger, run.job.id, worker_name=run.worker_name, task_id=run.task_id)
        what = "an artifact" if route == "upload" else "a review"
        log.warning(
            "waits",
            f"{what} cannot be sent now, and will be delivered with the job's result: {error.summary}",
            reason=error.summary,
        )
        return None
    if routes:
        routes.works(route)
    return answer


worker = CurrentWorker()
