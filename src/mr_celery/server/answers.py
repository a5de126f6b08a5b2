"""Reads long responses to single requests in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

from .list_parser import NOT_JSON, BrokenList, members

MOST_PARSED = 64 * 2**10
"""Size in bytes up to which a response is parsed as a whole. Its values take at most some 30 times as much memory."""

MOST_BYTES = 64 * 2**20
"""Maximum size in bytes of a response in which a member has to be found."""


class TooLong(ValueError):
    """A response without the needed members in its first ``MOST_BYTES``."""


def read_long(
    chunks: Iterable[bytes], needed: Collection[str] = (), problems: dict[str, str] | None = None
) -> dict[str, Any] | list[Any]:
    """Read a response longer than ``MOST_PARSED``, which may repeat a whole job.

    Only the needed members are kept, and reading stops after the last of them. If none are needed, only the first
    character is checked.

    Args:
        chunks: the response body in UTF-8. The first chunk is not only whitespace.
        needed: the names of the members that the caller uses.
        problems: receives the needed members that cannot be read, with the reason. If such a member is an object, its
            ``id`` and ``status`` are returned if they can be read.

    Raises:
        ValueError: it is not JSON; or nothing can be read of a needed member, and there are no ``problems``.
    """
    arriving = iter(chunks)
    start = next(arriving)
    first = start.lstrip()[:1]
    if first == b"[":
        return []
    if first != b"{":
        raise BrokenList(NOT_JSON)
    found: dict[str, Any] = {}
    if not needed:
        return found
    for name, entry in members(_limited(chain((start,), arriving))):
        if name not in needed or name in found:
            continue
        found[name] = entry.members if entry.problem else entry.value
        if entry.problem and problems is not None:
            problems[name] = entry.problem
        elif entry.problem and not entry.members:
            raise BrokenList(f"its {name} cannot be read: {entry.problem}")
        if len(found) == len(needed):
            break
    return found


def _limited(chunks: Iterable[bytes]) -> Iterable[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MOST_BYTES:
            raise TooLong(f"the response is longer than {MOST_BYTES} bytes")
        yield chunk
