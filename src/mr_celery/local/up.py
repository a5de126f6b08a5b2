"""``mr-celery up``: bridge, worker and, where needed, Redis, on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..settings import load, require
from .browser import show
from .processes import Processes, Program
from .redis import EmbeddedRedis


def programs(app_name: str, worker_options: Sequence[str]) -> list[Program]:
    """A worker and a bridge of the application."""
    celery = ["-m", "celery", "-A", app_name]
    return [
        Program("worker", [*celery, "worker", "--loglevel", "INFO", *worker_options]),
        Program("bridge", [*celery, "modelreins", "bridge"]),
    ]


def knows_its_broker(app: Any) -> bool:
    """Whether the application or the environment says where the broker is."""
    return bool(app.conf.broker_url or app.conf.broker_write_url)


@contextlib.contextmanager
def redis_for(app: Any, folder: Path, *, embedded: bool, own_ledger: bool = False) -> Iterator[dict[str, str]]:
    """The environment in which broker and ledger are found, with an embedded Redis where none is known.

    Args:
        app: the Celery application.
        folder: where an embedded Redis keeps its data.
        embedded: use one even where a broker is known.
        own_ledger: and for the ledger, too, wherever it is said to be.

    Raises:
        MrCeleryError: there is no Redis server program.
        SettingsError: a broker is known, but no Redis for the ledger.
    """
    if not embedded and knows_its_broker(app):
        require(load(app.conf), "ledger_url")
        yield {}
        return
    with EmbeddedRedis(folder / "redis") as server:
        yield {
            "CELERY_BROKER_URL": server.url(0),
            "MODELREINS_LEDGER_URL": (not own_ledger and os.environ.get("MODELREINS_LEDGER_URL")) or server.url(1),
        }


def up(
    app: Any,
    app_name: str,
    *,
    folder: Path,
    worker_options: Sequence[str],
    embedded: bool,
    sandbox: bool = False,
    environment: Mapping[str, str],
    say: Callable[[str, str], None],
) -> bool:
    """Run until SIGINT or SIGTERM. Returns whether all went well.

    Args:
        app: the Celery application.
        app_name: its name as for ``celery -A``.
        folder: where an embedded Redis keeps its data.
        worker_options: further options for the worker.
        embedded: use an embedded Redis even where a broker is known.
        sandbox: run a sandbox, too, which the bridge works for. It has a Redis of its own: its jobs must not meet those
            of a real server in one ledger.
        environment: the environment of the processes.
        say: called with a name and a line of output.

    Raises:
        SettingsError: a setting is wrong, or the token is missing.
        MrCeleryError: there is no Redis.
    """
    told_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told_to_stop.set())
    with contextlib.ExitStack() as stack:
        if sandbox:
            from .sandbox import sandbox_for  # the extra may be missing where it is not asked for

            folder = folder / "sandbox"
            tell = partial(_show_page, say)
            environment = stack.enter_context(sandbox_for(app, folder, environment, tell))
        for settings in load(app.conf, environment=environment).each():
            require(settings, "token")
        addresses = stack.enter_context(redis_for(app, folder, embedded=embedded or sandbox, own_ledger=sandbox))
        if addresses:
            say("up", f"embedded Redis in {folder / 'redis'}")
        processes = Processes(programs(app_name, worker_options), {**environment, **addresses}, say)
        try:
            processes.start()
            return processes.watch(told_to_stop)
        finally:
            processes.stop()


def _show_page(say: Callable[[str, str], None], link: str) -> None:
    say("up", f"the sandbox's page, at your first visit: {link}")
    show(link)
