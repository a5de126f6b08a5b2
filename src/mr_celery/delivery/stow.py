"""Where the large artifacts of a run go before its outcome is recorded: the spool, or else the server at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from .. import tracing
from ..backoff import patiently
from ..client import Api
from ..errors import JobError, WorkerError
from ..log import JobLog
from ..spool import Spool, SpoolName, SpoolUnavailable
from .parcel import Parcel
from .progress import watched
from .shipment import store

logger = logging.getLogger("mr_celery.delivery")

PATIENCE = 300.0
"""Seconds for which one large artifact is tried to be stored, while the run's lease is held."""


class Stow:
    """Brings the large artifacts of one run to a place where they wait, or to the server.

    Args:
        job_id: the job.
        task_id: its attempt.
        nonce: what tells this run from others of the attempt.
        spool: the spool; ``None`` where none is set.
        api: gives the server; ``None`` where this worker does not deliver.
        beat: called while bytes are moved; what it raises ends that.
    """

    def __init__(
        self,
        job_id: int,
        task_id: str,
        nonce: str,
        *,
        spool: Spool | None,
        api: Callable[[], Api] | None,
        beat: Callable[[], object],
    ) -> None:
        self._job_id = job_id
        self._task_id = task_id
        self._nonce = nonce
        self._spool = spool
        self._api = api
        self._beat = beat
        self._log = JobLog(logger, job_id, task_id=task_id)

    def stow(self, parcel: Parcel) -> tuple[Parcel, JobError | None]:
        """The parcel with a place for each of its uploads.

        For those that find none its job fails: then that is told as an error, too.
        """
        problem: JobError | None = None
        for index in parcel.large:
            try:
                parcel = self._stow(parcel, index)
            except (JobError, SpoolUnavailable, WorkerError) as error:
                name = parcel.outcome.uploads[index].filename
                reason = _own_words(error)
                self._log.error("not_stored", f"artifact {name!r} could not be stored: {reason}", reason=reason)
                why = f"the artifact {name!r} ({parcel.outcome.uploads[index].size} bytes) could not be stored: {error}"
                if not isinstance(error, JobError):
                    why += self._advice()
                parcel = parcel.failing(parcel.outcome.text_after(why), without=index)
                problem = JobError(why)
        return parcel, problem

    def _advice(self) -> str:
        if self._spool is None:
            return " (with MODELREINS_SPOOL_URL it would have waited for the bridge)"
        return " (see MODELREINS_SPOOL_URL and MODELREINS_SPOOL_LIMIT)"

    def _stow(self, parcel: Parcel, index: int) -> Parcel:
        if self._spool is not None:
            # Where only the bridge delivers it has time: that makes room, and a network comes back.
            hopeless = parcel.sources[index].size > self._spool.limit
            seconds = PATIENCE if self._api is None and not hopeless else 0.0
            spooling = partial(self._to_spool, self._spool, parcel, index)
            try:
                return patiently(spooling, errors=SpoolUnavailable, seconds=seconds, first=1.0, most=15.0)
            except SpoolUnavailable as error:
                if self._api is None:
                    raise
                self._log.warning("not_spooled", f"an artifact is uploaded at once: {error}", reason=str(error))
        if self._api is None:
            raise JobError(
                "it is too large to wait in the ledger, and this worker does not deliver: set MODELREINS_SPOOL_URL "
                "to a place that the workers and the bridge share"
            )
        return self._to_server(self._api(), parcel, index)

    def _to_spool(self, spool: Spool, parcel: Parcel, index: int) -> Parcel:
        source, name = parcel.sources[index], SpoolName(self._task_id, self._nonce, index)
        self._beat()
        with tracing.spool(self._job_id, source.size), source.open() as file:
            spool.put(name, self._watched(file, parcel, index), source.size)
        return parcel.with_upload(index, spooled=str(name))

    def _to_server(self, api: Api, parcel: Parcel, index: int) -> Parcel:
        source, upload = parcel.sources[index], parcel.outcome.uploads[index]

        def attempt() -> Parcel:
            self._beat()
            with source.open() as file:
                key = upload.key or f"{self._task_id}-{self._nonce}-artifact-{index}"
                try:
                    stored = store(api, self._job_id, upload, self._watched(file, parcel, index), key=key)
                except WorkerError as error:
                    if error.retryable or error.unauthorized:
                        raise
                    raise JobError(str(error)) from error
            return parcel.with_upload(index, slug=stored.slug, url=stored.url)

        return patiently(attempt, errors=WorkerError, seconds=PATIENCE, first=1.0, most=30.0)

    def _watched(self, file: BinaryIO, parcel: Parcel, index: int) -> BinaryIO:
        upload = parcel.outcome.uploads[index]
        return watched(file, f"job={self._job_id} artifact {upload.filename!r}", upload.size, beat=self._beat)


def _own_words(error: Exception) -> str:
    """What is fit for a log: not the server's words, which may repeat a prompt."""
    answer = error.__cause__ or error
    return answer.summary if isinstance(answer, WorkerError) else str(error)
