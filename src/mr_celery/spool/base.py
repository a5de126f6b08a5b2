"""The interface of a spool, and the code that all spools share."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import MrCeleryError, as_text
from ..files import converted_errors, guarded
from ..telemetry.quantities import data_size
from .names import SpoolName

COPY_BYTES = 2**20


class SpoolUnavailable(MrCeleryError):
    """The spool cannot be reached, or an operation on it failed."""


class SpoolFull(SpoolUnavailable):
    """The file does not fit into the spool."""


@dataclass(frozen=True)
class Entry:
    """A file in a spool.

    Args:
        name: the parsed name; ``None`` if it is not a complete file of mr-celery, such as one left by a writer that
            was killed.
        file: the file name in the spool.
        size: bytes.
        written_at: seconds since 1970, by the storage's clock.
    """

    name: SpoolName | None
    file: str
    size: int
    written_at: float


class Spool(ABC):
    """The files of one worker name that wait for delivery.

    A file appears only once it is complete. Its name identifies the upload (:class:`SpoolName`).

    Args:
        limit: capacity in bytes. Concurrent writers may exceed it, because each checks the free space first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Capacity in bytes."""

    def put(self, name: SpoolName, source: BinaryIO, size: int) -> None:
        """Store the rest of ``source``, which is ``size`` bytes long.

        Raises:
            SpoolFull: the file does not fit.
            SpoolUnavailable: the file cannot be written.
            MrCeleryError: raised by ``source`` and passed on.
        """
        with self._errors():
            held = sum(entry.size for entry in self._entries())
        if held + size > self.limit:
            there = f"holds {data_size(held)} of {data_size(self.limit)}"
            raise SpoolFull(f"the spool {self} {there}; another {data_size(size)} do not fit")
        with self._errors(), self._writing(str(name)) as file:
            shutil.copyfileobj(source, file, COPY_BYTES)

    @contextmanager
    def open(self, name: SpoolName) -> Iterator[BinaryIO]:
        """Open a stored file for reading.

        Raises:
            FileNotFoundError: the spool has no such file.
            SpoolUnavailable: the spool cannot be reached.
        """
        with self._errors(FileNotFoundError):
            file = self._reading(str(name))
        with file as opened:
            yield guarded(opened, self._errors)

    def remove(self, file: str) -> None:
        """Remove a file. Does nothing if the file does not exist.

        Raises:
            SpoolUnavailable: the file cannot be removed.
        """
        with self._errors():
            self._remove(file)

    def free(self) -> int | None:
        """Free bytes on the disk of the spool; ``None`` if unknown."""
        return None

    def entries(self) -> list[Entry]:
        """List the files.

        Raises:
            SpoolUnavailable: the files cannot be listed.
        """
        with self._errors():
            return list(self._entries())

    def _errors(self, *passed_on: type[Exception]) -> AbstractContextManager[None]:
        """Turn errors of the operating system or the storage library into :class:`SpoolUnavailable`."""
        return converted_errors(
            lambda error: SpoolUnavailable(f"the spool {self} cannot be used: {as_text(error)}"), *passed_on
        )

    @abstractmethod
    def __str__(self) -> str:
        """The location, for messages."""

    @abstractmethod
    def _writing(self, file: str) -> AbstractContextManager[BinaryIO]:
        """Open a new file for writing. It appears when the block ends without an error."""

    @abstractmethod
    def _reading(self, file: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: the spool is reachable and has no such file.
        """

    @abstractmethod
    def _remove(self, file: str) -> None: ...

    @abstractmethod
    def _entries(self) -> Iterator[Entry]: ...
