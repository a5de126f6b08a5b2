"""Draws a picture from a prompt. Replaces a text-to-image API in the demo."""

from __future__ import annotations

import hashlib
import struct
import zlib


def paint(prompt: str, *, size: int = 256) -> bytes:
    """Draw a PNG whose colours and pattern are derived from the prompt.

    Args:
        prompt: the prompt.
        size: width and height in pixels.

    Returns:
        The PNG's bytes.
    """
    seed = hashlib.sha256(prompt.encode()).digest()
    base, accent = seed[0:3], seed[3:6]
    waves = [1 + byte % 7 for byte in seed[6:8]]
    rows = bytearray()
    for y in range(size):
        rows.append(0)  # no filter
        for x in range(size):
            mix = ((x * waves[0]) ^ (y * waves[1])) % 256
            rows += bytes((base[i] * (255 - mix) + accent[i] * mix) // 255 for i in range(3))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(rows))) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
