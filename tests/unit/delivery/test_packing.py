"""Packing a handler's result and its attachments into an outcome and the places of its uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mr_celery import Artifact, Job, Result, Review
from mr_celery.delivery.attachments import Attachments
from mr_celery.delivery.packing import LEDGER_BLOB_LIMIT, LEDGER_TEXT_LIMIT, PackedOutcome, pack, pack_failure
from mr_celery.errors import JobError

JOB = Job({"id": 7, "prompt": "paint a cat"})
FIELDS: dict[str, Any] = {"filename": None, "job_id": 7, "review_id": None, "expires_at": None}
REVIEW: dict[str, Any] = {"preview": None, "target": None, "job_id": 7}


def pack_value(value: Any, attachments: Attachments | None = None, **declaration: Any) -> PackedOutcome:
    return pack(value, JOB, attachments or Attachments(), **declaration)


def artifact(name: str, data: bytes = b"abc") -> Artifact:
    return Artifact(data=data, filename=name)


def names(packed: PackedOutcome) -> list[str]:
    return [upload.filename for upload in packed.outcome.uploads]


@pytest.fixture
def large(tmp_path: Path) -> Artifact:
    """An artifact that is too large for the ledger."""
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        file.truncate(LEDGER_BLOB_LIMIT + 1)
    return Artifact(path=path)


@pytest.fixture
def gone(tmp_path: Path) -> Artifact:
    """An artifact with an existing file, for tests that remove it after packing."""
    path = tmp_path / "gone.txt"
    path.write_text("gone")
    return Artifact(path=path)


def remove(artifact: Artifact) -> None:
    assert artifact.path is not None
    Path(artifact.path).unlink()


# -- with earlier attachments ------------------------------------------------------------------------------


def test_attached_uploads_come_before_returned_ones() -> None:
    attachments = Attachments()
    slug = attachments.upload(b"first", "text/plain", **FIELDS)["slug"]
    promised = attachments.review("report", "first", "", **REVIEW)["id"]
    packed = pack_value(Result("x", artifacts=[artifact("second")], reviews=[Review("report", "second")]), attachments)
    assert names(packed) == ["artifact.txt", "second"]
    assert [upload.promised for upload in packed.outcome.uploads] == [slug, None]
    assert [review.promised for review in packed.outcome.reviews] == [promised, None]


def test_a_preview_after_attached_uploads_is_found() -> None:
    attachments = Attachments()
    attachments.upload(b"first", "text/plain", **FIELDS)
    picture = artifact("picture")
    packed = pack_value(
        Result("x", artifacts=[artifact("other"), picture], reviews=[Review("i", "T", preview=picture)])
    )
    assert packed.outcome.reviews[0].preview_upload == 1
    packed = pack_value(Result("x", reviews=[Review("i", "T", preview=picture)]), attachments)
    assert names(packed) == ["artifact.txt", "picture"]
    assert packed.outcome.reviews[0].preview_upload == 1


def test_artifacts_that_are_alike_are_two() -> None:
    one, other = artifact("same"), artifact("same")
    packed = pack_value(Result("x", artifacts=[one], reviews=[Review("i", "T", preview=other)]))
    assert names(packed) == ["same", "same"]
    assert packed.outcome.reviews[0].preview_upload == 1


def test_an_attached_upload_keeps_the_job_and_the_review_that_it_was_for() -> None:
    attachments = Attachments()
    attachments.upload(b"a", "text/plain", **FIELDS | {"job_id": 9, "review_id": 5})
    (upload,) = pack_value("x", attachments).outcome.uploads
    assert (upload.job_id, upload.review_id, upload.review_of) == (9, 5, None)


def test_an_outcome_with_everything_survives_the_ledger() -> None:
    attachments = Attachments()
    review_id = attachments.review("report", "größer", "", **REVIEW)["id"]
    attachments.upload(b"a", "text/plain", **FIELDS | {"review_id": review_id})
    outcome = pack_value(Result("x", artifacts=[artifact("日本")]), attachments).outcome
    assert type(outcome).from_json(outcome.to_json()) == outcome


def test_an_artifact_that_cannot_be_read_fails_the_result(gone: Artifact) -> None:
    remove(gone)
    with pytest.raises(JobError, match=r"gone\.txt' cannot be read"):
        pack_value(gone)


# -- a failure ---------------------------------------------------------------------------------------------


def test_a_failure_brings_what_was_attached_and_its_own_artifacts() -> None:
    attachments = Attachments()
    attachments.upload(b"half", "text/plain", **FIELDS)
    attachments.review("report", "Title", "", **REVIEW)
    packed = pack_failure("no", attachments, [artifact("log")])
    assert (packed.outcome.status, packed.outcome.text) == ("failed", "no")
    assert names(packed) == ["artifact.txt", "log"]
    assert [source.read() for source in packed.sources] == [b"half", b"abc"]
    assert len(packed.outcome.reviews) == 1


def test_a_failure_says_which_of_its_artifacts_cannot_be_read_and_brings_the_others(gone: Artifact) -> None:
    remove(gone)
    packed = pack_failure("no", Attachments(), [gone, artifact("log")])
    assert names(packed) == ["log"]
    assert packed.outcome.text.startswith("no\n\nthe artifact ")
    assert "gone.txt' cannot be read" in packed.outcome.text


@pytest.mark.parametrize("wrong", [None, "log.txt", [b"bytes"], artifact("alone")], ids=repr)
def test_a_failure_with_wrong_artifacts_is_still_that_failure(wrong: Any) -> None:
    packed = pack_failure("no", Attachments(), wrong)
    assert packed.outcome.text == "no\n\nJobFailed(artifacts=…) takes a list of Artifact objects"


# -- places ------------------------------------------------------------------------------------------------


def test_small_ones_wait_in_the_ledger_and_large_ones_do_not(large: Artifact) -> None:
    limit = artifact("limit", bytes(LEDGER_BLOB_LIMIT))
    packed = pack_value(Result("x", artifacts=[large, limit, artifact("small")]))
    assert packed.large == [0]
    assert [packed.waits_in_ledger(index) for index in range(3)] == [False, True, True]


@pytest.mark.parametrize("place", [{"slug": "abc"}, {"spooled": "mr-7-1-ab.cd.0"}, {"refused": True}], ids=str)
def test_stored_uploads_are_not_stored_again(large: Artifact, place: dict[str, Any]) -> None:
    packed = pack_value(Result("x", artifacts=[large, artifact("small")]))
    packed = packed.with_upload(0, **place).with_upload(1, **place)
    assert packed.large == []
    assert not any(packed.waits_in_ledger(index) for index in range(2))
    assert packed.with_blobs()[1] == [b"", b""]


def test_the_ledger_gets_the_bytes_of_the_small_ones_at_their_places(large: Artifact) -> None:
    packed = pack_value(Result("x", artifacts=[artifact("a", b"1"), large, artifact("b", b"2")]))
    assert packed.with_blobs() == (packed, [b"1", b"", b"2"])


def test_an_unreadable_upload_is_left_out_and_fails_the_job(gone: Artifact) -> None:
    packed = pack_value(Result("made it", artifacts=[artifact("a", b"1"), gone, artifact("b", b"2")]))
    remove(gone)
    packed, blobs = packed.with_blobs()
    assert blobs == [b"1", b"", b"2"]
    assert packed.outcome.status == "failed"
    assert packed.outcome.text.startswith("the artifact ")
    assert packed.outcome.text.endswith("\n\nmade it")
    assert [upload.refused for upload in packed.outcome.uploads] == [False, True, False]


def test_a_result_changed_to_a_failure_keeps_its_artifacts_and_filed_reviews() -> None:
    attachments = Attachments()
    promised = attachments.review("report", "filed", "", **REVIEW)["id"]
    packed = pack_value(Result("x", artifacts=[artifact("a")], reviews=[Review("i", "returned")]), attachments)
    failed = packed.failing("why")
    assert (failed.outcome.status, failed.outcome.text, names(failed)) == ("failed", "why", ["a"])
    assert [review.promised for review in failed.outcome.reviews] == [promised]
    assert failed.sources == packed.sources


# -- a long output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a" * 2000, "ä" * 1000])
def test_an_output_that_fits_is_left_as_it_is(text: str) -> None:
    packed = pack_value(text)
    assert packed.within(2000) is packed


@pytest.mark.parametrize("text", ["a" * 2001, "ä" * 1001, "😀" * 600, "a" + "😀" * 600, "aaa" + "😀" * 600])
def test_a_longer_one_is_cut_says_so_and_is_attached_whole(text: str) -> None:
    packed = pack_value(Result(text, artifacts=[artifact("a")])).within(2000)
    size = len(text.encode())
    cut, _, mark = packed.outcome.text.rpartition("\n")
    assert text.startswith(cut)
    assert mark == f"[… truncated: the full output, {size} bytes, is in the artifact result.txt]"
    assert 2000 - 4 < len(packed.outcome.text.encode()) <= 2000
    assert names(packed) == ["a", "result.txt"]
    assert packed.outcome.uploads[1].content_type == "text/plain; charset=utf-8"
    assert packed.sources[1].read() == text.encode()
    assert packed.outcome.status == "done"


def test_a_whole_output_waits_in_the_ledger_up_to_a_limit_of_its_own(large: Artifact) -> None:
    packed = pack_value(Result("a" * (LEDGER_BLOB_LIMIT + 1), artifacts=[large])).within(2000)
    assert packed.large == [0]
    assert len(packed.with_blobs()[1][1]) == LEDGER_BLOB_LIMIT + 1
    assert pack_value("a" * (LEDGER_TEXT_LIMIT + 1)).within(2000).large == [0]


def test_an_output_with_half_a_character_is_cut_too() -> None:
    packed = pack_value("\udc80" * 2001).within(2000)
    assert packed.sources[0].read() == b"?" * 2001
    packed.outcome.text.encode()
