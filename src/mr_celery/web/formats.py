"""Formats times, sizes and numbers for pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode


def span(seconds: float) -> str:
    """Format a duration: ``12 ms``, ``1.4 s``, ``3 min``, ``5 h``, ``2 d``."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length, until in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if seconds < until:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86400)} d"


def ago(seconds: float) -> str:
    """Format an age: ``now``, ``5 s``, ``3 min``."""
    return "now" if seconds < 2 else span(int(seconds)) if seconds >= 10 else f"{int(seconds)} s"


def iso(time: float) -> str:
    """Format a time as ISO 8601."""
    return dt.datetime.fromtimestamp(time, dt.timezone.utc).isoformat(timespec="milliseconds")


def clock(time: float) -> str:
    """Format a time for people, in UTC."""
    return dt.datetime.fromtimestamp(time, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int) -> str:
    """Format a number of bytes: ``812 B``, ``3.4 MB``."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def count(number: int) -> str:
    """Format a number with separated thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def query(values: Mapping[str, Any]) -> str:
    """Encode a query string, without empty values."""
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})
