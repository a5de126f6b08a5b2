"""Shared by the operators' commands: the flags that choose a ledger, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryCommand, CeleryOption

from ..telemetry.tracebacks import hides_variables
from .terminal import complain, echo

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..settings import Settings


class CannotLoad(click.ClickException):
    """The application or its configuration cannot be loaded. Printed as one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print it to stderr."""
        complain(self.message)


class Group(click.Group):
    """A group of commands. Their tracebacks omit variables, which may contain prompts, or addresses with passwords."""

    @hides_variables
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command of the group."""
        return super().invoke(ctx)


class AppCommand(CeleryCommand):
    """A command that needs the application and its configuration."""

    def invoke(self, ctx: click.Context) -> Any:
        """Load the configuration, which Celery does on first access, and run the command.

        Raises:
            CannotLoad: a module of the configuration, or the loader, cannot be imported.
        """
        from ..handlers import import_failure

        app = ctx.obj.app
        if ctx.obj.no_color:
            ctx.color = False
        try:
            app.conf.get("broker_url")
        except Exception as error:
            why = import_failure(error)
            raise CannotLoad(f"the configuration of the application cannot be loaded: {why}") from error
        return super().invoke(ctx)


F = TypeVar("F", bound=Callable[..., Any])


def warn_of_password(flag: str, variable: str, url: str | None) -> None:
    """Warn if an address on the command line has a password."""
    if url and re.search(r":[^/?#]*[^/?#@]@|[?&]password=", url.partition("://")[2]):
        complain(
            f"warning: the list of processes shows the password in {flag}: set {variable} instead", colour="yellow"
        )


def _checked_ledger_url(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    if ctx.get_parameter_source("ledger_url") is click.core.ParameterSource.COMMANDLINE:
        warn_of_password("--ledger-url", "MODELREINS_LEDGER_URL", value)
    return value


def ledger_url_flag(about: str) -> Callable[[F], F]:
    """Add the flag for the ledger's address to a command."""
    return click.option(
        "--ledger-url",
        callback=_checked_ledger_url,
        cls=CeleryOption,
        help_group="ModelReins Options",
        help=f"{about} [MODELREINS_LEDGER_URL]",
    )


def ledger_flags(command: F) -> F:
    """Add the flags that choose a worker name's ledger to a command."""
    about = "The worker name; default: all configured ones. [MODELREINS_NAME]"
    name = click.option("--name", cls=CeleryOption, help_group="ModelReins Options", help=about)
    return name(ledger_url_flag("The Redis that holds the ledger.")(command))


def settings_of(ctx: click.Context, flags: Mapping[str, Any]) -> Settings:
    """The settings of the command's application, for all worker names.

    Raises:
        SettingsError: a value is not allowed.
    """
    from ..settings import load

    use_running_up(ctx, flags)
    return load(ctx.obj.app.conf, flags=flags)


def use_running_up(ctx: click.Context, flags: Mapping[str, Any]) -> None:
    """Take settings from ``mr-celery up``, if it runs in this folder with the same application.

    They are added to this process's environment. Its own variables and flags take precedence. If one of them connects
    to something else, no setting is taken. One line on stderr reports either case.
    """
    from ..local.running import conflict, find

    running = find()
    if running is None or running.main != str(ctx.obj.app.main):
        return
    flagged = {f"MODELREINS_{name.upper()}": str(value) for name, value in flags.items() if value is not None}
    other = conflict(running, {**os.environ, **flagged})
    about = f"`mr-celery -A {running.app_name} up` (process {running.process})"
    if other:
        text = f"not using {about} in this folder: {other} is set to another value here"
    elif missing := {name: value for name, value in running.environment.items() if not os.environ.get(name)}:
        os.environ.update(missing)
        text = f"using {about} in this folder"
    else:
        return
    complain(text, colour="cyan")


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of the settings' worker name.

    Raises:
        SettingsError: the ledger is not set.
    """
    from ..clients import Clients

    return Clients(settings).ledger()


def ledgers_of(settings: Settings) -> list[Ledger]:
    """The ledgers of all worker names in the settings.

    Raises:
        SettingsError: the ledger is not set.
    """
    from ..clients import Clients

    return Clients(settings).ledgers()


def ledger_with(settings: Settings, job_id: int) -> Ledger:
    """The ledger that contains a job. If there is only one ledger, it is returned without a lookup.

    Raises:
        SettingsError: the ledger is not set.
        MrCeleryError: there are several worker names, and the job is in none of their ledgers.
        LedgerUnavailable: a ledger cannot be reached.
    """
    from ..errors import MrCeleryError
    from ..operations.jobs import ABSENT

    ledgers = ledgers_of(settings)
    found = ledgers if len(ledgers) == 1 else [each for each in ledgers if each.read(job_id) is not None]
    if not found:
        names = ", ".join(repr(each.worker_name) for each in ledgers)
        raise MrCeleryError(f"job {job_id} is in no ledger of {names}: {ABSENT}")
    return found[0]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an expected error as one line, with what to do about the ledger, and exit with 1."""
    from ..errors import LedgerUnavailable, MrCeleryError

    try:
        yield
    except MrCeleryError as error:
        complain(str(error))
        if isinstance(error, LedgerUnavailable):
            from ..bridge.state import ledger_advice

            echo(f"→ {ledger_advice(str(error))}", err=True)
        sys.exit(1)
