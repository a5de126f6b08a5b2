"""``jobs``: a list of jobs, or one job's whole story."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from .operating import ledger_flags, ledger_with, ledgers_of, one_line_errors, settings_of
from .show import age, table

if TYPE_CHECKING:
    from ..ledger import Ledger, Line, Record

COLOURS = {"failed": "red", "lost": "red", "undelivered": "yellow", "refused": "red", "aborted": "yellow"}


@click.command(cls=CeleryCommand)
@click.argument("job_id", metavar="[ID]", type=int, required=False)
@click.option(
    "--state",
    cls=CeleryOption,
    help_group="Operator Options",
    help="Only jobs in it: admitted, claimed, sent, running, finished, done, failed, escalated, superseded, aborted.",
)
@click.option("--task", cls=CeleryOption, help_group="Operator Options", help="Only jobs of that task.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    cls=CeleryOption,
    help_group="Operator Options",
    help="How many at the most.",
)
@click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Print JSON.")
@ledger_flags
@click.pass_context
@handle_preload_options
def jobs(
    ctx: click.Context,
    job_id: int | None,
    state: str | None,
    task: str | None,
    limit: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """List the jobs that the ledger knows, those in flight first; or tell one job's whole story.

    What they ask for and what they became is not shown: that is on the server.
    """
    from ..operations.jobs import listed, story_of

    with one_line_errors(ctx):
        settings = settings_of(ctx, flags)
        if job_id is not None:
            ledger = ledger_with(settings, job_id)
            record, story = story_of(ledger, job_id)
            fields = {**_fields(ledger, record, ledger.survey().now), "story": [line.__dict__ for line in story]}
            _print([json.dumps(fields)] if as_json else _story(record, story, ctx))
            return
        ledgers = ledgers_of(settings)
        for ledger in ledgers:
            found = listed(ledger, state=state, task=task, limit=limit)
            now = ledger.survey().now
            if as_json:
                _print(json.dumps(_fields(ledger, each, now)) for each in found)
                continue
            if len(ledgers) > 1:
                click.echo(ctx.obj.style(f"{ledger.worker}:", bold=True))
            _print(_list(found, now))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _state(record: Record) -> str:
    return record.how if record.how == "superseded" else record.status if record.state == "closed" else record.state


def _since(record: Record) -> float:
    return record.times.get(record.state) or record.times.get("ended", 0.0)


def _fields(ledger: Ledger, record: Record, now: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "worker_name": ledger.worker,
        "state": _state(record),
        "seconds": max(0.0, now - _since(record)),
        "task": record.route.task,
        "queue": record.route.queue,
        "attempt": record.attempt,
        "max_attempts": record.route.max_attempts,
        "task_id": record.task_id,
        "node": record.node,
        "deliveries": record.deliveries,
        "why": record.why,
    }


def _list(found: list[Record], now: float) -> Iterator[str]:
    if not found:
        yield "no jobs"
        return
    rows = [
        (each.id, _state(each), age(max(0.0, now - _since(each))), each.attempt, each.route.task, each.node)
        for each in found
    ]

    def paint(column: int, cell: str) -> str:
        return click.style(cell, fg=COLOURS.get(cell.strip())) if column == 1 else cell

    yield from table(("job", "state", "for", "attempt", "task", "node"), rows, right=(0, 2, 3), paint=paint)


def _story(record: Record, story: list[Line], ctx: click.Context) -> Iterator[str]:
    head = f"job {record.id}  {_state(record)}"
    yield str(ctx.obj.style(head, bold=True))
    yield (
        f"task {record.route.task or '(none takes it)'}, queue {record.route.queue}, attempt {record.attempt} of "
        f"{record.route.max_attempts}"
    )
    yield ""
    before = story[0].at if story else 0.0
    rows = []
    for line in story:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at)) + f".{int(line.at % 1 * 1000):03d}"
        rows.append((stamp, f"+{age(max(0.0, line.at - before))}", line.attempt or "", line.event, line.note))
        before = line.at

    def paint(column: int, cell: str) -> str:
        return click.style(cell, fg=COLOURS.get(cell.strip())) if column == 3 else cell

    yield from table(("when", "after", "attempt", "what", ""), rows, right=(1, 2), paint=paint)
