"""Runs a step for given or selected jobs, with a preview and a confirmation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import click
from celery.bin.base import CeleryOption

from ..telemetry.quantities import counted
from .jobs import job_table
from .operating import ledger_with, ledgers_of
from .selection import limit_flag
from .terminal import complain, echo, styled

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..operations.jobs import Filter
    from ..settings import Settings

F = TypeVar("F", bound=Callable[..., object])

PREVIEWED = 10
"""Number of selected jobs that the preview lists."""


def many_flags(command: F) -> F:
    """Add the options for changing several jobs to a command."""
    command = limit_flag(1000, "Maximum number of selected jobs.")(command)
    return click.option(
        "--yes",
        is_flag=True,
        cls=CeleryOption,
        help_group="Operator Options",
        help="Do not ask before several jobs are changed.",
    )(command)


@dataclass(frozen=True)
class Change:
    """A step that changes one job.

    Args:
        verb: the step's name: ``requeue``.
        done: its participle: ``requeued``.
        step: changes a job, and returns a line that reports it.
    """

    verb: str
    done: str
    step: Callable[[Ledger, int], str]


def change_jobs(
    ctx: click.Context,
    settings: Settings,
    change: Change,
    *,
    ids: Sequence[int],
    wanted: Filter | None,
    limit: int,
    yes: bool,
) -> None:
    """Change the jobs with these ids, or the selected ones after a confirmation. Exits with 1 if one cannot be changed.

    Raises:
        click.UsageError: neither ids nor a selection is given, or both are.
        LedgerUnavailable: a ledger cannot be reached.
    """
    if bool(ids) == (wanted is not None):
        raise click.UsageError("give the ids of jobs, or options that select jobs such as --state sent --task proj.x")
    chosen: Sequence[tuple[Ledger | None, int]] = [(None, job_id) for job_id in ids]
    if wanted is not None:
        chosen = _select(ctx, settings, change, wanted, limit=limit, yes=yes)
    changed = sum(_change(ctx, settings, change, ledger, job_id) for ledger, job_id in chosen)
    if len(chosen) > 1:
        echo(f"{changed} of {counted(len(chosen), 'job')} {change.done}")
    if changed < len(chosen):
        sys.exit(1)


def _change(ctx: click.Context, settings: Settings, change: Change, ledger: Ledger | None, job_id: int) -> bool:
    """Change one job, and report it. Without a ledger, it is looked up. Returns whether that succeeded."""
    from ..errors import LedgerUnavailable, MrCeleryError

    try:
        echo(change.step(ledger or ledger_with(settings, job_id), job_id))
    except LedgerUnavailable:
        raise
    except MrCeleryError as error:
        complain(str(error))
        return False
    return True


def _select(
    ctx: click.Context, settings: Settings, change: Change, wanted: Filter, *, limit: int, yes: bool
) -> list[tuple[Ledger, int]]:
    """Select jobs, show them, and ask whether to change them. Exits if they are not to be changed."""
    from ..operations.control import ENDED
    from ..operations.jobs import OPEN, listed

    wanted = wanted if wanted.states else replace(wanted, states=OPEN)
    found = [(ledger, job) for ledger in ledgers_of(settings) for job in listed(ledger, wanted, limit=limit + 1)]
    more, found = len(found) > limit, found[:limit]
    if not found:
        echo("no job is selected")
        sys.exit(0)
    for text in job_table([job for _, job in found[:PREVIEWED]]):
        echo(text)
    if len(found) > PREVIEWED:
        echo(f"… and {counted(len(found) - PREVIEWED, 'other job')}")
    if more:
        echo(f"These are the first {limit}; --limit allows more.")
    over = sum(job.over for _, job in found)
    if over:
        have = "it has" if len(found) == 1 else "they have all" if over == len(found) else f"{over} have"
        text = f"{counted(len(found), 'job')} selected, but {have} ended and cannot be {change.done}. {ENDED}"
        echo(styled(text, fg="red"), err=True)
    if over == len(found):
        sys.exit(1)
    if not yes:
        _ask(ctx, change, counted(len(found), "job"))
    return [(ledger, job.id) for ledger, job in found]


def _ask(ctx: click.Context, change: Change, jobs: str) -> None:
    if not sys.stdin.isatty():
        complain(f"{jobs} would be {change.done}, but there is no terminal to confirm it: add --yes")
        sys.exit(2)
    if not click.confirm(f"{change.verb.capitalize()} {jobs}?"):
        echo("nothing was changed")
        sys.exit(1)
