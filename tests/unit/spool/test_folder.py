"""A spool in a folder: files that are there whole or not at all, for their owner only, up to a limit."""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mr_celery.errors import JobAborted
from mr_celery.spool import Spool, SpoolFull, SpoolName, SpoolUnavailable
from mr_celery.spool.folder import FolderSpool
from mr_celery.spool.names import folder_of

NAME = SpoolName("mr-7-1-ab", "cd", 0)
OTHER = SpoolName("mr-7-1-ab", "cd", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spool's folder, which is not there yet."""
    return tmp_path / "deep" / "spool"


@pytest.fixture
def inside(folder: Path) -> Path:
    """The worker name's folder in it."""
    return folder / folder_of("w")


@pytest.fixture
def spool(folder: Path) -> FolderSpool:
    return FolderSpool(folder, "w", limit=100)


def put(spool: Spool, data: bytes = b"abc", name: SpoolName = NAME) -> None:
    spool.put(name, io.BytesIO(data), len(data))


def read(spool: Spool, name: SpoolName = NAME) -> bytes:
    with spool.open(name) as file:
        return file.read()


class Source(io.BytesIO):
    """A file that calls a function before each part that is read."""

    def __init__(self, data: bytes, before: Callable[[int], object], *, part: int = 3) -> None:
        super().__init__(data)
        self._before = before
        self._part = part

    def read(self, size: int | None = -1) -> bytes:
        self._before(self.tell())
        return super().read(self._part)


# -- kept and read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"abc", bytes(100)])
def test_what_is_put_is_read(spool: FolderSpool, data: bytes) -> None:
    put(spool, data)
    assert read(spool) == data


def test_what_the_source_has_left_is_put(spool: FolderSpool) -> None:
    source = io.BytesIO(b"abcdef")
    source.seek(3)
    spool.put(NAME, source, 3)
    assert read(spool) == b"def"


def test_a_kept_file_can_seek(spool: FolderSpool) -> None:
    put(spool, b"abcdef")
    with spool.open(NAME) as file:
        assert (file.seek(0, io.SEEK_END), file.seek(2), file.read(2), file.tell()) == (6, 2, b"cd", 4)


def test_another_process_reads_it(spool: FolderSpool, folder: Path) -> None:
    put(spool)
    assert read(FolderSpool(folder, "w", limit=100)) == b"abc"


def test_worker_names_do_not_see_each_others_files(spool: FolderSpool, folder: Path) -> None:
    put(spool)
    other = FolderSpool(folder, "other", limit=100)
    put(other, b"def", OTHER)
    assert [entry.name for entry in other.entries()] == [OTHER]
    assert [entry.name for entry in spool.entries()] == [NAME]


def test_it_tells_what_is_there(spool: FolderSpool, inside: Path) -> None:
    put(spool, b"abc")
    put(spool, b"defg", OTHER)
    os.utime(inside / str(NAME), (1e9, 1e9))
    entries = {entry.file: entry for entry in spool.entries()}
    assert {file: (entry.name, entry.size) for file, entry in entries.items()} == {
        "mr-7-1-ab.cd.0": (NAME, 3),
        "mr-7-1-ab.cd.1": (OTHER, 4),
    }
    assert entries[str(NAME)].written_at == 1e9


def test_what_is_no_file_is_not_told(spool: FolderSpool, inside: Path) -> None:
    put(spool)
    (inside / "folder").mkdir()
    (inside / "link").symlink_to("/etc/passwd")
    assert [entry.file for entry in spool.entries()] == [str(NAME)]


def test_files_are_their_owners_only(spool: FolderSpool, inside: Path) -> None:
    before = os.umask(0)
    try:
        put(spool)
    finally:
        os.umask(before)
    assert (inside.stat().st_mode & 0o777, (inside / str(NAME)).stat().st_mode & 0o777) == (0o700, 0o600)


def test_messages_call_it_by_its_folder(spool: FolderSpool, folder: Path) -> None:
    assert str(spool) == str(folder)


# -- whole or not at all -----------------------------------------------------------------------------------


def test_a_file_is_not_there_before_it_is_whole(spool: FolderSpool) -> None:
    seen: list[list[SpoolName | None]] = []
    spool.put(NAME, Source(b"abcdef", lambda at: seen.append([entry.name for entry in spool.entries()])), 6)
    assert seen == [[None]] * 3
    assert read(spool) == b"abcdef"


@pytest.mark.parametrize("error", [JobAborted("aborted"), KeyboardInterrupt(), OSError("the source broke")], ids=repr)
def test_a_writer_that_is_stopped_leaves_nothing(spool: FolderSpool, inside: Path, error: BaseException) -> None:
    def stop(at: int) -> None:
        if at:
            raise error

    with pytest.raises((type(error), SpoolUnavailable)):
        spool.put(NAME, Source(b"abcdef", stop), 6)
    assert list(inside.iterdir()) == []


def test_what_stops_the_run_is_no_fault_of_the_spool(spool: FolderSpool) -> None:
    def stop(at: int) -> None:
        raise JobAborted("aborted")

    with pytest.raises(JobAborted):
        spool.put(NAME, Source(b"abcdef", stop), 6)


def test_a_writer_that_is_killed_leaves_what_is_no_file_of_ours(spool: FolderSpool, folder: Path) -> None:
    if (child := os.fork()) == 0:
        spool.put(NAME, Source(b"abcdef", lambda at: at and os.kill(os.getpid(), signal.SIGKILL)), 6)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = spool.entries()
    assert left.name is None
    with pytest.raises(FileNotFoundError):
        read(spool)
    spool.remove(left.file)
    assert spool.entries() == []


def test_a_name_that_is_written_again_has_the_new_content(spool: FolderSpool) -> None:
    put(spool, b"first")
    with spool.open(NAME) as reader:
        put(spool, b"second")
        assert reader.read() == b"first"
    assert read(spool) == b"second"
    assert len(spool.entries()) == 1


def test_two_writers_of_one_name_do_not_mix(spool: FolderSpool) -> None:
    def second(at: int) -> None:
        if at == 3:
            put(spool, b"SECOND")

    spool.put(NAME, Source(b"firstfirst", second), 10)
    assert read(spool) == b"firstfirst"
    assert len(spool.entries()) == 1


def test_a_file_outlives_a_power_cut_with_its_name(
    spool: FolderSpool, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, list[str]]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.path.isdir(file), os.listdir(inside))))
    put(spool)
    (of_file, (unfinished,)), of_folder = synced
    assert (of_file, unfinished.endswith(".part")) == (False, True)
    assert of_folder == (True, [str(NAME)])


