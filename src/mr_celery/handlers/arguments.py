"""Fills a handler's arguments from a job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import JobError
from ..job import Job
from ..telemetry.tracebacks import call_application, calls_application

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """The arguments of one call of a handler. Its repr hides them.

    Args:
        positional: the positional arguments.
        named: the keyword arguments.
    """

    __slots__ = ("named", "positional")

    def __init__(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self.positional = positional
        self.named = named

    @calls_application
    def passed_to(self, handler: Callable[..., Any]) -> Any:
        """Call a handler. No frame up to its own has the arguments in a variable."""
        return handler(*self.positional, **self.named)


def bind(
    handler: Callable[..., Any],
    job: Job,
    *,
    fields: Collection[str] | None = None,
    arguments: Callable[[Job], Mapping[str, Any]] | None = None,
    given_args: tuple[Any, ...] = (),
    given_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The keyword arguments of a handler for a job.

    A parameter named ``job`` gets the whole job, and every other parameter the job's field of its name. With
    ``fields``, only these fill parameters. Arguments that the handler gave to a Celery retry override the job's fields.

    Args:
        handler: the task's ``run``, without ``self``.
        job: the job.
        fields: the declaration's ``fields=``: the job's fields that may fill parameters; ``None``: all of them.
        arguments: the declaration's ``arguments=``. If given, it makes the keyword arguments from the job.
        given_args: positional arguments of the call.
        given_kwargs: keyword arguments of the call.

    Raises:
        JobError: the job has no field for a required parameter, or ``arguments=`` did not return a mapping.
    """
    given = dict(given_kwargs or {})
    parameters = _parameters(handler)
    taken = {*given, *parameters.positional[: len(given_args)]}
    if arguments is not None:
        made = call_application(arguments, job)
        if not isinstance(made, Mapping):
            raise JobError(
                f"arguments= must return a mapping of keyword arguments, not {type(made).__name__}",
                about=f"arguments= returned {type(made).__name__}",
            )
        return {**{name: value for name, value in made.items() if name not in taken}, **given}
    bound: dict[str, Any] = {}
    missing: list[str] = []
    for name, is_required in parameters.named.items():
        if name in taken:
            continue
        if name == "job":
            bound[name] = job
        elif name in job and (fields is None or name in fields):
            bound[name] = job[name]
        elif is_required:
            missing.append(name)
    if missing:
        about = f"no field {' and no field '.join(map(repr, missing))}"
        raise JobError(
            f"job {job.id} has {about}, which the handler requires; it has {', '.join(sorted(job))}", about=about
        )
    return {**bound, **given}


def by_name(handler: Callable[..., Any], job: Job, fields: Collection[str] | None = None) -> dict[str, Any]:
    """The keyword arguments that :func:`bind` takes from the job's fields, without those that the job lacks.

    For Celery's routers, which may read a message's arguments. It calls no code of the application.
    """
    named = _parameters(handler).named
    filled = {name: job[name] for name in named if name in job and (fields is None or name in fields)}
    return {**filled, "job": job} if "job" in named else filled


def filled(handler: Callable[..., Any], fields: Collection[str] | None = None) -> list[str]:
    """The parameters that the author of a job can fill, apart from ``job``."""
    names = _parameters(handler).named
    return [name for name in names if name != "job" and (fields is None or name in fields)]


@dataclass(frozen=True)
class _Parameters:
    """The parameters of a handler, for :func:`bind`.

    Args:
        positional: the names of those that positional arguments fill.
        named: the names of those that keyword arguments fill, and whether each is required.
    """

    positional: tuple[str, ...]
    named: Mapping[str, bool]


@lru_cache(maxsize=1024)
def _parameters(handler: Callable[..., Any]) -> _Parameters:
    found = inspect.signature(handler).parameters.values()
    return _Parameters(
        tuple(each.name for each in found if each.kind in _POSITIONAL),
        {each.name: each.default is inspect.Parameter.empty for each in found if each.kind in _KEYWORD},
    )


def check_signature(handler: Callable[..., Any], name: str, fields: Collection[str] | None = None) -> str | None:
    """Return why a handler's parameters can never be filled by name, or ``None`` if they can.

    Args:
        handler: the task's ``run``, without ``self``.
        name: the task's name.
        fields: the declaration's ``fields=``.
    """
    named = _parameters(handler).named
    for parameter in inspect.signature(handler).parameters.values():
        required = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and required:
            return (
                f"{name}: its parameter {parameter.name!r} is positional-only, so no field of a job can fill it; "
                "remove the '/' or give @modelreins_job(arguments=…)"
            )
        if fields is not None and required and parameter.name in named and parameter.name not in {*fields, "job"}:
            return (
                f"{name}: its parameter {parameter.name!r} is required, and @modelreins_job(fields=…) lets no field of "
                "a job fill it; add it there or give it a default"
            )
    for field in fields or ():
        if field not in named:
            return f"{name}: fields= of @modelreins_job has {field!r}, and it has no parameter of that name to fill"
    return None
