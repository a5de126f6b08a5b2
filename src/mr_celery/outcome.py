"""What a run ended with, in the form that the ledger keeps and the delivery reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from .result import Status


@dataclass(frozen=True)
class Upload:
    """An artifact of an outcome. Its bytes are the ledger's blob of the same index, or already delivered.

    ``slug`` and ``url`` are set when it was uploaded before the outcome was recorded (large files).
    """

    content_type: str
    filename: str
    size: int
    expires_at: str | None = None
    slug: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class ReviewItem:
    """A review of an outcome. ``preview_upload`` is the index of the upload that it shows."""

    type: str
    title: str
    content: str
    preview: str | None = None
    preview_upload: int | None = None
    target: str | None = None


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
