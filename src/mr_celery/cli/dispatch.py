"""``dispatch``: dispatches jobs to this application, and follows them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryOption, handle_preload_options

from ..telemetry.printing import printable
from ..telemetry.quantities import counted, duration
from .operating import AppCommand, one_line_errors, settings_of
from .terminal import complain, echo, echo_lines, styled

if TYPE_CHECKING:
    from ..operations.dispatch import Ended, Session

GROUP = "Dispatch Options"
COLOURS = {"done": "green", "failed": "red", "escalated": "yellow", "running": "cyan"}
ESCALATED, TIMED_OUT = 3, 4
"""Exit codes, besides 0 for done and 1 for failed or refused."""

SHOWN_ENDS = 10
"""Maximum number of jobs that are listed one by one because they are not done."""


@click.command(cls=AppCommand)
@click.argument("prompt", required=False)
@click.option("--capability", cls=CeleryOption, help_group=GROUP, help="The capability that the job requires.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    cls=CeleryOption,
    help_group=GROUP,
    help="A further field; the value is JSON or text. May be given several times.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    default=1,
    cls=CeleryOption,
    help_group=GROUP,
    help="Number of jobs with this prompt.",
)
@click.option(
    "--from-file",
    type=click.File(encoding="utf-8"),
    cls=CeleryOption,
    help_group=GROUP,
    help="A file with the fields of one job per line as JSON; - for standard input.",
)
@click.option(
    "--wait", is_flag=True, cls=CeleryOption, help_group=GROUP, help="Wait for the end, and print the output."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    cls=CeleryOption,
    help_group=GROUP,
    help="Maximum seconds to wait; default: no limit.",
)
@click.option(
    "--url", cls=CeleryOption, help_group="ModelReins Options", help="The ModelReins server. [MODELREINS_URL]"
)
@click.option(
    "--name",
    cls=CeleryOption,
    help_group="ModelReins Options",
    help="The worker name that gets the jobs. [MODELREINS_NAME]",
)
@click.pass_context
@handle_preload_options
def dispatch(
    ctx: click.Context,
    prompt: str | None,
    capability: str | None,
    fields: Sequence[str],
    count: int,
    from_file: IO[str] | None,
    wait: bool,
    timeout: float | None,
    **flags: Any,
) -> None:
    """Dispatch jobs to this application.

    A sandbox accepts the worker's token. On other servers, set MODELREINS_API_KEY to a user's API key. With --wait, the
    exit code is 0 if all jobs are done, 1 if one failed, 3 if one was escalated, and 4 on a timeout.
    """
    from ..operations.dispatch import Session, name_for

    jobs = _jobs(prompt, capability, fields, count, from_file)
    with one_line_errors():
        settings = settings_of(ctx, flags)
        name = name_for(ctx.obj.app, settings, capability)
        token = settings.token_of(name)
        with Session.open(replace(settings, name=name, token=token)) as session:
            if len(jobs) == 1:
                sys.exit(_one(session, jobs[0], timeout, wait=wait))
            sys.exit(_many(session, jobs, timeout, wait=wait))


def _jobs(
    prompt: str | None, capability: str | None, fields: Sequence[str], count: int, from_file: IO[str] | None
) -> list[dict[str, Any]]:
    """The fields of each job.

    Raises:
        UsageError: the arguments contradict each other, or cannot be parsed.
    """
    from ..errors import MrCeleryError
    from ..operations.dispatch import parse_field, parse_lines

    common: dict[str, Any] = {"capability": capability} if capability else {}
    for text in fields:
        try:
            name, value = parse_field(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--field") from None
        common[name] = value
    if from_file is None:
        if prompt is None:
            raise click.UsageError("give a prompt or --from-file")
        return [{**common, "prompt": prompt}] * count
    if prompt is not None:
        common["prompt"] = prompt
    try:
        jobs = parse_lines(from_file, common) * count
    except MrCeleryError as error:
        raise click.BadParameter(str(error), param_hint="--from-file") from None
    if not jobs:
        raise click.BadParameter("the file has no jobs", param_hint="--from-file")
    return jobs


def _one(session: Session, fields: Mapping[str, Any], timeout: float | None, *, wait: bool) -> int:
    """Dispatch one job, and print each of its states."""
    job_id = session.dispatch(fields)
    until = session.deadline(timeout)

    def show(status: str, note: str = "") -> None:
        echo(f"job {job_id}  {styled(status, fg=COLOURS.get(status))}{note}")

    if not wait:
        echo(f"job {job_id} dispatched")
        return 0
    show("pending")
    ended = session.follow(
        job_id,
        until=until,
        changed=lambda status: show(status) if status == "running" else None,
        trouble=_trouble,
    )
    if not ended.over:
        _report_timeout([ended], timeout or 0)
        return TIMED_OUT
    show(ended.status, f"  after {duration(ended.seconds)}")
    if ended.output:
        echo()
        echo_lines(ended.output.rstrip())
    if ended.artifacts:
        echo()
    for address in ended.artifacts:
        echo(f"artifact {address}")
    return _exit_code([ended])


def _many(session: Session, jobs: Sequence[Mapping[str, Any]], timeout: float | None, *, wait: bool) -> int:
    """Dispatch several jobs with a progress bar, and print a summary."""
    ids: list[int] = []
    try:
        with click.progressbar(jobs, label="dispatching", file=sys.stderr) as bar:
            ids.extend(session.dispatch(fields) for fields in bar)
    finally:
        if ids:
            listed = f"job {ids[0]}" if len(ids) == 1 else f"jobs {ids[0]} to {ids[-1]}"
            echo(f"{listed} dispatched ({len(ids)} of {len(jobs)})")
    if not wait:
        return 0
    until = session.deadline(timeout)
    found: list[Ended] = []
    with click.progressbar(ids, label="waiting    ", file=sys.stderr) as bar:
        for job_id in bar:
            ended = session.follow(job_id, until=until, changed=lambda status: None, trouble=_trouble)
            found.append(ended)
    unlike = [each for each in found if each.over and each.status != "done"]
    for each in unlike[:SHOWN_ENDS]:
        last = each.output.strip().splitlines()[-1:] or [""]
        status = styled(each.status, fg=COLOURS.get(each.status))
        echo(f"job {each.id}  {status}  {printable(last[0], 100)}".rstrip())
    if len(unlike) > SHOWN_ENDS:
        echo(f"… and {len(unlike) - SHOWN_ENDS} more that are not done")
    counts = Counter(each.status if each.over else "not over" for each in found)
    slowest = max(each.seconds for each in found)
    echo(f"{', '.join(f'{number} {status}' for status, number in counts.most_common())} in {duration(slowest)}")
    if waiting := [each for each in found if not each.over]:
        _report_timeout(waiting, timeout or 0)
    return _exit_code(found)


def _exit_code(found: Sequence[Ended]) -> int:
    """The exit code. A timeout takes precedence over a failed job, and a failed job over an escalated one."""
    if not all(each.over for each in found):
        return TIMED_OUT
    statuses = {each.status for each in found} - {"done", "completed"}
    return 0 if not statuses else ESCALATED if statuses == {"escalated"} else 1


def _report_timeout(waiting: Sequence[Ended], seconds: float) -> None:
    what = (
        f"job {waiting[0].id} is still {waiting[0].status}"
        if len(waiting) == 1
        else f"{counted(len(waiting), 'job')} are not over"
    )
    complain(f"{what} after {duration(seconds)}; `celery -A proj modelreins status` shows why jobs wait")


def _trouble(why: str) -> None:
    complain(f"still waiting: {why}", colour="yellow")
