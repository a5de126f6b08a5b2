"""Media types of random names and first bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mr_celery.delivery.media_types import media_type

SIGNATURES = (
    b"\x89PNG\r\n\x1a\n" + bytes(20),
    b"\0\0\0\x18ftypisom" + bytes(20),
    b"RIFF",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"ID3",
)


@given(name=st.text(), head=st.binary(max_size=600))
def test_any_input_gives_a_valid_header_value(name: str, head: bytes) -> None:
    kind = media_type(name, head)
    assert "/" in kind
    assert kind.isprintable()


@given(head=st.binary(max_size=300), start=st.sampled_from(SIGNATURES))
def test_truncated_signatures_give_a_type(head: bytes, start: bytes) -> None:
    assert "/" in media_type("", start[: len(head)] + head)
