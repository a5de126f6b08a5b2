"""Converts a handler's return value to an outcome that can be recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from types import NoneType
from typing import Any, get_args
from uuid import UUID

from kombu.utils.json import JSONEncoder

from ..errors import JobError, as_text
from ..job import Job
from ..outcome import Outcome, ReviewItem, Upload
from ..result import Artifact, Result, Review, Status
from ..telemetry.tracebacks import call_application
from .attachments import Attached, Attachments
from .source import Source

LEDGER_BLOB_LIMIT = 2**20
"""Size in bytes up to which the ledger stores an artifact until it is delivered."""

LEDGER_TEXT_LIMIT = 32 * 2**20
"""Size in bytes up to which the ledger stores the artifact with a job's whole output, if the output was cut."""


@dataclass(frozen=True)
class PackedOutcome:
    """An outcome with the sources of its uploads, in order.

    ``whole_text`` is the index of the upload with the job's whole output, if the output was cut.
    """

    outcome: Outcome
    sources: tuple[Source, ...] = field(default=(), repr=False)
    whole_text: int | None = None

    def waits_in_ledger(self, index: int) -> bool:
        """Whether the ledger stores an upload until it is delivered."""
        upload = self.outcome.uploads[index]
        limit = LEDGER_TEXT_LIMIT if index == self.whole_text else LEDGER_BLOB_LIMIT
        return upload.size <= limit and not upload.settled

    @property
    def large(self) -> list[int]:
        """The uploads that are too large for the ledger, and are not stored elsewhere yet."""
        return [
            index
            for index, upload in enumerate(self.outcome.uploads)
            if not (upload.settled or self.waits_in_ledger(index))
        ]

    def with_blobs(self) -> tuple[PackedOutcome, list[bytes]]:
        """The packed outcome, and the content of each upload; empty for those that the ledger does not store.

        An upload that cannot be read any longer is left out, and the job fails.
        """
        packed, blobs = self, []
        for index, source in enumerate(self.sources):
            try:
                blobs.append(source.read() if self.waits_in_ledger(index) else b"")
            except JobError as error:
                blobs.append(b"")
                packed = packed.failing(
                    packed.outcome.text_after(str(error)), without=index, reason=error.about or type(error).__name__
                )
        return packed, blobs

    def with_upload(self, index: int, **changes: Any) -> PackedOutcome:
        """The packed outcome with fields of one upload changed."""
        upload = replace(self.outcome.uploads[index], **changes)
        return replace(self, outcome=self.outcome.with_upload(index, upload))

    def failing(self, why: str, *, without: int | None = None, reason: str = "") -> PackedOutcome:
        """The packed outcome changed to a failure.

        Args:
            why: its output.
            without: the artifact that is left out, if any.
            reason: as in :class:`~mr_celery.outcome.Outcome`.
        """
        parts = () if without is None else (f"artifact:{without}",)
        return replace(self, outcome=self.outcome.failing(why, reason=reason).without(parts))

    def after(self, earlier: Iterable[tuple[Outcome, Sequence[bytes]]]) -> PackedOutcome:
        """The packed outcome with attachments of earlier runs of the job in front of its own.

        Args:
            earlier: outcomes with the attachments, as :func:`pack_attachments` packs them, and the content of each
                upload; empty if it is stored elsewhere.
        """
        packed = PackedOutcome(Outcome("done", ""))
        for outcome, blobs in earlier:
            sources = (
                Source(Artifact(data=blob, content_type=upload.content_type, filename=upload.filename))
                for upload, blob in zip(outcome.uploads, blobs, strict=True)
            )
            packed = packed.followed_by(PackedOutcome(outcome, tuple(sources)))
        return packed.followed_by(self)

    def followed_by(self, other: PackedOutcome) -> PackedOutcome:
        """Another packed outcome, with the attachments of this one in front of its own."""
        uploads, reviews = len(self.outcome.uploads), len(self.outcome.reviews)
        moved_uploads = (
            upload if upload.review_of is None else replace(upload, review_of=upload.review_of + reviews)
            for upload in other.outcome.uploads
        )
        moved_reviews = (
            review if review.preview_upload is None else replace(review, preview_upload=review.preview_upload + uploads)
            for review in other.outcome.reviews
        )
        return PackedOutcome(
            replace(
                other.outcome,
                uploads=(*self.outcome.uploads, *moved_uploads),
                reviews=(*self.outcome.reviews, *moved_reviews),
            ),
            (*self.sources, *other.sources),
            None if other.whole_text is None else other.whole_text + uploads,
        )

    def masked(self, secrets: Collection[str]) -> PackedOutcome:
        """The packed outcome with secret values masked in its texts. The contents of artifacts stay as they are."""
        return replace(self, outcome=self.outcome.masked(secrets)) if secrets else self

    def within(self, limit: int) -> PackedOutcome:
        """The packed outcome with an output of at most ``limit`` bytes. A longer one is cut, and attached as a file."""
        whole = self.outcome.text.encode(errors="replace")
        if len(whole) <= limit:
            return self
        name = "result.txt"
        mark = f"\n[… truncated: the full output, {len(whole)} bytes, is in the artifact {name}]"
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
) -> PackedOutcome:
    """Pack a handler's return value.

    Args:
        value: the return value.
        job: the job.
        attachments: the uploads and reviews that the handler submitted through ``worker``.
        result: the declaration's ``result=``.
        review: the declaration's ``review=``.

    Raises:
        JobError: the value cannot be converted to a result; the message gives the reason.
    """
    if result is not None:
        value = call_application(result, value)
    if isinstance(value, str) and review is None and not attachments.uploads and not attachments.reviews:
        return PackedOutcome(Outcome("done", value))
    made = as_result(value)
    reviews = list(made.reviews)
    if review is not None:
        extra = review if isinstance(review, Review) else call_application(review, job, value)
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
    reason = "" if made.status == "done" else f"its handler returned Result(status={made.status!r})"
    return PackedOutcome(Outcome(made.status, made.text, uploads=uploads, reviews=filed, reason=reason), sources)


