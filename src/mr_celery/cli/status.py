"""``status``: how the work stands, at one look or live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from .operating import ledger_flags, ledger_of, one_line_errors, settings_of
from .show import age, table

if TYPE_CHECKING:
    from ..operations import Status
    from ..settings import Settings

Style = Callable[..., str]

PRESENCE_SECONDS = 30.0
"""Seconds without an accepted report of presence from which it is shown as a fault."""


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Print JSON.")
@click.option(
    "--watch", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Go on, until Ctrl-C, each 2 s."
)
@ledger_flags
@click.pass_context
@handle_preload_options
def status(ctx: click.Context, as_json: bool, watch: bool, **flags: Any) -> None:
    """Show bridges, workers and jobs in flight, what waits longest, and how many jobs ended."""
    with one_line_errors(ctx):
        looks = list(_looks(ctx.obj.app, settings_of(ctx, flags)))
        while True:
            seen = [look() for look in looks]
            text = _json(seen) if as_json else "\n".join(lines(seen, ctx.obj.style))
            if watch and not as_json:
                click.clear()
            click.echo(text)
            if not watch:
                return
            try:
                time.sleep(2.0)
            except KeyboardInterrupt:
                return


def _looks(app: Any, settings: Settings) -> Iterator[Callable[[], Status]]:
    """What looks how the work of each worker name stands."""
    from ..bridge.sender import registry_of, routes_of
    from ..ledger import Fleet
    from ..operations import look

    for each in settings.each():
        ledger = ledger_of(each)
        routes = routes_of(app, registry_of(app, each), each.max_attempts)
        neighbours = [ledger_of(replace(each, name=name)) for name in each.neighbours]
        yield partial(look, ledger, Fleet(each.ledger_url), routes, each.max_inflight, neighbours)


def _json(seen: Sequence[Status]) -> str:
    """An object; with several worker names a list of them."""
    found = [each.to_json() for each in seen]
    return json.dumps(found[0] if len(found) == 1 else found)


def lines(seen: Sequence[Status], style: Style) -> Iterator[str]:
    """How the work of one worker name, or of several on one fleet, stands: lines for a terminal."""
    for status in seen:
        stamp = time.strftime("%H:%M:%S", time.localtime(status.at))
        yield f"{style(status.worker_name, bold=True)}  {_claiming(status, style)}  {stamp}"
        yield ""
        yield from _bridges(status, style)
        yield ""
        if status is seen[0]:
            yield from _workers(status)
            yield ""
        yield from _jobs(status, style)
        yield ""
        yield from _ended(status, style)
        if status is not seen[-1]:
            yield "\n"


def _claiming(status: Status, style: Style) -> str:
    if status.pause is None:
        return "claiming"
    since = age(max(0.0, status.at - status.pause.at))
    why = f": {status.pause.why}" if status.pause.why else ""
    return str(style(f"paused for {since} by {status.pause.by}{why}", fg="yellow"))


def _bridges(status: Status, style: Style) -> Iterator[str]:
    if not status.bridges:
        yield str(style("no bridge is online: nothing is claimed, and nothing is looked after", fg="red"))
        return

    def presence(seconds: float | None) -> str:
        return "never" if seconds is None else f"{age(seconds)} ago"

    rows = [
        (
            each.id,
            each.version,
            age(each.uptime),
            presence(each.presence_age),
            "token refused" if each.token_rejected else "ok",
        )
        for each in status.bridges
    ]
    yield from table(
        ("bridge", "version", "up for", "presence", ""), rows, right=(2, 3), paint=lambda _, cell: _alarm(cell, style)
    )


def _alarm(cell: str, style: Style) -> str:
    return str(style(cell, fg="red")) if cell.strip() in ("never", "token refused") else cell


def _workers(status: Status) -> Iterator[str]:
    if not status.nodes:
        yield "no worker is online: nothing is claimed until one is"
        return
    rows = [(each.hostname, each.concurrency, ", ".join(each.queues), each.version) for each in status.nodes]
    yield from table(("worker", "slots", "queues", "version"), rows, right=(1,))


def _jobs(status: Status, style: Style) -> Iterator[str]:
    pending = "?" if status.pending is None else status.pending
    head = ("pending", *status.states, "slots taken of share" if status.shared else "slots taken")
    yield from table(
        head, [(pending, *status.states.values(), f"{status.taken} of {status.capacity}")], right=range(len(head))
    )
    if status.waiting is not None:
        yield f"oldest waiting: job {status.waiting.job_id}, {age(status.waiting.seconds)}"
    if status.undelivered is not None:
        late = status.undelivered
        tried = f", {late.deliveries} tried" if late.deliveries else ""
        last = f", last answer: {late.why}" if late.why and late.deliveries else ""
        text = f"oldest undelivered: job {late.job_id}, {age(late.seconds)}{tried}{last}"
        yield str(style(text, fg="yellow")) if late.seconds > PRESENCE_SECONDS else text


def _ended(status: Status, style: Style) -> Iterator[str]:
    kinds = list(next(iter(status.ended.values())))
    rows: list[tuple[object, ...]] = []
    for seconds, counts in status.ended.items():
        total = sum(counts.values())
        rows.append((f"last {age(seconds)}", *counts.values(), f"{total / seconds * 60:.1f} /min"))

    def paint(column: int, cell: str) -> str:
        failed = column == 1 + kinds.index("failed") and cell.strip() != "0"
        return str(style(cell, fg="red")) if failed else cell

    yield from table(("ended", *kinds, "rate"), rows, right=range(1, len(kinds) + 2), paint=paint)
