"""``status``: shows bridges, workers and jobs in flight, once or live."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryOption, handle_preload_options

from ..telemetry.quantities import counted, duration
from .operating import AppCommand, ledger_flags, one_line_errors, settings_of
from .show import table
from .terminal import echo, styled

if TYPE_CHECKING:
    from ..bridge.state import State
    from ..operations import Status

WIDTH = 80
"""Width of the lines in columns."""

SHOWN_WORKERS = 40
"""Number of workers that are listed."""

LATE_SECONDS = 30.0
"""Age in seconds from which an undelivered outcome is shown in yellow."""


@click.command(cls=AppCommand)
@click.option("--json", "as_json", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Print JSON.")
@click.option(
    "--watch", is_flag=True, cls=CeleryOption, help_group="Operator Options", help="Refresh every 2 s until Ctrl-C."
)
@click.option(
    "--check",
    is_flag=True,
    cls=CeleryOption,
    help_group="Operator Options",
    help="Exit with 1 if something is wrong.",
)
@ledger_flags
@click.pass_context
@handle_preload_options
def status(ctx: click.Context, as_json: bool, watch: bool, check: bool, **flags: Any) -> None:
    """Show the state, the workers and the jobs.

    Problems come first, with what to do about them. Also shows why pending jobs wait, the oldest undelivered outcome
    and the rate of ended jobs.
    """
    from ..operations import status_reader

    with one_line_errors():
        read = status_reader(ctx.obj.app, settings_of(ctx, flags))
        while True:
            shown, wrong = _once(read, as_json=as_json, survive=watch)
            if watch and not as_json:
                click.clear()
                shown = fitted(shown, shutil.get_terminal_size().lines - 1)
            for line in shown:
                echo(line)
            if not watch:
                sys.exit(1 if check and wrong else 0)
            try:
                time.sleep(2.0)
            except KeyboardInterrupt:
                return


def _once(read: Callable[[], Sequence[Status]], *, as_json: bool, survive: bool) -> tuple[list[str], bool]:
    """The status as lines, and whether something is wrong.

    Args:
        read: reads the status of each worker name.
        as_json: format it as one line of JSON.
        survive: show an unreachable ledger as a state instead of raising an error.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    from ..errors import LedgerUnavailable

    try:
        seen = read()
    except LedgerUnavailable as error:
        if not survive:
            raise
        return [styled(f"ledger unreachable: {error}", fg="red")], True
    return [_json(seen)] if as_json else list(lines(seen)), any(each.wrong for each in seen)


def fitted(lines: Sequence[str], height: int) -> list[str]:
    """The first lines that fit into a terminal, and a count of the others."""
    if len(lines) <= height:
        return list(lines)
    kept = max(1, height - 1)
    return [*lines[:kept], f"… {len(lines) - kept} more lines"]


def _json(seen: Sequence[Status]) -> str:
    """The status as a JSON object, or a list of objects for several worker names."""
    found = [each.to_json() for each in seen]
    return json.dumps(found[0] if len(found) == 1 else found)


def lines(seen: Sequence[Status]) -> Iterator[str]:
    """Format the status of the worker names of a fleet as lines for a terminal."""
    for status in seen:
        yield from _state(status)
        yield ""
        yield from _jobs(status)
        if status.bridges:
            yield ""
            yield from _bridges(status)
        if status is seen[0] and status.nodes:
            yield ""
            yield from _workers(status)
        yield ""
        yield from _ended(status)
        if status is not seen[-1]:
            yield ""
            yield ""


def _state(status: Status) -> Iterator[str]:
    """The state, everything else that is wrong, and why jobs wait, each with what to do."""
    from ..bridge.waiting import NO_FAULT

    stamp = time.strftime("%H:%M:%S", time.localtime(status.at))
    state = status.state.text if status.state.wrong or status.state.kind == "paused" else ""
    head = status.state.text if not state else status.state.kind.replace("_", " ")
    yield f"{styled(status.worker_name, bold=True)}  {_painted(status.state, head)}  {stamp}"
    for each in (status.state, *status.problems):
        if each is not status.state or state:
            yield from (_painted(each, line) for line in _wrapped(each.text))
        if each.advice:
            yield from _wrapped(f"→ {each.advice}")
    explained = {each.text for each in (status.state, *status.problems)}
    for waiting in status.waiting_jobs:
        if waiting.text in explained:
            continue
        for line in _wrapped(waiting.text):
            yield styled(line, fg="red") if waiting.reason not in NO_FAULT else line
    for difference in status.differences:
        yield from (styled(line, fg="yellow") for line in _wrapped(difference))


def _painted(state: State, text: str) -> str:
    colour = "red" if state.wrong else "yellow" if state.kind == "paused" else None
    return styled(text, fg=colour) if colour else text


def _wrapped(text: str) -> list[str]:
    """A sentence as lines of at most 80 columns, indented below the worker name."""
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _version(version: str, app_version: str) -> str:
    return version if app_version in ("", version) else f"{version} {app_version}"


def _bridges(status: Status) -> Iterator[str]:
    rows = [
        (
            _cut(each.id, 28),
            _cut(_version(each.version, each.app_version), 16),
            duration(each.uptime),
            status.presence(each),
            status.health(each),
        )
        for each in status.bridges
    ]

    def paint(column: int, cell: str) -> str:
        wrong = (column == 4 and cell.strip() != "ok") or cell.strip() == "never"
        return styled(cell, fg="red") if wrong else cell

    yield from table(("bridge", "version", "up for", "presence", ""), rows, right=(2, 3), paint=paint)


def _workers(status: Status) -> Iterator[str]:
    rows = [
        (
            _cut(each.hostname, 28),
            each.concurrency,
            _cut(", ".join(each.queues), 26),
            _cut(_version(each.version, each.app_version), 16),
        )
        for each in status.nodes[:SHOWN_WORKERS]
    ]
    yield from table(("worker", "slots", "queues", "version"), rows, right=(1,))
    if rest := status.nodes[SHOWN_WORKERS:]:
        slots = sum(each.concurrency for each in rest)
        yield f"and {counted(len(rest), 'more worker')} with {counted(slots, 'slot')}; --json lists all"


def _jobs(status: Status) -> Iterator[str]:
    pending = "?" if status.pending is None else status.pending
    head = ("pending", *status.states, "slots (share)" if status.shared else "slots taken")
    yield from table(
        head, [(pending, *status.states.values(), f"{status.taken} of {status.capacity}")], right=range(len(head))
    )
    if status.waiting is not None:
        yield f"oldest waiting: job {status.waiting.job_id}, {duration(status.waiting.seconds)}"
    if status.undelivered is not None:
        late = status.undelivered
        tried = f", {late.deliveries} tried" if late.deliveries else ""
        last = f", last answer: {late.why}" if late.why and late.deliveries else ""
        text = f"oldest undelivered: job {late.job_id}, {duration(late.seconds)}{tried}{last}"
        yield styled(text, fg="yellow") if late.seconds > LATE_SECONDS else text


def _ended(status: Status) -> Iterator[str]:
    kinds = list(next(iter(status.ended.values())))
    rows: list[tuple[object, ...]] = []
    for seconds, counts in status.ended.items():
        total = sum(counts.values())
        rows.append((f"last {duration(seconds)}", *counts.values(), f"{total / seconds * 60:.1f} /min"))

    def paint(column: int, cell: str) -> str:
        failed = column == 1 + kinds.index("failed") and cell.strip() != "0"
        return styled(cell, fg="red") if failed else cell

    yield from table(("ended", *kinds, "rate"), rows, right=range(1, len(kinds) + 2), paint=paint)
