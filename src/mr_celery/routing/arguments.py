"""From a job to a handler's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..errors import JobError
from ..job import Job

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def bind(
    handler: Callable[..., Any],
    job: Job,
    *,
    arguments: Callable[[Job], Mapping[str, Any]] | None = None,
    given_args: tuple[Any, ...] = (),
    given_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The keyword arguments with which ``handler`` takes ``job``.

    A parameter named ``job`` gets the whole job, every other one the job's field of its name. What the
    handler itself gave to a Celery retry goes before the job's fields.

    Args:
        handler: the task's ``run``, without ``self``.
        job: the job.
        arguments: the declaration's ``arguments=``: makes the keyword arguments from the job instead.
        given_args: positional arguments that the call has already.
        given_kwargs: keyword arguments that the call has already.

    Raises:
        JobError: a required parameter has no field of its name, or ``arguments=`` did not give a mapping.
    """
    given = dict(given_kwargs or {})
    parameters = _parameters(handler)
    positional = [each.name for each in parameters if each.kind in _POSITIONAL]
    taken = {*given, *positional[: len(given_args)]}
    if arguments is not None:
        made = arguments(job)
        if not isinstance(made, Mapping):
            raise JobError(f"arguments= must return a mapping of keyword arguments, not {type(made).__name__}")
        return {**{name: value for name, value in made.items() if name not in taken}, **given}
    bound: dict[str, Any] = {}
    missing: list[str] = []
    for parameter in parameters:
        if parameter.kind not in _KEYWORD or parameter.name in taken:
            continue
        if parameter.name == "job":
            bound["job"] = job
        elif parameter.name in job:
            bound[parameter.name] = job[parameter.name]
        elif parameter.default is inspect.Parameter.empty:
            missing.append(parameter.name)
    if missing:
        raise JobError(
            f"job {job.id} has no field {' and no field '.join(map(repr, missing))}, which the handler requires; "
            f"it has {', '.join(sorted(job))}"
        )
    return {**bound, **given}


@lru_cache(maxsize=1024)
def _parameters(handler: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(handler).parameters.values())


def check_signature(handler: Callable[..., Any], name: str) -> str | None:
    """Why a handler's parameters can never be filled by name; ``None`` if they can."""
    for parameter in _parameters(handler):
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.default is inspect.Parameter.empty:
            return (
                f"{name}: its parameter {parameter.name!r} is positional-only, so no field of a job can fill it; "
                "remove the '/' or give @modelreins_job(arguments=…)"
            )
    return None
