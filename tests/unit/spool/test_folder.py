"""A spool in a folder: complete files only, private to their owner, up to a limit."""

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
    """The spool's folder, which does not exist yet."""
    return tmp_path / "deep" / "spool"


@pytest.fixture
def inside(folder: Path) -> Path:
    """The worker name's subfolder."""
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
    """A file that calls a function before each read."""

    def __init__(self, data: bytes, before: Callable[[int], object], *, part: int = 3) -> None:
        super().__init__(data)
        self._before = before
        self._part = part

    def read(self, size: int | None = -1) -> bytes:
        self._before(self.tell())
        return super().read(self._part)


# -- put and open ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"abc", bytes(100)])
def test_put_then_open(spool: FolderSpool, data: bytes) -> None:
    put(spool, data)
    assert read(spool) == data


def test_put_stores_the_rest_of_the_source(spool: FolderSpool) -> None:
    source = io.BytesIO(b"abcdef")
    source.seek(3)
    spool.put(NAME, source, 3)
    assert read(spool) == b"def"


def test_stored_file_is_seekable(spool: FolderSpool) -> None:
    put(spool, b"abcdef")
    with spool.open(NAME) as file:
        assert (file.seek(0, io.SEEK_END), file.seek(2), file.read(2), file.tell()) == (6, 2, b"cd", 4)


def test_another_spool_object_reads_the_file(spool: FolderSpool, folder: Path) -> None:
    put(spool)
    assert read(FolderSpool(folder, "w", limit=100)) == b"abc"


def test_worker_names_have_separate_files(spool: FolderSpool, folder: Path) -> None:
    put(spool)
    other = FolderSpool(folder, "other", limit=100)
    put(other, b"def", OTHER)
    assert [entry.name for entry in other.entries()] == [OTHER]
    assert [entry.name for entry in spool.entries()] == [NAME]


def test_entries(spool: FolderSpool, inside: Path) -> None:
    put(spool, b"abc")
    put(spool, b"defg", OTHER)
    os.utime(inside / str(NAME), (1e9, 1e9))
    entries = {entry.file: entry for entry in spool.entries()}
    assert {file: (entry.name, entry.size) for file, entry in entries.items()} == {
        "mr-7-1-ab.cd.0": (NAME, 3),
        "mr-7-1-ab.cd.1": (OTHER, 4),
    }
    assert entries[str(NAME)].written_at == 1e9


def test_entries_skip_folders_and_links(spool: FolderSpool, inside: Path) -> None:
    put(spool)
    (inside / "folder").mkdir()
    (inside / "link").symlink_to("/etc/passwd")
    assert [entry.file for entry in spool.entries()] == [str(NAME)]


def test_files_are_readable_by_their_owner_only(spool: FolderSpool, inside: Path) -> None:
    before = os.umask(0)
    try:
        put(spool)
    finally:
        os.umask(before)
    assert (inside.stat().st_mode & 0o777, (inside / str(NAME)).stat().st_mode & 0o777) == (0o700, 0o600)


def test_str_is_the_folder(spool: FolderSpool, folder: Path) -> None:
    assert str(spool) == str(folder)


# -- complete files only -----------------------------------------------------------------------------------


def test_file_appears_only_when_complete(spool: FolderSpool) -> None:
    seen: list[list[SpoolName | None]] = []
    spool.put(NAME, Source(b"abcdef", lambda at: seen.append([entry.name for entry in spool.entries()])), 6)
    assert seen == [[None]] * 3
    assert read(spool) == b"abcdef"


@pytest.mark.parametrize("error", [JobAborted("aborted"), KeyboardInterrupt(), OSError("the source broke")], ids=repr)
def test_interrupted_put_leaves_no_file(spool: FolderSpool, inside: Path, error: BaseException) -> None:
    def stop(at: int) -> None:
        if at:
            raise error

    with pytest.raises((type(error), SpoolUnavailable)):
        spool.put(NAME, Source(b"abcdef", stop), 6)
    assert list(inside.iterdir()) == []


def test_abort_is_not_reported_as_a_spool_error(spool: FolderSpool) -> None:
    def stop(at: int) -> None:
        raise JobAborted("aborted")

    with pytest.raises(JobAborted):
        spool.put(NAME, Source(b"abcdef", stop), 6)


def test_killed_writer_leaves_an_entry_without_a_name(spool: FolderSpool, folder: Path) -> None:
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


def test_second_put_replaces_the_content(spool: FolderSpool) -> None:
    put(spool, b"first")
    with spool.open(NAME) as reader:
        put(spool, b"second")
        assert reader.read() == b"first"
    assert read(spool) == b"second"
    assert len(spool.entries()) == 1


