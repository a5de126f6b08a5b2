"""Files and folders that other users of the machine can neither read, replace nor redirect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mr_celery import private_files
from mr_celery.private_files import Folder, NotPrivate, exposure, own_folder, private_folder, shared_folder

OTHER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def of_another_user(path: Path) -> None:
    os.chown(path, OTHER, OTHER, follow_symlinks=False)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """One of this user's files, which an attacker wants to have read or changed."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


# -- folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, 0o700, 0o755, 0o711])
def test_a_private_folder_is_for_this_user_only(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "deep" / "data"
    if before is not None:
        path.mkdir(parents=True)
        path.chmod(before)
    old = os.umask(0)
    try:
        with private_folder(path) as folder:
            assert os.listdir(folder.descriptor) == []
    finally:
        os.umask(old)
    assert mode(path) == 0o700


@pytest.mark.parametrize("given", [0o777, 0o1777, 0o702])
def test_a_private_folder_that_others_could_write_to_is_refused(tmp_path: Path, given: int) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(given)
    with pytest.raises(NotPrivate, match=rf"other users can change {path} \(mode {given:04o}\).* chmod go-w"):
        private_folder(path).__enter__()
    assert mode(path) == given


def test_a_private_folder_must_not_be_a_link(tmp_path: Path) -> None:
    """As in someone else's repository that contains a link of this name."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    with pytest.raises(NotPrivate, match=rf"{tmp_path}/data is a symlink: remove it"):
        private_folder(tmp_path / "data").__enter__()


@pytest.mark.parametrize("given", [0o777, 0o757])
@pytest.mark.parametrize("opened", [lambda path: private_folder(path / "a" / "data"), own_folder])
def test_folders_that_others_can_rename_are_refused(
    tmp_path: Path, given: int, opened: Callable[[Path], object]
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(given)
    with pytest.raises(NotPrivate, match=rf"other users can replace files in {above} \(of user \d+, mode {given:04o}"):
        opened(above).__enter__()  # type: ignore[attr-defined]
    assert list(above.iterdir()) == []


def test_a_sticky_folder_protects_a_subfolder_but_not_new_files(tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(0o1777)
    with private_folder(tmp_path / "above" / "data"):
        pass
    with pytest.raises(NotPrivate, match="use a folder that only you can change"):
        own_folder(tmp_path / "above").__enter__()


@as_root
def test_a_group_that_has_only_this_user_counts_as_this_user(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o775)
    with private_folder(path), own_folder(tmp_path):
        pass
    assert mode(path) == 0o700
    path.chmod(0o775)
    os.chown(path, -1, OTHER)
    with pytest.raises(NotPrivate, match="mode 0775"):
        private_folder(path).__enter__()


@as_root
@pytest.mark.parametrize("opened", [private_folder, own_folder, shared_folder])
def test_a_folder_of_another_user_is_refused(tmp_path: Path, opened: Callable[[Path], object]) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    of_another_user(path)
    with pytest.raises(NotPrivate, match=f"user {OTHER}"):
        opened(path).__enter__()  # type: ignore[attr-defined]


def test_links_on_the_way_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "back").symlink_to("../deep")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "link2").symlink_to("link/deep/./back")
    with private_folder(tmp_path / "link2" / "data") as folder, folder.open("file", "w") as file:
        file.write("x")
    assert (tmp_path / "disk" / "deep" / "data" / "file").read_text() == "x"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="round"):
        private_folder(tmp_path / "round" / "data").__enter__()


@as_root
@pytest.mark.parametrize("opened", [private_folder, own_folder, shared_folder])
def test_links_of_another_user_are_not_followed(tmp_path: Path, opened: Callable[[Path], object]) -> None:
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk")
    of_another_user(tmp_path / "link")
    with pytest.raises(NotPrivate, match=f"{tmp_path}/link is a symlink of another user"):
        opened(tmp_path / "link" / "data").__enter__()  # type: ignore[attr-defined]


def test_a_missing_folder_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/a"):
        own_folder(tmp_path / "a" / "b").__enter__()


def test_no_descriptor_is_left_open(tmp_path: Path, victim: Path) -> None:
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
    with private_folder(tmp_path / "data") as folder:
        folder.make_private("file", create=True)
        os.symlink(victim, "link", dir_fd=folder.descriptor)
        for name in ("link", "missing"):
            with pytest.raises((NotPrivate, FileNotFoundError)):
                folder.open(name)
    with pytest.raises(FileNotFoundError):
        own_folder(tmp_path / "missing" / "data").__enter__()
    with pytest.raises(NotADirectoryError):
        own_folder(victim / "data").__enter__()
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


# -- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with private_folder(tmp_path / "data") as folder:
        yield folder


@pytest.mark.parametrize("given", ["w", "a", "x", "r+"])
def test_a_file_is_for_this_user_only(folder: Folder, given: str) -> None:
    path = folder.path / "file"
    if given == "r+":
        path.write_text("x")
    old = os.umask(0)
    try:
        with folder.open("file", given) as file:
            file.write("y")
    finally:
        os.umask(old)
    assert (path.read_text(), mode(path)) == ("y", 0o600)
    with folder.open("file") as file:
        assert (file.read(), os.get_blocking(file.fileno())) == ("y", True)


def test_an_older_file_is_truncated_and_made_private(folder: Folder) -> None:
    path = folder.path / "file"
    path.write_text("long text")
    path.chmod(0o644)
    with folder.open("file", "w") as file:
        file.write("short")
    assert (path.read_text(), mode(path)) == ("short", 0o600)


@pytest.mark.parametrize("given", ["r", "w", "a", "r+"])
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_links_to_other_files_are_refused_and_change_nothing(
    folder: Folder, victim: Path, link: str, given: str
) -> None:
    getattr(folder.path / "file", link)(victim)
    with pytest.raises(
        NotPrivate, match=rf"{folder.path}/file (must be a regular file|has a second hard link).*: remove it"
    ):
        folder.open("file", given)
    assert victim.read_text() == "precious"


def test_a_link_to_nowhere_creates_nothing(folder: Folder, tmp_path: Path) -> None:
    (folder.path / "file").symlink_to(tmp_path / "new")
    with pytest.raises(NotPrivate):
        folder.open("file", "w")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["r", "w"])
def test_a_named_pipe_is_refused_at_once(folder: Folder, given: str) -> None:
    os.mkfifo(folder.path / "file")
    with pytest.raises(NotPrivate):
        folder.open("file", given)


def test_a_file_that_others_can_change_is_refused(folder: Folder) -> None:
    (folder.path / "file").write_text("x")
    (folder.path / "file").chmod(0o666)
    with pytest.raises(NotPrivate, match="mode 0666"):
        folder.open("file")


@as_root
def test_a_file_of_another_user_is_refused(folder: Folder) -> None:
    (folder.path / "file").write_text("x")
    of_another_user(folder.path / "file")
    with pytest.raises(NotPrivate, match=f"belongs to user {OTHER}"):
        folder.open("file")


def test_a_file_for_other_code(folder: Folder, victim: Path) -> None:
    folder.make_private("missing")
    assert not (folder.path / "missing").exists()
    folder.make_private("file", create=True)
    assert mode(folder.path / "file") == 0o600
    (folder.path / "link").symlink_to(victim)
    with pytest.raises(NotPrivate):
        folder.make_private("link")


# -- the user's own files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "writable", "words"),
    [
        (0o400, False, ""),
        (0o600, False, ""),
        (0o440, False, ""),
        (0o644, False, "can be read by every user (mode 0644)"),
        (0o666, True, "can be changed by every user (mode 0666)"),
        (0o602, True, "can be changed by every user (mode 0602)"),
    ],
)
def test_exposure(victim: Path, given: int, writable: bool, words: str) -> None:
    victim.chmod(given)
    with victim.open() as file:
        assert exposure(file.fileno()) == (writable, words)


@as_root
def test_exposure_to_others(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim.chmod(0o660)
    with victim.open() as file:
        os.chown(victim, -1, OTHER)
        assert exposure(file.fileno()) == (False, "can be changed by its group (mode 0660)")
        os.chown(victim, OTHER, -1)
        assert exposure(file.fileno()) == (False, f"belongs to another user ({OTHER})")
        monkeypatch.setattr(private_files, "_trusted", lambda: (OTHER,))
        assert exposure(file.fileno())[1].startswith("can be changed by its group")


def test_a_pipe_is_not_exposed() -> None:
    reading, writing = os.pipe()
    try:
        assert exposure(reading) == (False, "")
    finally:
        os.close(reading)
        os.close(writing)