def test_a_folder_that_cannot_be_synced_will_do(spool: FolderSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(file: int) -> None:
        if os.path.isdir(file):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    put(spool)
    assert read(spool) == b"abc"


# -- the limit ---------------------------------------------------------------------------------------------


def test_it_holds_as_much_as_it_may_and_no_more(spool: FolderSpool, inside: Path) -> None:
    put(spool, bytes(60))
    put(spool, bytes(40), OTHER)
    with pytest.raises(SpoolFull, match=r"the spool .* holds 100 of 100 bytes, and 1 more are to be kept"):
        put(spool, bytes(1), SpoolName("mr-8-1-ab", "cd", 0))
    assert len(list(inside.iterdir())) == 2


def test_what_is_removed_makes_room(spool: FolderSpool) -> None:
    put(spool, bytes(100))
    spool.remove(str(NAME))
    put(spool, bytes(100), OTHER)


def test_what_is_being_written_counts(folder: Path) -> None:
    spool, part = FolderSpool(folder, "w", limit=100_000), 40_000

    def second(at: int) -> None:
        if at == part:
            put(spool, bytes(70_000), OTHER)

    with pytest.raises(SpoolFull, match="holds 40000 of 100000 bytes"):
        spool.put(NAME, Source(bytes(2 * part), second, part=part), 2 * part)


def test_a_full_spool_reads_nothing_of_the_source(spool: FolderSpool) -> None:
    source = io.BytesIO(bytes(101))
    with pytest.raises(SpoolFull):
        spool.put(NAME, source, 101)
    assert source.tell() == 0


# -- removal, and what is not there ------------------------------------------------------------------------


def test_what_is_removed_is_gone(spool: FolderSpool) -> None:
    put(spool)
    spool.remove(str(NAME))
    assert spool.entries() == []
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_what_is_gone_can_be_removed_again(spool: FolderSpool, inside: Path) -> None:
    spool.remove(str(NAME))
    inside.mkdir(parents=True)
    spool.remove(str(NAME))


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(spool: FolderSpool) -> None:
    put(spool)
    with spool.open(NAME) as file:
        spool.remove(str(NAME))
        assert file.read() == b"abc"


def test_a_folder_that_is_not_there_is_empty_and_not_made_by_looking(spool: FolderSpool, folder: Path) -> None:
    assert spool.entries() == []
    assert not folder.exists()


def test_a_missing_file_is_told_from_a_missing_folder(spool: FolderSpool, inside: Path) -> None:
    with pytest.raises(SpoolUnavailable, match="is it the folder that the workers write to"):
        read(spool)
    inside.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        read(spool)


# -- trouble -----------------------------------------------------------------------------------------------


STEPS: dict[str, Callable[[Spool], Any]] = {
    "put": put,
    "open": read,
    "remove": lambda spool: spool.remove(str(NAME)),
    "entries": lambda spool: spool.entries(),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_place_that_is_no_folder_is_unavailable(tmp_path: Path, step: Callable[[Spool], Any]) -> None:
    (tmp_path / "spool").write_text("not a folder")
    with pytest.raises(SpoolUnavailable, match=rf"^the spool {tmp_path}/spool cannot be used: .*directory"):
        step(FolderSpool(tmp_path / "spool", "w", limit=100))


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_disk_error_is_told_and_leaves_nothing(
    spool: FolderSpool, inside: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr("shutil.copyfileobj", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(SpoolUnavailable, match="No space left on device"):
        put(spool)
    monkeypatch.undo()
    assert list(inside.iterdir()) == []


def test_an_error_while_it_is_read_is_told(spool: FolderSpool) -> None:
    put(spool)
    with spool.open(NAME) as file, pytest.raises(SpoolUnavailable, match="cannot be used"):
        file.seek(-1)


def test_an_error_without_words_is_told_by_its_kind(spool: FolderSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(SpoolUnavailable, match=r"cannot be used: TimeoutError$"):
        spool.entries()


def test_what_its_reader_raises_goes_through(spool: FolderSpool) -> None:
    put(spool)
    with pytest.raises(ZeroDivisionError), spool.open(NAME):
        _ = 1 / 0
