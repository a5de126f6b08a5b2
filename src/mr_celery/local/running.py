"""The record of a running ``mr-celery up`` in its data folder, by which other commands find it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import MrCeleryError
from ..private_files import Folder, NotPrivate, own_folder, private_folder

FOLDER = ".mr-celery"
"""The data folder of ``up``, in the working directory."""

CONNECTIONS = ("MODELREINS_URL", "MODELREINS_TOKEN", "MODELREINS_LEDGER_URL", "CELERY_BROKER_URL")
"""Variables that belong together: a command takes all of them from ``up``, or none."""

_FILE = "up.json"
_PREFIXES = ("MODELREINS_", "CELERY_BROKER_")
_LEFT_OUT = ("MODELREINS_ADMIN_TOKEN", "MODELREINS_API_KEY", "MODELREINS_HTTP", "MODELREINS_LOG_FORMAT")
"""Variables, or prefixes of variables, that only the processes of ``up`` need."""


@dataclass(frozen=True)
class Running:
    """A running ``up``.

    Args:
        app_name: the application, as for ``-A``.
        main: the application's own name.
        process: the process id.
        environment: the variables that its bridge and worker use.
    """

    app_name: str
    main: str
    process: int
    environment: Mapping[str, str] = field(repr=False)


def relevant(environment: Mapping[str, str], token_variables: Collection[str]) -> dict[str, str]:
    """The variables that another command needs to work with the same installation.

    Args:
        environment: the environment of its processes.
        token_variables: the variables with the tokens of worker names.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in token_variables or (name.startswith(_PREFIXES) and not name.startswith(_LEFT_OUT))
    }


@contextmanager
def data_folder(path: Path) -> Iterator[Folder]:
    """Open a private data folder, which git ignores, for the block. It is created if it does not exist.

    Raises:
        MrCeleryError: it cannot be used, or other users could change it.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(private_folder(path))
            with suppress(FileExistsError), folder.open(".gitignore", "x") as ignored:
                ignored.write("*\n")
        except OSError as error:
            raise MrCeleryError(f"the data folder {path} cannot be used: {error.strerror}") from None
        yield folder


class Record:
    """The file of a running ``up``. It is locked while the process runs, so that a leftover file is recognised.

    Args:
        folder: the data folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @contextmanager
    def held(self) -> Iterator[Record]:
        """Hold the lock for the duration of the block, and then remove the file.

        Raises:
            MrCeleryError: another process holds it.
        """
        import fcntl

        with self._folder.open(_FILE, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise MrCeleryError(
                    f"another `mr-celery up` is using {self._folder.path}: stop it, or use another folder (--data)"
                ) from None
            file.truncate(0)
            yield self
            with suppress(FileNotFoundError):
                os.unlink(_FILE, dir_fd=self._folder.descriptor)

    def write(self, running: Running) -> None:
        """Write the record, while the lock is held."""
        with self._folder.open(_FILE, "w") as file:
            json.dump(asdict(running), file)


def find(folder: Path | None = None) -> Running | None:
    """The ``up`` of this user that runs with a data folder, or ``None``.

    Args:
        folder: the data folder; default: :data:`FOLDER` in the working directory.
    """
    try:
        with own_folder(folder or FOLDER) as opened, opened.open(_FILE) as file:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return Running(**json.load(file))
    except (OSError, ValueError, TypeError, NotPrivate):
        return None
    return None


def conflict(running: Running, given: Mapping[str, str]) -> str:
    """The first of :data:`CONNECTIONS` that is given and differs from the value of ``up``; empty if there is none."""
    return next((name for name in CONNECTIONS if given.get(name) and given[name] != running.environment.get(name)), "")
