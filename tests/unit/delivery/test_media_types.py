"""Media types from file names and first bytes."""

from __future__ import annotations

import pytest

from mr_celery.delivery.media_types import HEAD_BYTES, UNKNOWN, default_name, media_type

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
MP4 = b"\0\0\0\x18ftypisom" + bytes(20)
TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("poster.png", b"", "image/png"),
        ("POSTER.PNG", b"", "image/png"),
        ("folder.d/clip.mp4", b"", "video/mp4"),
        ("table.csv", PNG, "text/csv"),
        ("", PNG, "image/png"),
        ("", MP4, "video/mp4"),
        ("", b"%PDF-1.7\n", "application/pdf"),
        ("poster", PNG, "image/png"),
        ("poster.unheard-of", PNG, "image/png"),
        ("", b"plain words\r\n\tand more\n", TEXT),
        ("", "größer".encode(), TEXT),
        ("", "größer".encode("latin-1"), UNKNOWN),
        ("", b"\x01\x02\x03\x04", UNKNOWN),
        ("", b"text\0text", UNKNOWN),
        ("", b"", UNKNOWN),
        ("README", b"", UNKNOWN),
    ],
)
def test_name_takes_precedence_over_content(name: str, head: bytes, expected: str) -> None:
    assert media_type(name, head) == expected


def test_compressed_file_is_typed_by_content() -> None:
    gzip = b"\x1f\x8b\x08" + bytes(20)
    assert media_type("page.html.gz", gzip) == "application/gzip"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_text_cut_inside_a_character_is_text(cut: int) -> None:
    head = ("a" * (HEAD_BYTES - cut) + "😀").encode()[:HEAD_BYTES]
    assert media_type("", head) == TEXT


def test_short_text_ending_inside_a_character_is_not_text() -> None:
    assert media_type("", "😀".encode()[:2]) == UNKNOWN


@pytest.mark.parametrize("name", ["data:a/b\r\nX-Evil: 1,x", "data:text/html,x", "https://[half.an.address"])
def test_name_is_not_parsed_as_a_url(name: str) -> None:
    assert media_type(name, b"") == UNKNOWN


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("image/png", "artifact.png"),
        ("text/plain; charset=utf-8", "artifact.txt"),
        ("x/unheard-of", "artifact.bin"),
        ("", "artifact.bin"),
    ],
)
def test_default_name_is_that_of_the_sdk(kind: str, name: str) -> None:
    assert default_name(kind) == name
