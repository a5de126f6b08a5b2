"""What a handler may return: a result with artifacts and reviews."""

from __future__ import annotations

import datetime as dt
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import BinaryIO, Literal

from .errors import JobError

Status = Literal["done", "failed", "escalated"]
"""How a job can be closed (``POST /jobs/ID/close``)."""

_ARTIFACT_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "path": ((str, os.PathLike, NoneType), "a path"),
    "content_type": ((str,), "a text"),
    "filename": ((str,), "a text"),
    "expires_at": ((str, dt.datetime, NoneType), "a datetime or ISO 8601 text"),
}


@dataclass(frozen=True)
class Artifact:
    """A file that a handler made: an image, a video, audio, a PDF, a log.

    Args:
        data: its bytes, or an open binary file, which is uploaded from its beginning to its end; or
        path: the file that holds them.
        content_type: its media type; guessed from the name, or else from the content, where not given.
        filename: its name for people; default the file's name, or ``artifact.<ext>`` as in the SDK.
        expires_at: when the server may delete it: an aware datetime or an ISO 8601 text; default never.

    A file is read when the handler has returned, and must not change from then on.

    Raises:
        JobError: neither or both of ``data`` and ``path``; a file that is not binary; an ``expires_at`` without time
            zone, or that is no time.

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
            raise JobError(f"Artifact(content_type={self.content_type!r}) is no content type")
        _check_time(self.expires_at)

    @property
    def given_name(self) -> str:
        """The name that was given, or that its file has; empty if there is none."""
        name = self.filename
        if not name:
            path = self.path if self.path is not None else getattr(self.data, "name", None)
            # A file that was opened from a descriptor has a number for a name.
            name = os.path.basename(os.fspath(path)) if isinstance(path, (str, os.PathLike)) else ""
        return name.encode(errors="replace").decode()  # what is not UTF-8 in a file's name can't be sent

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
    """Raises JobError: it is no time, or a datetime without time zone."""
    if isinstance(expires_at, dt.datetime):
        if expires_at.utcoffset() is None:
            raise JobError("Artifact(expires_at=…) takes a datetime with a time zone: this one has none")
    elif expires_at is not None:
        try:
            dt.datetime.fromisoformat(expires_at.replace("Z", "+00:00"))
        except ValueError:
            raise JobError(
                f"Artifact(expires_at={expires_at!r}) is no ISO 8601 time such as '2030-01-31T12:00:00Z'"
            ) from None


@dataclass(frozen=True)
class Review:
    """An item for the human-review queue.

    Args:
        type: what kind of thing it is, for instance ``"generated_image"``.
        title: one line for the queue.
        content: what the reviewer reads.
        preview: what the reviewer looks at: an :class:`Artifact` of the same result, the slug of one that the server
            has, or an address.
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
