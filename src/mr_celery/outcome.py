"""The outcome of a run, as the ledger stores it and the delivery reads it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from .job_secrets import masked
from .result import Status
from .stored import known_fields

_JSON = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True)
class Upload:
    """An artifact of an outcome.

    The ledger stores its content as the blob of the same index, unless it was uploaded early, spooled or refused.

    Args:
        content_type: the media type.
        filename: the displayed file name.
        size: length in bytes.
        expires_at: time after which the server may delete it, as ISO 8601 text.
        slug: the server's identifier, if it was uploaded before the outcome was recorded.
        url: its path on the server, likewise.
        spooled: the name of its file in the spool.
        refused: whether the server rejected it; it is then left out.
        job_id: the job to link it to, if not the outcome's.
        review_id: the review to link it to.
        review_of: index of the review of this outcome to link it to; it is uploaded after that review.
        promised: the placeholder slug that the handler received before the upload.
        key: the idempotency key of an earlier attempt.
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
    review_id: int | str | None = None
    review_of: int | None = None
    promised: str | None = None
    key: str | None = None

    @property
    def settled(self) -> bool:
        """Whether the ledger need not store the content, because it is elsewhere or left out."""
        return bool(self.slug or self.spooled or self.refused)


@dataclass(frozen=True)
class ReviewItem:
    """A review in an outcome.

    Args:
        type: the kind of item.
        title: one line.
        content: the text to review.
        preview: a slug or address to show with it.
        preview_upload: index of the upload to show instead.
        target: destination once approved.
        job_id: the job to link it to, if not the outcome's.
        promised: the placeholder id that the handler received before the review was filed.
        key: the idempotency key of an earlier attempt.
        refused: whether the server rejected it; it is then left out.
    """

    type: str
    title: str = field(repr=False)
    content: str = field(repr=False)
    preview: str | None = field(default=None, repr=False)
    preview_upload: int | None = None
    target: str | None = None
    job_id: int | None = None
    promised: int | None = None
    key: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: the job's final status and output, and the parts to deliver before the close.

    Args:
        status: the job's final status.
        text: its output.
        uploads: its artifacts.
        reviews: its reviews.
        reason: why it failed or was escalated, for operators. It contains none of the job's content.
    """

    status: Status
    text: str = field(repr=False)
    uploads: tuple[Upload, ...] = ()
    reviews: tuple[ReviewItem, ...] = ()
    reason: str = ""

    @classmethod
    def failed(cls, why: str, *, reason: str = "") -> Outcome:
        """The outcome of a job that cannot succeed, with ``why`` as its output."""
        return cls("failed", why, reason=reason)

    def failing(self, why: str, *, reason: str = "") -> Outcome:
        """The outcome changed to a failure. It keeps the uploads, and the reviews that the handler filed itself.

        A failure keeps its first reason.
        """
        filed = tuple(review for review in self.reviews if review.promised is not None)  # always the first ones
        return replace(self, status="failed", text=why, reviews=filed, reason=self.reason or reason)

    def text_after(self, why: str) -> str:
        """The reason of a failure, followed by the handler's output."""
        return f"{why}\n\n{self.text}".rstrip()

    def saying(self, text: str) -> Outcome:
        """The outcome with another output."""
        return replace(self, text=text)

    def masked(self, secrets: Collection[str]) -> Outcome:
        """The outcome with secret values masked in its texts."""
        if not secrets:
            return self

        def hide(text: str) -> str:
            return masked(text, secrets)

        reviews = tuple(
            replace(review, title=hide(review.title), content=hide(review.content)) for review in self.reviews
        )
        return replace(self, text=hide(self.text), reason=hide(self.reason), reviews=reviews)

    def with_upload(self, index: int, upload: Upload) -> Outcome:
        """The outcome with one upload replaced."""
        return replace(self, uploads=(*self.uploads[:index], upload, *self.uploads[index + 1 :]))

    def without(self, parts: Iterable[str]) -> Outcome:
        """The outcome with parts marked as refused: ``artifact:0``, ``review:0``, … The indices do not change."""
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
        uploads, reviews = list(map(vars, self.uploads)), list(map(vars, self.reviews))
        return _JSON.encode({**vars(self), "uploads": uploads, "reviews": reviews})

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        """The outcome that :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(
            status=fields["status"],
            text=fields["text"],
            uploads=tuple(Upload(**known_fields(Upload, item)) for item in fields["uploads"]),
            reviews=tuple(ReviewItem(**known_fields(ReviewItem, item)) for item in fields["reviews"]),
            reason=fields.get("reason", ""),
        )
