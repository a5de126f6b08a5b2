"""``jobs``: lists jobs, or shows the history of one job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryOption, handle_preload_options

from ..telemetry.quantities import counted, duration
from .operating import AppCommand, ledger_flags, ledger_with, ledgers_of, one_line_errors, settings_of
from .selection import filter_of, limit_flag, selection_flags
from .show import paragraph, table, table_width, terminal_width
from .terminal import echo, echo_json, styled

if TYPE_CHECKING:
    from ..ledger import Event, Member
    from ..operations.jobs import History, JobSummary

MOST_MEMBERS = 50
"""Number of members of a workflow that are shown."""

COLOURS = {"failed": "red", "lost": "red", "refused": "red", "undelivered": "yellow"}


@click.command(cls=AppCommand)
@click.argument("job_id", metavar="[ID]", type=int, required=False)
@selection_flags
@limit_flag(50, "Maximum number of jobs.")
@click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Print JSON.")
@ledger_flags
@click.pass_context
@handle_preload_options
def jobs(ctx: click.Context, job_id: int | None, limit: int, as_json: bool, **flags: Any) -> None:
    """List jobs, or show the history of one.

    Lists the jobs in the ledger, those in flight first. The column "time" shows how long they have been in their state.
    For ended jobs, it is the time from the claim to the end. Below the list, one line for each reason shows why pending
    jobs wait. Prompts and results are not shown. They are on the server.
    """
    from ..operations import waiting_jobs
    from ..operations.jobs import Filter, history_of, listed
    from ..server.api import job_address

    with one_line_errors():
        wanted = filter_of(flags)
        settings = settings_of(ctx, flags)
        if job_id is not None:
            if wanted is not None:
                raise click.UsageError("give the id of one job, or options that select jobs")
            ledger = ledger_with(settings, job_id)
            history = history_of(ledger, job_id)
            output = job_address(settings.url, job_id) if settings.url else ""
            if as_json:
                echo_json(_to_json(history, output))
            else:
                _print(_history(history, output))
            return
        ledgers = ledgers_of(settings)
        for ledger in ledgers:
            found = listed(ledger, wanted or Filter(), limit=limit)
            if as_json:
                for each in found:
                    echo_json(each.to_json())
                continue
            if len(ledgers) > 1:
                echo(styled(f"{ledger.worker_name}:", bold=True))
            _print(job_table(list(found)) or ["no jobs"])
            if wanted is None:
                waits = waiting_jobs(ledger.bridges(), ledger.survey().now)
                for wait in waits:
                    _print(paragraph(wait.text, hanging=2) if table_width() else [wait.text])


def _print(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        echo(line)


def job_table(found: Sequence[JobSummary]) -> list[str]:
    """Format jobs as a table; empty without jobs."""
    if not found:
        return []
    rows = []
    for each in found:
        seconds = each.duration if each.over else each.seconds
        took, attempt = "" if seconds is None else duration(seconds), f"{each.attempt} of {each.max_attempts}"
        rows.append((each.id, each.state, each.capability, each.task, took, attempt, each.reason))

    def paint(column: int, cell: str) -> str:
        return _coloured(cell) if column == 1 else cell

    head = ("job", "state", "capability", "task", "time", "attempt", "reason")
    return table(head, rows, right=(0, 4), paint=paint, width=table_width(), cut=(2, 3, 6))


def _coloured(cell: str) -> str:
    """A state or an event, in a colour if something is wrong."""
    colour = COLOURS.get(cell.strip())
    return styled(cell, fg=colour) if colour else cell


def _to_json(history: History, output: str) -> dict[str, Any]:
    return {
        **history.job.to_json(),
        "output": output,
        "events": [event.__dict__ for event in history.events],
        "members": [member.__dict__ for member in history.members],
        "seconds_in_states": history.seconds,
    }


def _history(history: History, output: str) -> Iterator[str]:
    job = history.job
    days = sorted({time.strftime("%Y-%m-%d", time.localtime(event.at)) for event in history.events})
    yield "  ".join([styled(f"job {job.id}", bold=True), _coloured(job.state), *(days if len(days) == 1 else ())])
    facts = {**history.facts, "output": output and f"{output} or on the server's page" if job.over else ""}
    for name, fact in facts.items():
        if fact:
            yield from paragraph(f"{name}: {fact}", hanging=len(name) + 2)
    yield ""
    if history.members:
        yield from _members(history.members, with_day=len(days) > 1)
        yield ""
    yield from _events(history.events, with_day=len(days) > 1)


def _members(members: Sequence[Member], *, with_day: bool) -> Iterator[str]:
    """The members of the job's workflow as a table. A large one shows those that are not done."""
    shown = members if len(members) <= MOST_MEMBERS else [each for each in members if each.state != "done"]
    shown = shown[:MOST_MEMBERS]
    rows = [
        (
            each.task_name,
            each.state,
            _time(each.since, with_day=with_day),
            each.node,
            each.retries or "",
            each.member_id,
        )
        for each in shown
    ]

    def paint(column: int, cell: str) -> str:
        return _coloured(cell) if column == 1 else cell

    yield from table(("member", "state", "since", "node", "retries", "task id"), rows, paint=paint, width=table_width())
    if len(shown) < len(members):
        yield f"and {counted(len(members) - len(shown), 'more member')}, which --json lists"


def _time(at: float, *, with_day: bool) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S" if with_day else "%H:%M:%S", time.localtime(at))


def _events(events: Sequence[Event], *, with_day: bool) -> Iterator[str]:
    before = events[0].at if events else 0.0
    rows = []
    for event in events:
        stamp = _time(event.at, with_day=with_day)
        milliseconds = f"{int(event.at % 1 * 1000):03d}"
        after = f"+{duration(event.at - before)}"
        rows.append((f"{stamp}.{milliseconds}", after, event.attempt or "", event.event, event.note))
        before = event.at

    def paint(column: int, cell: str) -> str:
        if column == 4:
            return styled(cell, fg="red") if cell.startswith("failed") else cell
        return _coloured(cell) if column == 3 else cell

    head = ("when", "after", "attempt", "event", "note")
    yield from table(head, rows, right=(1, 2), paint=paint, width=terminal_width(), wrap=True)
