"""The commands that work with a Celery application: ``celery -A proj modelreins …``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import LOG_LEVEL, CeleryOption, handle_preload_options

from .operating import AppCommand, Group, ledger_url_flag
from .terminal import complain

if TYPE_CHECKING:
    from ..bridge import Bridge
    from ..operations.http import Web
    from ..operations.page import Page
    from ..settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

SETTING_FLAGS = {
    "url": "The ModelReins server.",
    "name": "The worker name.",
    "ledger_url": "The Redis that holds the ledger.",
    "poll_interval": "Polling interval while the inbox is empty, in seconds; polls are more frequent after new jobs.",
    "heartbeat_interval": "Interval of presence reports, in seconds.",
    "max_inflight": "Maximum number of jobs in flight: auto or a number.",
    "lease": "Duration of a lease, in seconds. A run that stops renewing its lease loses the job.",
    "delivery": "Process that delivers results: worker or bridge.",
    "unrouted": "Handling of jobs without a handler: fail or leave.",
}
"""The settings that have a flag. The token has none, because the list of processes shows flags."""


def setting_flags(command: F) -> F:
    """Add a flag for each of these settings to a command."""
    for name, about in reversed(SETTING_FLAGS.items()):
        if name == "ledger_url":
            command = ledger_url_flag(about)(command)
            continue
        flag = f"--{name.replace('_', '-')}"
        shown = f"{about} [MODELREINS_{name.upper()}]"
        command = click.option(flag, name, cls=CeleryOption, help_group="ModelReins Options", help=shown)(command)
    return command


@click.group(name="modelreins", cls=Group)
def modelreins() -> None:
    """Run ModelReins jobs on this application's workers.

    Each command has a short form: `mr-celery -A proj status` is the same as `celery -A proj modelreins status`.
    """


@modelreins.command(cls=AppCommand)
@setting_flags
@click.option(
    "-l", "--loglevel", default="INFO", cls=CeleryOption, type=LOG_LEVEL, help_group="Log Options", help="Log level."
)
@click.option("-f", "--logfile", cls=CeleryOption, help_group="Log Options", help="Log file; default: stderr.")
@click.option(
    "--log-format",
    cls=CeleryOption,
    help_group="Log Options",
    help="text, or json for one object per line. [MODELREINS_LOG_FORMAT]",
)
@click.option(
    "--http",
    cls=CeleryOption,
    help_group="ModelReins Options",
    help="Port or host:port for metrics, health and, with MODELREINS_HTTP_TOKEN_FILE, the page for operators. "
    "[MODELREINS_HTTP]",
)
@click.pass_context
@handle_preload_options
def bridge(ctx: click.Context, loglevel: int, logfile: str | None, **flags: Any) -> None:
    """Claim jobs and send them to the workers.

    Runs until SIGTERM or SIGINT. The token is read from MODELREINS_TOKEN, or from the file that
    MODELREINS_TOKEN_FILE names. Any number of bridges may run side by side.
    """
    from ..bridge import bridges_of, run
    from ..errors import MrCeleryError
    from ..handlers import import_tasks
    from ..settings import load
    from ..telemetry.json_format import JsonLines, write_json
    from ..telemetry.own_loggers import show_warnings

    app = ctx.obj.app
    configured = app.log.setup(loglevel, logfile, redirect_stdouts=False)
    stop = threading.Event()
    json_lines = False

    def on_signal(signum: int, _: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second signal ends the process at once
        stop.set()

    try:
        import_tasks(app)
        settings = load(app.conf, flags=flags)
        show_warnings(loglevel, logfile, formatter=JsonLines() if settings.log_format == "json" else None)
        json_lines = settings.log_format == "json" and not configured
        if json_lines:
            write_json()
        bridges = bridges_of(app, settings)
        web = _web(settings, bridges) if settings.http else None
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        if web is not None:
            web.start()
        run(bridges, stop)
        if web is not None:
            web.stop()
    except MrCeleryError as error:
        if json_lines:
            logging.getLogger("mr_celery.bridge").critical("%s", error)
        else:
            complain(str(error))
        sys.exit(1)


def _web(settings: Settings, bridges: Sequence[Bridge]) -> Web | None:
    """The HTTP server of the bridges; ``None`` if its packages are not installed. Jobs do not depend on it."""
    try:
        from ..operations.http import Web
    except ModuleNotFoundError as error:
        logging.getLogger("mr_celery.bridge").error(
            "MODELREINS_HTTP is %s, but metrics and health are not served: %s is not installed. "
            'pip install "mr-celery[metrics]"',
            settings.http,
            error.name,
        )
        return None
    return Web(settings.http, bridges, _page(settings, bridges))


def _page(settings: Settings, bridges: Sequence[Bridge]) -> Page | None:
    """The page for operators; ``None`` if it is off, or a package for it is not installed."""
    from ..server.token import Token, TokenFile
    from ..settings import read_http_token

    path, token = settings.http_token_file, settings.http_token
    if not path and not token:
        return None
    try:
        from ..operations.page import Page
    except ModuleNotFoundError as error:
        logging.getLogger("mr_celery.bridge").error(
            'the page for operators is not served: %s is not installed. pip install "mr-celery[web]"', error.name
        )
        return None
    return Page(bridges, TokenFile(path, read_http_token) if path else Token(token))
