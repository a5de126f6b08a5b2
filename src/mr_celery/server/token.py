"""A token that may be replaced while the process runs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import cache
from hashlib import sha256

from ..errors import SettingsError, WorkerError
from ..private_files import exposure_of

logger = logging.getLogger("mr_celery")


class Token:
    """A token that stays the same. Its repr hides it.

    Args:
        value: the token.

    Attributes:
        can_change: whether :meth:`look` may find another one.
        value: the token.
        id: identifies the token among those of one worker name. The token cannot be derived from it.
    """

    can_change = False

    def __init__(self, value: str) -> None:
        self._set(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def look(self) -> None:
        """Look whether there is a new token, before a request."""

    def read_again(self) -> None:
        """Look for a new token, because the server has refused this one."""

    def _set(self, value: str) -> None:
        self.value, self.id = value, sha256(f"mr-celery token {value}".encode()).hexdigest()[:12]


class TokenFile(Token):
    """The token in a file. The file is read again when it changes, and when the token is refused.

    A file that is missing, empty or invalid while it is replaced does not matter: the last token is kept.

    Args:
        path: the file.
        read: reads and checks the token in a file; raises :class:`SettingsError`.

    Raises:
        SettingsError: the file cannot be read, or has no valid token.
    """

    can_change = True

    def __init__(self, path: str, read: Callable[[str], str]) -> None:
        self._path = path
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._state()
        self._problem = ""
        super().__init__(read(path))
        if words := exposure_of(path):
            _warn(path, words)

    def look(self) -> None:
        """Read the file if it has changed."""
        state = self._state()
        if state is not None and state != self._seen:
            self._seen = state
            self.read_again()

    def read_again(self) -> None:
        """Read the file."""
        with self._lock:
            try:
                value = self._read(self._path)
            except SettingsError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.warning("%s; the last token is kept", error)
                return
            self._problem = ""
            if value != self.value:
                self._set(value)
                logger.info("the token in %s has changed, and is used from now on", self._path)

    def _state(self) -> tuple[int, int, int, int] | None:
        """A value that changes whenever the file is written or replaced; ``None`` if there is no file."""
        try:
            found = os.stat(self._path)  # follows the links that Kubernetes replaces
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


@cache  # once in a process, which may open the file for several clients
def _warn(path: str, words: str) -> None:
    logger.warning("the token file %s %s: run chmod 600 %s, or 640 with a group for its readers", path, words, path)


def usable(token: str, name: str) -> str:
    """Strip and check a token.

    Raises:
        WorkerError: the token cannot be sent in a header. The message does not repeat it.
    """
    token = token.strip()
    if not token:
        raise WorkerError(f"{name} is empty")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) > 255 for char in token):
        raise WorkerError(f"{name} contains characters that no token has: copy it again")
    return token
