"""Random names and types of uploads: two parsers of forms read back what was sent, and nothing else."""

from __future__ import annotations

import io
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser, parse_options_header

from mr_celery.errors import WorkerError
from mr_celery.server.multipart import form
from support.fuzzing import examples

PIECES = st.sampled_from(
    (
        *('"', "\\", "\r", "\n", "\r\n", "\0", ";", "=", "filename=", "'", "%22", "%0D", "--", "..", "/", "\u2028"),
        *("\x85", "\ud800", "\r\n\r\n", "\r\nContent-Type: text/html", 'x"; name="job_id', "\x1b", "\u202e", "é"),
        *("日本", "😀", "\x7f", "\xa0"),
    )
)
TEXTS = st.lists(PIECES | st.characters() | st.just("a"), max_size=8).map("".join)
TYPES = st.sampled_from(["text/plain", "image/png; a=b", "junk", "", "text/html", "é/é"]) | TEXTS
CONTENT = st.binary(max_size=60) | st.sampled_from([b"--", b"\r\n--", b"\r\n\r\n"])


def parts_by_multipart(boundary: bytes, body: bytes) -> list[tuple[dict[bytes, bytes], bytes]]:
    """The parts of a form, with their headers, as python-multipart reads them."""
    parts: list[tuple[dict[bytes, bytes], bytes]] = []
    name, value, data = bytearray(), bytearray(), bytearray()
    headers: dict[bytes, bytes] = {}

    def begin() -> None:
        headers.clear()
        data.clear()

    def header_end() -> None:
        assert bytes(name).lower() not in headers
        headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": lambda chunk, start, end: name.extend(chunk[start:end]),
        "on_header_value": lambda chunk, start, end: value.extend(chunk[start:end]),
        "on_header_end": header_end,
        "on_part_data": lambda chunk, start, end: data.extend(chunk[start:end]),
        "on_part_end": lambda: parts.append((dict(headers), bytes(data))),
    }
    parser = MultipartParser(boundary, callbacks)
    parser.write(body)
    parser.finalize()
    return parts


@examples(1000)
@given(
    content=CONTENT,
    content_type=TYPES,
    filename=TEXTS,
    job_id=st.none() | st.integers(),
    review_id=st.none() | TEXTS,
    expires_at=st.none() | TEXTS,
)
def test_a_form_has_the_parts_that_were_given(
    content: bytes,
    content_type: str,
    filename: str,
    job_id: int | None,
    review_id: str | None,
    expires_at: str | None,
) -> None:
    texts = {"job_id": job_id, "review_id": review_id, "filename": filename, "expires_at": expires_at}
    try:
        with form(io.BytesIO(content), content_type, **texts) as encoder:  # type: ignore[arg-type]
            body, boundary, kind = encoder.read(), encoder.boundary_value, encoder.content_type
    except WorkerError:
        # Only what no form can have is refused.
        assert not _is_utf8("".join(map(str, texts.values())) + content_type) or _has_controls(content_type)
        return
    found: dict[str, bytes] = {}
    for headers, data in parts_by_multipart(boundary.encode(), body):
        disposition, options = parse_options_header(headers[b"content-disposition"])
        assert disposition == b"form-data"
        name = options[b"name"].decode()
        assert name not in found
        found[name] = data
        if name == "file":
            assert options == {b"name": b"file", b"filename": options[b"filename"]}
            assert headers.keys() <= {b"content-disposition", b"content-type"}
            assert headers.get(b"content-type", b"") == content_type.strip(" \t").encode()
        else:
            assert options == {b"name": name.encode()}
            assert headers.keys() == {b"content-disposition"}
    given = {name: str(value).encode() for name, value in texts.items() if value is not None}
    given["filename"] = given["filename"] or found["filename"]  # by default it follows from the media type
    assert found == {"file": content, **given}
    by_email: Any = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=HTTP)
    assert len(by_email.get_payload()) == len(found)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _has_controls(text: str) -> bool:
    return any(ord(each) < 32 or ord(each) == 127 for each in text)
