"""From what a handler returned to an outcome that can be recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_args

from ..attachments import Attached, Attachments
from ..errors import JobError
from ..job import Job
from ..outcome import Outcome, ReviewItem, Upload
from ..result import Artifact, Result, Review, Status
from .source import Source

LEDGER_BLOB_LIMIT = 2**20
"""Bytes of one artifact up to which the ledger keeps it until it is delivered."""

LEDGER_TEXT_LIMIT = 32 * 2**20
"""The same for a job's whole output, where that was too long to be its output."""


@dataclass(frozen=True)
class Parcel:
    """An outcome with the sources of its uploads, in order.

    ``whole_text`` is the index of the upload that is the job's whole output.
    """

    outcome: Outcome
    sources: tuple[Source, ...] = field(default=(), repr=False)
    whole_text: int | None = None

    def waits_in_ledger(self, index: int) -> bool:
        """Whether the ledger keeps that upload until it is delivered."""
        upload = self.outcome.uploads[index]
        limit = LEDGER_TEXT_LIMIT if index == self.whole_text else LEDGER_BLOB_LIMIT
        return upload.size <= limit and not upload.settled

    @property
    def large(self) -> list[int]:
        """The uploads that the ledger cannot keep, and that have no other place yet."""
        return [
            index
            for index, upload in enumerate(self.outcome.uploads)
            if not (upload.settled or self.waits_in_ledger(index))
        ]

    def with_blobs(self) -> tuple[Parcel, list[bytes]]:
        """The parcel with the bytes of each upload, empty for those that the ledger does not keep.

        What can't be read any more is left out, and the job has failed for that.
        """
        parcel, blobs = self, []
        for index, source in enumerate(self.sources):
            try:
                blobs.append(source.read() if self.waits_in_ledger(index) else b"")
            except JobError as error:
                blobs.append(b"")
                parcel = parcel.failing(parcel.outcome.text_after(str(error)), without=index)
        return parcel, blobs

    def with_upload(self, index: int, **changes: Any) -> Parcel:
        """The parcel with fields of one upload changed."""
        upload = replace(self.outcome.uploads[index], **changes)
        return replace(self, outcome=self.outcome.with_upload(index, upload))

    def failing(self, why: str, *, without: int | None = None) -> Parcel:
        """The parcel of a job that failed for that reason after all, with the same artifacts, less one."""
        parts = () if without is None else (f"artifact:{without}",)
        return replace(self, outcome=self.outcome.failing(why).without(parts))

    def within(self, limit: int) -> Parcel:
        """The parcel with a text of at most ``limit`` bytes: a longer one is cut, and attached whole."""
        whole = self.outcome.text.encode(errors="replace")
        if len(whole) <= limit:
            return self
        name = "result.txt"
        mark = f"\n[… cut: these are not all of the {len(whole)} bytes; the whole text is the artifact {name}]"
        cut = whole[: limit - len(mark.encode())].decode(errors="ignore")
        source = Source(Artifact(data=whole, content_type="text/plain; charset=utf-8", filename=name))
        uploads = (*self.outcome.uploads, source.upload)
        return replace(
            self,
            outcome=replace(self.outcome, text=cut + mark, uploads=uploads),
            sources=(*self.sources, source),
            whole_text=len(uploads) - 1,
        )


def pack(
    value: Any,
    job: Job,
    attachments: Attachments,
    *,
    result: Callable[[Any], Any] | None = None,
    review: Review | Callable[[Job, Any], Review | None] | None = None,
) -> Parcel:
    """The parcel that a handler's return value makes.

    Args:
        value: what the handler returned.
        job: the job it was for.
        attachments: what the handler attached through ``worker``.
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
    artifacts = [attached.artifact for attached in attachments.uploads] + list(made.artifacts)
    for item in reviews:
        if isinstance(item.preview, Artifact) and not any(item.preview is other for other in artifacts):
            artifacts.append(item.preview)
    attached = [*attachments.uploads, *(Attached(each) for each in artifacts[len(attachments.uploads) :])]
    uploads, sources = _measured((each, Source(each.artifact)) for each in attached)
    filed = (*attachments.reviews, *(_review(item, artifacts) for item in reviews))
    return Parcel(Outcome(made.status, made.text, uploads=uploads, reviews=filed), sources)


def pack_failure(why: str, attachments: Attachments, artifacts: Sequence[Artifact] = ()) -> Parcel:
    """The parcel of a job that failed, with what was attached before. What cannot be read is told in its text."""
    found: list[tuple[Attached, Source]] = []
    problems: list[str] = []
    for attached in (*attachments.uploads, *_artifacts(artifacts, problems)):
        try:
            found.append((attached, Source(attached.artifact)))
        except JobError as error:
            problems.append(str(error))
    uploads, sources = _measured(found)
    text = "\n\n".join([why, *problems])
    return Parcel(Outcome("failed", text, uploads=uploads, reviews=tuple(attachments.reviews)), sources)


def _artifacts(given: Any, problems: list[str]) -> list[Attached]:
    if isinstance(given, (list, tuple)) and all(isinstance(item, Artifact) for item in given):
        return [Attached(item) for item in given]
    problems.append("JobFailed(artifacts=…) takes a list of Artifact objects")
    return []


def _measured(found: Iterable[tuple[Attached, Source]]) -> tuple[tuple[Upload, ...], tuple[Source, ...]]:
    pairs = [(replace(source.upload, **attached.fields), source) for attached, source in found]
    return tuple(upload for upload, _ in pairs), tuple(source for _, source in pairs)


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
        return Result(f"made {value.given_name or 'an artifact'}", artifacts=(value,))
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
