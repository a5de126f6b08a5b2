"""Uploads an outcome's artifacts and files its reviews."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import JobError, WorkerError
from ..outcome import Upload
from ..server import Api
from .blobs import BlobStore
from .placeholders import Placeholders, Stored
from .progress import watched
from .server_routes import ServerRoutes

if TYPE_CHECKING:
    from .deliver import DeliveryLease, DeliveryRequest

REFUSED = (400, 413, 415, 422)
"""Statuses with which a server rejects a content permanently."""

OUTPUT = "output"
"""The name of a job's output among its parts."""

SIDE_BY_SIDE = 4
"""Number of large artifacts of one job that are uploaded in parallel."""

MOST_TEXT = 200
"""Maximum length in characters of a usable slug, path or id."""

LARGE_BYTES = 2**20
"""Size in bytes above which an artifact is uploaded on a separate connection."""


class Undeliverable(Exception):
    """A part of an outcome can never be delivered.

    Args:
        why: the part and the reason, for the job's output.
        parts: the undeliverable parts: ``artifact:0``, ``review:0``, ``output``.
        error: the server's response, if the server refused.
        about: the reason for operators, without names of files. Default: the server's response.
    """

    def __init__(self, why: str, parts: tuple[str, ...], error: WorkerError | None = None, *, about: str = "") -> None:
        super().__init__(", ".join(parts))  # not the reason: it may have a review's title
        self.why = why
        self.about = about or (error.summary if error else "")
        self.parts = parts
        self.error = error


@contextmanager
def content(what: str, part: str) -> Iterator[None]:
    """Context manager around a request that delivers a part of an outcome.

    Raises:
        Undeliverable: the server rejected the part permanently.
    """
    try:
        yield
    except WorkerError as error:
        raise_if_refused(what, part, error)
        raise


def raise_if_refused(what: str, part: str, error: WorkerError) -> None:
    """Raise if an error means that a part can never be delivered.

    Raises:
        Undeliverable: the server rejected the part permanently.
    """
    if error.status in REFUSED:
        raise Undeliverable(f"{what} ({error})", (part,), error) from error


def store(api: Api, job_id: int, upload: Upload, file: BinaryIO, *, key: str) -> Stored:
    """Upload an artifact. Returns its slug and path.

    Args:
        api: the server.
        job_id: the job.
        upload: the artifact's metadata.
        file: the content.
        key: the idempotency key, which is the same for each attempt of one upload.

    Raises:
        WorkerError: the upload failed, or the response has no usable slug.
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
    if not isinstance(slug, (str, int)) or isinstance(slug, bool) or slug == "":
        raise _unusable("upload", "POST /artifacts/upload -> answer without a slug")
    usable = _text(slug)
    if usable is None:
        raise _unusable("upload", f"POST /artifacts/upload -> answer with a slug that cannot be used ({_size(slug)})")
    path = _text(url) if isinstance(url, str) else None
    return Stored(usable, path or f"/s/{usable}")


def filed_id(answer: Mapping[str, Any]) -> str:
    """The id that the server gave to a review; empty if the response has none.

    Raises:
        WorkerError: the id is unusable.
    """
    review_id = answer.get("id")
    usable = "" if review_id is None else _text(review_id)
    if usable is None:
        raise _unusable("review", f"POST /review -> answer with an id that cannot be used ({_size(review_id)})")
    return usable


def _text(value: object) -> str | None:
    """A value from the server as text; ``None`` if it is too long or not printable."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):  # an integer of thousands of digits, for one
        return None
    return text if len(text) <= MOST_TEXT and text.isprintable() else None


def _size(value: object) -> str:
    """The size or type of a value, for a message that must not repeat its contents."""
    return f"{len(value)} characters" if isinstance(value, str) else type(value).__name__


def _unusable(route: str, why: str) -> WorkerError:
    error = WorkerError(why, status=200, retryable=True)
    error.route = route
    return error


