"""The conversion of a handler's return value to its recorded outcome: results, artifacts, reviews."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from kombu.utils.json import register_type

from mr_celery import Artifact, Job, Result, Review
from mr_celery.delivery import PackedOutcome, pack
from mr_celery.delivery.attachments import Attachments
from mr_celery.delivery.packing import LEDGER_BLOB_LIMIT, as_result
from mr_celery.errors import JobError
from mr_celery.outcome import Outcome, ReviewItem, Upload

JOB = Job({"id": 7, "prompt": "paint a cat"})
PNG = b"\x89PNG\r\n\x1a\n"


def pack_value(value: object, **declared: Any) -> PackedOutcome:
    """The packed result of a handler that attached nothing through ``worker``."""
    return pack(value, JOB, Attachments(), **declared)


def blobs(packed: PackedOutcome) -> list[bytes]:
    """The bytes of a packed result that the ledger stores."""
    return packed.with_blobs()[1]


def circular() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    colour: Colour


class Model:
    """A class with the method that converts pydantic models."""

    def model_dump(self, mode: str = "python") -> dict[str, Any]:
        return {"from": "model_dump"} if mode == "json" else {"from": object()}


class Box:
    """A class that is registered with kombu."""


@pytest.fixture(autouse=True, scope="module")
def _registered_box() -> None:
    register_type(Box, "test-box", lambda box: [1, 2], lambda value: Box())


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    """A picture in a file."""
    file = tmp_path / "poster.png"
    file.write_bytes(PNG)
    return file


class TestReturnValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, ""),
            ("", ""),
            ("a text", "a text"),
            ('"quoted" 猫\n', '"quoted" 猫\n'),
            ({"label": "spam", "score": 0.5}, '{"label": "spam", "score": 0.5}'),
            ({"cat": "猫"}, '{"cat": "猫"}'),
            ([1, None, "a"], '[1, null, "a"]'),
            ((1, 2), "[1, 2]"),
            ([], "[]"),
            ({}, "{}"),
            (0, "0"),
            (1.5, "1.5"),
            (True, "true"),
            (False, "false"),
            (dt.date(2024, 1, 2), '"2024-01-02"'),
            (dt.datetime(2024, 1, 2, 3, tzinfo=dt.timezone.utc), '"2024-01-02T03:00:00+00:00"'),
            (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
            ({"price": Decimal("1.50")}, '{"price": "1.50"}'),
            (Colour.RED, '"red"'),
            ([Point(1, Colour.RED)], '[{"x": 1, "colour": "red"}]'),
            (Model(), '{"from": "model_dump"}'),
            ({"box": Box()}, '{"box": [1, 2]}'),
            (Result(), ""),
            (Result("a text"), "a text"),
            (Result({"label": "spam"}), '{"label": "spam"}'),  # type: ignore[arg-type]
            (Result(None), ""),  # type: ignore[arg-type]
            (Result([1, 2]), "[1, 2]"),  # type: ignore[arg-type]
        ],
    )
    def test_becomes_the_jobs_output(self, value: object, text: str) -> None:
        assert pack_value(value).outcome == Outcome("done", text)

    @pytest.mark.parametrize("status", ["done", "failed", "escalated"])
    def test_result_says_how_the_job_is_closed(self, status: Any) -> None:
        reason = "" if status == "done" else f"its handler returned Result(status={status!r})"

        assert pack_value(Result("why", status=status)).outcome == Outcome(status, "why", reason=reason)

    def test_result_keeps_its_other_parts_where_its_text_is_data(self) -> None:
        artifact = Artifact(data=b"a")

        made = as_result(Result({"a": 1}, artifacts=[artifact], status="failed"))  # type: ignore[arg-type]

        assert (made.text, list(made.artifacts), made.status) == ('{"a": 1}', [artifact], "failed")

    def test_artifact_alone_is_a_result_that_names_it(self) -> None:
        packed = pack_value(Artifact(data=PNG, filename="cat.png"))

        assert packed.outcome == Outcome("done", "made cat.png", uploads=(Upload("image/png", "cat.png", len(PNG)),))
        assert blobs(packed) == [PNG]

    @pytest.mark.parametrize(
        ("value", "named"),
        [
            (b"bytes", "bytes"),
            ({1, 2}, "set"),
            (object(), "object"),
            ({"a": b"bytes"}, "dict"),
            ({("a", "b"): 1}, "dict"),
            ([object()], "list"),
            (lambda: None, "function"),
            (circular(), "list"),
            (nested(100_000), "list"),
            (Review("text", "a title"), "Review"),
            (Result(b"bytes"), "bytes"),  # type: ignore[arg-type]
            (float("nan"), "float"),
            ({"score": float("inf")}, "dict"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_without_a_text_form_is_refused_with_advice(self, value: object, named: str) -> None:
        with pytest.raises(
            JobError, match=rf"^the handler returned {named}, which is not text, .*@modelreins_job\(result=…\)$"
        ):
            pack_value(value)

    @pytest.mark.parametrize("inner", [Artifact(data=b"a"), Result("a", artifacts=[Artifact(data=b"a")])])
    def test_result_never_loses_what_was_given_as_its_text(self, inner: Any) -> None:
        try:
            packed = pack_value(Result(inner))
        except JobError:
            return
        assert blobs(packed) == [b"a"]

    def test_result_is_what_the_declaration_makes_of_the_value(self) -> None:
        packed = pack_value(b"raw", result=lambda value: Result("made it", artifacts=[Artifact(data=value)]))

        assert (packed.outcome.text, blobs(packed)) == ("made it", [b"raw"])

    def test_errors_of_the_declarations_functions_are_their_own(self) -> None:
        def broken(*_: object) -> Any:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            pack_value("text", result=broken)
        with pytest.raises(ZeroDivisionError):
            pack_value("text", review=broken)


class TestResult:
    @pytest.mark.parametrize("status", ["running", "", "DONE", None, 1, []])
    def test_other_status_is_refused(self, status: Any) -> None:
        with pytest.raises(JobError, match=r"Result\(status=.*\): the status must be one of done, failed, escalated"):
            pack_value(Result("text", status=status))

    @pytest.mark.parametrize("name", ["artifacts", "reviews"])
    @pytest.mark.parametrize(
        "given", [None, "poster.png", ["poster.png"], [None], {"a": 1}, 7, (path for path in "ab")]
    )
    def test_parts_of_other_types_are_refused(self, name: str, given: Any) -> None:
        with pytest.raises(JobError, match=rf"Result\({name}=…\) takes a list of (Artifact|Review) objects"):
            pack_value(Result("text", **{name: given}))

    def test_artifact_in_place_of_a_list_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"Result\(artifacts=…\) takes a list of Artifact objects"):
            pack_value(Result("text", artifacts=Artifact(data=b"a")))  # type: ignore[arg-type]

    @pytest.mark.parametrize("form", [list, tuple])
    def test_parts_may_be_lists_and_tuples(self, form: Callable[[Any], Any]) -> None:
        packed = pack_value(Result(artifacts=form([Artifact(data=b"a")]), reviews=form([Review("text", "t")])))

        assert len(packed.outcome.uploads) == 1
        assert len(packed.outcome.reviews) == 1

    def test_repr_hides_the_output(self) -> None:
        assert "hush" not in repr(Result("hush"))


class TestArtifact:
    @pytest.mark.parametrize(
        ("arguments", "media_type", "name"),
        [
            ({"data": b"\0"}, "application/octet-stream", "artifact.bin"),
            ({"data": PNG}, "image/png", "artifact.png"),
            ({"data": b"a"}, "text/plain; charset=utf-8", "artifact.txt"),
            ({"data": b"a", "content_type": "image/png"}, "image/png", "artifact.png"),
            ({"data": b"a", "content_type": "x/unheard-of"}, "x/unheard-of", "artifact.bin"),
            ({"data": b"a", "filename": "report.csv"}, "text/csv", "report.csv"),
            ({"data": b"a", "filename": "README"}, "text/plain; charset=utf-8", "README"),
            ({"data": b"a", "filename": "a.png", "content_type": "image/webp"}, "image/webp", "a.png"),
            ({"path": "poster.png"}, "image/png", "poster.png"),
            ({"path": Path("poster.png"), "filename": "final.jpg"}, "image/jpeg", "final.jpg"),
            ({"path": "poster.png", "content_type": "image/webp"}, "image/webp", "poster.png"),
        ],
    )
    def test_guesses_its_type_and_name(
        self,
        arguments: dict[str, Any],
        media_type: str,
        name: str,
        poster: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(poster.parent)

        (upload,) = pack_value(Artifact(**arguments)).outcome.uploads

        assert (upload.content_type, upload.filename) == (media_type, name)

    @pytest.mark.parametrize("arguments", [{}, {"data": b"a", "path": "a"}, {"filename": "a.png"}])
    def test_takes_either_bytes_or_a_path(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(JobError, match=r"either data= .* or path="):
            Artifact(**arguments)

    @pytest.mark.parametrize(("data", "named"), [("text", "str"), (7, "int"), ([1], "list"), (object(), "object")])
    def test_other_data_is_refused(self, data: Any, named: str) -> None:
        with pytest.raises(JobError, match=rf"Artifact\(data=…\) takes bytes or an open binary file, not {named}"):
            Artifact(data=data)

    @pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
    def test_any_form_of_bytes_is_kept_as_bytes(self, data: Any) -> None:
        packed = pack_value(Artifact(data=data))

        assert packed.outcome.uploads[0].size == 3
        assert [(type(blob), blob) for blob in blobs(packed)] == [(bytes, b"abc")]

    def test_no_bytes_are_an_empty_file(self) -> None:
        packed = pack_value(Artifact(data=b"", filename="empty.txt"))

        assert packed.outcome.uploads == (Upload("text/plain", "empty.txt", 0),)
        assert blobs(packed) == [b""]

    def test_naive_datetime_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"Artifact\(expires_at=…\) takes a datetime with a time zone"):
            Artifact(data=b"a", expires_at=dt.datetime(2030, 1, 1))

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (None, None),
            ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
            (dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc), "2030-01-01T00:00:00+00:00"),
            (dt.datetime(2030, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))), "2030-01-01T00:00:00+02:00"),
        ],
    )
    def test_expiry_is_iso_text(self, given: Any, told: str | None) -> None:
        assert pack_value(Artifact(data=b"a", expires_at=given)).outcome.uploads[0].expires_at == told

    @pytest.mark.parametrize(
        "arguments",
        [
            {"filename": Path("a.png")},
            {"filename": 7},
            {"content_type": 7},
            {"content_type": b"image/png"},
            {"expires_at": 1893456000},
            {"expires_at": dt.date(2030, 1, 1)},
        ],
        ids=str,
    )
    def test_fields_of_other_types_are_refused_by_name(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(JobError, match=next(iter(arguments))):
            pack_value(Artifact(data=b"a", **arguments)).outcome.to_json()

    @pytest.mark.parametrize("path", [7, 1.5, [], object()], ids=lambda path: type(path).__name__)
    def test_path_of_another_type_is_refused(self, path: Any) -> None:
        with pytest.raises(JobError, match="path"):
            pack_value(Artifact(path=path))

    def test_repr_hides_its_bytes(self) -> None:
        assert "hush" not in repr(Artifact(data=b"hush", filename="a.txt"))
        assert "hush" not in repr(pack_value(Artifact(data=b"hush", filename="a.txt")))


class TestFiles:
    @pytest.mark.parametrize("form", [str, Path])
    def test_is_read_from_its_path(self, poster: Path, form: Callable[[Path], Any]) -> None:
        packed = pack_value(Result("made it", artifacts=[Artifact(path=form(poster))]))

        assert packed.outcome.uploads == (Upload("image/png", "poster.png", len(PNG)),)
        assert blobs(packed) == [PNG]

    def test_is_read_with_a_path_like_of_the_users_own(self, poster: Path) -> None:
        class Mine:
            def __fspath__(self) -> str:
                return str(poster)

        assert blobs(pack_value(Artifact(path=Mine()))) == [PNG]

    def test_that_is_missing_is_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(JobError, match=r"the artifact '.*/nothing\.png' cannot be read: .*No such file"):
            pack_value(Artifact(path=tmp_path / "nothing.png"))

    @pytest.mark.parametrize("name", ["", "folder"])
    def test_that_is_a_folder_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder").mkdir()

        with pytest.raises(JobError, match="cannot be read"):
            pack_value(Artifact(path=tmp_path / name))

    def test_that_is_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")

        with pytest.raises(JobError, match=r"pipe\.png' cannot be read"):
            pack_value(Artifact(path=tmp_path / "pipe.png"))

    def test_that_vanished_since_is_refused_by_name(self, poster: Path) -> None:
        packed = pack_value(Result("made it", artifacts=[Artifact(path=poster), Artifact(data=b"kept")]))
        poster.unlink()

        failed, kept = packed.with_blobs()

        assert failed.outcome.status == "failed"
        assert re.match(r"the artifact '.*poster\.png' cannot be read: .*\n\nmade it", failed.outcome.text)
        assert [upload.refused for upload in failed.outcome.uploads] == [True, False]
        assert kept == [b"", b"kept"]


class TestReviews:
    def test_becomes_an_item_of_the_outcome(self) -> None:
        review = Review("generated_text", "a title", content="read this", target="#news")

        assert pack_value(Result("text", reviews=[review])).outcome.reviews == (
            ReviewItem("generated_text", "a title", "read this", target="#news"),
        )

    def test_previews_a_url(self) -> None:
        review = Review("image", "a title", preview="https://host/cat.png")

        (item,) = pack_value(Result(reviews=[review])).outcome.reviews

        assert (item.preview, item.preview_upload) == ("https://host/cat.png", None)

    def test_previews_an_artifact_of_the_result(self) -> None:
        first, second = Artifact(data=b"1"), Artifact(data=b"2")

        packed = pack_value(Result(artifacts=[first, second], reviews=[Review("image", "t", preview=second)]))

        assert packed.outcome.reviews[0].preview_upload == 1
        assert packed.outcome.reviews[0].preview is None
        assert blobs(packed) == [b"1", b"2"]

    def test_previewed_artifact_need_not_be_listed(self) -> None:
        listed, previewed = Artifact(data=b"1"), Artifact(data=b"2")

        packed = pack_value(Result(artifacts=[listed], reviews=[Review("image", "t", preview=previewed)]))

        assert packed.outcome.reviews[0].preview_upload == 1
        assert blobs(packed) == [b"1", b"2"]

    def test_artifact_previewed_twice_is_uploaded_once(self) -> None:
        previewed = Artifact(data=b"1")

        packed = pack_value(Result(reviews=[Review("a", "t", preview=previewed), Review("b", "t", preview=previewed)]))

        assert [item.preview_upload for item in packed.outcome.reviews] == [0, 0]
        assert blobs(packed) == [b"1"]

    def test_equal_artifacts_are_kept_apart(self) -> None:
        first, second = Artifact(data=b"same"), Artifact(data=b"same")

        packed = pack_value(Result(artifacts=[first, second], reviews=[Review("a", "t", preview=second)]))

        assert packed.outcome.reviews[0].preview_upload == 1
        assert len(packed.outcome.uploads) == 2

    def test_previewed_artifact_is_shown_even_if_an_equal_one_is_listed(self) -> None:
        listed, previewed = Artifact(data=b"same"), Artifact(data=b"same")

        packed = pack_value(Result(artifacts=[listed], reviews=[Review("a", "t", preview=previewed)]))

        assert packed.outcome.reviews[0].preview_upload == 1
        assert len(packed.outcome.uploads) == 2

    def test_result_is_not_changed_by_packing(self) -> None:
        artifacts: list[Artifact] = []
        reviews = [Review("a", "t", preview=Artifact(data=b"1"))]

        pack_value(Result(artifacts=artifacts, reviews=reviews), review=Review("b", "t"))

        assert artifacts == []
        assert len(reviews) == 1

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"type": None}, r"Review\(type=…\) takes a string, not NoneType"),
            ({"title": 7}, r"Review\(title=…\) takes a string, not int"),
            ({"content": {"a": 1}}, r"Review\(content=…\) takes a string, not dict"),
            ({"content": b"a"}, r"Review\(content=…\) takes a string, not bytes"),
            ({"target": 7}, r"Review\(target=…\)"),
            ({"target": Path("news")}, r"Review\(target=…\)"),
            ({"preview": b"bytes"}, r"Review\(preview=…\)"),
            ({"preview": Path("cat.png")}, r"Review\(preview=…\)"),
            ({"preview": 7}, r"Review\(preview=…\)"),
        ],
        ids=str,
    )
    def test_fields_of_other_types_are_refused_by_name(self, wrong: dict[str, Any], said: str) -> None:
        with pytest.raises(JobError, match=said):
            pack_value(Result(reviews=[Review(**{"type": "image", "title": "t", **wrong})]))


class TestDeclaredReview:
    def test_is_filed_with_every_result(self) -> None:
        declared = Review("audit", "look at it")

        for value in ("text", None, Result("text"), Artifact(data=b"a")):
            assert pack_value(value, review=declared).outcome.reviews == (ReviewItem("audit", "look at it", ""),)

    def test_is_made_from_the_job_and_the_result(self) -> None:
        packed = pack_value("a cat", review=lambda job, value: Review("audit", f"{job.id}: {value}"))

        assert [item.title for item in packed.outcome.reviews] == ["7: a cat"]

    def test_sees_what_the_declaration_made_of_the_value(self) -> None:
        packed = pack_value(
            {"raw": 1}, result=lambda value: f"raw {value['raw']}", review=lambda job, value: Review("a", value)
        )

        assert [item.title for item in packed.outcome.reviews] == ["raw 1"]

    def test_may_be_none_for_this_result(self) -> None:
        assert pack_value("text", review=lambda job, value: None).outcome.reviews == ()

    def test_comes_after_those_of_the_result(self) -> None:
        packed = pack_value(Result(reviews=[Review("own", "t")]), review=Review("declared", "t"))

        assert [item.type for item in packed.outcome.reviews] == ["own", "declared"]

    def test_previews_an_artifact_that_the_handler_returned(self) -> None:
        artifact = Artifact(data=b"a")

        packed = pack_value(artifact, review=lambda job, value: Review("image", "t", preview=value))

        assert packed.outcome.reviews[0].preview_upload == 0
        assert blobs(packed) == [b"a"]

    @pytest.mark.parametrize("made", ["a title", True, [Review("a", "t")], {"type": "a", "title": "t"}])
    def test_of_another_type_is_refused(self, made: Any) -> None:
        with pytest.raises(JobError, match="review="):
            pack_value("text", review=lambda job, value: made)


class TestLargeUploads:
    @pytest.mark.parametrize(
        ("sizes", "large"),
        [
            ([], []),
            ([0], []),
            ([LEDGER_BLOB_LIMIT], []),
            ([LEDGER_BLOB_LIMIT + 1], [0]),
            ([1, LEDGER_BLOB_LIMIT + 1, 2, LEDGER_BLOB_LIMIT * 2], [1, 3]),
        ],
    )
    def test_are_those_that_the_ledger_cannot_hold(self, sizes: list[int], large: list[int]) -> None:
        packed = pack_value(Result(artifacts=[Artifact(data=bytes(size)) for size in sizes]))

        assert packed.large == large

    def test_are_found_by_the_size_of_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "clip.mp4"
        with file.open("wb") as clip:
            clip.truncate(LEDGER_BLOB_LIMIT + 1)

        assert pack_value(Artifact(path=file)).large == [0]

    def test_are_no_matter_once_delivered(self, tmp_path: Path) -> None:
        file = tmp_path / "clip.mp4"
        file.write_bytes(bytes(LEDGER_BLOB_LIMIT + 1))
        packed = pack_value(Result(artifacts=[Artifact(path=file), Artifact(data=b"small")]))

        delivered = packed.with_upload(0, slug="s1", url="https://host/s1")
        file.unlink()

        assert delivered.large == []
        assert blobs(delivered) == [b"", b"small"]
        assert (delivered.outcome.uploads[0].slug, delivered.outcome.uploads[0].url) == ("s1", "https://host/s1")
        assert delivered.outcome.uploads[1].slug is None
        assert packed.large == [0]


class TestOutcome:
    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome("done", ""),
            Outcome("failed", "naïve 猫 \u2028 \ud800"),
            Outcome(
                "escalated",
                "text",
                uploads=(
                    Upload("image/png", "a.png", 3, expires_at="2030-01-01T00:00:00Z"),
                    Upload("video/mp4", "b.mp4", 2**40, slug="s1", url="https://host/s1"),
                ),
                reviews=(
                    ReviewItem("image", "t", "c", preview_upload=1, target="#news"),
                    ReviewItem("image", "t", "", preview="https://host/cat.png"),
                ),
            ),
        ],
        ids=lambda outcome: outcome.status,
    )
    @pytest.mark.parametrize("as_kept", [str, str.encode])
    def test_comes_back_from_the_ledger_as_it_was(self, outcome: Outcome, as_kept: Any) -> None:
        assert Outcome.from_json(as_kept(outcome.to_json())) == outcome

    def test_of_a_full_result_can_be_kept(self, poster: Path) -> None:
        picture = Artifact(path=poster, expires_at=dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc))
        outcome = pack_value(Result("made it", [picture], [Review("image", "t", preview=picture)])).outcome

        assert Outcome.from_json(outcome.to_json()) == outcome
        assert json.loads(outcome.to_json())["uploads"][0]["filename"] == "poster.png"

    def test_of_a_failure_has_its_reason_as_the_output(self) -> None:
        assert Outcome.failed("no luck") == Outcome("failed", "no luck")

    def test_without_uploads_is_a_packed_without_bytes(self) -> None:
        packed = PackedOutcome(Outcome("done", "text"))

        assert (packed.large, blobs(packed)) == ([], [])
