"""The options by which commands select jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryOption

from ..telemetry.quantities import seconds_of

if TYPE_CHECKING:
    from ..operations.jobs import Filter

F = TypeVar("F", bound=Callable[..., Any])


def _duration(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


OPTIONS: dict[str, dict[str, Any]] = {
    "states": {
        "help": "Jobs in this state: admitted, claimed, sent, running, deferred, finished, done, failed, escalated, "
        "superseded, aborted. May be repeated.",
        "multiple": True,
    },
    "task": {"help": "Jobs of this task."},
    "capability": {"help": "Jobs that require this capability."},
    "since": {
        "help": "Jobs that reached their state in the last 90s, 30min, 1h, 2d, …",
        "type": _duration,
        "metavar": "DURATION",
    },
    "older_than": {"help": "Jobs that have been in their state for longer.", "type": _duration, "metavar": "DURATION"},
}
"""The options that select jobs, by the fields of :class:`~mr_celery.operations.jobs.Filter`."""


def selection_flags(command: F) -> F:
    """Add the options that select jobs to a command."""
    for name, options in reversed(OPTIONS.items()):
        flag = "--state" if name == "states" else f"--{name.replace('_', '-')}"
        command = click.option(flag, name, cls=CeleryOption, help_group="Selection Options", **options)(command)
    return command


def limit_flag(default: int, about: str) -> Callable[[F], F]:
    """The option for the maximum number of jobs."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 10_000),
        default=default,
        show_default=True,
        cls=CeleryOption,
        help_group="Selection Options",
        help=about,
    )


def filter_of(flags: dict[str, Any]) -> Filter | None:
    """Take the options that select jobs out of a command's flags. ``None`` if none is set.

    Raises:
        MrCeleryError: a state does not exist.
    """
    from ..operations.jobs import Filter

    given = {name: flags.pop(name) for name in OPTIONS}
    return Filter(**given) if any(value not in (None, ()) for value in given.values()) else None
