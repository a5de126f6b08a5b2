"""``requeue``, ``fail``, ``pause``, ``resume``, ``drain``: what an operator decides."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from .operating import ledger_flags, ledger_with, ledgers_of, one_line_errors, settings_of
from .show import age, counted

F = TypeVar("F", bound=Callable[..., Any])


def _why(help: str, *, required: bool = False) -> Callable[[F], F]:
    return click.option("--why", cls=CeleryOption, help_group="Operator Options", help=help, required=required)


@click.command(cls=CeleryCommand)
@click.argument("job_id", metavar="ID", type=int)
@click.option(
    "--force",
    is_flag=True,
    cls=CeleryOption,
    help_group="Operator Options",
    help="Also a job that runs and whose handler says that it must not be started twice.",
)
@ledger_flags
@click.pass_context
@handle_preload_options
def requeue(ctx: click.Context, job_id: int, force: bool, **flags: Any) -> None:
    """Start a job again that is claimed, sent or running.

    A run that goes on loses the job, and is interrupted where its pool can do that; the job starts again within a
    lease. A recorded outcome is never computed again.
    """
    from ..bridge.sender import Sender
    from ..operations import requeue

    with one_line_errors(ctx):
        settings = settings_of(ctx, flags)
        record = requeue(
            ledger_with(settings, job_id),
            job_id,
            announce=Sender(ctx.obj.app).announce_abort,
            lease=settings.lease,
            force=force,
        )
        within = age(settings.lease) if record.state == "running" else "moments"
        click.echo(f"job {job_id} was {record.state}: attempt {record.attempt + 1} is sent within {within}")


@click.command(cls=CeleryCommand)
@click.argument("job_id", metavar="ID", type=int)
@_why("The job's output: what whoever dispatched it is to read.", required=True)
@ledger_flags
@click.pass_context
@handle_preload_options
def fail(ctx: click.Context, job_id: int, why: str, **flags: Any) -> None:
    """End a job as failed that is claimed, sent or running."""
    from ..bridge.sender import Sender
    from ..operations import fail

    with one_line_errors(ctx):
        ledger = ledger_with(settings_of(ctx, flags), job_id)
        record = fail(ledger, job_id, why, announce=Sender(ctx.obj.app).announce_abort)
        click.echo(f"job {job_id} was {record.state}: it is failed now, and a bridge tells the server")


@click.command(cls=CeleryCommand)
@_why("Why, for others who look.")
@ledger_flags
@click.pass_context
@handle_preload_options
def pause(ctx: click.Context, why: str | None, **flags: Any) -> None:
    """Claim no more jobs, on all bridges of the worker names, until `resume`; also after restarts.

    What is in flight goes on, and presence is reported.
    """
    from ..operations import pause

    with one_line_errors(ctx):
        for ledger in ledgers_of(settings_of(ctx, flags)):
            pause(ledger, why or "")
            left = counted(ledger.survey().in_flight, "job")
            click.echo(f"{ledger.worker}: paused; {left} in flight. `resume` goes on")


@click.command(cls=CeleryCommand)
@ledger_flags
@click.pass_context
@handle_preload_options
def resume(ctx: click.Context, **flags: Any) -> None:
    """Claim jobs again after `pause` or `drain`."""
    with one_line_errors(ctx):
        for ledger in ledgers_of(settings_of(ctx, flags)):
            click.echo(f"{ledger.worker}: {'jobs are claimed again' if ledger.resume() else 'it was not paused'}")


@click.command(cls=CeleryCommand)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    cls=CeleryOption,
    help_group="Operator Options",
    help="Seconds to wait at the most; default: as long as it takes.",
)
@_why("Why, for others who look.")
@ledger_flags
@click.pass_context
@handle_preload_options
def drain(ctx: click.Context, timeout: float | None, why: str | None, **flags: Any) -> None:
    """Pause, and wait until no job is in flight: before a deployment.

    Exits with 0 once nothing is in flight, and with 1 if that is not so in time. It stays paused until `resume`.
    Bridges and workers must be running, since they end what is in flight.
    """
    from ..operations import drain

    def tell(left: int) -> None:
        if left:
            click.echo(f"{counted(left, 'job')} in flight")

    with one_line_errors(ctx):
        ledgers = ledgers_of(settings_of(ctx, flags))
        names = ", ".join(ledger.worker for ledger in ledgers)
        left = drain(ledgers, why=why or "drained", timeout=timeout, tell=tell)
        if left:
            said = f"{names}: not drained in {age(timeout or 0)}, {counted(left, 'job')} in flight; still paused"
            click.echo(ctx.obj.style(said, fg="red"), err=True)
            sys.exit(1)
        click.echo(f"{names}: drained, nothing is in flight. `resume` goes on")
