"""Uploads and reviews that a handler submits through ``worker`` before they can be sent."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from mr_celery.delivery.attachments import PROMISED_IDS, Attachments
from mr_celery.delivery.source import Source
from mr_celery.errors import JobError
from mr_celery.files import MOST_MEMORY_BYTES

FIELDS: dict[str, Any] = {"filename": None, "job_id": 7, "review_id": None, "expires_at": None}
REVIEW: dict[str, Any] = {"preview": None, "target": None, "job_id": 7}


@pytest.fixture
def attachments() -> Attachments:
    return Attachments()


def upload(attachments: Attachments, data: Any = b"abc", kind: str = "image/png", **fields: Any) -> dict[str, Any]:
    return attachments.upload(data, kind, **FIELDS | fields)


def review(attachments: Attachments, title: str = "Title", **fields: Any) -> dict[str, Any]:
    return attachments.review("report", title, "content", **REVIEW | fields)


def content(attachments: Attachments, index: int = -1) -> bytes:
    """The parts of an upload that would be delivered."""
    return Source(attachments.uploads[index].artifact).read()


# -- uploads -----------------------------------------------------------------------------------------------


def test_the_answer_of_an_upload_is_the_sdks(attachments: Attachments) -> None:
    answer = upload(attachments, filename="a.png")
    slug = answer["slug"]
    assert answer == {
        "success": True,
        "slug": slug,
        "url": f"/s/{slug}",
        "content_type": "image/png",
        "size_bytes": 3,
        "filename": "a.png",
    }


def test_no_two_uploads_have_the_same_slug(attachments: Attachments) -> None:
    assert upload(attachments)["slug"] != upload(attachments)["slug"]


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_name_it_has_the_sdks(attachments: Attachments, given: str | None) -> None:
    assert upload(attachments, filename=given)["filename"] == "artifact.png"
    assert attachments.uploads[0].artifact.given_name == "artifact.png"


def test_the_given_fields_are_kept(attachments: Attachments) -> None:
    slug = upload(attachments, job_id=9, review_id=5, expires_at="2030-01-31T12:00:00Z")["slug"]
    (attached,) = attachments.uploads
    assert attached.fields == {"promised": slug, "job_id": 9, "review_id": 5, "key": None}
    assert attached.artifact.expiry == "2030-01-31T12:00:00Z"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a-b-c-")[::2]])
def test_any_form_of_bytes_is_attached(attachments: Attachments, data: Any) -> None:
    assert upload(attachments, data)["size_bytes"] == 3
    assert content(attachments) == b"abc"


def test_the_size_is_in_bytes_for_any_item_size(attachments: Attachments) -> None:
    assert upload(attachments, memoryview(b"abcdefgh").cast("I"))["size_bytes"] == 8


def test_memory_may_be_used_again_afterwards(attachments: Attachments) -> None:
    frame = bytearray(b"one")
    upload(attachments, frame)
    frame[:] = b"two"
    assert content(attachments) == b"one"


def test_a_file_is_attached_from_its_beginning(attachments: Attachments) -> None:
    file = io.BytesIO(b"abc")
    file.seek(0, io.SEEK_END)
    assert upload(attachments, file)["size_bytes"] == 3
    assert content(attachments) == b"abc"


@pytest.mark.parametrize("size", [3, MOST_MEMORY_BYTES + 1])
def test_a_file_may_be_closed_and_removed_afterwards(attachments: Attachments, tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * size)
    with path.open("rb") as file:
        assert upload(attachments, file)["size_bytes"] == size
    path.unlink()
    assert content(attachments) == b"x" * size


def test_a_pipe_is_attached_from_its_position(attachments: Attachments) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read(1) == b"a"
        assert upload(attachments, pipe)["size_bytes"] == 2
    assert content(attachments) == b"bc"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": "text"}, "encode the text"),
        ({"kind": None}, r"content_type=…\) takes a string, not NoneType"),
        ({"kind": "a/b\r\nX-Evil: 1"}, "is not a content type"),
        ({"expires_at": "tomorrow"}, "is not an ISO 8601 time"),
    ],
)
def test_what_cannot_be_an_artifact_is_refused_at_the_call(
    attachments: Attachments, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        upload(attachments, **arguments)
    assert attachments.uploads == []


def test_a_file_that_cannot_be_read_is_refused_at_the_call(attachments: Attachments, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file, pytest.raises(JobError, match="the artifact cannot be read: read"):
        upload(attachments, file)
    assert attachments.uploads == []


def test_a_file_that_is_closed_is_refused_at_the_call(attachments: Attachments) -> None:
    file = io.BytesIO(b"abc")
    file.close()
    with pytest.raises(JobError, match="the artifact cannot be read: I/O operation on closed file"):
        upload(attachments, file)


# -- reviews -----------------------------------------------------------------------------------------------


def test_the_answer_of_a_review_has_an_id_that_no_server_gives(attachments: Attachments) -> None:
    answer = review(attachments)
    assert answer == {"id": answer["id"], "status": "pending", "mode": "review"}
    assert PROMISED_IDS <= answer["id"] < 2**53  # exact in every JSON reader


def test_a_review_is_kept_with_all_its_fields(attachments: Attachments) -> None:
    promised = review(attachments, "Look", preview="abc", target="marketing", job_id=9)["id"]
    (kept,) = attachments.reviews
    assert (kept.type, kept.title, kept.content) == ("report", "Look", "content")
    assert (kept.preview, kept.target, kept.job_id, kept.promised) == ("abc", "marketing", 9, promised)


def test_an_upload_for_a_promised_review_belongs_to_it(attachments: Attachments) -> None:
    review(attachments, "first")
    second = review(attachments, "second")["id"]
    upload(attachments, review_id=second)
    fields = attachments.uploads[0].fields
    assert (fields["review_of"], "review_id" in fields) == (1, False)


def test_only_ids_of_this_run_are_promised(attachments: Attachments) -> None:
    promised = review(attachments)["id"]
    assert attachments.promised_id(promised)
    assert not any(attachments.promised_id(other) for other in (None, 7, promised + 1, PROMISED_IDS))


def test_a_promised_slug_is_found_in_any_of_the_texts(attachments: Attachments) -> None:
    slug = upload(attachments)["slug"]
    assert attachments.promises_in("title", None, f"https://server.test/s/{slug}")
    assert not attachments.promises_in("title", "", None, slug[:-1])
