"""``check``: verifies everything that a bridge and its workers need."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from ..telemetry.quantities import counted
from .modelreins import setting_flags
from .operating import use_running_up
from .terminal import echo, styled

if TYPE_CHECKING:
    from ..operations.check import Finding


@click.command(cls=CeleryCommand)
@setting_flags
@click.option(
    "--audit",
    is_flag=True,
    cls=CeleryOption,
    help_group="Check Options",
    help="Also compare the ledger with the server's lists.",
)
@click.pass_context
@handle_preload_options
def check(ctx: click.Context, audit: bool, **flags: Any) -> None:
    """Verify the set-up of bridges and workers.

    Prints one line for each check, failures last. Exits with 0 if none failed, and with 1 otherwise.
    """
    from ..operations.check import check

    logging.getLogger("mr_celery").addHandler(logging.NullHandler())  # anything it would log is reported as a finding
    if ctx.obj.no_color:
        ctx.color = False
    use_running_up(ctx, flags)
    shown, failed, warnings = 0, [], 0
    for finding in check(ctx.obj.app, flags, with_audit=audit):
        shown += 1
        warnings += finding.ok and finding.warning
        if finding.ok:
            _print(finding)
        else:
            failed.append(finding)
    for finding in failed:
        _print(finding)
    also = f", {counted(warnings, 'warning')}" if warnings else ""
    echo()
    if failed:
        echo(styled(f"{len(failed)} of {counted(shown, 'check')} FAILED{also}", fg="red", bold=True))
    else:
        echo(f"{counted(shown, 'check')}, none failed{also}")
    sys.exit(1 if failed else 0)


def _print(finding: Finding) -> None:
    """Print a finding, with its hint if it is not fine."""
    mark, colour = (
        ("FAILED", "red") if not finding.ok else ("warning", "yellow") if finding.warning else ("ok", "green")
    )
    echo(f"{finding.what:<12} {styled(f'{mark:<7}', fg=colour, bold=not finding.ok)}  {finding.detail}")
    if mark != "ok":
        echo(f"{'':<20}  → {finding.hint}")
