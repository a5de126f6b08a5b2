"""The multipart form of an upload, streamed so that the file is never wholly in memory."""

from __future__ import annotations

import io
import mimetypes
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from requests_toolbelt import MultipartEncoder

from ..errors import WorkerError

CALL = "POST /artifacts/upload"

MOST_MEMORY_BYTES = 2**20
"""Size in bytes up to which a copy of an unseekable source stays in memory. Larger ones go to a temporary file."""


class Measured:
    """The rest of a file from its current position, with a known length.

    Args:
        file: a seekable binary file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        file.seek(0, io.SEEK_END)
        self.len = max(file.tell() - start, 0)
        """Number of bytes left to read."""
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes.

        Raises:
            OSError: the file became shorter.
        """
        wanted = self.len if size < 0 else min(size, self.len)
        data = self._file.read(wanted)
        if wanted and not data:
            raise OSError(f"the file became shorter while it was sent: {self.len} bytes are missing")
        self.len -= len(data)
        return data


@contextmanager
def form(
    source: bytes | BinaryIO,
    content_type: str,
    filename: str | None,
    *,
    job_id: int | None = None,
    review_id: int | str | None = None,
    expires_at: str | None = None,
) -> Iterator[Any]:
    """The encoder of an upload's form: the file, then the given fields in the SDK's order.

    Args:
        source: bytes, or a binary file, which is uploaded from its position.
        content_type: the media type.
        filename: the file name; by default it is derived from the media type.
        job_id: the job to link it to.
        review_id: the review to link it to.
        expires_at: time after which the server deletes it.

    Raises:
        WorkerError: the source cannot be read, or the media type or the name is invalid in a form.
        TypeError: the source is neither bytes nor a binary file.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in content_type):
        raise WorkerError(f"{CALL} -> not sent: {content_type!r} is not a content type")
    filename = filename or f"artifact{mimetypes.guess_extension(content_type) or '.bin'}"
    texts = {"job_id": job_id, "review_id": review_id, "filename": filename, "expires_at": expires_at}
    with _seekable(source) as file:
        try:
            encoder = MultipartEncoder(
                [
                    ("file", (_escaped(filename), Measured(file), content_type)),
                    *((name, f"{value}") for name, value in texts.items() if value is not None),
                ]
            )
        except (ValueError, OSError) as error:
            raise WorkerError(f"{CALL} -> not sent: {error}") from None
        yield encoder


def _escaped(filename: str) -> str:
    """Escape a file name for a form's header, as browsers do."""
    return filename.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


@contextmanager
def _seekable(source: Any) -> Iterator[BinaryIO]:
    """The source as a seekable file: the source itself, or a temporary copy."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        raise TypeError(f"an upload is made of bytes or a binary file, not {type(source).__name__}")
    elif _can_seek(source):
        yield source
    else:
        with tempfile.SpooledTemporaryFile(MOST_MEMORY_BYTES) as copy:
            try:
                shutil.copyfileobj(source, copy)
            except (ValueError, OSError) as error:
                raise WorkerError(f"{CALL} -> not sent: {error}") from None
            copy.seek(0)
            yield cast(BinaryIO, copy)


def _can_seek(source: BinaryIO) -> bool:
    try:
        return bool(source.seekable())
    except (AttributeError, ValueError):
        return False
