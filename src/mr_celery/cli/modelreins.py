"""The commands that work with a Celery application: ``celery -A proj modelreins …``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import click
from celery.bin.base import LOG_LEVEL, CeleryCommand, CeleryOption, handle_preload_options

F = TypeVar("F", bound=Callable[..., Any])

SETTING_FLAGS = {
    "url": "The ModelReins server.",
    "name": "The worker name.",
    "ledger_url": "The Redis that holds the ledger.",
    "poll_interval": "Seconds between two looks at an inbox that stays empty; jobs that come set the pace.",
    "heartbeat_interval": "Seconds between two presence reports.",
    "max_inflight": "How many jobs may be in flight: auto or a number.",
    "lease": "Seconds after which a silent run is lost.",
    "delivery": "Who delivers results: worker or bridge.",
    "unrouted": "What becomes of jobs that no handler takes: fail or leave.",
}
"""The settings that have a flag. The token has none: flags show in the list of processes."""


def setting_flags(command: F) -> F:
    """Give a command a flag for each setting that may have one."""
    for name, about in reversed(SETTING_FLAGS.items()):
        flag = f"--{name.replace('_', '-')}"
        shown = f"{about} [MODELREINS_{name.upper()}]"
        command = click.option(flag, name, cls=CeleryOption, help_group="ModelReins Options", help=shown)(command)
    return command


@click.group(name="modelreins")
def modelreins() -> None:
    """Run ModelReins jobs on this application's workers."""


@modelreins.command(cls=CeleryCommand)
@setting_flags
@click.option(
    "-l", "--loglevel", default="INFO", cls=CeleryOption, type=LOG_LEVEL, help_group="Log Options", help="Log level."
)
@click.option("-f", "--logfile", cls=CeleryOption, help_group="Log Options", help="Log file; default: stderr.")
@click.option(
    "--log-format",
    cls=CeleryOption,
    help_group="Log Options",
    help="text, or json: one object per line. [MODELREINS_LOG_FORMAT]",
)
@click.option(
    "--http",
    cls=CeleryOption,
    help_group="ModelReins Options",
    help="Port or host:port of metrics and health. [MODELREINS_HTTP]",
)
@click.pass_context
@handle_preload_options
def bridge(ctx: click.Context, loglevel: int, logfile: str | None, **flags: Any) -> None:
    """Claim jobs, and send them to the workers as tasks, until SIGTERM or SIGINT.

    The token comes from MODELREINS_TOKEN. Any number of bridges may run side by side.
    """
    from ..bridge import bridges_of, run
    from ..errors import MrCeleryError
    from ..log_format import write_json
    from ..monitoring import Web
    from ..settings import load

    app = ctx.obj.app
    configured = app.log.setup(loglevel, logfile, redirect_stdouts=False)
    told_to_stop = threading.Event()
    json_lines = False

    def on_signal(signum: int, _: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
        told_to_stop.set()

    try:
        app.loader.import_default_modules()
        settings = load(app.conf, flags=flags)
        json_lines = settings.log_format == "json" and not configured
        if json_lines:
            write_json()
        bridges = bridges_of(app, settings)
        web = Web(settings.http, bridges) if settings.http else None
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        if web is not None:
            web.start()
        run(bridges, told_to_stop)
    except MrCeleryError as error:
        if json_lines:
            logging.getLogger("mr_celery.bridge").critical("%s", error)
        else:
            ctx.obj.error(f"mr-celery: {error}", fg="red")
        sys.exit(1)


@modelreins.command(cls=CeleryCommand)
@setting_flags
@click.option(
    "--audit",
    is_flag=True,
    cls=CeleryOption,
    help_group="Check Options",
    help="Compare the ledger with the server's lists, too.",
)
@click.pass_context
@handle_preload_options
def check(ctx: click.Context, audit: bool, **flags: Any) -> None:
    """Verify everything that a bridge and its workers need, line by line.

    Exits with 0 if all is well, and 1 if something is not.
    """
    from .check import run_audit, run_checks

    failed = 0
    parts = [run_checks, run_audit] if audit else [run_checks]
    for finding in chain.from_iterable(part(ctx.obj.app, flags) for part in parts):
        mark = ctx.obj.style("ok", fg="green") if finding.ok else ctx.obj.style("FAILED", fg="red", bold=True)
        ctx.obj.echo(f"{finding.what:<14} {mark}  {finding.detail}")
        if not finding.ok:
            failed += 1
            ctx.obj.echo(f"{'':<14} → {finding.hint}")
    sys.exit(1 if failed else 0)
