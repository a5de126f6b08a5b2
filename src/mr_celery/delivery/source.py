"""What an artifact is made of, measured once, and opened each time it is read."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from ..errors import JobError
from ..foreign import copied, guarded, told
from ..media import HEAD_BYTES, default_name, media_type
from ..outcome import Upload
from ..result import Artifact


class Source:
    """An artifact's content.

    Args:
        artifact: the artifact.

    Raises:
        JobError: it cannot be read; the message says why.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        with self._told():
            self._data = _that_can_seek(artifact.data)
        with self._readable() as file, self._told():
            self._stamp = _stamp(file)
            file.seek(0)
            head = file.read(HEAD_BYTES)
            if not isinstance(head, bytes):
                raise JobError(f"the artifact {artifact} is a file that was opened as text: open it with mode 'rb'")
        self.size = self._stamp[0]
        """Its length in bytes."""
        content_type = artifact.content_type or media_type(artifact.given_name, head)
        self.upload = Upload(
            content_type=content_type,
            filename=artifact.given_name or default_name(content_type),
            size=self.size,
            expires_at=artifact.expiry,
        )
        """What the server is told of it."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content as a binary file, from its beginning.

        Raises:
            JobError: it cannot be read any more, or has changed since it was measured, or while it was read. What is
                read from the file raises it, too.
        """
        with self._readable() as file:
            self._must_be_as_it_was(file)
            yield guarded(file, self._told)
            self._must_be_as_it_was(file)

    def read(self) -> bytes:
        """The whole content.

        Raises:
            JobError: as :meth:`open`.
        """
        with self.open() as file:
            return file.read()

    def _told(self) -> AbstractContextManager[None]:
        """Around what the file does: each kind of file raises errors of its own."""
        return told(lambda why: JobError(f"the artifact {self._artifact} cannot be read: {why}"))

    @contextmanager
    def _readable(self) -> Iterator[BinaryIO]:
        with ExitStack() as stack:
            with self._told():
                file = self._begin(stack)
            yield file

    def _begin(self, stack: ExitStack) -> BinaryIO:
        path = self._artifact.path
        if path is not None:
            _must_be_regular(path)
            return stack.enter_context(open(path, "rb"))
        if isinstance(self._data, (bytes, bytearray, memoryview)):
            return io.BytesIO(self._data)
        made = cast(BinaryIO, self._data)
        made.seek(0)
        return made

    def _must_be_as_it_was(self, file: BinaryIO) -> None:
        with self._told():
            stamp = _stamp(file)
        if stamp != self._stamp:
            raise JobError(
                f"the artifact {self._artifact} changed after the handler had returned it: return a file when all of "
                "it is written"
            )


def _must_be_regular(path: str | os.PathLike[str]) -> None:
    """Raises OSError: there is none, or it is a directory, a pipe, a device."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a directory: pack it into one file first")
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    """What tells whether a file has changed: its size, and the time of the last write where it has one."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    try:
        status = os.fstat(file.fileno())
    except (OSError, AttributeError):  # no file of the system's
        return (size,)
    return (size, status.st_mtime_ns)


def _that_can_seek(data: Any) -> Any:
    """What an artifact is made of, or a copy of it where that cannot seek: a pipe, an answer of HTTP."""
    if not hasattr(data, "read") or _can_seek(data):
        return data
    return copied(data)


def _can_seek(data: Any) -> bool:
    try:
        data.seek(0, io.SEEK_END)
    except (AttributeError, OSError, TypeError, ValueError):
        return False
    return True
