"""Runs a sandbox for ``mr-celery up --sandbox``."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import MrCeleryError
from ..private_files import Folder, private_folder
from ..sandbox import Sandbox
from ..settings import load

PORT = 8765


@contextlib.contextmanager
def sandbox_for(
    app: Any, folder: Path, environment: Mapping[str, str], say: Callable[[str, str], None]
) -> Iterator[tuple[dict[str, str], Sandbox]]:
    """Run a sandbox inside the block.

    Yields the environment that connects bridge and workers to it, and the sandbox.

    Args:
        app: the Celery application.
        folder: the folder for the sandbox's state.
        environment: the environment to extend.
        say: called with a name and a line of output.

    Raises:
        MrCeleryError: the sandbox cannot listen, or its file cannot be used.
        SettingsError: a setting is invalid.
    """
    settings = load(app.conf, environment=environment)
    with private_folder(folder) as private, _running(str(folder / "sandbox.db"), _token(private), say) as sandbox:
        tokens = {"MODELREINS_TOKEN", *(each.token_env for each in settings.workers if each.token_env)}
        connected = {**environment, "MODELREINS_URL": sandbox.url, **dict.fromkeys(tokens, sandbox.token)}
        yield connected, sandbox


@contextlib.contextmanager
def _running(db: str, token: str, say: Callable[[str, str], None]) -> Iterator[Sandbox]:
    """Run a sandbox on the usual port, so that an open page stays connected, or on a free one if it is taken."""
    sandbox = Sandbox(token, db=db, port=PORT)
    try:
        sandbox.start()
    except MrCeleryError as error:
        sandbox = Sandbox(token, db=db).start()
        say("up", f"{error}; it uses port {sandbox.port} instead")
    try:
        yield sandbox
    finally:
        sandbox.stop()


def _token(folder: Folder) -> str:
    """The sandbox's token, which stays the same across restarts, so that other terminals stay connected."""
    with folder.open("token", "a+") as file:
        file.seek(0)
        token = str(file.read()).strip() or secrets.token_urlsafe(24)
        file.truncate(0)
        file.write(token)
    return token
