"""A spool in a folder that the workers and the bridge share."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .names import SpoolName, folder_of
from .spool import Entry, Spool, SpoolUnavailable

UNFINISHED = ".part"


class FolderSpool(Spool):
    """Files in ``FOLDER/<worker>``, which only their owner can read.

    Args:
        folder: the folder; it is made where it is missing.
        worker: the worker name.
        limit: bytes that it may hold.
    """

    def __init__(self, folder: str | os.PathLike[str], worker: str, *, limit: int) -> None:
        super().__init__(limit)
        self._folder = Path(folder) / folder_of(worker)

    def __str__(self) -> str:
        return str(self._folder.parent)

    @contextmanager
    def _writing(self, file: str) -> Iterator[BinaryIO]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A name of its own, so that a writer that was taken for dead does not write into another one's file.
        unfinished = self._folder / f"{file}.{secrets.token_hex(4)}{UNFINISHED}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as opened:
                yield opened
                opened.flush()
                os.fsync(descriptor)
            os.replace(unfinished, self._folder / file)
            self._keep_names()
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _keep_names(self) -> None:
        """See that the folder knows its files after a power cut, too; not every network's folder can."""
        with suppress(OSError):
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _reading(self, file: str) -> BinaryIO:
        try:
            return open(self._folder / file, "rb")
        except FileNotFoundError:
            if self._folder.is_dir():
                raise
            raise SpoolUnavailable(
                f"the spool {self} cannot be used: there is nothing of this worker name in it; is it the folder that "
                "the workers write to?"
            ) from None

    def _remove(self, file: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._folder / file)

    def _entries(self) -> Iterator[Entry]:
        with suppress(FileNotFoundError), os.scandir(self._folder) as found:
            for item in found:
                with suppress(FileNotFoundError):  # gone meanwhile
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield Entry(SpoolName.parse(item.name), item.name, status.st_size, status.st_mtime)
