"""``requeue``, ``fail``, ``pause``, ``resume`` and ``drain``: control jobs and claiming."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryOption, handle_preload_options

from ..telemetry.quantities import counted, duration
from .many import Change, change_jobs, many_flags
from .operating import AppCommand, ledger_flags, ledgers_of, one_line_errors, settings_of
from .selection import filter_of, selection_flags
from .terminal import echo, styled

if TYPE_CHECKING:
    from ..ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])


def _why(help: str, *, required: bool = False) -> Callable[[F], F]:
    return click.option("--why", cls=CeleryOption, help_group="Operator Options", help=help, required=required)


@click.command(cls=AppCommand)
@click.argument("job_ids", metavar="[ID]...", type=int, nargs=-1)
@selection_flags
@many_flags
@click.option(
    "--force",
    is_flag=True,
    cls=CeleryOption,
    help_group="Operator Options",
    help="Also requeue running and deferred jobs whose handler is declared with on_lost='fail'.",
)
@ledger_flags
@click.pass_context
@handle_preload_options
def requeue(ctx: click.Context, job_ids: tuple[int, ...], limit: int, yes: bool, force: bool, **flags: Any) -> None:
    """Start jobs in flight again.

    Give the ids of the jobs, or options that select jobs. Without --state, all claimed, sent, running and
    deferred jobs are selected.
    A current run loses its job, and is interrupted if its pool supports that. The job starts again within one lease. A
    job with a recorded outcome is never run again. An ended job can only be retried on the server.
    """
    from ..bridge.publisher import Publisher
    from ..operations import requeue

    with one_line_errors():
        wanted = filter_of(flags)
        settings, publisher = settings_of(ctx, flags), Publisher(ctx.obj.app)

        def step(ledger: Ledger, job_id: int) -> str:
            record = requeue(ledger, job_id, announce=publisher.announce_abort, lease=settings.lease, force=force)
            when = f"within {duration(settings.lease)}" if record.state == "running" else "now"
            return f"job {job_id} was {record.state}: attempt {record.attempt + 1} is sent {when}"

        change = Change("requeue", "requeued", step)
        change_jobs(ctx, settings, change, ids=job_ids, wanted=wanted, limit=limit, yes=yes)


@click.command(cls=AppCommand)
@click.argument("job_ids", metavar="[ID]...", type=int, nargs=-1)
@selection_flags
@many_flags
@_why("The jobs' output on the server, also shown by `jobs`.", required=True)
@ledger_flags
@click.pass_context
@handle_preload_options
def fail(ctx: click.Context, job_ids: tuple[int, ...], limit: int, yes: bool, why: str, **flags: Any) -> None:
    """End jobs in flight as failed.

    Give the ids of the jobs, or options that select jobs. Without --state, all claimed, sent, running and
    deferred jobs are selected.
    """
    from ..bridge.publisher import Publisher
    from ..operations import fail

    with one_line_errors():
        wanted = filter_of(flags)
        settings, publisher = settings_of(ctx, flags), Publisher(ctx.obj.app)

        def step(ledger: Ledger, job_id: int) -> str:
            record = fail(ledger, job_id, why, announce=publisher.announce_abort)
            return f"job {job_id} was {record.state}: it has failed now, and a bridge closes it on the server"

        change = Change("fail", "failed", step)
        change_jobs(ctx, settings, change, ids=job_ids, wanted=wanted, limit=limit, yes=yes)


@click.command(cls=AppCommand)
@_why("The reason that `status` shows.")
@ledger_flags
@click.pass_context
@handle_preload_options
def pause(ctx: click.Context, why: str | None, **flags: Any) -> None:
    """Stop claiming jobs until `resume`.

    The pause holds for all bridges of the worker names and across restarts. Jobs in flight continue, and presence is
    still reported.
    """
    from ..operations import pause

    with one_line_errors():
        for ledger in ledgers_of(settings_of(ctx, flags)):
            pause(ledger, why or "")
            left = counted(ledger.survey().in_flight, "job")
            echo(f"{ledger.worker_name}: paused; {left} in flight. Use `resume` to claim again")


@click.command(cls=AppCommand)
@ledger_flags
@click.pass_context
@handle_preload_options
def resume(ctx: click.Context, **flags: Any) -> None:
    """Claim jobs again after `pause` or `drain`."""
    with one_line_errors():
        for ledger in ledgers_of(settings_of(ctx, flags)):
            text = "jobs are claimed again" if ledger.resume() else "claiming was not paused"
            echo(f"{ledger.worker_name}: {text}")


@click.command(cls=AppCommand)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    cls=CeleryOption,
    help_group="Operator Options",
    help="Maximum seconds to wait; default: no limit.",
)
@click.option(
    "--deferred",
    is_flag=True,
    cls=CeleryOption,
    help_group="Operator Options",
    help="Also wait for the outcomes of deferred jobs.",
)
@_why("The reason that `status` shows.")
@ledger_flags
@click.pass_context
@handle_preload_options
def drain(ctx: click.Context, timeout: float | None, deferred: bool, why: str | None, **flags: Any) -> None:
    """Pause, and wait until no job is in flight.

    Use it before a deployment. Exits with 0 once no job is in flight, and with 1 on a timeout. Claiming stays paused
    until `resume`. Keep bridges and workers running, because they finish the jobs in flight. Deferred jobs survive a
    deployment, so it does not wait for them.
    """
    from ..operations import drain

    def report(left: int) -> None:
        if left:
            echo(f"{counted(left, 'job')} in flight")

    with one_line_errors():
        ledgers = ledgers_of(settings_of(ctx, flags))
        names = ", ".join(ledger.worker_name for ledger in ledgers)
        left = drain(ledgers, why=why or "drained", timeout=timeout, deferred=deferred, report=report)
        if left:
            text = f"{names}: not drained in {duration(timeout or 0)}, {counted(left, 'job')} in flight; still paused"
            echo(styled(text, fg="red"), err=True)
            sys.exit(1)
        waiting = sum(ledger.survey().states["deferred"] for ledger in ledgers)
        rest = f"except {counted(waiting, 'deferred job')}" if waiting else "no job is in flight"
        echo(f"{names}: drained, {rest}. Use `resume` to claim again")
