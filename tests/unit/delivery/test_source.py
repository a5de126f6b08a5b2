"""An artifact's content: measured once, read as often as needed, and refused if it has changed since."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from mr_celery import Artifact
from mr_celery.delivery.source import Source
from mr_celery.errors import JobAborted, JobError
from mr_celery.files import MOST_MEMORY_BYTES

CHANGED = "changed after the handler had returned it"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 10 bytes, last written a while ago."""
    made = tmp_path / "clip.mp4"
    made.write_bytes(b"0123456789")
    os.utime(made, (1e9, 1e9))
    return made


def of(data: Any, **fields: Any) -> Source:
    return Source(Artifact(data=data, **fields))


def pipe_with(data: bytes) -> Any:
    """The reading end of a pipe that contains the given bytes and is closed."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return open(reader, "rb")


# -- kinds of content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc")])
def test_bytes_of_any_form_are_read_as_often_as_needed(data: Any) -> None:
    source = of(data)
    assert (source.size, source.read(), source.read()) == (3, b"abc", b"abc")


@pytest.mark.parametrize("buffering", [-1, 0])
def test_an_open_file_is_read_from_its_beginning(path: Path, buffering: int) -> None:
    with path.open("rb", buffering=buffering) as file:
        file.seek(0, io.SEEK_END)
        source = of(file)
        assert (source.size, source.read(), source.read()) == (10, b"0123456789", b"0123456789")


def test_an_open_file_outlives_its_name(path: Path) -> None:
    with path.open("rb") as file:
        path.unlink()
        assert of(file).read() == b"0123456789"


def test_a_file_that_is_still_open_for_writing_is_read_with_all_that_was_written(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as file:
        file.write(b"not flushed")
        assert of(file).read() == b"not flushed"


@pytest.mark.parametrize("most_memory", [1, 100])
def test_a_temporary_file_in_memory_or_not(most_memory: int) -> None:
    with tempfile.SpooledTemporaryFile(most_memory) as file:
        file.write(b"0123456789")
        source = of(file)
        assert (source.size, source.read(), source.read()) == (10, b"0123456789", b"0123456789")


def test_a_packed_file_is_uploaded_as_what_is_in_it(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.gz", "wb") as packed:
        packed.write(b"line\n" * 10_000)
    with gzip.open(tmp_path / "log.gz", "rb") as file:
        source = of(file)
        assert (source.size, source.read(), source.read()) == (50_000, b"line\n" * 10_000, b"line\n" * 10_000)


@pytest.mark.parametrize("size", [0, 5, MOST_MEMORY_BYTES + 1])
def test_a_file_that_cannot_seek_is_read_as_often_as_needed(size: int) -> None:
    class Answer(io.RawIOBase):
        left = size

        def readable(self) -> bool:
            return True

        def read(self, wanted: int = -1) -> bytes:
            count = self.left if wanted < 0 else min(wanted, self.left)
            self.left -= count
            return b"x" * count

    source = of(Answer())
    assert (source.size, source.read(), source.read()) == (size, b"x" * size, b"x" * size)


def test_a_pipe_is_read_from_its_position() -> None:
    with pipe_with(b"0123456789") as pipe:
        assert pipe.read(4) == b"0123"
        source = of(pipe)
    assert (source.size, source.read(), source.upload.filename) == (6, b"456789", "artifact.txt")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError, ValueError])
def test_a_file_that_only_looks_as_if_it_could_seek_is_copied(error: type[Exception]) -> None:
    class Stream(io.BytesIO):
        def seek(self, *arguments: Any) -> int:
            raise error("not here")

    assert of(Stream(b"abc")).read() == b"abc"


# -- names and media types ---------------------------------------------------------------------------------


def test_type_and_name_are_found_in_the_path(path: Path) -> None:
    upload = Source(Artifact(path=path, expires_at="2030-01-31")).upload
    assert (upload.content_type, upload.filename, upload.size) == ("video/mp4", "clip.mp4", 10)
    assert upload.expires_at == "2030-01-31"


def test_type_is_found_in_the_content_and_name_in_the_type() -> None:
    upload = of(b"%PDF-1.7\n").upload
    assert (upload.content_type, upload.filename) == ("application/pdf", "artifact.pdf")


def test_given_values_are_not_checked(path: Path) -> None:
    upload = Source(Artifact(path=path, content_type="image/png", filename="a.txt")).upload
    assert (upload.content_type, upload.filename) == ("image/png", "a.txt")


def test_empty_content_is_valid() -> None:
    upload = of(b"").upload
    assert (upload.size, upload.content_type, upload.filename) == (0, "application/octet-stream", "artifact.bin")


# -- unreadable content ------------------------------------------------------------------------------------


@contextmanager
def without_rights() -> Iterator[None]:
    """Run as a user without permissions."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def endless_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (missing, "No such file"),
        (directory, "it is a directory: pack it into one file first"),
        (pipe, "it is not a regular file"),
        (device, "it is not a regular file"),
        (endless_link, "symbolic links"),
    ],
)
def test_a_path_to_no_file_is_refused_with_its_name_and_why(path: Path, make: Callable[[Path], None], why: str) -> None:
    make(path)
    with pytest.raises(JobError, match=rf"^the artifact '.*clip\.mp4' cannot be read: .*{why}"):
        Source(Artifact(path=path))


