"""``mr-celery``: the commands of ``celery modelreins``, and those that need no Celery application."""

from __future__ import annotations

import sys
from typing import Any

import click

from .modelreins import modelreins


@click.group()
@click.option("-A", "--app", help="The Celery application, as for the celery command.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.option("-C", "--no-color", is_flag=True, envvar="NO_COLOR", help="Print without colour.")
@click.version_option(package_name="mr-celery", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, app: str | None, workdir: str | None, no_color: bool) -> None:
    """Run ModelReins jobs on a Celery fleet."""
    import os

    if workdir:
        os.chdir(workdir)
    sys.path.insert(0, os.getcwd())
    ctx.meta["mr_celery.app"] = app
    ctx.obj = _Context(app, no_color)


class _Context:
    """What Celery's own commands find in ``ctx.obj``, with the application loaded when it is first used."""

    def __init__(self, name: str | None, no_color: bool) -> None:
        self._name = name
        self._no_color = no_color
        self._loaded: Any = None

    def _load(self) -> Any:
        from celery.app.utils import find_app
        from celery.bin.base import CLIContext

        if self._loaded is None:
            if not self._name:
                raise click.UsageError("this command needs an application: mr-celery -A proj …")
            try:
                app = find_app(self._name)
            except (ImportError, AttributeError) as error:
                raise click.UsageError(f"the application {self._name!r} cannot be loaded: {error}") from error
            self._loaded = CLIContext(app=app, no_color=self._no_color, workdir=None)
        return self._loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


for _command in modelreins.commands.values():
    main.add_command(_command)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--token", envvar="MODELREINS_TOKEN", help="The worker token; default: a new one, printed once.")
@click.option("--db", type=click.Path(dir_okay=False), help="SQLite file that keeps the state; default: memory.")
def sandbox(host: str, port: int, token: str | None, db: str | None) -> None:
    """Run a local ModelReins server, for development and tests."""
    from ..errors import MrCeleryError

    try:
        from ..sandbox import run

        run(host=host, port=port, token=token, db=db)
    except MrCeleryError as error:
        click.secho(f"mr-celery: {error}", fg="red", err=True)
        sys.exit(1)
