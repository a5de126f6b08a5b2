"""``@modelreins_job``: how a Celery task is declared to take jobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from celery.app.task import Task
from celery.local import Proxy

from ..errors import RoutingError
from ..job import Job
from ..result import Review

T = TypeVar("T", bound=Callable[..., Any])
RISK_TIERS = ("auto", "audit", "approve", "session")


@dataclass(frozen=True)
class Declaration:
    """What ``@modelreins_job`` says of one handler. See :func:`modelreins_job` for the fields."""

    capability: str | None = None
    tags: frozenset[str] = frozenset()
    match: Callable[[Job], object] | None = None
    risk_tier: str | None = None
    arguments: Callable[[Job], Mapping[str, Any]] | None = None
    result: Callable[[Any], Any] | None = None
    on_error: Callable[[Job, BaseException], object] | None = None
    max_attempts: int | None = None
    on_lost: Literal["requeue", "fail"] = "requeue"
    review: Review | Callable[[Job, Any], Review | None] | None = None

    def takes(self, job: Job) -> bool:
        """Whether everything that the declaration asks of a job holds for this one."""
        return (
            (self.capability is None or self.capability in job.capabilities)
            and (not self.tags or self.tags <= set(job.tags))
            and (self.match is None or bool(self.match(job)))
        )

    @property
    def precision(self) -> tuple[bool, int, bool]:
        """How exactly it names its jobs: a capability before tags, more tags before fewer, then ``match``."""
        return (self.capability is not None, len(self.tags), self.match is not None)

    @property
    def names(self) -> frozenset[str]:
        """Its capability and its tags."""
        return self.tags | {self.capability} if self.capability else self.tags

    @property
    def offers(self) -> str:
        """What it takes, for messages."""
        parts = [self.capability or "", *(f"tag {tag}" for tag in sorted(self.tags))]
        parts.append(getattr(self.match, "__name__", "match") if self.match else "")
        return " + ".join(part for part in parts if part) or "any job"


_declared: list[tuple[Any, Declaration]] = []


def declared() -> list[tuple[Any, Declaration]]:
    """Every decorated task, unresolved, with its declaration, in the order of decoration."""
    return list(_declared)


@overload
def modelreins_job(target: T, /) -> T: ...
@overload
def modelreins_job(
    capability: str | None = None,
    /,
    *,
    tags: Iterable[str] = (),
    match: Callable[[Job], object] | None = None,
    risk_tier: Literal["auto", "audit", "approve", "session"] | None = None,
    arguments: Callable[[Job], Mapping[str, Any]] | None = None,
    result: Callable[[Any], Any] | None = None,
    on_error: Callable[[Job, BaseException], object] | None = None,
    max_attempts: int | None = None,
    on_lost: Literal["requeue", "fail"] = "requeue",
    review: Review | Callable[[Job, Any], Review | None] | None = None,
) -> Callable[[T], T]: ...


def modelreins_job(capability: Any = None, /, *, tags: Iterable[str] = (), **options: Any) -> Any:
    """Declare that a Celery task takes ModelReins jobs. The task stays what it was for all other callers.

    It goes above any Celery task as it stands: ``@app.task``, ``@shared_task``, a task class. Without
    capability, tags and match, the task takes every job that no other one takes.

    Args:
        capability: the capability that the job asks for, such as ``"image.generate"``.
        tags: tags that the job must all have.
        match: called with the job; whether this task takes it.
        risk_tier: ``auto``, ``audit``, ``approve`` or ``session``: for the registration.
        arguments: called with the job; returns the keyword arguments. Default: by parameter name.
        result: called with what the task returned; returns what the job's result is made of.
        on_error: called with the job and the exception when the handler raised.
        max_attempts: how often it is run in all when its worker is lost. Default: the setting.
        on_lost: ``"fail"`` for a handler that must not be run again once it was started.
        review: a review to file with every result, or a function of job and result that makes one.

    Raises:
        RoutingError: an option has a value that is not allowed, or the target is no Celery task.

    Example::

        @modelreins_job("image.generate", risk_tier="audit")
        @app.task
        def generate(prompt: str) -> Result: ...
    """
    # By type(), here and below: isinstance() would resolve a lazy task, and with it the whole application.
    if capability is None or issubclass(type(capability), str):
        declaration = _checked(capability, tags, options)

        def decorate(target: T) -> T:
            return _declare(target, declaration)

        return decorate
    if tags or options:
        raise RoutingError("@modelreins_job(…) takes its options before the task: @modelreins_job(tags=…) above it")
    return _declare(capability, Declaration())


def _checked(capability: str | None, tags: Iterable[str], options: dict[str, Any]) -> Declaration:
    def refuse(why: str) -> RoutingError:
        return RoutingError(f"@modelreins_job({capability!r}): {why}")

    if capability is not None and not capability.strip():
        raise refuse("a capability is a name such as 'image.generate'")
    listed = list(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else [None]
    if not all(isinstance(tag, str) and tag for tag in listed):
        raise refuse("tags= takes a list of texts")
    try:
        declaration = Declaration(capability=capability, tags=frozenset(map(str, listed)), **options)
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
    if any(other is target for other, _ in _declared):
        raise RoutingError(f"{declaration.offers}: this task is decorated twice; give it tags= or match= instead")
    _declared.append((target, declaration))
    return target
