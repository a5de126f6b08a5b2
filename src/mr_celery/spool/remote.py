"""A spool in any storage that ``fsspec`` supports, such as S3, Google Cloud Storage, Azure and SFTP."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from .base import Entry, Spool
from .names import SpoolName

BLOCK_BYTES = 8 * 2**20
"""Buffer size for reading and writing a file."""


class RemoteSpool(Spool):
    """Files under a URL.

    ``fsspec`` reads credentials and endpoints from the environment or from its configuration files.

    Args:
        url: the folder's URL.
        limit: capacity in bytes.
    """

    def __init__(self, url: str, *, limit: int) -> None:
        super().__init__(limit)
        self._url = url
        self._local = threading.local()

    def __str__(self) -> str:
        return re.sub(r"(?<=://)[^/]*:[^/]*@", "", self._url.rpartition("/")[0])  # without a password

    def _filesystem(self) -> tuple[Any, str]:
        # One per thread and process: a filesystem has one transaction at a time, and connections do not survive a fork.
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.found = url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
            local.pid = os.getpid()
        filesystem, folder = local.found
        return filesystem, folder

    @contextmanager
    def _writing(self, file: str) -> Iterator[BinaryIO]:
        filesystem, folder = self._filesystem()
        with suppress(OSError):  # may be forbidden although writing is allowed; writing gives the better error
            filesystem.makedirs(folder, exist_ok=True)
        with filesystem.transaction, filesystem.open(f"{folder}/{file}", "wb", block_size=BLOCK_BYTES) as opened:
            yield opened

    def _reading(self, file: str) -> Any:
        filesystem, folder = self._filesystem()
        return filesystem.open(f"{folder}/{file}", "rb", block_size=BLOCK_BYTES)

    def _remove(self, file: str) -> None:
        filesystem, folder = self._filesystem()
        with suppress(FileNotFoundError):
            filesystem.rm_file(f"{folder}/{file}")

    def _entries(self) -> Iterator[Entry]:
        filesystem, folder = self._filesystem()
        with suppress(FileNotFoundError):
            for item in filesystem.ls(folder, detail=True):
                if item["type"] == "file":
                    file = item["name"].rpartition("/")[2]
                    yield Entry(SpoolName.parse(file), file, int(item["size"] or 0), _written_at(item))


def _written_at(item: dict[str, Any]) -> float:
    """Modification time of a listed file, in seconds since 1970. Each filesystem has its own name for it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created", "modify", "modified"):
        value = item.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            with suppress(ValueError):
                value = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, dt.datetime):
            return value.timestamp()
    return float("inf")  # unknown: the sweeper must not treat it as old
