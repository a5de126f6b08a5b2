"""What the commands of operators share: the flags that say which ledger, and one line for each error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryOption

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def ledger_flags(command: F) -> F:
    """Give a command the flags that say which worker name's ledger it is about."""
    for flag, about in (
        ("--ledger-url", "The Redis that holds the ledger. [MODELREINS_LEDGER_URL]"),
        ("--name", "The worker name; default: all that are set. [MODELREINS_NAME]"),
    ):
        command = click.option(flag, cls=CeleryOption, help_group="ModelReins Options", help=about)(command)
    return command


def settings_of(ctx: click.Context, flags: Mapping[str, Any]) -> Settings:
    """The settings of the command's application; ``each()`` of them are those of a worker name.

    Raises:
        SettingsError: one has a value that is not allowed.
    """
    from ..settings import load

    return load(ctx.obj.app.conf, flags=flags)


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of the settings' worker name.

    Raises:
        SettingsError: it is not set.
    """
    from ..ledger import Ledger
    from ..settings import require

    return Ledger(require(settings, "ledger_url"), settings.name, history=settings.history)


def ledgers_of(settings: Settings) -> list[Ledger]:
    """The ledgers of all worker names that the settings are for.

    Raises:
        SettingsError: the ledger is not set.
    """
    return [ledger_of(each) for each in settings.each()]


def ledger_with(settings: Settings, job_id: int) -> Ledger:
    """The ledger that knows a job; where there is only one, that one.

    Raises:
        SettingsError: the ledger is not set.
        MrCeleryError: there are several worker names, and the job is in none of their ledgers.
        LedgerUnavailable: the ledger is away.
    """
    from ..errors import MrCeleryError

    ledgers = ledgers_of(settings)
    found = ledgers if len(ledgers) == 1 else [each for each in ledgers if each.read(job_id) is not None]
    if not found:
        names = ", ".join(repr(each.worker) for each in ledgers)
        raise MrCeleryError(
            f"job {job_id} is in no ledger of {names}: it was not claimed yet, it is another worker name's, or it "
            "ended longer ago than MODELREINS_HISTORY"
        )
    return found[0]


@contextmanager
def one_line_errors(ctx: click.Context) -> Iterator[None]:
    """What goes wrong is told in one line, and the command exits with 1."""
    from ..errors import MrCeleryError

    if ctx.obj.no_color:
        ctx.color = False
    try:
        yield
    except MrCeleryError as error:
        click.echo(ctx.obj.style(f"mr-celery: {error}", fg="red"), err=True)
        sys.exit(1)
