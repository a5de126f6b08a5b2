"""Formats and parses durations, and formats sizes and counts, for logs and the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Format a duration in one unit: ``12 ms``, ``0.4 s``, ``26 s``, ``3 min``, ``5 h``, ``2 d``.

    A negative duration, for instance between two clocks that differ, counts as 0.
    """
    seconds = max(0.0, seconds)
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"


_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d+)?) ?(s|min|m|h|d)?", re.ASCII)


def seconds_of(text: str) -> float:
    """Parse a duration: ``90s``, ``30min``, ``1.5h``, ``2d``. A bare number is in seconds.

    Raises:
        ValueError: it is not a duration. The message shows what one looks like.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30min, 1h or 2d")
    return float(match[1]) * _UNIT_SECONDS[match[2] or "s"]


def elapsed(seconds: float) -> str:
    """Format how long something has lasted: like :func:`duration`, but in seconds up to two minutes."""
    return f"{seconds:.0f} s" if 60.0 <= seconds < 120.0 else duration(seconds)


def ago(seconds: float) -> str:
    """Format an age: ``26 s ago``."""
    return f"{duration(seconds)} ago"


def data_size(number: int) -> str:
    """Format a number of bytes in one unit: ``3 bytes``, ``20 KiB``, ``1.5 MiB``, ``12 GiB``."""
    amount, unit = float(number), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1024, larger
    if unit == "bytes":
        return counted(number, "byte")
    return f"{amount:.0f} {unit}" if amount >= 9.95 else f"{amount:.1f} {unit}"


def first_of(names: Sequence[str], most: int, total: int | None = None) -> str:
    """Format a list that may be long: ``a, b and 3 more``.

    Args:
        names: the names.
        most: the number of names that are shown.
        total: the total number, if ``names`` has only some of them.
    """
    more = (len(names) if total is None else total) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 job``, ``2 jobs``, ``3 tries``, ``4 days``."""
    if number == 1:
        return f"{number} {noun}"
    has_ies = noun.endswith("y") and noun[-2] not in "aeiou"
    return f"{number} {noun[:-1]}ies" if has_ies else f"{number} {noun}s"