def test_a_file_without_permission_is_refused(path: Path) -> None:
    path.chmod(0)
    with without_rights(), pytest.raises(JobError, match=r"clip\.mp4' cannot be read: .*Permission denied"):
        Source(Artifact(path=path))


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(JobError, match=r"cannot be read: .*embedded null"):
        Source(Artifact(path="a\0b"))


def test_a_closed_file_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        pass
    with pytest.raises(JobError, match=r"clip\.mp4' cannot be read: .*closed file"):
        of(file)


@pytest.mark.parametrize("kind", ["image/png", ""])
def test_a_file_that_can_only_be_written_is_refused(path: Path, kind: str) -> None:
    with path.open("ab") as file, pytest.raises(JobError, match="cannot be read: read"):
        of(file, content_type=kind)


@pytest.mark.parametrize("kind", ["text/plain", ""])
def test_a_text_file_in_disguise_is_refused_with_what_to_do(kind: str) -> None:
    with tempfile.NamedTemporaryFile("w+") as file, pytest.raises(JobError, match=r"opened as text: .* mode 'rb'"):
        of(file, content_type=kind)


def test_a_damaged_file_is_refused_whatever_its_library_raises(tmp_path: Path) -> None:
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(os.urandom(1000))[:-20])
    with gzip.open(packed, "rb") as file, pytest.raises(JobError, match="cannot be read: Compressed file ended"):
        of(file)


def test_a_stream_that_breaks_off_is_refused() -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise RuntimeError

    with pytest.raises(JobError, match=r"the artifact without a name cannot be read: RuntimeError$"):
        of(Broken())


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), JobAborted("stop")], ids=repr)
def test_a_stop_of_the_handler_is_not_a_fault_of_the_file(error: Exception) -> None:
    class Slow:
        def read(self, size: int = -1) -> bytes:
            raise error

    with pytest.raises(type(error)):
        of(Slow())


# -- changed content ---------------------------------------------------------------------------------------


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 5)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"9876543210")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"9876543210")
    os.replace(other, path)


@pytest.mark.parametrize("change", [grow, shrink, rewrite, replace])
def test_a_path_whose_file_changed_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    source = Source(Artifact(path=path))
    change(path)
    with pytest.raises(JobError, match=rf"^the artifact '.*clip\.mp4' {CHANGED}"):
        source.read()


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
def test_an_open_file_that_changed_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    with path.open("rb") as file:
        source = of(file)
        change(path)
        with pytest.raises(JobError, match=CHANGED):
            source.read()


def test_of_a_file_that_changed_nothing_is_sent(path: Path) -> None:
    source = Source(Artifact(path=path))
    grow(path)
    sent: list[bytes] = []

    def send() -> None:
        with source.open() as file:
            sent.append(file.read())

    with pytest.raises(JobError, match=CHANGED):
        send()
    assert sent == []


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
def test_a_file_that_changes_while_it_is_read_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    source = Source(Artifact(path=path))
    with pytest.raises(JobError, match=CHANGED), source.open():
        change(path)


def test_memory_that_became_another_length_is_refused() -> None:
    data = bytearray(b"abc")
    source = of(data)
    data += b"def"
    with pytest.raises(JobError, match=CHANGED):
        source.read()


def test_a_file_that_is_gone_when_it_is_read_is_refused(path: Path) -> None:
    source = Source(Artifact(path=path))
    path.unlink()
    with pytest.raises(JobError, match=r"clip\.mp4' cannot be read: .*No such file"):
        source.read()


def test_an_error_while_reading_is_reported_as_the_artifacts() -> None:
    class Disk(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().read(size)

    source = of(disk := Disk(b"abc"), filename="clip.mp4")
    with source.open() as file:
        disk.broken = True
        with pytest.raises(JobError, match=r"'clip\.mp4' cannot be read: .*Input/output error"):
            file.read()


def test_a_file_that_is_closed_when_it_is_read_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        source = of(file)
    with pytest.raises(JobError, match=r"clip\.mp4' cannot be read: .*closed file"):
        source.read()


def test_exceptions_of_the_reader_pass_unchanged(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Source(Artifact(path=path)).open():
        _ = 1 / 0


def test_a_path_is_open_only_while_it_is_read(path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    source = Source(Artifact(path=path))
    assert opened() == before
    with source.open():
        assert opened() == before + 1
    assert opened() == before
