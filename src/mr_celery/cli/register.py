"""The command ``register``: registers the worker with the capabilities that the code declares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryOption, handle_preload_options

from ..telemetry.quantities import ago
from .operating import AppCommand, ledger_flags, ledger_of, one_line_errors, settings_of
from .terminal import complain, echo, echo_lines

if TYPE_CHECKING:
    from ..operations import Comparison, Declared
    from ..settings import Settings

DESCRIPTION = "Celery workers, through mr-celery"


@click.command(cls=AppCommand)
@click.option(
    "--dry-run",
    is_flag=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="Print the request instead of sending it. Needs no token.",
)
@click.option(
    "--again",
    is_flag=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="Register even if nothing has changed.",
)
@click.option(
    "--description",
    default=DESCRIPTION,
    show_default=True,
    cls=CeleryOption,
    help_group="Registration Options",
    help="Description of the worker on the server.",
)
@click.option(
    "--url", cls=CeleryOption, help_group="ModelReins Options", help="The ModelReins server. [MODELREINS_URL]"
)
@ledger_flags
@click.pass_context
@handle_preload_options
def register(ctx: click.Context, dry_run: bool, again: bool, description: str, **flags: Any) -> None:
    """Register the declared capabilities.

    Risk tiers are registered with them. If several worker names are configured, each of them is registered. The
    administrator's token is read from MODELREINS_ADMIN_TOKEN, or else from the terminal or standard input. The command
    prints a URL that shows the new worker token once. The last registration is kept in the ledger, and a worker whose
    declaration has not changed since is not registered again.
    """
    admin_token = cache(_admin_token)  # prompt once, and only if a token is needed
    with one_line_errors():
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
    from ..bridge.routes import registry_of
    from ..operations import declared_by, register
    from ..server import REGISTER, registration

    found = declared_by(registry_of(ctx.obj.app, settings))
    for line in found.settled:
        complain(line, colour="yellow")
    if not found.risk_tiers:
        complain(
            'no handler declares a capability; @modelreins_job("image.generate", risk_tier="audit") does',
            colour="yellow",
        )
    compared = _compare(settings, found)
    body = registration(settings.name, description, found.risk_tiers, found.secrets)
    if dry_run:
        echo_lines(f"POST {settings.url}{REGISTER}\n{json.dumps(body, indent=2, ensure_ascii=False)}")
        return
    if compared is not None and compared.as_declared and not again:
        echo("nothing to do; use --again to register anyway")
        return
    view_url = register(settings.url, admin_token(), body, timeout=settings.timeout)
    echo(f"registered with {_counted(found)}. The worker's token is at")
    echo(view_url)
    echo("The page can be opened only once, and expires after a few minutes: open it now.")
    path = settings.token_file_of(settings.name)
    if path:
        echo(f"Write the token to {path} (mode 0600). Bridges and workers read it from there without a restart.")
    else:
        variable = settings.options.token_env or "MODELREINS_TOKEN"
        echo(f"Set the token as {variable} on bridges and workers, and restart them.")
    if compared is None or compared.seconds is not None:
        echo("It is not documented whether the former token of this name stays valid: replace it soon.")
    if compared is not None:
        _note_registered(settings, found)


def _compare(settings: Settings, found: Declared) -> Comparison | None:
    """Print the changes since the last registration. Returns ``None`` if the ledger is unavailable."""
    from ..errors import LedgerUnavailable, SettingsError
    from ..operations import compare

    try:
        compared = compare(ledger_of(settings), settings.url, found)
    except (LedgerUnavailable, SettingsError) as error:
        complain(f"{error}; the last registration is unknown, and this one will not be recorded", colour="yellow")
        return None
    if compared.seconds is None:
        state = "never registered by this command"
    elif compared.as_declared:
        state = f"registered as declared, {ago(compared.seconds)}"
    else:
        state = f"changed since it was registered {ago(compared.seconds)}"
    echo(f"{settings.name} at {settings.url}: {state}")
    for change in compared.changes:
        echo(f"  {change}")
    return compared


def _note_registered(settings: Settings, found: Declared) -> None:
    from ..errors import LedgerUnavailable
    from ..operations import note_registered

    try:
        note_registered(ledger_of(settings), settings.url, found)
    except LedgerUnavailable as error:
        complain(f"{error}; this registration was not recorded", colour="yellow")


def _admin_token() -> str:
    """Read the token from the environment, a hidden prompt, or the first line of standard input.

    Raises:
        SettingsError: no token was given.
    """
    from ..errors import SettingsError
    from ..settings import admin_token

    token = admin_token()
    if not token and sys.stdin.isatty():
        token = click.prompt("Admin token", hide_input=True, err=True).strip()
    elif not token:
        token = sys.stdin.readline().strip()
    if not token:
        raise SettingsError("no admin token: set MODELREINS_ADMIN_TOKEN, or enter it at the prompt")
    return str(token)


def _counted(found: Declared) -> str:
    number = len(found.risk_tiers)
    return "1 capability" if number == 1 else f"{number or 'no'} capabilities"
