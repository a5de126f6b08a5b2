"""What a handler uploads and files through ``worker`` that cannot be brought to the server yet."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from .errors import JobError
from .foreign import copied, told
from .media import default_name
from .outcome import ReviewItem
from .result import Artifact

PROMISED_IDS = 10**15
"""Ids from here on are promised ones: no server counts that far."""


@dataclass(frozen=True)
class Attached:
    """An artifact, with the fields of its :class:`~mr_celery.outcome.Upload` that the handler's call decided."""

    artifact: Artifact
    fields: dict[str, Any] = field(default_factory=dict)


class Attachments:
    """What waits for the result of one run, to be delivered with it.

    The handler is answered as by the server, with a slug or an id that is promised: where it is found in the result
    later, the delivery puts the real one in its place.
    """

    def __init__(self) -> None:
        self.uploads: list[Attached] = []
        self.reviews: list[ReviewItem] = []
        self._lock = threading.Lock()

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
        """Attach a file, as it is now: the handler may close it, or use its memory again.

        Returns the answer that the SDK's ``upload_artifact`` has.

        Raises:
            JobError: it can't be attached; the message says why.
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
        """Attach a review. Returns the answer that the SDK's ``submit_review`` has."""
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
        """Whether that is the promised id of a review."""
        return any(review.promised == review_id for review in self.reviews)

    def promises_in(self, *texts: str | None) -> bool:
        """Whether a text has a promised slug in it, so that it can't go to the server as it is."""
        slugs = [attached.fields["promised"] for attached in self.uploads]
        return any(slug in text for text in texts if text for slug in slugs)


def _kept(data: bytes | BinaryIO) -> tuple[bytes | BinaryIO, int]:
    """A copy of some data, or of a file from its beginning to its end if it can seek, and how long it is.

    Raises:
        JobError: the file cannot be read.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), memoryview(data).nbytes
    with told(lambda why: JobError(f"the artifact cannot be read: {why}")):
        with suppress(AttributeError, OSError):  # a pipe: it is read from where it stands
            data.seek(0)
        copy = copied(data)
    return copy, copy.tell()
