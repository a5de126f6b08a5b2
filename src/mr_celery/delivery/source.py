"""Reads the content of an artifact, and checks that it did not change."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from ..errors import JobError, as_text
from ..files import converted_errors, copied, guarded
from ..outcome import Upload
from ..result import Artifact
from .media_types import HEAD_BYTES, default_name, media_type


class Source:
    """The content of an artifact.

    Args:
        artifact: the artifact.

    Raises:
        JobError: it cannot be read; the message gives the reason.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        with self._explained():
            self._data = _that_can_seek(artifact.data)
        with self._readable() as file, self._explained():
            self._stamp = _stamp(file)
            file.seek(0)
            head = file.read(HEAD_BYTES)
            if not isinstance(head, bytes):
                raise JobError(
                    f"the artifact {artifact} is a file that was opened as text: open it with mode 'rb'",
                    about="an artifact is a file that was opened as text",
                )
        self.size = self._stamp[0]
        """Length in bytes."""
        content_type = artifact.content_type or media_type(artifact.given_name, head)
        self.upload = Upload(
            content_type=content_type,
            filename=artifact.given_name or default_name(content_type),
            size=self.size,
            expires_at=artifact.expiry,
        )
        """The artifact's metadata."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the content as a binary file, from its beginning.

        Raises:
            JobError: it cannot be read any longer, or it changed after the handler returned. Reads of the file raise
                it as well.
        """
        with self._readable() as file:
            self._check_unchanged(file)
            yield guarded(file, self._explained)
            self._check_unchanged(file)

    def read(self) -> bytes:
        """Read the whole content.

        Raises:
            JobError: as for :meth:`open`.
        """
        with self.open() as file:
            return file.read()

    def _explained(self) -> AbstractContextManager[None]:
        """Context manager that converts the file's errors, which differ between kinds of files."""
        return converted_errors(
            lambda error: JobError(
                f"the artifact {self._artifact} cannot be read: {as_text(error)}",
                about=f"an artifact cannot be read: {type(error).__name__}",
            )
        )

    @contextmanager
    def _readable(self) -> Iterator[BinaryIO]:
        with ExitStack() as stack:
            with self._explained():
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

    def _check_unchanged(self, file: BinaryIO) -> None:
        with self._explained():
            stamp = _stamp(file)
        if stamp != self._stamp:
            raise JobError(
                f"the artifact {self._artifact} changed after the handler had returned it: return a file only "
                "once it is completely written",
                about="an artifact changed after the handler had returned it",
            )


def _must_be_regular(path: str | os.PathLike[str]) -> None:
    """Check that a path is a regular file.

    Raises:
        OSError: it does not exist, or is a directory, a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a directory: pack it into one file first")
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    """A file's size, and its modification time if it has one. They change with the file."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    try:
        status = os.fstat(file.fileno())
    except (OSError, AttributeError):  # not a file of the operating system
        return (size,)
    return (size, status.st_mtime_ns)


def _that_can_seek(data: Any) -> Any:
    """The content, or a copy of it if it is not seekable, like a pipe or an HTTP response."""
    if not hasattr(data, "read") or _can_seek(data):
        return data
    return copied(data)


def _can_seek(data: Any) -> bool:
    try:
        data.seek(0, io.SEEK_END)
    except (AttributeError, OSError, TypeError, ValueError):
        return False
    return True
