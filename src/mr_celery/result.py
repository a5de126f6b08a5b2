"""The values that a handler may return, with their artifacts and reviews, and the failure that carries artifacts."""

from __future__ import annotations

import datetime as dt
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import BinaryIO, Literal

from celery.exceptions import Ignore

from .errors import JobError, MrCeleryError, as_text

Status = Literal["done", "failed", "escalated"]
"""The final statuses of a job (``POST /jobs/ID/close``)."""

MAX_DEFERRAL = 30 * 86400.0
"""Maximum time in seconds for which a job can be deferred at once."""

_ARTIFACT_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "path": ((str, os.PathLike, NoneType), "a path"),
    "content_type": ((str,), "a string"),
    "filename": ((str,), "a string"),
    "expires_at": ((str, dt.datetime, NoneType), "a datetime or ISO 8601 string"),
}


@dataclass(frozen=True)
class Artifact:
    """A file produced by a handler: an image, a video, audio, a PDF, a log.

    Give either ``data`` or ``path``. The file is read after the handler has returned, and must not change from then on.

    Args:
        data: the content as bytes, or an open binary file, which is uploaded from its beginning to its end.
        path: the path of a file with the content.
        content_type: the media type; by default it is guessed from the name, or else from the content.
        filename: the displayed name; by default the file's name, or ``artifact.<ext>`` as in the SDK.
        expires_at: time after which the server may delete the file, as an aware datetime or ISO 8601 text; by default
            never.

    Raises:
        JobError: neither or both of ``data`` and ``path`` are given, the file is not binary, or ``expires_at`` is not a
            time or has no time zone.

    Example::

        Artifact(path="poster.png")
        Artifact(data=csv.encode(), content_type="text/csv", filename="report.csv")
        Artifact(data=open("film.mp4", "rb"))
    """

    data: bytes | BinaryIO | None = field(default=None, repr=False)
    path: str | os.PathLike[str] | None = None
    content_type: str = ""
    filename: str = ""
    expires_at: str | dt.datetime | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.path is None):
            raise JobError("an Artifact takes either data= (bytes or an open binary file) or path= (a file's name)")
        if not (isinstance(self.data, (bytes, bytearray, memoryview, NoneType)) or _is_binary_file(self.data)):
            text = isinstance(self.data, (str, io.TextIOBase))
            raise JobError(
                f"Artifact(data=…) takes bytes or an open binary file, not {type(self.data).__name__}"
                + (": encode the text, or open its file with mode 'rb'" if text else "")
            )
        for name, (kinds, wanted) in _ARTIFACT_KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise JobError(f"Artifact({name}=…) takes {wanted}, not {type(value).__name__}")
        if any(ord(char) < 32 or ord(char) == 127 for char in self.content_type):
            raise JobError(f"Artifact(content_type={self.content_type!r}) is not a content type")
        _check_time(self.expires_at)

    @property
    def given_name(self) -> str:
        """The given name, or the name of the file; empty if there is neither."""
        name = self.filename
        if not name:
            path = self.path if self.path is not None else getattr(self.data, "name", None)
            # A file that was opened from a descriptor has a number for a name.
            name = os.path.basename(os.fspath(path)) if isinstance(path, (str, os.PathLike)) else ""
        return name.encode(errors="replace").decode()  # only UTF-8 can be sent

    @property
    def expiry(self) -> str | None:
        """``expires_at`` as ISO 8601 text."""
        return self.expires_at.isoformat() if isinstance(self.expires_at, dt.datetime) else self.expires_at

    def __str__(self) -> str:
        named = os.fspath(self.path) if self.path is not None else self.given_name
        return repr(named) if named else "without a name"


def _is_binary_file(data: object) -> bool:
    return hasattr(data, "read") and not isinstance(data, io.TextIOBase)


