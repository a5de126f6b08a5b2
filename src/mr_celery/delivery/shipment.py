"""Uploading an outcome's artifacts and filing its reviews."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import BinaryIO

from ..client import Api
from ..errors import JobError, WorkerError
from ..outcome import Upload
from .answers import Answers, Stored
from .consignment import Consignment
from .hold import Hold
from .progress import watched
from .stores import Stores

REFUSED = (400, 413, 415, 422)
"""Statuses with which a server says that this very content will never do."""

SIDE_BY_SIDE = 4
"""How many large artifacts of one job are uploaded at once."""

LARGE_BYTES = 2**20
"""Bytes from which an artifact is worth a connection of its own."""


class Undeliverable(Exception):
    """A part of an outcome can never be delivered.

    Args:
        why: what, and why, for the job's output.
        parts: which: ``artifact:0``, ``review:0``, ``output``.
        error: the server's answer, if it is the server that will never take it.
    """

    def __init__(self, why: str, parts: tuple[str, ...], error: WorkerError | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.parts = parts
        self.error = error


@contextmanager
def content(what: str, part: str) -> Iterator[None]:
    """Around a request that brings the server a part of what the job made.

    Raises:
        Undeliverable: the server says that it will never take it.
    """
    try:
        yield
    except WorkerError as error:
        if error.status in REFUSED:
            raise Undeliverable(f"{what} ({error})", (part,), error) from error
        raise


def store(api: Api, job_id: int, upload: Upload, file: BinaryIO, *, key: str) -> Stored:
    """Upload one artifact of a job.

    Args:
        api: the server.
        job_id: the job.
        upload: what the server is told of it.
        file: its content.
        key: the same for each try of the same upload.

    Raises:
        WorkerError: it could not be uploaded, or the answer names no slug.
    """
    answer = api.upload(
        file,
        content_type=upload.content_type,
        filename=upload.filename,
        job_id=job_id if upload.job_id is None else upload.job_id,
        review_id=upload.review_id,
        expires_at=upload.expires_at,
        idempotency_key=key,
    )
    slug, url = answer.get("slug"), answer.get("url")
    if not isinstance(slug, str) or not slug:
        raise WorkerError("POST /artifacts/upload -> answer without a slug", retryable=True)
    return Stored(slug, url if isinstance(url, str) and url else f"/s/{slug}")


def raise_first(failures: list[Exception]) -> None:
    """Raise what comes first of these: that the job is not ours, then all that is refused, then what can be repeated.

    So what was refused is not tried again with what can be repeated.
    """
    refusals = [failure for failure in failures if isinstance(failure, Undeliverable)]
    others = [failure for failure in failures if not isinstance(failure, Undeliverable)]
    for failure in others:
        if not refusals or not isinstance(failure, WorkerError):
            raise failure
    if refusals:
        raise Undeliverable(
            "; ".join(each.why for each in refusals),
            tuple(part for each in refusals for part in each.parts),
            next((each.error for each in refusals if each.error), None),
        )


class Shipment:
    """The artifacts and reviews of a consignment, on their way; each answer is written down as it comes.

    Args:
        api: the server.
        stores: where the uploads' bytes wait.
        consignment: what to deliver.
        hold: that it is this delivery's.
    """

    def __init__(self, api: Api, stores: Stores, consignment: Consignment, hold: Hold) -> None:
        self._api = api
        self._stores = stores
        self._consignment = consignment
        self._hold = hold
        self.answers = Answers(api.url, consignment.outcome, consignment.parts)
        """What the server has answered so far, in this delivery and those before."""

    def ship(self) -> None:
        """Deliver what is left: the artifacts, the reviews, and the artifacts that belong to one of these.

        Raises:
            Undeliverable: some of it can never be delivered; the other artifacts are.
            WorkerError: some of it could not be delivered now.
            Overtaken: the job is not this delivery's any more.
            SpoolUnavailable, LedgerUnavailable: as they say.
        """
        uploads = self._consignment.outcome.uploads
        if not uploads and not self._consignment.outcome.reviews:
            return
        left = [i for i, upload in enumerate(uploads) if not (upload.refused or i in self.answers.uploads)]
        for index in set(range(len(uploads))) - set(left):
            self._stores.forget(uploads[index])  # whoever delivered it may have died before that
        self._upload_all(index for index in left if uploads[index].review_of is None)
        for index, review in enumerate(self._consignment.outcome.reviews):
            if not (review.refused or index in self.answers.reviews):
                self._file(index)
        self._upload_all(index for index in left if uploads[index].review_of is not None)

    def _upload_all(self, indices: Iterable[int]) -> None:
        """Upload artifacts: the large ones side by side, and the small ones meanwhile."""
        uploads, trouble = self._consignment.outcome.uploads, threading.Event()
        order = sorted(indices, key=lambda index: uploads[index].size > LARGE_BYTES)
        small = [index for index in order if uploads[index].size <= LARGE_BYTES]

        def attempt(index: int) -> Exception | None:
            try:
                if not trouble.is_set():
                    self._upload(index)
            except Undeliverable as refusal:
                return refusal  # it is about this one only
            except Exception as error:
                trouble.set()
                return error
            return None

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            # What is under way here (a trace's span) is so in these threads, too.
            futures = [pool.submit(copy_context().run, attempt, index) for index in order[len(small) :]]
            failures = [attempt(index) for index in small]
            failures += [future.result() for future in futures]
        raise_first([failure for failure in failures if failure])

    def _upload(self, index: int) -> None:
        consignment, upload = self._consignment, self._consignment.outcome.uploads[index]
        job_id, name, part = consignment.job_id, repr(upload.filename), f"artifact:{index}"
        if upload.review_of is not None:
            filed_as = self.answers.reviews.get(upload.review_of, "")
            upload = replace(upload, review_id=int(filed_as) if filed_as.isdigit() else None)
        key = upload.key or f"{consignment.key.task_id}-artifact-{index}"
        self._hold.confirm()
        try:
            with self._stores.open(job_id, index, upload, consignment.blobs) as file:
                told_of = watched(file, f"job={job_id} artifact {name}", upload.size, beat=self._hold.confirm)
                with content(f"the artifact {name}", part):
                    stored = store(self._api, job_id, upload, told_of, key=key)
        except JobError as error:
            raise Undeliverable(str(error), (part,)) from error
        self._hold.record(part, json.dumps(asdict(stored)))
        self.answers.uploads[index] = stored
        self._stores.forget(upload)

    def _file(self, index: int) -> None:
        consignment, review, part = self._consignment, self._consignment.outcome.reviews[index], f"review:{index}"
        resolved = self.answers.resolved
        self._hold.confirm()
        with content(f"the review {review.title!r}", part):
            filed = self._api.review(
                review.type,
                resolved(review.title),
                resolved(review.content),
                preview=self.answers.preview(review),
                target=review.target,
                job_id=consignment.job_id if review.job_id is None else review.job_id,
                idempotency_key=review.key or f"{consignment.key.task_id}-review-{index}",
            )
        review_id = filed.get("id")
        filed_as = "" if review_id is None else str(review_id)
        self._hold.record(part, filed_as)
        self.answers.reviews[index] = filed_as
