"""How an artifact is served: whatever a job has made must not run script where the operator looks at it."""

from __future__ import annotations

import re
from urllib.parse import quote

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w-]+=([\w.+-]+|\"[\w .+-]*\"))*", re.ASCII)
_INLINE = re.compile(r"image/(?!svg|[^;]*xml)[^;]+|video/[^;]+|audio/[^;]+|application/pdf|text/plain")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")

CONTENT_SECURITY_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; media-src 'self'"


def media_type(content_type: str) -> str:
    """The content type as a header may say it; what is none is bytes."""
    return content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"


def headers(content_type: str, filename: str) -> dict[str, str]:
    """The headers beside the content type: shown in the page only what cannot act, all else is a download."""
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
    """Whether a ``Range`` header asks for one part that the file has; any other is ignored, as HTTP allows."""
    match = _RANGE.fullmatch(header)
    if match is None:
        return False
    first, last = int(match[1]), int(match[2] or size)
    return first < size and first <= last
