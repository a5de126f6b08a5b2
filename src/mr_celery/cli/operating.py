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
        ("--name", "The worker name. [MODELREINS_NAME]"),
    ):
        command = click.option(flag, cls=CeleryOption, help_group="ModelReins Options", help=about)(command)
    return command


def settings_of(ctx: click.Context, flags: Mapping[str, Any]) -> Settings:
    """The settings of the command's application.

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

    return Ledger(require(settings.ledger_url, "ledger_url"), settings.name, history=settings.history)


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
