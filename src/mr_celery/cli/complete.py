"""``complete``: ends a deferred job, or lets it wait longer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from celery.bin.base import CeleryOption, handle_preload_options

from .operating import AppCommand, ledger_flags, one_line_errors, settings_of
from .terminal import complain, echo

F = TypeVar("F", bound=Callable[..., Any])


def _outcome_option(flag: str, help: str, **options: Any) -> Callable[[F], F]:
    return click.option(flag, cls=CeleryOption, help_group="Outcome Options", help=help, **options)


@click.command(cls=AppCommand)
@click.argument("reference", metavar="REF")
@_outcome_option("--result", "The job's output; - reads it from stdin.")
@_outcome_option("--artifact", "A file to upload. May be repeated.", multiple=True, type=click.Path())
@_outcome_option("--fail", "Fail the job with this output instead.", metavar="WHY")
@_outcome_option("--escalate", "Close the job as escalated with this output instead.", metavar="WHY")
@_outcome_option(
    "--extend",
    "Do not end the job: move its deadline to this many seconds from now, unless it is later already.",
    type=float,
    metavar="SECONDS",
)
@ledger_flags
@click.pass_context
@handle_preload_options
def complete(
    ctx: click.Context,
    reference: str,
    result: str | None,
    artifact: tuple[str, ...],
    fail: str | None,
    escalate: str | None,
    extend: float | None,
    **flags: Any,
) -> None:
    """End a deferred job by its reference.

    The reference is the handler's job.ref. Exits with 1 if the job was completed before, has ended, was aborted, or is
    in another attempt.
    """
    from ..completion import Caller
    from ..handlers import import_tasks
    from ..result import Artifact, Result

    given = [each for each in (result, fail, escalate, extend) if each is not None]
    if len(given) > 1 or (artifact and (escalate, extend) != (None, None)):
        raise click.UsageError(
            "give only one of --result, --fail, --escalate and --extend; --artifact works only with a result or --fail"
        )
    with one_line_errors():
        files = [Artifact(path=each) for each in artifact]
        import_tasks(ctx.obj.app)  # the handler may declare result= or review=
        caller = Caller(reference, ctx.obj.app, settings=settings_of(ctx, flags))
        if extend is not None:
            answer = caller.extend(extend)
        elif fail is not None:
            answer = caller.fail(fail, artifacts=files)
        elif escalate is not None:
            answer = caller.escalate(escalate)
        else:
            text = sys.stdin.read() if result == "-" else result or ""
            answer = caller.complete(Result(text, artifacts=files) if files else text)
        if not answer:
            complain(answer.text)
            sys.exit(1)
        echo("extended" if extend is not None else "accepted: a bridge closes the job on the server")
