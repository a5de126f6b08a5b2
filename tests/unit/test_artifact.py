"""The contents, names and times of an artifact."""

from __future__ import annotations

import datetime as dt
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mr_celery import Artifact
from mr_celery.errors import JobError

UTC = dt.timezone.utc


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    path = tmp_path / "poster.png"
    path.write_bytes(b"png")
    return path


# -- its content -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc")])
def test_it_takes_bytes_or_a_binary_file(data: Any) -> None:
    assert Artifact(data=data).data is data


def test_it_takes_a_file_of_any_kind_that_can_be_read() -> None:
    class Answer:
        def read(self, size: int = -1) -> bytes:
            return b""

    Artifact(data=Answer())  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{}, {"filename": "a.png"}, {"data": b"", "path": "a"}], ids=str)
def test_it_takes_one_of_data_and_path(arguments: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"either data= .* or path="):
        Artifact(**arguments)


@pytest.mark.parametrize(("data", "kind"), [(7, "int"), ([1], "list"), (Path("a"), "PosixPath"), (object(), "object")])
def test_other_data_is_refused_by_its_kind(data: Any, kind: str) -> None:
    with pytest.raises(JobError, match=rf"takes bytes or an open binary file, not {kind}$"):
        Artifact(data=data)


@pytest.mark.parametrize("data", ["text", io.StringIO("text")], ids=["text", "file"])
def test_text_is_refused_with_what_to_do(data: Any) -> None:
    with pytest.raises(JobError, match="encode the text, or open its file with mode 'rb'"):
        Artifact(data=data)


def test_a_file_that_was_opened_as_text_is_refused(poster: Path) -> None:
    with poster.open() as file, pytest.raises(JobError, match="not TextIOWrapper"):
        Artifact(data=file)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"data": b"", "content_type": None},
        {"data": b"", "content_type": b"image/png"},
        {"data": b"", "filename": None},
        {"data": b"", "filename": Path("a.png")},
        {"data": b"", "expires_at": 1893456000},
        {"data": b"", "expires_at": dt.date(2030, 1, 1)},
        {"path": 7},
        {"path": b"a.png"},
    ],
    ids=str,
)
def test_a_field_of_another_type_is_refused_by_its_name(arguments: dict[str, Any]) -> None:
    name, value = list(arguments.items())[-1]
    with pytest.raises(JobError, match=rf"Artifact\({name}=…\) takes .*, not {type(value).__name__}"):
        Artifact(**arguments)


@pytest.mark.parametrize("kind", ["text/plain\r\nX-Evil: 1", "image/png\n", "a/b\0", "a/b\x7f"])
def test_a_content_type_that_would_break_a_header_is_refused(kind: str) -> None:
    with pytest.raises(JobError, match="is not a content type"):
        Artifact(data=b"", content_type=kind)


def test_its_repr_does_not_have_its_content() -> None:
    assert "hush" not in repr(Artifact(data=b"hush", filename="a.txt"))


# -- its name ----------------------------------------------------------------------------------------------


def test_the_given_name_is_first(poster: Path) -> None:
    assert Artifact(path=poster, filename="final.jpg").given_name == "final.jpg"


@pytest.mark.parametrize("form", [str, Path])
def test_a_path_has_the_name_of_its_file(poster: Path, form: Any) -> None:
    assert Artifact(path=form(poster)).given_name == "poster.png"


def test_an_open_file_has_the_name_of_its_path(poster: Path) -> None:
    with poster.open("rb") as file:
        assert Artifact(data=file).given_name == "poster.png"


def test_a_file_that_was_opened_from_a_descriptor_has_none(poster: Path) -> None:
    with open(os.open(poster, os.O_RDONLY), "rb") as file:
        assert Artifact(data=file).given_name == ""


@pytest.mark.parametrize("make", [tempfile.TemporaryFile, tempfile.SpooledTemporaryFile])
def test_a_temporary_file_has_none(make: Any) -> None:
    with make() as file:
        assert Artifact(data=file).given_name == ""


@pytest.mark.parametrize("data", [b"abc", io.BytesIO(b"abc")])
def test_bytes_have_none(data: Any) -> None:
    assert Artifact(data=data).given_name == ""


def test_a_name_on_the_disk_that_is_no_text_can_be_sent(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    name = Artifact(path=path).given_name
    assert name == "caf?.png"
    name.encode()


def test_a_name_for_people_may_have_anything_in_it() -> None:
    name = 'qu"ote\r\nline; größer 日本.png'
    assert Artifact(data=b"", filename=name).given_name == name


@pytest.mark.parametrize(("filename", "told"), [("a.png", "'a.png'"), ("", "without a name")])
def test_messages_call_it_by_its_name(filename: str, told: str) -> None:
    assert str(Artifact(data=b"", filename=filename)) == told


# -- its expiry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, None),
        ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
        ("2030-01-31", "2030-01-31"),
        (dt.datetime(2030, 1, 31, tzinfo=UTC), "2030-01-31T00:00:00+00:00"),
        (dt.datetime(2030, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=2))), "2030-01-31T00:00:00+02:00"),
    ],
)
def test_its_expiry_is_iso_text(given: Any, told: str | None) -> None:
    assert Artifact(data=b"", expires_at=given).expiry == told


def test_an_end_without_a_time_zone_is_refused() -> None:
    with pytest.raises(JobError, match="with a time zone: this one has none"):
        Artifact(data=b"", expires_at=dt.datetime(2030, 1, 31))


@pytest.mark.parametrize("text", ["", "tomorrow", "2030-13-01", "31.01.2030", "12:00"])
def test_a_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"is not an ISO 8601 time such as '2030-01-31T12:00:00Z'"):
        Artifact(data=b"", expires_at=text)
