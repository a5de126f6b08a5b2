"""``mr-celery``: the commands of ``celery modelreins``, and commands that need no Celery application."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ..local.running import FOLDER
from ..telemetry.quantities import duration
from .modelreins import modelreins
from .operating import CannotLoad, Group, warn_of_password
from .terminal import complain, echo, styled

if TYPE_CHECKING:
    from ..demo.run import Line
    from ..local.up import Ready


CONFIGURING = {
    "loader": "CELERY_LOADER",
    "broker": "CELERY_BROKER_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
    "config": "CELERY_CONFIG_MODULE",
}
"""Options of the celery command, which passes them on as environment variables."""


@click.group(cls=Group, context_settings={"auto_envvar_prefix": "CELERY"})
@click.option("-A", "--app", envvar="APP", help="The Celery application, as for the celery command.")
@click.option("-b", "--broker", envvar="BROKER_URL", help="The broker's address.")
@click.option("--result-backend", envvar="RESULT_BACKEND", help="The result backend's address.")
@click.option("--loader", envvar="LOADER", help="The loader of the configuration.")
@click.option("--config", envvar="CONFIG_MODULE", help="The module with the configuration.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.option("-C", "--no-color", is_flag=True, help="Print without colour. [NO_COLOR]")
@click.option("-q", "--quiet", is_flag=True, help="Accepted for compatibility with the celery command; no effect.")
@click.option("--skip-checks", envvar="SKIP_CHECKS", is_flag=True, help="Skip Django's checks.")
@click.version_option(package_name="mr-celery", message="%(prog)s %(version)s")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    app: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
    skip_checks: bool,
    **configuring: str | None,
) -> None:
    """Run ModelReins jobs on a Celery fleet.

    `mr-celery -A proj status` is the same as `celery -A proj modelreins status`. This holds for all commands except up,
    demo and sandbox. The options of the celery command have the same effect here.
    """
    if workdir:
        os.chdir(workdir)
    sys.path.insert(0, os.getcwd())
    os.environ.update({CONFIGURING[name]: value for name, value in configuring.items() if value})
    for name, flag in (("broker", "--broker"), ("result_backend", "--result-backend")):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            warn_of_password(flag, CONFIGURING[name], configuring[name])
    if skip_checks:
        os.environ["CELERY_SKIP_CHECKS"] = "true"
    ctx.auto_envvar_prefix = "CELERY_MODELREINS"  # so that a command's variables are those of `celery modelreins`
    ctx.meta["mr_celery.app"] = app
    no_color = no_color or bool(os.environ.get("NO_COLOR"))
    ctx.color = False if no_color else None
    ctx.obj = _Context(app, no_color=no_color, quiet=quiet)


class _Context:
    """Stands in for Celery's ``CLIContext`` in ``ctx.obj``, and loads the application on first use."""

    def __init__(self, name: str | None, *, no_color: bool, quiet: bool) -> None:
        self._name = name
        self._options = {"no_color": no_color, "quiet": quiet}
        self._loaded: Any = None

    def _load(self) -> Any:
        from celery.app.utils import find_app
        from celery.bin.base import CLIContext

        from ..handlers import import_failure

        if self._loaded is None:
            if not self._name:
                raise click.UsageError("this command needs an application: give it with -A, such as -A proj")
            try:
                app = find_app(self._name)
            except Exception as error:
                why = import_failure(error)
                raise CannotLoad(f"the application {self._name!r} cannot be loaded: {why}") from error
            self._loaded = CLIContext(app=app, workdir=None, **self._options)
        return self._loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


for _command in modelreins.commands.values():
    main.add_command(_command)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    help="File with the worker token; default: a new token, printed once. [MODELREINS_TOKEN, MODELREINS_TOKEN_FILE]",
)
@click.option("--db", type=click.Path(dir_okay=False), help="SQLite file for the state; default: in memory.")
@click.option("--chaos", type=click.Path(), help="JSON file with faults to inject, to rehearse outages.")
@click.option(
    "--api-key-file",
    type=click.Path(dir_okay=False),
    help="File with the API key of users. With one, a worker token may only do what workers do; default: the worker "
    "token. [MODELREINS_API_KEY]",
)
@click.option(
    "--server-version", default="4.6.0", show_default=True, help="Server version; 4.5 has no artifacts and no reviews."
)
@click.option(
    "--status-word",
    multiple=True,
    metavar="END=WORD",
    help="Another word for the end of a job: done, failed, escalated or aborted. May be repeated.",
)
@click.option(
    "--requeue-after",
    default=900.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds without presence after which running jobs become pending again; 0 for never.",
)
@click.option(
    "--link-seconds",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds for which the one-time link to a worker's token works.",
)
def sandbox(
    host: str,
    port: int,
    token_file: str | None,
    db: str | None,
    chaos: str | None,
    api_key_file: str | None,
    server_version: str,
    status_word: tuple[str, ...],
    requeue_after: float,
    link_seconds: float,
) -> None:
    """Run a local ModelReins server for tests.

    Tokens are read from files or from the environment, because the list of processes shows flags.
    """
    from ..errors import MrCeleryError

    try:
        token = _secret(token_file, "MODELREINS_TOKEN", "MODELREINS_TOKEN_FILE")
        api_key = _secret(api_key_file, "MODELREINS_API_KEY")
        from ..sandbox import ServerOptions, parse_words, run

        options = ServerOptions(
            version=server_version,
            words=parse_words(status_word),
            requeue_after=requeue_after or None,
            link_seconds=link_seconds,
        )
        run(host=host, port=port, token=token, db=db, chaos=chaos, api_key=api_key, options=options)
    except MrCeleryError as error:
        complain(str(error))
        sys.exit(1)


