"""What others wrote (a handler's file, a storage's library): whatever it raises is told as an error of ours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, cast

from celery.exceptions import SoftTimeLimitExceeded

from .errors import MrCeleryError

MOST_MEMORY_BYTES = 2**20
"""Bytes that are kept in memory of a copied file; more of it goes to a temporary file."""


@contextmanager
def told(tell: Callable[[str], MrCeleryError], *but: type[Exception]) -> Iterator[None]:
    """Turn any error of the block into one of ours.

    Args:
        tell: makes it, of the words of the other.
        but: errors that are let through; as are our own, and Celery's soft time limit.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (MrCeleryError, SoftTimeLimitExceeded, *but)):
            raise
        raise tell(str(error) or type(error).__name__) from error


class Guarded:
    """A file that is read inside of a context, wherever it is read.

    Args:
        file: the file; it can seek.
        guard: makes the context.
    """

    def __init__(self, file: BinaryIO, guard: Callable[[], AbstractContextManager[object]]) -> None:
        self._file = file
        self._guard = guard

    def seekable(self) -> bool:
        """It can."""
        return True

    def tell(self) -> int:
        """The position."""
        with self._guard():
            return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        with self._guard():
            return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``."""
        with self._guard():
            return self._file.read(size)


def guarded(file: BinaryIO, guard: Callable[[], AbstractContextManager[object]]) -> BinaryIO:
    """A :class:`Guarded`, for whoever wants a binary file."""
    return cast(BinaryIO, Guarded(file, guard))


def copied(file: BinaryIO) -> BinaryIO:
    """A copy of what a file has left, which can seek. It stands at its end, and is gone when nobody has it any more."""
    copy = tempfile.SpooledTemporaryFile(MOST_MEMORY_BYTES)  # noqa: SIM115 - it lives as long as its holder
    shutil.copyfileobj(file, copy)
    return cast(BinaryIO, copy)
