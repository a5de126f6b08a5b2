"""Logs the progress of an upload while its file is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from ..telemetry.quantities import data_size

logger = logging.getLogger("mr_celery.delivery")

LOG_SECONDS = 10.0
"""Seconds between two log lines about one upload. Small uploads end before the first."""


class Progress:
    """A binary file that logs how much of it has been read.

    Args:
        file: the file.
        what: the upload's name in the log: ``job=7 artifact 0``.
        size: length in bytes.
        beat: called before each read; an exception ends the upload.
        clock: monotonic clock in seconds.
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
        self._log_at = self._began + LOG_SECONDS

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes."""
        self._beat()
        data = self._file.read(size)
        if self._clock() >= self._log_at:
            self._log()
        return data

    def _log(self) -> None:
        now, done = self._clock(), self._file.tell()
        self._log_at = now + LOG_SECONDS
        rate = round(done / max(now - self._began, 0.001))
        logger.info("%s: %s of %s sent, %s/s", self._what, data_size(done), data_size(self._size), data_size(rate))


def watched(file: BinaryIO, what: str, size: int, *, beat: Callable[[], object]) -> BinaryIO:
    """A :class:`Progress`, typed as a binary file."""
    return cast(BinaryIO, Progress(file, what, size, beat=beat))
