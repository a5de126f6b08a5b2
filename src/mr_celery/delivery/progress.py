"""How far an upload has come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import BinaryIO, cast

logger = logging.getLogger("mr_celery.delivery")

TELL_SECONDS = 10.0
"""Seconds between two lines of the log about one upload: small ones are over before the first."""

MIB = 2**20


class Progress:
    """A binary file that tells of itself while it is read.

    Args:
        file: the file.
        what: what it is, for the log: ``job=7 artifact 'film.mp4'``.
        size: its length in bytes.
        beat: called before each part that is read; what it raises ends the upload.
        clock: the time in seconds.
    """

    def __init__(
        self,
        file: BinaryIO,
        what: str,
        size: int,
        *,
        beat: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._what = what
        self._size = size
        self._beat = beat
        self._clock = clock
        self._began = clock()
        self._tell_at = self._began + TELL_SECONDS

    def seekable(self) -> bool:
        """It can."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``."""
        self._beat()
        data = self._file.read(size)
        if self._clock() >= self._tell_at:
            self._tell()
        return data

    def _tell(self) -> None:
        now, done = self._clock(), self._file.tell()
        self._tell_at = now + TELL_SECONDS
        logger.info(
            "%s: %.0f of %.0f MiB sent, %.1f MiB/s",
            self._what,
            done / MIB,
            self._size / MIB,
            done / MIB / max(now - self._began, 0.001),
        )


def watched(file: BinaryIO, what: str, size: int, *, beat: Callable[[], object]) -> BinaryIO:
    """A file that tells of itself while it is read: a :class:`Progress`, for whoever wants a binary file."""
    return cast(BinaryIO, Progress(file, what, size, beat=beat))
