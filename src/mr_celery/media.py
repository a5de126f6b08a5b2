"""Media types: from a name, from the first bytes, and back to a file name."""

from __future__ import annotations

import mimetypes
import re

import filetype

HEAD_BYTES = 8192
"""How much of a content is looked at."""

UNKNOWN = "application/octet-stream"

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
"""What no text has in it (https://mimesniff.spec.whatwg.org)."""


def media_type(name: str, head: bytes) -> str:
    """The media type of a content: what its name says, or else what it begins with.

    Args:
        name: its file name; may be empty.
        head: its first bytes, up to :data:`HEAD_BYTES` of them.

    Returns:
        :data:`UNKNOWN` where neither tells.
    """
    named, encoding = mimetypes.guess_type(f"./{name}")  # a path: of an address (data:…) it would be told another way
    if encoding is not None:  # of what is packed once more (page.html.gz) the name tells the inside
        named = None
    return named or filetype.guess_mime(head) or (_text_type(head) if head else UNKNOWN)


def _text_type(head: bytes) -> str:
    if _BINARY.search(head):
        return UNKNOWN
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < len(head) - 3:  # it may have been cut inside a character
            return UNKNOWN
    return "text/plain; charset=utf-8"


def default_name(content_type: str) -> str:
    """The file name of a content without one, as the SDK makes it: ``artifact.<ext>``."""
    return f"artifact{mimetypes.guess_extension(content_type.partition(';')[0].strip()) or '.bin'}"
