"""``mr-celery``: the commands of ``celery modelreins``, and those that need no Celery application."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .modelreins import modelreins

if TYPE_CHECKING:
    from ..demo.run import Line


@click.group()
@click.option("-A", "--app", help="The Celery application, as for the celery command.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.option("-C", "--no-color", is_flag=True, envvar="NO_COLOR", help="Print without colour.")
@click.version_option(package_name="mr-celery", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, app: str | None, workdir: str | None, no_color: bool) -> None:
    """Run ModelReins jobs on a Celery fleet."""
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
@click.option("--chaos", type=click.Path(), help="Faults to answer with, from a JSON file: to rehearse outages.")
def sandbox(host: str, port: int, token: str | None, db: str | None, chaos: str | None) -> None:
    """Run a local ModelReins server, for development and tests."""
    from ..errors import MrCeleryError

    try:
        from ..sandbox import run

        run(host=host, port=port, token=token, db=db, chaos=chaos)
    except MrCeleryError as error:
        click.secho(f"mr-celery: {error}", fg="red", err=True)
        sys.exit(1)


@main.command()
@click.option("-c", "--concurrency", type=click.IntRange(1), help="How many tasks run at once; default: the CPUs.")
@click.option("-P", "--pool", help="The worker's pool: prefork, threads, solo, gevent.")
@click.option("-Q", "--queues", help="The queues to consume, separated by commas.")
@click.option("--data", default=".mr-celery", show_default=True, help="Folder for the embedded Redis.")
@click.option("--log-format", help="text, or json: one object per line.  [MODELREINS_LOG_FORMAT]")
@click.option("--embedded", is_flag=True, help="Use the embedded Redis even if the application names a broker.")
@click.option("--sandbox", is_flag=True, help="Run a sandbox, too, with an embedded Redis, and work for it.")
@click.pass_context
def up(
    ctx: click.Context,
    concurrency: int | None,
    pool: str | None,
    queues: str | None,
    data: str,
    log_format: str | None,
    embedded: bool,
    sandbox: bool,
) -> None:
    """Run bridge and worker, and a Redis if none is known, until Ctrl-C."""
    from pathlib import Path

    from ..errors import MrCeleryError
    from ..local.up import up as run_up
    from ..settings import load

    options = []
    for flag, value in (("--concurrency", concurrency), ("--pool", pool), ("--queues", queues)):
        if value:
            options += [flag, str(value)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    if log_format:
        environment["MODELREINS_LOG_FORMAT"] = log_format

    def say(name: str, line: str) -> None:
        click.echo(f"{click.style(f'{name:<6} |', fg='cyan')} {line}")

    def say_json(name: str, line: str) -> None:
        click.echo(line if line.startswith("{") else json.dumps({"logger": name, "message": line}))

    try:
        in_json = load(ctx.obj.app.conf, flags={"log_format": log_format}).log_format == "json"
        well = run_up(
            ctx.obj.app,
            ctx.meta["mr_celery.app"],
            folder=Path(data),
            worker_options=options,
            embedded=embedded,
            sandbox=sandbox,
            environment=environment,
            say=say_json if in_json else say,
        )
    except MrCeleryError as error:
        click.secho(f"mr-celery: {error}", fg="red", err=True)
        sys.exit(1)
    sys.exit(0 if well else 1)


STATUS_COLOURS = {"done": "green", "failed": "red", "escalated": "yellow", "running": "cyan"}


@main.command()
@click.option("-v", "--verbose", is_flag=True, help="Show what the worker and the bridge print.")
@click.option("--keep", is_flag=True, help="Go on until Ctrl-C, with the sandbox's page to look at and try out.")
def demo(verbose: bool, keep: bool) -> None:
    """Show everything at work: a sandbox, Redis, a worker, a bridge and a dozen jobs."""
    from ..errors import MrCeleryError

    def tell(job_id: int, asked: str, new: str) -> None:
        click.echo(f"  job {job_id:>2}  {asked:<15} {_status(new)}")

    try:
        from ..demo.run import run_demo

        lines = run_demo(click.echo, tell, _show_lines, verbose=verbose, keep=keep)
    except MrCeleryError as error:
        click.secho(f"mr-celery: {error}", fg="red", err=True)
        sys.exit(1)
    sys.exit(0 if all(line.as_expected for line in lines) else 1)


def _status(text: str, width: int = 0) -> str:
    return click.style(f"{text:<{width}}", fg=STATUS_COLOURS.get(text))


def _show_lines(lines: list[Line]) -> None:
    click.echo()
    click.secho(f" job  {'asked for':<15} {'became':<10} {'took':>6}  files  reviews  output", bold=True)
    for line in lines:
        output = line.output if len(line.output) < 60 else line.output[:59] + "…"
        took = f"{line.seconds:.1f} s"
        files, reviews = line.artifacts or "", line.reviews or ""
        click.echo(
            f"{line.id:>4}  {line.asked:<15} {_status(line.status, 10)} {took:>6}  {files:>5}  {reviews:>7}  {output}"
        )
    as_expected = sum(line.as_expected for line in lines)
    click.echo()
    click.echo(f"{as_expected} of {len(lines)} jobs ended as they should (the failed and escalated ones are meant to).")
