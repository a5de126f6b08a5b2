"""Guesses media types from file names and first bytes, and default file names from media types."""

from __future__ import annotations

import mimetypes
import re

import filetype

HEAD_BYTES = 8192
"""Number of leading bytes that are examined."""

UNKNOWN = "application/octet-stream"

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
"""Bytes that do not occur in text (https://mimesniff.spec.whatwg.org)."""


def media_type(name: str, head: bytes) -> str:
    """Guess the media type of a file from its name, or else from its first bytes.

    Args:
        name: the file name; may be empty.
        head: the first bytes, up to :data:`HEAD_BYTES`.

    Returns:
        The media type, or :data:`UNKNOWN`.
    """
    named, encoding = mimetypes.guess_type(f"./{name}")  # as a path, because guess_type also parses URLs (data:…)
    if encoding is not None:  # page.html.gz: the type is that of the compressed content
        named = None
    return named or filetype.guess_mime(head) or (_text_type(head) if head else UNKNOWN)


def _text_type(head: bytes) -> str:
    if _BINARY.search(head):
        return UNKNOWN
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < len(head) - 3:  # the head may end inside a character
            return UNKNOWN
    return "text/plain; charset=utf-8"


def default_name(content_type: str) -> str:
    """Default file name for a media type, as in the SDK: ``artifact.<ext>``."""
    return f"artifact{mimetypes.guess_extension(content_type.partition(';')[0].strip()) or '.bin'}"
