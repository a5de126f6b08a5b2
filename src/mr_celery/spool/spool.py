"""What every spool can do, and which one an address means."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import MrCeleryError, SettingsError
from ..foreign import guarded, told
from ..settings import Settings
from .names import SpoolName, folder_of

COPY_BYTES = 2**20


class SpoolUnavailable(MrCeleryError):
    """The spool cannot be reached, or refuses to work."""


class SpoolFull(SpoolUnavailable):
    """The spool holds as much as it may."""


@dataclass(frozen=True)
class Entry:
    """A file in a spool.

    Args:
        name: whose it is; ``None`` if it is no finished file of ours: what a writer that died left behind.
        file: its name in the spool.
        size: bytes.
        written_at: seconds since 1970, by the clock of the spool's system.
    """

    name: SpoolName | None
    file: str
    size: int
    written_at: float


class Spool(ABC):
    """Files of one worker name, which wait for their delivery.

    A file is there whole or not at all. Its name says whose it is (:class:`SpoolName`).

    Args:
        limit: bytes that it may hold; writers that meet may each find the same room free.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes that it may hold."""

    def put(self, name: SpoolName, source: BinaryIO, size: int) -> None:
        """Keep what ``source`` has left, ``size`` bytes.

        Raises:
            SpoolFull: there is no room for it.
            SpoolUnavailable: it cannot be written.
            MrCeleryError: what ``source`` raises of that kind.
        """
        with self._errors():
            held = sum(entry.size for entry in self._entries())
        if held + size > self.limit:
            raise SpoolFull(f"the spool {self} holds {held} of {self.limit} bytes, and {size} more are to be kept")
        with self._errors(), self._writing(str(name)) as file:
            shutil.copyfileobj(source, file, COPY_BYTES)

    @contextmanager
    def open(self, name: SpoolName) -> Iterator[BinaryIO]:
        """A kept file, to be read from its beginning.

        Raises:
            FileNotFoundError: the spool has no such file.
            SpoolUnavailable: the spool cannot be reached.
        """
        with self._errors(FileNotFoundError):
            file = self._reading(str(name))
        with file as opened:
            yield guarded(opened, self._errors)

    def remove(self, file: str) -> None:
        """Remove a file; one that is gone already is as good.

        Raises:
            SpoolUnavailable: it cannot be removed.
        """
        with self._errors():
            self._remove(file)

    def entries(self) -> list[Entry]:
        """What is there.

        Raises:
            SpoolUnavailable: it cannot be listed.
        """
        with self._errors():
            return list(self._entries())

    def _errors(self, *but: type[Exception]) -> AbstractContextManager[None]:
        """Around what the system does, or whichever library brings us to the spool."""
        return told(lambda why: SpoolUnavailable(f"the spool {self} cannot be used: {why}"), *but)

    @abstractmethod
    def __str__(self) -> str:
        """Where it is, for people."""

    @abstractmethod
    def _writing(self, file: str) -> AbstractContextManager[BinaryIO]:
        """A new file, which is there when the block has ended well, and not at all when it has not."""

    @abstractmethod
    def _reading(self, file: str) -> AbstractContextManager[BinaryIO]:
        """A file. Raises FileNotFoundError if there is none, though the spool's folder, if it is one, is there."""

    @abstractmethod
    def _remove(self, file: str) -> None: ...

    @abstractmethod
    def _entries(self) -> Iterator[Entry]: ...


def spool_of(settings: Settings, worker: str) -> Spool | None:
    """The spool that is set, for one worker name; ``None`` where none is.

    ``modelreins_spool_url`` is a folder (``/srv/spool``, ``file:///srv/spool``), or an address that ``fsspec`` knows
    (``s3://bucket/spool``).

    Raises:
        SettingsError: the address needs a package that is not installed, or is that of a folder without its full path.
    """
    from .folder import FolderSpool

    url, limit = settings.spool_url, settings.spool_limit
    if not url:
        return None
    scheme, _, path = url.partition("://")
    if url.startswith("/"):
        return FolderSpool(url, worker, limit=limit)
    if scheme == "file":
        if not path.startswith("/"):
            raise SettingsError(f"modelreins_spool_url: {url} is no full path: file:// and then one, file:///srv/spool")
        return FolderSpool(path, worker, limit=limit)
    try:
        from fsspec import get_filesystem_class

        from .remote import RemoteSpool

        get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:  # fsspec: a package that it needs, or a protocol that it does not know
        raise SettingsError(
            f"modelreins_spool_url: {scheme}:// needs fsspec and the package that brings it there "
            f"(pip install 'mr-celery[spool]', and s3fs, gcsfs, …): {error}"
        ) from None
    return RemoteSpool(f"{url}/{folder_of(worker)}", limit=limit)
