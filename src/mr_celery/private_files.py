"""Opens files and folders so that no other user of the machine can read, replace or redirect them.

A folder is opened step by step from ``/``, following only symlinks of root and of this user. Inside it, no symlink is
followed. All checks are made on open files and folders, so that nothing can be exchanged after a check.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import MrCeleryError

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0) | _NO_FOLLOW
_PASS = getattr(os, "O_PATH", os.O_RDONLY)
"""The flag for opening a folder along a path, which this user need not be able to list."""

_MOST_LINKS = 40


class NotPrivate(MrCeleryError):
    """Another user could read, replace or redirect a file or folder."""


class Folder:
    """An open folder.

    Args:
        path: its path, for messages.
        descriptor: its descriptor, for functions with ``dir_fd``.
        group_had_access: whether its group may have had write access until now.
    """

    def __init__(self, path: Path, descriptor: int, *, group_had_access: bool = False) -> None:
        self.path = path
        self.descriptor = descriptor
        self._group_had_access = group_had_access

    def open(self, name: str, mode: str = "r") -> IO[Any]:
        """Open a file for this user only, like the built-in ``open``. A new one has the mode 0600.

        Raises:
            NotPrivate: the file is not a regular file of this user's with one name, or others may write to it. It is
                unchanged.
            OSError: it cannot be opened.
        """
        return open(name, mode, opener=self._open)

    def make_private(self, name: str, *, create: bool = False) -> None:
        """Check a file as :meth:`open` does and remove others' access to it, if it exists or is created.

        For code that opens the file by its path.
        """
        with suppress(FileNotFoundError):
            self.open(name, "ab" if create else "rb").close()

    @contextmanager
    def private_subfolder(self, name: str, *, create: bool = False) -> Iterator[Folder]:
        """Open a subfolder for this user only, for the duration of the block.

        Its group may have had access, because Kubernetes gives a volume's ``fsGroup`` access on each mount.

        Raises:
            NotPrivate: it belongs to another user, everybody may write to it, or it is a symlink.
            OSError: it cannot be created or opened.
        """
        path = self.path / name
        if create:
            with suppress(FileExistsError), _named(path):
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
        descriptor = _open_folder(name, self.descriptor, path)
        try:
            _make_private(descriptor, path, group_had_access=True)
            yield Folder(path, descriptor, group_had_access=True)
        finally:
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        path, truncate = self.path / name, flags & os.O_TRUNC
        # It is truncated after the checks. Without O_NONBLOCK a named pipe would block.
        flags = flags & ~os.O_TRUNC | _NO_FOLLOW | os.O_NONBLOCK
        try:
            with _named(path):
                file = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise NotPrivate(_not_regular(path)) from None
            raise
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise NotPrivate(_not_regular(path))
            if found.st_nlink > 1:
                raise NotPrivate(f"{path} has a second hard link: remove it")
            _make_private(file, path, group_had_access=self._group_had_access)
            os.set_blocking(file, True)
            if truncate:
                os.ftruncate(file, 0)
        except BaseException:
            os.close(file)
            raise
        return file


def _not_regular(path: Path) -> str:
    return f"{path} must be a regular file, but is a symlink or a special file: remove it"


@contextmanager
def private_folder(path: str | os.PathLike[str]) -> Iterator[Folder]:
    """Open a folder for this user only, for the duration of the block. It is created if it does not exist.

    Raises:
        NotPrivate: another user may write to it, or rename it or a folder above it; or it is a symlink.
        OSError: it cannot be created or opened.
    """
    with _opened(path, create=True, checks_parents=True, follows=False) as folder:
        _make_private(folder.descriptor, folder.path)
        yield folder


@contextmanager
def own_folder(path: str | os.PathLike[str]) -> Iterator[Folder]:
    """Open a folder that only this user can write to and others may read, for the duration of the block.

    Raises:
        NotPrivate: another user may write to it, or rename it or a folder above it.
        OSError: it cannot be opened.
    """
    with _opened(path, create=False, checks_parents=True) as folder:
        _check_writers(folder.path, os.fstat(folder.descriptor), sticky_is_enough=False)
        yield folder


@contextmanager
def shared_folder(path: str | os.PathLike[str], *, create: bool = False) -> Iterator[Folder]:
    """Open a folder in which several users may have private subfolders, for the duration of the block.

    It belongs to root or to this user. Its group may write to it, as to a Kubernetes volume with ``fsGroup``, and
    everybody only if it is sticky, like ``/tmp``.

    Args:
        path: the folder.
        create: create it, and the folders above it, if they do not exist.

    Raises:
        NotPrivate: it belongs to another user, or everybody may rename what is in it.
        OSError: it cannot be created or opened.
    """
    with _opened(path, create=create, checks_parents=False) as folder:
        found = os.fstat(folder.descriptor)
        _check_owner(folder.path, found)
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise NotPrivate(
                f"every user can change {path} ({_mode(found)}): run chmod o-w {path}, or name a folder in it that "
                "does not exist yet"
            )
        yield folder


def exposure(file: int) -> tuple[bool, str]:
    """Whether every user can write to an open file, and a description of the access that others have to it.

    The description is empty for a file that only root, this user and the file's group can read.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):  # for instance a pipe from a shell
        return False, ""
    if found.st_mode & stat.S_IWOTH:
        return True, f"can be changed by every user ({_mode(found)})"
    if found.st_uid not in _trusted():
        return False, f"belongs to another user ({found.st_uid})"
    if _others_may_write(found):
        return False, f"can be changed by its group ({_mode(found)})"
    if found.st_mode & stat.S_IROTH:
        return False, f"can be read by every user ({_mode(found)})"
    return False, ""