def test_concurrent_writers_of_one_name_do_not_mix(spool: FolderSpool) -> None:
    def second(at: int) -> None:
        if at == 3:
            put(spool, b"SECOND")

    spool.put(NAME, Source(b"firstfirst", second), 10)
    assert read(spool) == b"firstfirst"
    assert len(spool.entries()) == 1


def test_put_syncs_the_file_and_the_folder(spool: FolderSpool, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, list[str]]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.path.isdir(file), os.listdir(inside))))
    put(spool)
    (of_file, (unfinished,)), of_folder = synced
    assert (of_file, unfinished.endswith(".part")) == (False, True)
    assert of_folder == (True, [str(NAME)])


def test_put_works_if_the_folder_cannot_be_synced(spool: FolderSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(file: int) -> None:
        if os.path.isdir(file):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    put(spool)
    assert read(spool) == b"abc"


# -- the limit ---------------------------------------------------------------------------------------------


def test_put_up_to_the_limit(spool: FolderSpool, inside: Path) -> None:
    put(spool, bytes(60))
    put(spool, bytes(40), OTHER)
    with pytest.raises(SpoolFull, match=r"the spool .* holds 100 bytes of 100 bytes; another 1 byte do not fit"):
        put(spool, bytes(1), SpoolName("mr-8-1-ab", "cd", 0))
    assert len(list(inside.iterdir())) == 2


def test_remove_frees_space(spool: FolderSpool) -> None:
    put(spool, bytes(100))
    spool.remove(str(NAME))
    put(spool, bytes(100), OTHER)


def test_unfinished_files_count_towards_the_limit(folder: Path) -> None:
    spool, part = FolderSpool(folder, "w", limit=100_000), 40_000

    def second(at: int) -> None:
        if at == part:
            put(spool, bytes(70_000), OTHER)

    with pytest.raises(SpoolFull, match="holds 39 KiB of 98 KiB"):
        spool.put(NAME, Source(bytes(2 * part), second, part=part), 2 * part)


def test_full_spool_does_not_read_the_source(spool: FolderSpool) -> None:
    source = io.BytesIO(bytes(101))
    with pytest.raises(SpoolFull):
        spool.put(NAME, source, 101)
    assert source.tell() == 0


# -- removal and missing files -----------------------------------------------------------------------------


def test_removed_file_is_not_found(spool: FolderSpool) -> None:
    put(spool)
    spool.remove(str(NAME))
    assert spool.entries() == []
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_remove_missing_file(spool: FolderSpool, inside: Path) -> None:
    spool.remove(str(NAME))
    inside.mkdir(parents=True)
    spool.remove(str(NAME))


def test_open_file_survives_removal(spool: FolderSpool) -> None:
    put(spool)
    with spool.open(NAME) as file:
        spool.remove(str(NAME))
        assert file.read() == b"abc"


def test_entries_of_a_missing_folder_do_not_create_it(spool: FolderSpool, folder: Path) -> None:
    assert spool.entries() == []
    assert not folder.exists()


def test_missing_file_and_missing_folder_raise_different_errors(spool: FolderSpool, inside: Path) -> None:
    with pytest.raises(SpoolUnavailable, match="is it the folder that the workers write to"):
        read(spool)
    inside.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        read(spool)


# -- other users of the machine -----------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")

OTHER_USER = 12345


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """One of this user's files, outside the spool."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


def refused(step: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpoolUnavailable, match=message) as error:
        step()
    assert "\n" not in str(error.value)


def refused_in_every_step(spool: Spool, message: str) -> None:
    for step in STEPS.values():
        refused(lambda step=step: step(spool), message)  # type: ignore[misc]


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_to_a_file_is_not_read(spool: FolderSpool, inside: Path, secret: Path, link: str) -> None:
    inside.mkdir(parents=True)
    getattr(inside / str(NAME), link)(secret)
    refused(lambda: read(spool), "remove it")


def test_a_named_pipe_is_not_read(spool: FolderSpool, inside: Path) -> None:
    inside.mkdir(parents=True)
    os.mkfifo(inside / str(NAME))
    refused(lambda: read(spool), "regular file")


def test_a_link_is_replaced_and_not_written_through(spool: FolderSpool, inside: Path, secret: Path) -> None:
    inside.mkdir(parents=True)
    (inside / str(NAME)).symlink_to(secret)
    put(spool)
    assert (read(spool), secret.read_bytes()) == (b"abc", b"secret")


def test_a_subfolder_that_is_a_link_is_refused(spool: FolderSpool, folder: Path, inside: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.mkdir(parents=True)
    inside.symlink_to(elsewhere)
    refused_in_every_step(spool, f"{inside} is a symlink, and must be a folder: remove it")
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_everybody_can_change_is_refused(spool: FolderSpool, folder: Path) -> None:
    put(spool)
    folder.chmod(0o777)
    refused_in_every_step(spool, rf"every user can change {folder} \(mode 0777\): run chmod o-w {folder}, or ")
    folder.chmod(0o1777)
    assert read(spool) == b"abc", "like /tmp: nobody else can rename the subfolder"


def test_a_subfolder_that_everybody_can_change_is_refused(spool: FolderSpool, inside: Path) -> None:
    put(spool)
    inside.chmod(0o1777)
    refused_in_every_step(spool, rf"other users can change {inside} \(mode 1777\): .* chmod go-w {inside}")


def test_a_new_folder_in_one_that_everybody_can_change_is_used(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o777)  # like an emptyDir of Kubernetes
    spool = FolderSpool(tmp_path / "volume" / "spool", "w", limit=100)
    put(spool)
    assert read(spool) == b"abc"
    assert (tmp_path / "volume" / "spool").stat().st_mode & 0o777 == 0o700


def test_a_volume_that_kubernetes_opened_for_its_fs_group(spool: FolderSpool, folder: Path, inside: Path) -> None:
    put(spool)
    for path, mode in ((folder, 0o2775), (inside, 0o2770), (inside / str(NAME), 0o660)):
        if os.geteuid() == 0:
            os.chown(path, -1, OTHER_USER)
        path.chmod(mode)
    assert [entry.name for entry in spool.entries()] == [NAME]
    assert inside.stat().st_mode & 0o777 == 0o700, "the group has no access any more"
    assert read(spool) == b"abc"
    put(spool, b"def", OTHER)
    spool.remove(str(NAME))


@as_root
@pytest.mark.parametrize("of", ["folder", "inside"])
def test_a_folder_of_another_user_is_refused(spool: FolderSpool, folder: Path, inside: Path, of: str) -> None:
    put(spool)
    path = {"folder": folder, "inside": inside}[of]
    os.chown(path, OTHER_USER, -1)
    refused_in_every_step(spool, f"{path} belongs to user {OTHER_USER}, and this process runs as user 0: run chown 0")


@as_root
def test_a_file_of_another_user_is_not_read(spool: FolderSpool, inside: Path) -> None:
    put(spool)
    os.chown(inside / str(NAME), OTHER_USER, -1)
    refused(lambda: read(spool), f"belongs to user {OTHER_USER}")


@as_root
def test_links_on_the_way_are_followed_if_this_user_made_them(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    spool = FolderSpool(tmp_path / "link" / "spool", "w", limit=100)
    put(spool)
    assert (tmp_path / "disk" / "spool" / folder_of("w") / str(NAME)).read_bytes() == b"abc"
    os.chown(tmp_path / "link", OTHER_USER, -1, follow_symlinks=False)
    refused_in_every_step(spool, f"{tmp_path}/link is a symlink of another user")


# -- errors ------------------------------------------------------------------------------------------------


STEPS: dict[str, Callable[[Spool], Any]] = {
    "put": put,
    "open": read,
    "remove": lambda spool: spool.remove(str(NAME)),
    "entries": lambda spool: spool.entries(),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_path_that_is_not_a_folder_is_unavailable(tmp_path: Path, step: Callable[[Spool], Any]) -> None:
    (tmp_path / "spool").write_text("not a folder")
    with pytest.raises(SpoolUnavailable, match=rf"^the spool {tmp_path}/spool cannot be used: .*directory"):
        step(FolderSpool(tmp_path / "spool", "w", limit=100))


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_disk_error_is_reported_and_leaves_no_file(
    spool: FolderSpool, inside: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr("shutil.copyfileobj", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(SpoolUnavailable, match="No space left on device"):
        put(spool)
    monkeypatch.undo()
    assert list(inside.iterdir()) == []


def test_read_error_is_reported(spool: FolderSpool) -> None:
    put(spool)
    with spool.open(NAME) as file, pytest.raises(SpoolUnavailable, match="cannot be used"):
        file.seek(-1)


def test_error_without_message_is_reported_by_its_type(spool: FolderSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise TimeoutError

    put(spool)
    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(SpoolUnavailable, match=r"cannot be used: TimeoutError$"):
        spool.entries()


def test_exception_of_the_reader_passes(spool: FolderSpool) -> None:
    put(spool)
    with pytest.raises(ZeroDivisionError), spool.open(NAME):
        _ = 1 / 0
