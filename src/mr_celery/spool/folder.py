"""A spool in a folder that workers and bridge share."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ..private_files import Folder, NotPrivate, shared_folder
from .base import Entry, Spool, SpoolUnavailable
from .names import SpoolName, folder_of

UNFINISHED_SUFFIX = ".part"


class FolderSpool(Spool):
    """Files in a subfolder for each worker name, readable by their owner only.

    Args:
        folder: the folder. It is created if it does not exist. Other users must not be able to write to it.
        worker: the worker name.
        limit: capacity in bytes.
    """

    def __init__(self, folder: str | os.PathLike[str], worker: str, *, limit: int) -> None:
        super().__init__(limit)
        self._path = Path(folder)
        self._name = folder_of(worker)

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def _folder(self, *, create: bool = False) -> Iterator[Folder]:
        try:
            with (
                shared_folder(self._path, create=create) as shared,
                shared.private_subfolder(self._name, create=create) as folder,
            ):
                yield folder
        except NotPrivate as error:
            raise SpoolUnavailable(f"the spool {self} cannot be used: {error}") from None

    @contextmanager
    def _writing(self, file: str) -> Iterator[BinaryIO]:
        # A unique name: a writer that lost its lease may still be writing the same upload.
        unfinished = f"{file}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}"
        with self._folder(create=True) as folder:
            here = folder.descriptor
            try:
                with folder.open(unfinished, "xb") as opened:
                    yield cast(BinaryIO, opened)
                    opened.flush()
                    os.fsync(opened.fileno())
                os.replace(unfinished, file, src_dir_fd=here, dst_dir_fd=here)
                with suppress(OSError):  # some network filesystems do not support it
                    os.fsync(here)  # so that the new name survives a power failure
            except BaseException:
                with suppress(OSError):
                    os.unlink(unfinished, dir_fd=here)
                raise

    def _reading(self, file: str) -> BinaryIO:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder())
            except FileNotFoundError:
                raise SpoolUnavailable(
                    f"the spool {self} cannot be used: it has no files of this worker name; is it the folder that the "
                    "workers write to?"
                ) from None
            return cast(BinaryIO, folder.open(file, "rb"))

    def free(self) -> int | None:
        """Free bytes on the disk of the folder; ``None`` without a folder."""
        try:
            return shutil.disk_usage(self._path / self._name).free
        except OSError:
            return None

    def _remove(self, file: str) -> None:
        with suppress(FileNotFoundError), self._folder() as folder:
            os.unlink(file, dir_fd=folder.descriptor)

    def _entries(self) -> Iterator[Entry]:
        with suppress(FileNotFoundError), self._folder() as folder, os.scandir(folder.descriptor) as found:
            for item in found:
                with suppress(FileNotFoundError):  # removed since it was listed
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield Entry(SpoolName.parse(item.name), item.name, status.st_size, status.st_mtime)