def raise_first(failures: list[Exception]) -> None:
    """Raise the most important failure: first a lost claim on the job, then all refusals, then errors worth a retry.

    Refusals come before the latter, so that refused parts are not tried again.
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
            about="; ".join(dict.fromkeys(each.about for each in refusals)),
        )


class PartDelivery:
    """Delivers the artifacts and reviews of an outcome, and records each response as it arrives.

    Args:
        api: the server.
        blob_store: the stored contents of the uploads.
        delivery_request: the outcome to deliver.
        lease: the delivery's claim on its job.
        routes: the known routes of the server.
    """

    def __init__(
        self,
        api: Api,
        blob_store: BlobStore,
        delivery_request: DeliveryRequest,
        lease: DeliveryLease,
        routes: ServerRoutes | None = None,
    ) -> None:
        self._api = api
        self._blob_store = blob_store
        self._delivery_request = delivery_request
        self._lease = lease
        self._routes = routes
        self.failed: dict[str, Exception] = {}
        """The errors of the parts that could not be delivered, by part."""
        self.placeholders = Placeholders(api.url, delivery_request.outcome, delivery_request.parts)
        """The server's responses in this delivery and earlier ones."""

    def deliver(self) -> None:
        """Deliver the remaining artifacts, then the reviews, then the artifacts that belong to one of these reviews.

        Raises:
            Undeliverable: a part can never be delivered; the other artifacts are delivered.
            WorkerError: a part could not be delivered now.
            Overtaken: another delivery has taken the job.
            SpoolUnavailable: the spool cannot be reached.
            LedgerUnavailable: the ledger cannot be reached.
        """
        uploads = self._delivery_request.outcome.uploads
        if not uploads and not self._delivery_request.outcome.reviews:
            return
        left = [i for i, upload in enumerate(uploads) if not (upload.refused or i in self.placeholders.uploads)]
        for index in set(range(len(uploads))) - set(left):
            self._blob_store.forget(uploads[index])  # an earlier delivery may have crashed before this
        self._upload_all(index for index in left if uploads[index].review_of is None)
        for index, review in enumerate(self._delivery_request.outcome.reviews):
            if not (review.refused or index in self.placeholders.reviews):
                self._file(index)
        self._upload_all(index for index in left if uploads[index].review_of is not None)

    def _upload_all(self, indices: Iterable[int]) -> None:
        """Upload artifacts: the large ones in parallel, and the small ones meanwhile."""
        uploads, trouble = self._delivery_request.outcome.uploads, threading.Event()
        order = sorted(indices, key=lambda index: uploads[index].size > LARGE_BYTES)
        small = [index for index in order if uploads[index].size <= LARGE_BYTES]

        def attempt(index: int) -> Exception | None:
            try:
                if not trouble.is_set():
                    self._upload(index)
            except Undeliverable as refusal:
                return refusal  # it concerns only this artifact
            except Exception as error:
                trouble.set()
                self.failed[f"artifact:{index}"] = error
                return error
            return None

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            # The threads inherit the context, so that their spans belong to the same trace.
            futures = [pool.submit(copy_context().run, attempt, index) for index in order[len(small) :]]
            failures = [attempt(index) for index in small]
            failures += [future.result() for future in futures]
        raise_first([failure for failure in failures if failure])

    def _upload(self, index: int) -> None:
        delivery_request, upload = self._delivery_request, self._delivery_request.outcome.uploads[index]
        job_id, name, part = delivery_request.job_id, repr(upload.filename), f"artifact:{index}"
        if upload.review_of is not None:
            filed_as = self.placeholders.reviews.get(upload.review_of, "")
            upload = replace(upload, review_id=filed_as or None)
        key = upload.key or f"{delivery_request.key.task_id}-artifact-{index}"
        self._lease.confirm()
        try:
            with self._blob_store.open(job_id, index, upload, delivery_request.blobs) as file:
                logged = watched(file, f"job={job_id} artifact {index}", upload.size, beat=self._lease.confirm)
                with content(f"the artifact {name}", part):
                    stored = store(self._api, job_id, upload, logged, key=key)
        except JobError as error:
            raise Undeliverable(str(error), (part,), about=error.about or type(error).__name__) from error
        self._delivered(part, json.dumps(asdict(stored)), "upload")
        self.placeholders.uploads[index] = stored
        self._blob_store.forget(upload)

    def _delivered(self, part: str, answer: str, route: str) -> None:
        """Record that a part is delivered, and that its route works."""
        self._lease.record(part, answer)
        if self._routes is not None:
            self._routes.works(route)

    def _file(self, index: int) -> None:
        try:
            self._review(index)
        except Exception as error:
            self.failed[f"review:{index}"] = error
            raise

    def _review(self, index: int) -> None:
        delivery_request, review, part = (
            self._delivery_request,
            self._delivery_request.outcome.reviews[index],
            f"review:{index}",
        )
        resolved = self.placeholders.resolved
        self._lease.confirm()
        with content(f"the review {review.title!r}", part):
            filed = self._api.review(
                review.type,
                resolved(review.title),
                resolved(review.content),
                preview=self.placeholders.preview(review),
                target=review.target,
                job_id=delivery_request.job_id if review.job_id is None else review.job_id,
                idempotency_key=review.key or f"{delivery_request.key.task_id}-review-{index}",
            )
        filed_as = filed_id(filed)
        self._delivered(part, filed_as, "review")
        self.placeholders.reviews[index] = filed_as
