"""Wraps code that may raise anything (a handler's file, a storage library) so that it raises our errors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, cast

from celery.exceptions import SoftTimeLimitExceeded

from .errors import MrCeleryError

MOST_MEMORY_BYTES = 2**20
"""Size in bytes up to which a copied file stays in memory. Larger ones go to a temporary file."""


@contextmanager
def converted_errors(make_error: Callable[[Exception], MrCeleryError], *but: type[Exception]) -> Iterator[None]:
    """Convert any exception of the block to an :class:`MrCeleryError`.

    Our own errors and Celery's soft time limit pass unchanged.

    Args:
        make_error: makes the new exception from the original.
        but: further exception types that pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (MrCeleryError, SoftTimeLimitExceeded, *but)):
            raise
        raise make_error(error) from error


class Guarded:
    """A file whose every operation runs inside a context manager.

    Args:
        file: the file, which must be seekable.
        guard: makes the context manager.
    """

    def __init__(self, file: BinaryIO, guard: Callable[[], AbstractContextManager[object]]) -> None:
        self._file = file
        self._guard = guard

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position."""
        with self._guard():
            return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position."""
        with self._guard():
            return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes."""
        with self._guard():
            return self._file.read(size)


def guarded(file: BinaryIO, guard: Callable[[], AbstractContextManager[object]]) -> BinaryIO:
    """A :class:`Guarded`, typed as a binary file."""
    return cast(BinaryIO, Guarded(file, guard))


def copied(file: BinaryIO) -> BinaryIO:
    """A seekable temporary copy of the rest of a file, positioned at its end. It is deleted when it is closed."""
    copy = tempfile.SpooledTemporaryFile(MOST_MEMORY_BYTES)  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(file, copy)
    return cast(BinaryIO, copy)
