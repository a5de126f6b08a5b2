"""From what a handler returned to an outcome that can be recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_args

from ..errors import JobError
from ..job import Job
from ..outcome import Outcome, ReviewItem, Upload
from ..result import Artifact, Result, Review, Status

LEDGER_BLOB_LIMIT = 1024 * 1024
"""Bytes of one artifact up to which the ledger keeps it until it is delivered."""


@dataclass(frozen=True)
class Parcel:
    """An outcome with the sources of its uploads, in order."""

    outcome: Outcome
    sources: tuple[Artifact, ...] = field(default=(), repr=False)

    @property
    def large(self) -> list[int]:
        """The uploads that are too large for the ledger and not delivered yet."""
        return [
            index
            for index, upload in enumerate(self.outcome.uploads)
            if upload.size > LEDGER_BLOB_LIMIT and upload.slug is None
        ]

    def uploaded(self, index: int, *, slug: str, url: str) -> Parcel:
        """The parcel with one upload delivered."""
        uploads = list(self.outcome.uploads)
        uploads[index] = replace(uploads[index], slug=slug, url=url)
        return replace(self, outcome=replace(self.outcome, uploads=tuple(uploads)))

    def blobs(self) -> list[bytes]:
        """The bytes of each upload, empty for those that are delivered.

        Raises:
            JobError: a file cannot be read any more.
        """
        return [
            b"" if upload.slug else read(source)
            for upload, source in zip(self.outcome.uploads, self.sources, strict=True)
        ]


def pack(
    value: Any,
    job: Job,
    *,
    result: Callable[[Any], Any] | None = None,
    review: Review | Callable[[Job, Any], Review | None] | None = None,
) -> Parcel:
    """The parcel that a handler's return value makes.

    Args:
        value: what the handler returned.
        job: the job it was for.
        result: the declaration's ``result=``.
        review: the declaration's ``review=``.

    Raises:
        JobError: the value has no form that the server takes; the message says which it has.
    """
    if result is not None:
        value = result(value)
    made = as_result(value)
    reviews = list(made.reviews)
    if review is not None:
        extra = review if isinstance(review, Review) else review(job, value)
        if extra is not None and not isinstance(extra, Review):
            raise JobError(f"the function given as review= must return a Review or None, not {type(extra).__name__}")
        if extra is not None:
            reviews.append(extra)
    artifacts = list(made.artifacts)
    for item in reviews:
        if isinstance(item.preview, Artifact) and not any(item.preview is other for other in artifacts):
            artifacts.append(item.preview)
    outcome = Outcome(
        status=made.status,
        text=made.text,
        uploads=tuple(_upload(artifact) for artifact in artifacts),
        reviews=tuple(_review(item, artifacts) for item in reviews),
    )
    return Parcel(outcome, tuple(artifacts))


def as_result(value: object) -> Result:
    """The result that a handler's return value stands for: text, nothing, an artifact, or data as JSON.

    Raises:
        JobError: it stands for none.
    """
    if isinstance(value, Result):
        value = replace(value, text=_text(value.text))  # data is as welcome here as on its own
        if value.status not in get_args(Status):
            raise JobError(f"Result(status={value.status!r}): allowed is {', '.join(get_args(Status))}")
        for name, kind in (("artifacts", Artifact), ("reviews", Review)):
            given = getattr(value, name)
            if not (isinstance(given, (list, tuple)) and all(isinstance(item, kind) for item in given)):
                raise JobError(f"Result({name}=…) takes a list of {kind.__name__} objects")
        return value
    if isinstance(value, Artifact):
        return Result(f"made {value.name}", artifacts=(value,))
    return Result(_text(value))


def _text(value: object) -> str:
    """The output that a text, nothing or data stands for.

    Raises:
        JobError: it is none of these.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise JobError(
            f"the handler returned {type(value).__name__}, which is no text, Result, Artifact or JSON data "
            f"({error}): return one of these, or give @modelreins_job(result=…)"
        ) from None


def _upload(artifact: Artifact) -> Upload:
    return Upload(
        content_type=artifact.media_type,
        filename=artifact.name,
        size=_size(artifact),
        expires_at=artifact.expiry,
    )


def _size(artifact: Artifact) -> int:
    if artifact.data is not None:
        return len(artifact.data)
    assert artifact.path is not None  # noqa: S101 - Artifact has one of the two
    try:
        if not os.path.isfile(artifact.path):
            raise FileNotFoundError("there is no such file")
        return os.path.getsize(artifact.path)
    except OSError as error:
        raise JobError(f"the artifact {os.fspath(artifact.path)!r} cannot be read: {error}") from None


def read(artifact: Artifact) -> bytes:
    """The artifact's bytes.

    Raises:
        JobError: its file cannot be read.
    """
    if artifact.data is not None:
        return bytes(artifact.data)
    assert artifact.path is not None  # noqa: S101 - Artifact has one of the two
    try:
        with open(artifact.path, "rb") as file:
            return file.read()
    except OSError as error:
        raise JobError(f"the artifact {os.fspath(artifact.path)!r} cannot be read: {error}") from None


def _review(review: Review, artifacts: list[Artifact]) -> ReviewItem:
    kinds: dict[str, tuple[type, ...]] = {"type": (str,), "title": (str,), "content": (str,)}
    kinds |= {"preview": (Artifact, str, NoneType), "target": (str, NoneType)}
    for name, allowed in kinds.items():
        value = getattr(review, name)
        if not isinstance(value, allowed):
            raise JobError(
                f"Review({name}=…) takes {'an Artifact or ' if name == 'preview' else ''}a text, "
                f"not {type(value).__name__}"
            )
    index = next((i for i, artifact in enumerate(artifacts) if artifact is review.preview), None)
    return ReviewItem(
        type=review.type,
        title=review.title,
        content=review.content,
        preview=review.preview if isinstance(review.preview, str) else None,
        preview_upload=index,
        target=review.target,
    )
