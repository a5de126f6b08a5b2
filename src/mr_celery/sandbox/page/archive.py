"""A zip file of a job's artifacts, written while it is sent."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 1024 * 1024
_MAX_NAME = 120
_REFUSED = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]|^[. ]+|[. ]+$')
"""Characters that a file name on Windows, macOS or Linux may not contain, or begin or end with."""

_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows."""


def safe_names(names: Iterable[str]) -> list[str]:
    """Names for files in one folder: without paths, valid everywhere, and all different."""
    used: set[str] = set()
    found = []
    for name in names:
        path = Path(_safe(name))
        stem, suffix = path.stem[: _MAX_NAME - len(path.suffix[:20])], path.suffix[:20]
        made, number = f"{stem}{suffix}", 1
        while made.casefold() in used:
            number += 1
            made = f"{stem} ({number}){suffix}"
        used.add(made.casefold())
        found.append(made)
    return found


def _safe(name: str) -> str:
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    made = "".join(_REFUSED.sub("_", last).split("\n")).strip() or "file"
    return f"_{made}" if _DEVICES.fullmatch(made) else made


def zipped(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield a zip file in parts. It is not compressed, since pictures and videos already are.

    Args:
        files: the name and the path of each file.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, path in files:
            entry = zipfile.ZipInfo.from_file(path, name)
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while data := source.read(_CHUNK):
                    target.write(data)
                    yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """Collects the written data. It cannot seek, so the zip file has each file's size after its data."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