def pack_attachments(attachments: Attachments) -> PackedOutcome:
    """Pack only the uploads and reviews that a handler submitted through ``worker``.

    Raises:
        JobError: one of them cannot be read.
    """
    uploads, sources = _measured((each, Source(each.artifact)) for each in attachments.uploads)
    return PackedOutcome(Outcome("done", "", uploads=uploads, reviews=tuple(attachments.reviews)), sources)


def pack_failure(
    why: object,
    attachments: Attachments | None = None,
    artifacts: Sequence[Artifact] = (),
    *,
    status: Status = "failed",
    reason: str = "",
) -> PackedOutcome:
    """Pack the outcome of a failed or escalated job. Its output names artifacts that cannot be read.

    Args:
        why: the reason; a value that is not text is converted with :func:`~mr_celery.errors.as_text`.
        attachments: the uploads and reviews that the handler submitted before it failed, if any.
        artifacts: further artifacts to attach.
        status: ``failed`` or ``escalated``.
        reason: as in :class:`~mr_celery.outcome.Outcome`.
    """
    attachments = attachments or Attachments()
    found: list[tuple[Attached, Source]] = []
    problems: list[str] = []
    for attached in (*attachments.uploads, *_artifacts(artifacts, problems)):
        try:
            found.append((attached, Source(attached.artifact)))
        except JobError as error:
            problems.append(str(error))
    uploads, sources = _measured(found)
    text = "\n\n".join([as_text(why), *problems])
    outcome = Outcome(status, text, uploads=uploads, reviews=tuple(attachments.reviews), reason=reason)
    return PackedOutcome(outcome, sources)


def _artifacts(given: Any, problems: list[str]) -> list[Attached]:
    if isinstance(given, (list, tuple)) and all(isinstance(item, Artifact) for item in given):
        return [Attached(item) for item in given]
    problems.append("JobFailed(artifacts=…) takes a list of Artifact objects")
    return []


def _measured(found: Iterable[tuple[Attached, Source]]) -> tuple[tuple[Upload, ...], tuple[Source, ...]]:
    pairs = [(replace(source.upload, **attached.fields), source) for attached, source in found]
    return tuple(upload for upload, _ in pairs), tuple(source for _, source in pairs)


def as_result(value: object) -> Result:
    """Convert a handler's return value, such as text, ``None``, an artifact or JSON data, to a result.

    Raises:
        JobError: the value cannot be converted.
    """
    if isinstance(value, Result):
        value = replace(value, text=_text(value.text))  # text= may be JSON data, like a return value
        if value.status not in get_args(Status):
            raise JobError(
                f"Result(status={value.status!r}): the status must be one of {', '.join(get_args(Status))}",
                about="the status of its Result is unknown",
            )
        for name, kind in (("artifacts", Artifact), ("reviews", Review)):
            given = getattr(value, name)
            if not (isinstance(given, (list, tuple)) and all(isinstance(item, kind) for item in given)):
                raise JobError(f"Result({name}=…) takes a list of {kind.__name__} objects")
        return value
    if isinstance(value, Artifact):
        return Result(f"made {value.given_name or 'an artifact'}", artifacts=(value,))
    return Result(_text(value))


def _text(value: object) -> str:
    """Convert text, ``None`` or JSON data to a job's output.

    Raises:
        JobError: the value is of another type.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=_json_value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise JobError(
            f"the handler returned {type(value).__name__}, which is not text, a Result, an Artifact or JSON data "
            f"({error}): return one of these, or give @modelreins_job(result=…)",
            about=f"the handler returned {type(value).__name__}",
        ) from None


def _json_value(value: Any) -> Any:
    """Convert a value that JSON does not have: what pydantic, dataclasses, enums and Celery's own JSON convert.

    Raises:
        TypeError: none of these can convert it.
    """
    if isinstance(value, (bytes, Artifact, Result, Review)):  # as text they would be lost
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    made = JSONEncoder().default(value)
    # kombu adds the type for its own decoder.
    return made["__value__"] if isinstance(made, dict) and made.keys() == {"__type__", "__value__"} else made


def _review(review: Review, artifacts: list[Artifact]) -> ReviewItem:
    kinds: dict[str, tuple[type, ...]] = {"type": (str,), "title": (str,), "content": (str,)}
    kinds |= {"preview": (Artifact, str, NoneType), "target": (str, NoneType)}
    for name, allowed in kinds.items():
        value = getattr(review, name)
        if not isinstance(value, allowed):
            raise JobError(
                f"Review({name}=…) takes {'an Artifact or ' if name == 'preview' else ''}a string, "
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
