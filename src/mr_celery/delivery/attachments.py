"""Uploads and reviews that a handler submits through ``worker`` before they can be sent to the server."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ..errors import JobError, as_text
from ..files import converted_errors, copied
from ..outcome import ReviewItem
from ..result import Artifact
from .media_types import default_name

PROMISED_IDS = 10**15
"""The smallest placeholder id. Ids of servers stay below it."""


@dataclass(frozen=True)
class Attached:
    """An artifact, with the fields of its :class:`~mr_celery.outcome.Upload` that the handler's call set."""

    artifact: Artifact
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Attachments:
    """The uploads and reviews that are delivered with the outcome of one run.

    The handler receives a response like the server's, with a placeholder for the slug or id. The delivery replaces
    placeholders in the outcome with the server's values.
    """

    uploads: list[Attached] = field(default_factory=list)
    reviews: list[ReviewItem] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def upload(
        self,
        data: bytes | BinaryIO,
        content_type: str,
        *,
        filename: str | None,
        job_id: int | None,
        review_id: int | None,
        expires_at: str | None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Attach a copy of a file, so that the handler may close it or reuse its memory.

        Returns a response of the form that the SDK's ``upload_artifact`` returns.

        Raises:
            JobError: it cannot be attached; the message gives the reason.
        """
        given = Artifact(data=data, content_type=content_type, filename=filename or "", expires_at=expires_at)
        kept, size = _kept(data)
        artifact = replace(given, data=kept, filename=filename or default_name(content_type))
        slug = secrets.token_hex(20)  # as long as the server's own
        with self._lock:
            promised = {review.promised: index for index, review in enumerate(self.reviews)}
            review_of = promised.get(review_id)
            linked = {"review_id": review_id} if review_of is None else {"review_of": review_of}
            fields = {"promised": slug, "job_id": job_id, "key": idempotency_key, **linked}
            self.uploads.append(Attached(artifact, fields))
        return {
            "success": True,
            "slug": slug,
            "url": f"/s/{slug}",
            "content_type": content_type,
            "size_bytes": size,
            "filename": artifact.filename,
        }

    def review(
        self,
        type: str,
        title: str,
        content: str,
        *,
        preview: str | None,
        target: str | None,
        job_id: int | None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Attach a review. Returns a response of the form that the SDK's ``submit_review`` returns."""
        promised = PROMISED_IDS + secrets.randbelow(PROMISED_IDS)
        item = ReviewItem(
            type,
            title,
            content,
            preview=preview,
            target=target,
            job_id=job_id,
            promised=promised,
            key=idempotency_key,
        )
        with self._lock:
            self.reviews.append(item)
        return {"id": promised, "status": "pending", "mode": "review"}

    def promised_id(self, review_id: int | None) -> bool:
        """Whether an id is the placeholder of an attached review."""
        return any(review.promised == review_id for review in self.reviews)

    def promises_in(self, *texts: str | None) -> bool:
        """Whether a text contains a placeholder slug, so that it cannot be sent to the server unchanged."""
        slugs = [attached.fields["promised"] for attached in self.uploads]
        return any(slug in text for text in texts if text for slug in slugs)


def _kept(data: bytes | BinaryIO) -> tuple[bytes | BinaryIO, int]:
    """A copy of the data and its length. A seekable file is copied from its beginning.

    Raises:
        JobError: the file cannot be read.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), memoryview(data).nbytes
    with converted_errors(
        lambda error: JobError(
            f"the artifact cannot be read: {as_text(error)}",
            about=f"an artifact cannot be read: {type(error).__name__}",
        )
    ):
        with suppress(AttributeError, OSError):  # a pipe is read from its current position
            data.seek(0)
        copy = copied(data)
    return copy, copy.tell()
