"""The decorator ``@modelreins_job``, which declares that a Celery task takes jobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

from celery.app.task import Task
from celery.local import Proxy

from ..errors import RoutingError
from ..job import Job
from ..job_secrets import SCHEME
from ..result import Review
from .registry import Declaration, declare, declared

T = TypeVar("T", bound=Callable[..., Any])
RISK_TIERS = ("auto", "audit", "approve", "session")


@overload
def modelreins_job(target: T, /) -> T: ...
@overload
def modelreins_job(
    capability: str | None = None,
    /,
    *further: str,
    tags: Iterable[str] = (),
    match: Callable[[Job], object] | None = None,
    risk_tier: Literal["auto", "audit", "approve", "session"] | None = None,
    requires_secrets: Iterable[str] = (),
    fields: Iterable[str] | None = None,
    arguments: Callable[[Job], Mapping[str, Any]] | None = None,
    result: Callable[[Any], Any] | None = None,
    on_error: Callable[[Job, BaseException], object] | None = None,
    max_attempts: int | None = None,
    on_lost: Literal["requeue", "fail"] = "requeue",
    review: Review | Callable[[Job, Any], Review | None] | None = None,
) -> Callable[[T], T]: ...


def modelreins_job(capability: Any = None, /, *further: str, tags: Iterable[str] = (), **options: Any) -> Any:
    """Declare that a Celery task takes ModelReins jobs. Other callers of the task see no change.

    It can decorate any existing Celery task: ``@app.task``, ``@shared_task``, a task class. Without capability,
    tags and match, the task takes every job that no other one takes.

    Args:
        capability: a capability that the job requires, such as ``"image.generate"``.
        further: further capabilities; a job that requires any of them is taken.
        tags: tags that the job must have, all of them.
        match: called with the job, in the bridge; returns whether this task takes it. While it raises, the job waits.
        risk_tier: ``auto``, ``audit``, ``approve`` or ``session``: for the registration.
        requires_secrets: names such as ``"vault://prod/stripe-key"`` of secrets that the server resolves when it
            dispatches a job: for the registration, and to recognise them in the job.
        fields: the job's fields that may fill parameters: ``("prompt", "input")``. Default: a job's field fills every
            parameter of its name, also one with a default that was meant for your own calls. The parameter ``job`` gets
            the whole job in any case.
        arguments: called with the job; returns the keyword arguments. Default: by parameter name.
        result: called with the task's return value; returns the value that becomes the job's result.
        on_error: called with the job and the exception if the handler raises.
        max_attempts: the maximum number of runs if workers are lost. Default: the setting.
        on_lost: ``"fail"`` for a handler that must not run twice.
        review: a review to file with every result, or a function of job and result that returns one.

    Raises:
        RoutingError: an option is invalid, or the target is not a Celery task.

    Example::

        @modelreins_job("image.generate", risk_tier="audit")
        @app.task
        def generate(prompt: str) -> Result: ...
    """
    # By type(), here and below, because isinstance() would resolve a lazy task and with it the whole application.
    if capability is None or issubclass(type(capability), str):
        declaration = _checked([] if capability is None else [capability, *further], tags, options)

        def decorate(target: T) -> T:
            return _declare(target, declaration)

        return decorate
    if further or tags or options:
        raise RoutingError(
            "pass the options of @modelreins_job in parentheses, and put it above the task: @modelreins_job(tags=[…])"
        )
    return _declare(capability, Declaration())


def _checked(capabilities: list[str], tags: Iterable[str], options: dict[str, Any]) -> Declaration:
    def refuse(why: str) -> RoutingError:
        return RoutingError(f"@modelreins_job({', '.join(map(repr, capabilities)) or None}): {why}")

    if not all(isinstance(each, str) and each.strip() for each in capabilities):
        raise refuse("a capability is a name such as 'image.generate'")
    secrets = options.get("requires_secrets", ())
    secrets = tuple(secrets) if isinstance(secrets, Iterable) and not isinstance(secrets, str) else (None,)
    if not all(isinstance(name, str) and name.startswith(SCHEME) and name != SCHEME for name in secrets):
        raise refuse(f"requires_secrets= takes a list of names such as '{SCHEME}prod/stripe-key'")
    if secrets and not capabilities:
        raise refuse("requires_secrets= needs a capability to be registered with: name one")
    options = {**options, "requires_secrets": secrets}
    if (fields := options.get("fields")) is not None:
        fields = tuple(fields) if isinstance(fields, Iterable) and not isinstance(fields, str) else (None,)
        if not all(isinstance(field, str) and field.isidentifier() for field in fields):
            raise refuse("fields= takes a list of names of parameters such as 'prompt'")
        if options.get("arguments") is not None:
            raise refuse("arguments= makes all arguments, so fields= has no effect: give one of them")
        options["fields"] = tuple(dict.fromkeys(fields))
    listed = list(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else [None]
    if not all(isinstance(tag, str) and tag for tag in listed):
        raise refuse("tags= takes a list of strings")
    try:
        declaration = Declaration(
            capabilities=tuple(dict.fromkeys(str.__str__(each) for each in capabilities)),
            tags=frozenset(map(str, listed)),
            **options,
        )
    except TypeError as error:
        raise refuse(str(error).replace("Declaration.__init__()", "it")) from None
    for name in ("match", "arguments", "result", "on_error"):
        if getattr(declaration, name) is not None and not callable(getattr(declaration, name)):
            raise refuse(f"{name}= takes a function")
    if declaration.risk_tier is not None and declaration.risk_tier not in RISK_TIERS:
        raise refuse(f"risk_tier={declaration.risk_tier!r} is not one of {', '.join(RISK_TIERS)}")
    if declaration.on_lost not in ("requeue", "fail"):
        raise refuse(f"on_lost={declaration.on_lost!r} is neither 'requeue' nor 'fail'")
    attempts = declaration.max_attempts
    if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
        raise refuse(f"max_attempts={attempts!r} is not a whole number from 1")
    if not (declaration.review is None or callable(declaration.review) or isinstance(declaration.review, Review)):
        raise refuse("review= takes a Review, or a function of job and result")
    return declaration


def _declare(target: T, declaration: Declaration) -> T:
    kind = type(target)
    lazy = issubclass(kind, Proxy)
    if not (lazy or issubclass(kind, Task) or (inspect.isclass(target) and issubclass(target, Task))):
        raise RoutingError(
            f"@modelreins_job goes above a Celery task, not above {getattr(target, '__name__', kind.__name__)!r}: "
            "write it above @app.task or @shared_task, not below"
        )
    if any(other is target for other, _ in declared()):
        raise RoutingError(
            f"{declaration.offers}: this task is already decorated with @modelreins_job. "
            "Use one decorator; it takes several capabilities: @modelreins_job('a', 'b')"
        )
    declare(target, declaration)
    return target
