"""Headers for serving artifacts, so that a job's files cannot run script in the operator's browser."""

from __future__ import annotations

import re
from urllib.parse import quote

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w-]+=([\w.+-]+|\"[\w .+-]*\"))*", re.ASCII)
_INLINE = re.compile(r"image/(?!svg|[^;]*xml)[^;]+|video/[^;]+|audio/[^;]+|application/pdf|text/plain")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")

CONTENT_SECURITY_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; media-src 'self'"


def media_type(content_type: str) -> str:
    """The content type if it is valid in a header, else ``application/octet-stream``."""
    return content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"


def headers(content_type: str, filename: str) -> dict[str, str]:
    """Headers besides the content type. Only passive content is shown inline, everything else is a download."""
    essence = media_type(content_type).split(";")[0].strip().lower()
    shown = "inline" if _INLINE.fullmatch(essence) else "attachment"
    return {
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(filename, safe='')}",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, max-age=3600",
    }


def usable_range(header: str, size: int) -> bool:
    """Whether a ``Range`` header has one range inside the file. Others are ignored, as HTTP allows."""
    match = _RANGE.fullmatch(header)
    if match is None:
        return False
    first, last = int(match[1]), int(match[2] or size)
    return first < size and first <= last