def _check_time(expires_at: str | dt.datetime | None) -> None:
    """Check an expiry time.

    Raises:
        JobError: it is not a time, or a datetime without a time zone.
    """
    if isinstance(expires_at, dt.datetime):
        if expires_at.utcoffset() is None:
            raise JobError("Artifact(expires_at=…) takes a datetime with a time zone: this one has none")
    elif expires_at is not None:
        try:
            dt.datetime.fromisoformat(expires_at.replace("Z", "+00:00"))
        except ValueError:
            raise JobError(
                f"Artifact(expires_at={expires_at!r}) is not an ISO 8601 time such as '2030-01-31T12:00:00Z'"
            ) from None


@dataclass(frozen=True)
class Review:
    """An item for the human-review queue.

    Args:
        type: the kind of item, for instance ``"generated_image"``.
        title: one line for the queue.
        content: the text to review.
        preview: a file to show with it: an :class:`Artifact` of the same result, the slug of an uploaded one, or an
            address.
        target: destination once approved, for instance a channel's name.
    """

    type: str
    title: str = field(repr=False)
    content: str = field(default="", repr=False)
    preview: Artifact | str | None = field(default=None, repr=False)
    target: str | None = None


@dataclass(frozen=True)
class Result:
    """The result of a handler: the job's output, with artifacts and reviews.

    Args:
        text: the job's output.
        artifacts: files to upload. The preview of a review need not be listed here.
        reviews: items for the human-review queue.
        status: the job's final status; default ``"done"``.

    Example::

        return Result("made it", artifacts=[Artifact(path="poster.png")])
    """

    text: str = field(default="", repr=False)
    artifacts: Sequence[Artifact] = ()
    reviews: Sequence[Review] = ()
    status: Status = "done"


class Deferred(MrCeleryError, Ignore):
    """Ends a handler without an outcome, which comes later from elsewhere. Return it, or raise it.

    The run ends, and its worker takes the next task. The job stays claimed under this worker name until a process calls
    :func:`mr_celery.complete`, :func:`mr_celery.fail` or :func:`mr_celery.escalate` with the job's
    :attr:`~mr_celery.Job.ref`. If none does in time, the attempt is lost, as if its worker had died (see
    ``max_attempts`` and ``on_lost``).

    Args:
        timeout: seconds within which the outcome must be reported; at most 30 days.
        note: what the job waits for, for operators (``modelreins jobs ID``), cut after 200 bytes.

    Raises:
        JobError: ``timeout`` is not a number of seconds in this range, or ``note`` is not a string.

    Example::

        @modelreins_job("image.generate")
        @app.task
        def generate(job):
            order = provider.order(job.prompt, hook=f"https://hooks.example/images/{job.ref}")
            return Deferred(timeout=3600, note=f"order {order.id}")
    """

    def __init__(self, timeout: float = 3600.0, note: str = "") -> None:
        usable = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout <= MAX_DEFERRAL
        if not usable:
            raise JobError(f"Deferred(timeout={timeout!r}) is not a number of seconds up to {MAX_DEFERRAL:g} (30 days)")
        if not isinstance(note, str):
            raise JobError(f"Deferred(note=…) takes a string, not {type(note).__name__}")
        super().__init__("the outcome of the job comes later")
        self.timeout = float(timeout)
        self.note = note

    def __reduce__(self) -> tuple[type[Deferred], tuple[float, str]]:
        return type(self), (self.timeout, self.note)


class JobFailed(MrCeleryError):
    """Fails the job with a given text instead of a traceback when a handler raises it.

    Celery handles it like any other failure, including ``autoretry_for=`` and ``self.retry``.

    Args:
        why: the job's output. A value that is not text, such as a caught exception, is converted with ``str()``.
        artifacts: files to upload all the same, for instance a log.

    Example::

        if process.returncode:
            raise JobFailed("ffmpeg failed, see its log", artifacts=[Artifact(path="ffmpeg.log")])
    """

    def __init__(self, why: object = "", *, artifacts: Sequence[Artifact] = ()) -> None:
        self.why = as_text(why)
        Exception.__init__(self, self.why)
        self.artifacts = artifacts

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str]]:
        # Celery's result backends store only the reason; the files are uploaded with the job.
        return type(self), (self.why,)
