"""Stores the large artifacts of a run before its outcome is recorded, in the spool or on the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import BinaryIO, Literal

from ..backoff import retry_until
from ..errors import JobError, WorkerError
from ..server import Api
from ..spool import Spool, SpoolName, SpoolUnavailable
from ..telemetry import tracing
from ..telemetry.logs import JobLog
from ..telemetry.quantities import data_size
from .packing import PackedOutcome
from .parts import store
from .progress import watched
from .server_routes import MISSING, ServerRoutes
from .texts import too_old, without_attachments

logger = logging.getLogger("mr_celery.delivery")

RETRY_SECONDS = 300.0
"""Seconds for which storing a large artifact is retried. The run keeps its lease meanwhile."""


class _NoRoute(Exception):
    """The server has no route for artifacts.

    Args:
        error: the server's response.
        how: ``without`` of :class:`~.server_routes.ServerRoutes`.
    """

    def __init__(self, error: WorkerError, how: Literal["fail", "close"]) -> None:
        super().__init__(str(error))
        self.error = error
        self.how = how


class Staging:
    """Stores the large artifacts of one run in the spool, or uploads them.

    Args:
        job_id: the job.
        task_id: the task id of its attempt.
        nonce: distinguishes this run from others of the same attempt.
        spool: the spool; ``None`` if none is configured.
        api: returns the server; ``None`` if this worker does not deliver.
        routes: returns the server's routes; ``None`` if this worker does not deliver.
        beat: called during the transfer; an exception ends it.
        retry_seconds: seconds for which storing an artifact is retried.
    """

    def __init__(
        self,
        job_id: int,
        task_id: str,
        nonce: str,
        *,
        spool: Spool | None,
        api: Callable[[], Api] | None,
        routes: Callable[[], ServerRoutes] | None = None,
        beat: Callable[[], object],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._job_id = job_id
        self._task_id = task_id
        self._nonce = nonce
        self._spool = spool
        self._api = api
        self._routes = routes
        self._beat = beat
        self._retry_seconds = retry_seconds
        self._log = JobLog(logger, job_id, task_id=task_id)

    def stage(self, packed: PackedOutcome) -> tuple[PackedOutcome, JobError | None]:
        """Store each large upload. Returns the packed outcome, and an error if the job fails.

        The job fails if an upload cannot be stored.
        """
        problem: JobError | None = None
        for index in packed.large:
            try:
                packed = self._stage(packed, index)
            except _NoRoute as missing:
                return self._without(packed, missing)
            except (JobError, SpoolUnavailable, WorkerError) as error:
                name = packed.outcome.uploads[index].filename
                reason = _loggable(error)
                self._log.error("not_stored", f"artifact {index} could not be stored: {reason}", reason=reason)
                shown = data_size(packed.outcome.uploads[index].size)
                why = f"the artifact {name!r} ({shown}) could not be stored: {error}"
                if not isinstance(error, JobError):
                    why += self._advice()
                packed = packed.failing(
                    packed.outcome.text_after(why), without=index, reason=f"an artifact could not be stored: {reason}"
                )
                problem = JobError(why)
        return packed, problem

    def _without(self, packed: PackedOutcome, missing: _NoRoute) -> tuple[PackedOutcome, JobError | None]:
        """The packed outcome without artifacts and reviews, for a server that has no route for them."""
        left = tuple(f"artifact:{index}" for index, upload in enumerate(packed.outcome.uploads) if not upload.slug)
        left += tuple(f"review:{index}" for index in range(len(packed.outcome.reviews)))
        error = missing.error
        self._log.error("not_stored", f"the server has no route for artifacts: {error.summary}", reason=error.summary)
        packed = replace(packed, outcome=without_attachments(packed.outcome, left, error, missing.how))
        return packed, None if missing.how == "close" else JobError(str(too_old(error)))

    def _advice(self) -> str:
        if self._spool is None:
            return " (with MODELREINS_SPOOL_URL it would have waited for the bridge)"
        return " (see MODELREINS_SPOOL_URL and MODELREINS_SPOOL_LIMIT)"

    def _stage(self, packed: PackedOutcome, index: int) -> PackedOutcome:
        if self._spool is not None:
            # If only the bridge delivers, waiting helps: its deliveries make room, and the network may recover.
            hopeless = packed.sources[index].size > self._spool.limit
            seconds = self._retry_seconds if self._api is None and not hopeless else 0.0
            spooling = partial(self._to_spool, self._spool, packed, index)
            try:
                return retry_until(spooling, errors=SpoolUnavailable, seconds=seconds, first=1.0, most=15.0)
            except SpoolUnavailable as error:
                if self._api is None:
                    raise
                self._log.warning("not_spooled", f"artifact {index} is uploaded at once: {error}", reason=str(error))
        if self._api is None:
            why = (
                "it is too large to wait in the ledger, and this worker does not deliver: set MODELREINS_SPOOL_URL "
                "to a place that the workers and the bridge share"
            )
            raise JobError(why, about=why)
        return self._to_server(self._api(), packed, index)

    def _to_spool(self, spool: Spool, packed: PackedOutcome, index: int) -> PackedOutcome:
        source, name = packed.sources[index], SpoolName(self._task_id, self._nonce, index)
        self._beat()
        with tracing.spool(self._job_id, source.size), source.open() as file:
            spool.put(name, self._watched(file, packed, index), source.size)
        return packed.with_upload(index, spooled=str(name))

    def _to_server(self, api: Api, packed: PackedOutcome, index: int) -> PackedOutcome:
        source, upload = packed.sources[index], packed.outcome.uploads[index]

        def attempt() -> PackedOutcome:
            self._beat()
            with source.open() as file:
                key = upload.key or f"{self._task_id}-{self._nonce}-artifact-{index}"
                try:
                    stored = store(api, self._job_id, upload, self._watched(file, packed, index), key=key)
                except WorkerError as error:
                    if error.status in MISSING and upload.review_id is None:
                        routes = self._routes() if self._routes else None
                        if routes and routes.surely_missing(error):
                            raise _NoRoute(error, routes.without) from error
                        raise  # the status may be a temporary fault of a proxy
                    if error.retryable or error.unauthorized:
                        raise
                    raise JobError(str(error), about=error.summary) from error
            if self._routes:
                self._routes().works("upload")
            return packed.with_upload(index, slug=stored.slug, url=stored.url)

        return retry_until(attempt, errors=WorkerError, seconds=self._retry_seconds, first=1.0, most=30.0)

    def _watched(self, file: BinaryIO, packed: PackedOutcome, index: int) -> BinaryIO:
        upload = packed.outcome.uploads[index]
        return watched(file, f"job={self._job_id} artifact {index}", upload.size, beat=self._beat)


def _loggable(error: Exception) -> str:
    """The error for operators, without names of files and the server's text, which may repeat a prompt."""
    if isinstance(error, JobError):
        return error.about or type(error).__name__
    return error.summary if isinstance(error, WorkerError) else str(error)