def _secret(path: str | None, variable: str, path_variable: str = "") -> str | None:
    """The token in a file or in an environment variable.

    Raises:
        SettingsError: the file cannot be read, or has no token.
    """
    from ..settings import read_token

    given = None if path else os.environ.get(variable)
    path = path or os.environ.get(path_variable)
    return given or (read_token(path) if path else None)


@main.command()
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Tasks that run at once; default: one per CPU.")
@click.option("-P", "--pool", help="The worker's pool: prefork, threads, solo, gevent.")
@click.option("-Q", "--queues", help="Queues to consume, separated by commas; default: all queues of the handlers.")
@click.option("--data", default=FOLDER, show_default=True, help="Folder for the embedded Redis.")
@click.option("--log-format", help="text, or json for one object per line. [MODELREINS_LOG_FORMAT]")
@click.option("--embedded", is_flag=True, help="Use an embedded Redis even if a broker is configured.")
@click.option("--sandbox", is_flag=True, help="Also run a sandbox with an embedded Redis, and take jobs from it.")
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
    """Run a bridge and a worker until Ctrl-C.

    Without a configured broker, it also starts an embedded Redis. In the same folder, the commands of `celery -A proj
    modelreins` find this installation without further settings.
    """
    from pathlib import Path

    from ..errors import MrCeleryError
    from ..local.up import up as run_up
    from ..settings import load
    from .output import Output, json_line, ready_box, ready_fields

    options = []
    for flag, value in (("--concurrency", concurrency), ("--pool", pool), ("--queues", queues)):
        if value:
            options += [flag, str(value)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    if log_format:
        environment["MODELREINS_LOG_FORMAT"] = log_format
    say_text = Output(echo)

    def say_json(name: str, line: str) -> None:
        echo(line if line.startswith("{") else json_line(name, line))

    try:
        in_json = load(ctx.obj.app.conf, flags={"log_format": log_format}).log_format == "json"

        def report_ready(ready: Ready) -> None:
            if in_json:
                echo(json_line("up", "ready", **ready_fields(ready)))
            else:
                for line in ready_box(ready, in_working_folder=data == FOLDER):
                    echo(line)

        well = run_up(
            ctx.obj.app,
            ctx.meta["mr_celery.app"],
            folder=Path(data),
            worker_options=options,
            embedded=embedded,
            sandbox=sandbox,
            environment=environment,
            say=say_json if in_json else say_text,
            report_ready=report_ready,
        )
    except MrCeleryError as error:
        complain(str(error))
        sys.exit(1)
    sys.exit(0 if well else 1)


STATUS_COLOURS = {"done": "green", "failed": "red", "escalated": "yellow", "running": "cyan"}


@main.command()
@click.option("-v", "--verbose", is_flag=True, help="Show the output of the worker and the bridge.")
@click.option("--keep", is_flag=True, help="Keep running until Ctrl-C, so that you can try the sandbox's page.")
def demo(verbose: bool, keep: bool) -> None:
    """Run a dozen jobs on this machine.

    Starts a sandbox, a Redis, a worker and a bridge, and stops them at the end.
    """
    from ..errors import MrCeleryError

    def report(job_id: int, asked: str, new: str) -> None:
        echo(f"  job {job_id:>2}  {asked:<15} {_status(new)}")

    try:
        from ..demo.run import run_demo

        lines = run_demo(echo, report, _show_lines, verbose=verbose, keep=keep)
    except MrCeleryError as error:
        complain(str(error))
        sys.exit(1)
    sys.exit(0 if all(line.as_expected for line in lines) else 1)


def _status(text: str, width: int = 0) -> str:
    return styled(f"{text:<{width}}", fg=STATUS_COLOURS.get(text))


def _show_lines(lines: list[Line]) -> None:
    echo()
    echo(styled(f" job  {'kind':<15} {'status':<10} {'time':>6}  files  reviews  output", bold=True))
    for line in lines:
        output = line.output if len(line.output) < 60 else line.output[:59] + "…"
        took = duration(line.seconds)
        files, reviews = line.artifacts or "", line.reviews or ""
        echo(f"{line.id:>4}  {line.asked:<15} {_status(line.status, 10)} {took:>6}  {files:>5}  {reviews:>7}  {output}")
    as_expected = sum(line.as_expected for line in lines)
    echo()
    echo(f"{as_expected} of {len(lines)} jobs ended as they should (the failed and escalated ones are meant to).")
