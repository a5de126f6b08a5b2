"""What a run ended with, in the form that the ledger keeps and the delivery reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from .result import Status


@dataclass(frozen=True)
class Upload:
    """An artifact of an outcome. Its bytes wait in the ledger, as the blob of the same index, unless it says otherwise.

    Args:
        content_type: its media type.
        filename: its name for people.
        size: bytes.
        expires_at: when the server may delete it, as ISO 8601 text.
        slug: the server's name for it, if it was uploaded before the outcome was recorded.
        url: the server's path to it, likewise.
        spooled: the file in the spool in which its bytes wait.
        refused: whether the server will not take it: then it is left out.
        job_id: the job that the server links it to, if not the outcome's.
        review_id: the review that the server links it to.
        review_of: the review of this outcome that the server links it to, by its index; it is uploaded after that.
        promised: the slug that the handler was told when it could not be uploaded yet.
        key: its idempotency key, if it was tried before.
    """

    content_type: str
    filename: str
    size: int
    expires_at: str | None = None
    slug: str | None = None
    url: str | None = None
    spooled: str | None = None
    refused: bool = False
    job_id: int | None = None
    review_id: int | None = None
    review_of: int | None = None
    promised: str | None = None
    key: str | None = None

    @property
    def settled(self) -> bool:
        """Whether the ledger need not keep its bytes: they are elsewhere, or left out."""
        return bool(self.slug or self.spooled or self.refused)


@dataclass(frozen=True)
class ReviewItem:
    """A review of an outcome.

    Args:
        type: what kind of thing it is.
        title: one line.
        content: what the reviewer reads.
        preview: what the reviewer looks at: a slug or an address.
        preview_upload: the index of the upload that it shows instead.
        target: where it goes once approved.
        job_id: the job that it is linked to, if not the outcome's.
        promised: the id that the handler was told when it could not be filed yet.
        key: its idempotency key, if it was tried before.
        refused: whether the server will not take it: then it is left out.
    """

    type: str
    title: str
    content: str
    preview: str | None = None
    preview_upload: int | None = None
    target: str | None = None
    job_id: int | None = None
    promised: int | None = None
    key: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: how the job is to be closed, its output, and what to deliver before."""

    status: Status
    text: str
    uploads: tuple[Upload, ...] = ()
    reviews: tuple[ReviewItem, ...] = ()

    @classmethod
    def failed(cls, why: str) -> Outcome:
        """The outcome of a job that cannot succeed, with the reason as its output."""
        return cls("failed", why)

    def failing(self, why: str) -> Outcome:
        """The outcome of a job that failed after all: with the same uploads, and what its handler had filed itself."""
        filed = tuple(review for review in self.reviews if review.promised is not None)  # the first ones, if any
        return replace(self, status="failed", text=why, reviews=filed)

    def text_after(self, why: str) -> str:
        """A reason to fail after all, and then what the handler had said."""
        return f"{why}\n\n{self.text}".rstrip()

    def with_upload(self, index: int, upload: Upload) -> Outcome:
        """The outcome with one upload in the place of another."""
        return replace(self, uploads=(*self.uploads[:index], upload, *self.uploads[index + 1 :]))

    def without(self, parts: Iterable[str]) -> Outcome:
        """The outcome less the parts that can't be delivered: ``artifact:0``, ``review:0``, … All keep their places."""
        uploads, reviews = list(self.uploads), list(self.reviews)
        for part in parts:
            kind, _, index = part.partition(":")
            if kind == "artifact":
                uploads[int(index)] = replace(uploads[int(index)], refused=True)
            elif kind == "review" and int(index) < len(reviews):
                reviews[int(index)] = replace(reviews[int(index)], refused=True)
        return replace(self, uploads=tuple(uploads), reviews=tuple(reviews))

    def to_json(self) -> str:
        """The outcome as JSON text, for the ledger."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        """The outcome that :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(
            status=fields["status"],
            text=fields["text"],
            uploads=tuple(Upload(**item) for item in fields["uploads"]),
            reviews=tuple(ReviewItem(**item) for item in fields["reviews"]),
        )
