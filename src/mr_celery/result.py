"""What a handler may return: a result with artifacts and reviews."""

from __future__ import annotations

import datetime as dt
import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Literal

from .errors import JobError

Status = Literal["done", "failed", "escalated"]
"""How a job can be closed (``POST /jobs/ID/close``)."""

_ARTIFACT_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((bytes, bytearray, memoryview, NoneType), "bytes"),
    "path": ((str, os.PathLike, NoneType), "a path"),
    "content_type": ((str,), "a text"),
    "filename": ((str,), "a text"),
    "expires_at": ((str, dt.datetime, NoneType), "a datetime or ISO 8601 text"),
}


@dataclass(frozen=True)
class Artifact:
    """A file that a handler made: an image, a video, audio, a PDF, a log.

    Args:
        data: its bytes; or
        path: the file that holds them. It is read when the handler has returned.
        content_type: its media type; guessed from the name where not given.
        filename: its name for people; default the path's name, or ``artifact.<ext>`` as in the SDK.
        expires_at: when the server may delete it: an aware datetime or an ISO 8601 string; default never.

    Raises:
        JobError: neither or both of ``data`` and ``path``, or an ``expires_at`` without time zone.

    Example::

        Artifact(path="poster.png")
        Artifact(data=csv.encode(), content_type="text/csv", filename="report.csv")
    """

    data: bytes | None = field(default=None, repr=False)
    path: str | os.PathLike[str] | None = None
    content_type: str = ""
    filename: str = ""
    expires_at: str | dt.datetime | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.path is None):
            raise JobError("an Artifact takes either data=bytes or path=file")
        for name, (kinds, wanted) in _ARTIFACT_KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise JobError(f"Artifact({name}=…) takes {wanted}, not {type(value).__name__}")
        if isinstance(self.expires_at, dt.datetime) and self.expires_at.tzinfo is None:
            raise JobError("Artifact(expires_at=…) takes a datetime with a time zone: this one has none")

    @property
    def media_type(self) -> str:
        """The content type, guessed from the name where none was given."""
        name = self.filename or (os.fspath(self.path) if self.path is not None else "")
        return self.content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"

    @property
    def name(self) -> str:
        """The file name that the server is told."""
        if self.filename:
            return self.filename
        if self.path is not None:
            return Path(self.path).name
        return f"artifact{mimetypes.guess_extension(self.media_type) or '.bin'}"

    @property
    def expiry(self) -> str | None:
        """``expires_at`` as ISO 8601 text."""
        return self.expires_at.isoformat() if isinstance(self.expires_at, dt.datetime) else self.expires_at


@dataclass(frozen=True)
class Review:
    """An item for the human-review queue.

    Args:
        type: what kind of thing it is, for instance ``"generated_image"``.
        title: one line for the queue.
        content: what the reviewer reads.
        preview: what the reviewer looks at: an :class:`Artifact` of the same result, or a URL.
        target: where it goes once approved, for instance a channel's name.
    """

    type: str
    title: str
    content: str = ""
    preview: Artifact | str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Result:
    """What a handler made: the job's output, and what goes with it.

    Args:
        text: the job's output.
        artifacts: files to upload. A review's preview need not be listed here as well.
        reviews: items for the human-review queue.
        status: how the job is closed; default ``"done"``.

    Example::

        return Result("made it", artifacts=[Artifact(path="poster.png")])
    """

    text: str = field(default="", repr=False)
    artifacts: Sequence[Artifact] = ()
    reviews: Sequence[Review] = ()
    status: Status = "done"