def exposure_of(path: str) -> str:
    """The access that others have to a file, as described by :func:`exposure`; empty if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return exposure(file.fileno())[1]
    except OSError:
        return ""


@contextmanager
def _opened(
    path: str | os.PathLike[str], *, create: bool, checks_parents: bool, follows: bool = True
) -> Iterator[Folder]:
    """Open a folder for the duration of the block.

    Args:
        path: the folder.
        create: create it, and the folders above it, if they do not exist.
        checks_parents: check that no other user can rename it or a folder above it.
        follows: allow the folder itself to be a symlink.
    """
    absolute = Path(os.path.abspath(path))
    descriptor = _descend(absolute, create=create, checks_parents=checks_parents, follows=follows)
    try:
        yield Folder(absolute, descriptor)
    finally:
        os.close(descriptor)


def _descend(path: Path, *, create: bool, checks_parents: bool, follows: bool) -> int:
    at, links, names = Path("/"), 0, [*reversed(path.parts[1:])]
    here = os.open(at, _PASS | _FOLDER)
    try:
        while names:
            name = names.pop()
            if checks_parents:
                _check_writers(at, os.fstat(here), sticky_is_enough=True)
            with _named(at / name):
                found = _status(name, here, create=create)
            if not stat.S_ISLNK(found.st_mode):
                at /= name
                here = _replaced(here, _open_folder(name, here, at, flags=_PASS))
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if not names and not follows:
                raise NotPrivate(f"{path} is a symlink: remove it, or name the folder that it points to")
            target = _target(name, here, at / name, found)
            if target.startswith("/"):
                at, here = Path("/"), _replaced(here, os.open("/", _PASS | _FOLDER))
            names += [part for part in reversed(Path(target).parts) if part != "/"]
        return _replaced(here, os.open(".", os.O_RDONLY | _FOLDER, dir_fd=here))
    except BaseException:
        with suppress(OSError):
            os.close(here)
        raise


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _status(name: str, parent: int, *, create: bool) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _target(name: str, parent: int, path: Path, found: os.stat_result) -> str:
    """The target of a symlink, if this process may follow it."""
    if found.st_uid not in _trusted():
        raise NotPrivate(f"{path} is a symlink of another user ({found.st_uid}): remove it, or use another folder")
    target = os.readlink(name, dir_fd=parent)
    again = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (again.st_ino, again.st_uid, again.st_ctime_ns) != (found.st_ino, found.st_uid, found.st_ctime_ns):
        raise NotPrivate(f"{path} was replaced while it was opened: use another folder")
    return target


def _open_folder(name: str, parent: int, path: Path, *, flags: int = os.O_RDONLY) -> int:
    try:
        with _named(path):
            return os.open(name, flags | _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR) or not _is_link(name, parent):
            raise
        raise NotPrivate(f"{path} is a symlink, and must be a folder: remove it") from None


def _is_link(name: str, parent: int) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the whole path to errors of the operating system."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _make_private(descriptor: int, path: Path, *, group_had_access: bool = False) -> None:
    """Check owner and mode of an open file or folder, and remove the access of all others."""
    found = os.fstat(descriptor)
    _check_owner(path, found)
    if _others_may_write(found) & ~(stat.S_IWGRP if group_had_access else 0):
        raise NotPrivate(
            f"other users can change {path} ({_mode(found)}): check that what is in it is yours, and run "
            f"chmod go-w {path}"
        )
    if found.st_mode & 0o077:
        with suppress(PermissionError):  # the file is root's, or its filesystem has no modes
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o700)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in _trusted():
        user = os.geteuid()
        raise NotPrivate(
            f"{path} belongs to user {found.st_uid}, and this process runs as user {user}: run chown {user} {path}, or "
            "run all processes as one user"
        )


def _check_writers(path: Path, found: os.stat_result, *, sticky_is_enough: bool) -> None:
    """Check that no other user can rename a folder's content, or create files in it unless the sticky bit is enough."""
    protected = bool(found.st_mode & stat.S_ISVTX) and sticky_is_enough
    if found.st_uid in _trusted() and (protected or not _others_may_write(found)):
        return
    raise NotPrivate(
        f"other users can replace files in {path} (of user {found.st_uid}, {_mode(found)}): use a folder that only "
        "you can change"
    )


def _others_may_write(found: os.stat_result) -> int:
    """The mode's bits for others who may write. A group that has only this user does not count."""
    bits = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bits & stat.S_IWOTH if bits & stat.S_IWGRP and _is_own_group(found.st_gid) else bits


def _is_own_group(group: int) -> bool:
    """Whether it is the group that many systems create for each user, with the same name."""
    try:
        import grp
        import pwd

        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _trusted() -> tuple[int, ...]:
    """The ids of this user, of root, and of the owner of ``/``, who is another user in some containers."""
    return (os.geteuid(), 0, os.stat("/").st_uid)


def _mode(found: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(found.st_mode):04o}"
