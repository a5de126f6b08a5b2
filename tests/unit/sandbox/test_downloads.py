"""Headers for serving artifacts: inline or attachment, content types and ranges."""

from __future__ import annotations

import pytest

from mr_celery.sandbox import downloads


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "IMAGE/JPEG",
        "image/webp",
        "video/mp4",
        "audio/mpeg",
        "application/pdf",
        "text/plain",
        "text/plain; charset=utf-8",
    ],
)
def test_passive_content_is_inline(content_type: str) -> None:
    assert downloads.headers(content_type, "f")["Content-Disposition"].startswith("inline;")


@pytest.mark.parametrize(
    "content_type",
    [
        "image/svg+xml",
        "IMAGE/SVG+XML; charset=utf-8",
        "image/svg",
        "image/x+xml",
        "text/html",
        "text/plain, text/html",
        "image/png, text/html",
        "image/png\r\nX: y",
        "application/xhtml+xml",
        "text/javascript",
        "application/octet-stream",
        "application/pdfx",
        "image/",
        "image",
        "",
        "\x00",
        "bildé/png",
    ],
)
def test_other_content_is_an_attachment(content_type: str) -> None:
    assert downloads.headers(content_type, "f")["Content-Disposition"].startswith("attachment;")


@pytest.mark.parametrize("content_type", ["image/png, text/html", "image/png\r\nX: y", "", "text", "a/b;c", "é/é"])
def test_invalid_content_type_becomes_octet_stream(content_type: str) -> None:
    assert downloads.media_type(content_type) == "application/octet-stream"


@pytest.mark.parametrize("content_type", ["text/csv", 'text/plain; charset="utf-8"', "application/vnd.ms-excel"])
def test_valid_content_type_is_kept(content_type: str) -> None:
    assert downloads.media_type(content_type) == content_type


def test_filename_is_encoded() -> None:
    disposition = downloads.headers("text/html", 'a"; x=\r\nSet-Cookie: é/..\x00')["Content-Disposition"]
    assert disposition == "attachment; filename*=UTF-8''a%22%3B%20x%3D%0D%0ASet-Cookie%3A%20%C3%A9%2F..%00"


@pytest.mark.parametrize(
    ("header", "usable"),
    [
        ("bytes=0-", True),
        ("bytes=0-0", True),
        ("bytes=9-9", True),
        ("bytes=9-99", True),
        ("bytes=10-", False),
        ("bytes=3-2", False),
        ("bytes=-3", False),
        ("bytes=0-1,3-4", False),
        ("bytes=" + "9" * 5000 + "-", False),
        ("lines=1-2", False),
        ("", False),
    ],
)
def test_usable_range(header: str, usable: bool) -> None:
    assert downloads.usable_range(header, 10) is usable
