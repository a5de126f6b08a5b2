"""A spool wherever ``fsspec`` reaches: S3, Google Cloud Storage, Azure, SFTP, …"""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from .names import SpoolName
from .spool import Entry, Spool

BLOCK_BYTES = 8 * 2**20
"""Bytes that are held in memory of a file that is read or written."""


class RemoteSpool(Spool):
    """Files under an address.

    How to get there (keys, endpoints) is set where fsspec reads it: the environment, or its configuration files.

    Args:
        url: the address of the folder.
        limit: bytes that it may hold.
    """

    def __init__(self, url: str, *, limit: int) -> None:
        super().__init__(limit)
        self._url = url
        self._local = threading.local()

    def __str__(self) -> str:
        return re.sub(r"(?<=://)[^/]*:[^/]*@", "", self._url.rpartition("/")[0])  # without a password

    def _filesystem(self) -> tuple[Any, str]:
        # One for each thread of each process: it has one transaction at a time, and its connections outlive no fork.
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.found = url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
            local.pid = os.getpid()
        filesystem, folder = local.found
        return filesystem, folder

    @contextmanager
    def _writing(self, file: str) -> Iterator[BinaryIO]:
        filesystem, folder = self._filesystem()
        with suppress(OSError):  # where folders are none, a key may not be allowed to look for one: writing tells more
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
    """When a listed file was written; each filesystem says so under a name of its own."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created", "modify", "modified"):
        value = item.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            with suppress(ValueError):
                value = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, dt.datetime):
            return value.timestamp()
    return float("inf")  # not known: never too old
