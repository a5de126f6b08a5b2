"""``register``: the worker is registered with the capabilities that the code declares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from .operating import ledger_flags, ledger_of, one_line_errors, settings_of
from .show import age

if TYPE_CHECKING:
    from ..operations import Comparison, Declared
    from ..settings import Settings

DESCRIPTION = "Celery workers, through mr-celery"


@click.command(cls=CeleryCommand)
@click.option(
    "--dry-run",
    is_flag=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="Print the request instead of sending it; needs no token.",
)
@click.option(
    "--again",
    is_flag=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="Register although nothing has changed.",
)
@click.option(
    "--description",
    default=DESCRIPTION,
    show_default=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="What the server shows with the worker.",
)
@click.option(
    "--url", cls=CeleryOption, help_group="ModelReins Options", help="The ModelReins server. [MODELREINS_URL]"
)
@ledger_flags
@click.pass_context
@handle_preload_options
def register(ctx: click.Context, dry_run: bool, again: bool, description: str, **flags: Any) -> None:
    """Register the worker with the capabilities and risk tiers that the code declares; each one, if several are set.

    It needs an administrator's token: from MODELREINS_ADMIN_TOKEN, or it is asked for. It prints the address that
    shows the new worker token, once. What was registered last is kept in the ledger: where nothing differs from it,
    nothing is registered.
    """
    admin_token = cache(_admin_token)  # asked for once, and only if it is needed
    with one_line_errors(ctx):
        for settings in settings_of(ctx, flags).each():
            _register(ctx, settings, description, admin_token, dry_run=dry_run, again=again)


def _register(
    ctx: click.Context,
    settings: Settings,
    description: str,
    admin_token: Callable[[], str],
    *,
    dry_run: bool,
    again: bool,
) -> None:
    """Register one worker name."""
    from ..bridge.sender import registry_of
    from ..client import REGISTER, registration
    from ..operations import declared_by, register

    found = declared_by(registry_of(ctx.obj.app, settings))
    for line in found.settled:
        _warn(ctx, line)
    if not found.risk_tiers:
        _warn(ctx, 'no handler declares a capability; @modelreins_job("image.generate", risk_tier="audit") does')
    compared = _compare(ctx, settings, found)
    body = registration(settings.name, description, found.risk_tiers)
    if dry_run:
        click.echo(f"POST {settings.url}{REGISTER}\n{json.dumps(body, indent=2, ensure_ascii=False)}")
        return
    if compared is not None and compared.as_declared and not again:
        click.echo("nothing to do; --again registers it all the same")
        return
    view_url = register(settings.url, admin_token(), body, timeout=settings.timeout)
    click.echo(f"registered with {_counted(found)}. The worker's token is at")
    click.echo(view_url)
    variable = settings.identity.token_env or "MODELREINS_TOKEN"
    click.echo(f"It is shown once, to the first who opens this. Set it as {variable} on bridges and workers.")
    if compared is not None:
        _note(ctx, settings, found)


def _compare(ctx: click.Context, settings: Settings, found: Declared) -> Comparison | None:
    """Print how what the code declares differs from what was registered; ``None``: the ledger is away."""
    from ..errors import LedgerUnavailable, SettingsError
    from ..operations import compare

    try:
        compared = compare(ledger_of(settings), settings.url, found.risk_tiers)
    except (LedgerUnavailable, SettingsError) as error:
        _warn(ctx, f"{error}; so nothing tells what was registered before, and this is not kept either")
        return None
    if compared.seconds is None:
        told = "never registered by this command"
    elif compared.as_declared:
        told = f"registered as declared, {age(compared.seconds)} ago"
    else:
        told = f"changed since it was registered {age(compared.seconds)} ago"
    click.echo("\n  ".join([f"{settings.name} at {settings.url}: {told}", *compared.changes]))
    return compared


def _note(ctx: click.Context, settings: Settings, found: Declared) -> None:
    from ..errors import LedgerUnavailable
    from ..operations import note_registered

    try:
        note_registered(ledger_of(settings), settings.url, found.risk_tiers)
    except LedgerUnavailable as error:
        _warn(ctx, f"{error}; so nothing will tell what was registered here")


def _admin_token() -> str:
    """From the environment, else from whoever types it in unseen, else the first line of the standard input.

    Raises:
        SettingsError: there is none.
    """
    from ..errors import SettingsError
    from ..settings import admin_token

    token = admin_token()
    if not token and sys.stdin.isatty():
        token = click.prompt("Admin token", hide_input=True, err=True).strip()
    elif not token:
        token = sys.stdin.readline().strip()
    if not token:
        raise SettingsError("there is no admin token: set MODELREINS_ADMIN_TOKEN, or type it in when asked for it")
    return str(token)


def _counted(found: Declared) -> str:
    number = len(found.risk_tiers)
    return "1 capability" if number == 1 else f"{number or 'no'} capabilities"


def _warn(ctx: click.Context, text: str) -> None:
    click.echo(ctx.obj.style(f"mr-celery: {text}", fg="yellow"), err=True)
