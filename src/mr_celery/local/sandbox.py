"""A sandbox beside bridge and worker: ``mr-celery up --sandbox``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import MrCeleryError
from ..sandbox import Sandbox
from ..settings import load

PORT = 8765


@contextlib.contextmanager
def sandbox_for(
    app: Any, folder: Path, environment: Mapping[str, str], tell: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """The environment in which bridge and workers find a sandbox, for as long as the block lasts.

    Args:
        app: the Celery application.
        folder: where the sandbox keeps its state.
        environment: the environment so far.
        tell: called with the link to its page.

    Raises:
        MrCeleryError: it cannot listen, or its file cannot be used.
        SettingsError: a setting is wrong.
    """
    settings = load(app.conf, environment=environment)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _on_its_port(str(folder / "sandbox.db")) as sandbox:
        tell(sandbox.login_link())
        tokens = {"MODELREINS_TOKEN", *(each.token_env for each in settings.workers if each.token_env)}
        yield {**environment, "MODELREINS_URL": sandbox.url, **dict.fromkeys(tokens, sandbox.token)}


@contextlib.contextmanager
def _on_its_port(db: str) -> Iterator[Sandbox]:
    """On the usual port, where a page that is open goes on; on another one if that is taken."""
    sandbox = Sandbox(db=db, port=PORT)
    try:
        sandbox.start()
    except MrCeleryError:
        sandbox = Sandbox(db=db).start()
    try:
        yield sandbox
    finally:
        sandbox.stop()
