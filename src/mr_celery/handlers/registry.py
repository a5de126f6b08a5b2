"""Declarations of handlers, the handlers of one application, and the choice of one for a job."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import sysconfig
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Literal

import celery
import kombu
from celery.app.task import Task

from ..celery_compat import app_of_class, is_lazy, resolved
from ..errors import ApplicationError, MrCeleryError, RoutingError, as_text
from ..job import Job
from ..result import Review
from ..settings.worker_names import WorkerNameOptions
from .arguments import check_signature

logger = logging.getLogger("mr_celery.worker")

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")

MOST_LOGGED = 100
"""Maximum number of undeclared capabilities that are logged."""


@dataclass(frozen=True)
class Declaration:
    """The options of one ``@modelreins_job``. See :func:`modelreins_job` for the fields."""

    capabilities: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    match: Callable[[Job], object] | None = None
    risk_tier: str | None = None
    requires_secrets: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None
    arguments: Callable[[Job], Mapping[str, Any]] | None = None
    result: Callable[[Any], Any] | None = None
    on_error: Callable[[Job, BaseException], object] | None = None
    max_attempts: int | None = None
    on_lost: Literal["requeue", "fail"] = "requeue"
    review: Review | Callable[[Job, Any], Review | None] | None = None

    def fits(self, job: Job) -> bool:
        """Whether a job has a capability and the tags of the declaration."""
        return (not self.capabilities or any(each in self.capabilities for each in job.capabilities)) and (
            not self.tags or self.tags <= set(job.tags)
        )

    def covers(self, job: Job) -> int:
        """The number of the job's capabilities that are declared."""
        return len(set(self.capabilities).intersection(job.capabilities))

    @cached_property
    def takes_any(self) -> bool:
        """Whether it has no condition."""
        return not (self.capabilities or self.tags or self.match)

    @cached_property
    def precision(self) -> tuple[bool, int, bool]:
        """A sort key by specificity: a capability before tags, more tags before fewer, then ``match``."""
        return (bool(self.capabilities), len(self.tags), self.match is not None)

    @cached_property
    def names(self) -> frozenset[str]:
        """The capabilities and the tags."""
        return self.tags | frozenset(self.capabilities)

    @property
    def offers(self) -> str:
        """The accepted jobs in words."""
        parts = [" or ".join(self.capabilities), *(f"tag {tag}" for tag in sorted(self.tags))]
        parts.append(getattr(self.match, "__name__", "match") if self.match else "")
        return " + ".join(part for part in parts if part) or "any job"


_declared: list[tuple[Any, Declaration]] = []


def declare(target: Any, declaration: Declaration) -> None:
    """Add a decorated task."""
    _declared.append((target, declaration))


def declared() -> list[tuple[Any, Declaration]]:
    """All decorated tasks, unresolved, with their declarations, in the order of decoration."""
    return list(_declared)


def no_handler(jobs: str) -> str:
    """The reason why a job that no handler takes waits or fails.

    Args:
        jobs: the job, or the jobs, as in ``job 7`` or ``them``.
    """
    return f"no handler takes {jobs}"


class MatchRaised(MrCeleryError):
    """A handler's ``match=`` raised an exception, so it is not known whether the handler takes a job.

    The message leaves out the text of the exception, because it may repeat the job's fields.

    Args:
        task_name: the handler.
        why: the exception's class, and where it was raised.
    """

    def __init__(self, task_name: str, why: str) -> None:
        super().__init__(f"{task_name}: {why}")
        self.task_name = task_name
        self.why = why


@dataclass(frozen=True)
class Handler:
    """A registered task that takes jobs."""

    task: Any
    declaration: Declaration

    @cached_property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)

    def matches(self, job: Job) -> bool:
        """Call the declaration's ``match=``.

        Raises:
            MatchRaised: it raised.
        """
        if self.declaration.match is None:
            return True
        try:
            return bool(self.declaration.match(job))
        except BaseException as error:  # the function's own, even if no Exception: no signal is raised here
            why = f"match= raised {type(error).__name__}{_place(sys.exc_info()[2])}"
            raise MatchRaised(self.name, why) from error


def _cannot_take_a_job(handler: Handler) -> str | None:
    """Return why a task can never run a single job, or ``None`` if it can."""
    if inspect.isgeneratorfunction(handler.task.run) or inspect.isasyncgenfunction(handler.task.run):
        return f"{handler.name} is a generator (it has yield): a handler returns its result"
    if getattr(handler.task, "Strategy", Task.Strategy) != Task.Strategy:
        return (
            f"{handler.name} cannot take single jobs: its class {type(handler.task).__name__} receives messages in "
            "its own way (Strategy=, as celery-batches does). Decorate a plain task"
        )
    if getattr(handler.task.run, "__func__", None) is Task.run:
        return f"{handler.name} has no code to run: its class {type(handler.task).__name__} defines no run()"
    app = getattr(handler.task, "app", None)
    if app is not None and app.conf.task_protocol == 1:
        return (
            f"{handler.name} cannot take jobs: with task_protocol = 1 in the Celery configuration, messages have no "
            "headers, which jobs need. Remove that setting (the default is 2)"
        )
    return None


class Registry:
    """The handlers of an application, the most specific first.

    Args:
        handlers: the handlers, in the order of their declaration.
        undeclared: whether a handler without conditions may ``run`` a job whose capability no handler declares, or must
            ``refuse`` it.

    Raises:
        RoutingError: two handlers take the same jobs, or a handler's parameters cannot be filled.
    """

    def __init__(self, handlers: Iterable[Handler], *, undeclared: Literal["refuse", "run"] = "refuse") -> None:
        self._undeclared = undeclared
        self._logged: set[str] = set()
        self.handlers: Sequence[Handler] = tuple(
            sorted(handlers, key=lambda handler: handler.declaration.precision, reverse=True)
        )
        self._names = frozenset(self.offered)
        self._by_name = {handler.name: handler for handler in self.handlers}
        self._without_capability = self._candidates(None)
        self._by_capability = {name: self._candidates(name) for name in self._names}
        self._refuse_contradictions()

    def _candidates(self, capability: str | None) -> Sequence[Handler]:
        """The handlers that may take a job which requires one capability, or ``None``."""
        known = [(each, each.declaration.capabilities) for each in self.handlers]
        return tuple(each for each, capabilities in known if not capabilities or capability in capabilities)

    def _refuse_contradictions(self) -> None:
        same: dict[tuple[str | None, frozenset[str], int], list[Handler]] = defaultdict(list)
        for handler in self.handlers:
            declaration = handler.declaration
            for capability in declaration.capabilities or (None,):
                same[capability, declaration.tags, id(declaration.match)].append(handler)
            if why := _cannot_take_a_job(handler):
                raise RoutingError(why)
            if declaration.arguments is None and (
                why := check_signature(handler.task.run, handler.name, declaration.fields)
            ):
                raise RoutingError(why)
        for (capability, *_), twins in same.items():
            if len(twins) > 1:
                names = " and ".join(handler.name for handler in twins)
                one = replace(twins[0].declaration, capabilities=(capability,) if capability else ())
                raise RoutingError(f"{names} both take {one.offers}: give them different capabilities, tags or match=")

    def named(self, task_name: str) -> Handler | None:
        """The handler of a task name, or ``None``."""
        return self._by_name.get(task_name)

    def route(self, job: Job, *, matches: Callable[[Handler, Job], bool] = Handler.matches) -> Handler:
        """The most specific handler that takes a job.

        Args:
            job: the job.
            matches: calls the ``match=`` of a handler, as :meth:`Handler.matches` does.

        Raises:
            RoutingError: no handler takes it, or two equally specific ones do. The message is for the job's output.
            MatchRaised: a ``match=`` raised. It may succeed later.
        """
        required = job.capabilities
        if len(required) == 1:
            candidates = self._by_capability.get(required[0], self._without_capability)
        else:
            candidates = self.handlers if required else self._without_capability
        taking: list[Handler] = []
        for handler in candidates:
            declaration = handler.declaration
            if taking and declaration.precision < taking[0].declaration.precision:
                break
            if (declaration.tags or len(required) > 1) and not declaration.fits(job):
                continue
            if declaration.match is None or matches(handler, job):
                taking.append(handler)
        if len(taking) > 1:
            most = max(handler.declaration.covers(job) for handler in taking)
            taking = [handler for handler in taking if handler.declaration.covers(job) == most]
        if len(taking) == 1:
            if taking[0].declaration.takes_any and not self._names.issuperset(required):
                self._check_declared(taking[0], job)
            return taking[0]
        if taking:
            raise RoutingError(
                f"{' and '.join(handler.name for handler in taking)} match job {job.id} equally well: "
                "use match= or tags= to distinguish their jobs"
            )
        asked = f"capability {', '.join(job.capabilities)}" if job.capabilities else "no capability"
        offered = ", ".join(sorted({handler.declaration.offers for handler in self.handlers})) or "nothing"
        raise RoutingError(f"{no_handler(f'job {job.id}')}: it requires {asked}; this worker offers: {offered}")

    def _check_declared(self, handler: Handler, job: Job) -> None:
        """Refuse or log a job of a handler without conditions whose capability is not declared.

        A worker may not act outside of its declared capabilities.

        Raises:
            RoutingError: the job is refused.
        """
        named = job.named_capabilities  # without the tags, which job.capabilities may have
        missing = ", ".join(sorted(set(named) - self._names))
        if not missing:
            return
        if self._undeclared == "refuse":
            raise RoutingError(
                f"{no_handler(f'job {job.id}')}: it requires capability {missing}, which no handler declares. Declare "
                f"it with @modelreins_job({named[0]!r}), or set modelreins_undeclared to 'run' to let {handler.name} "
                "take such jobs"
            )
        if missing not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(missing)
            logger.warning(
                "%s takes jobs that require capability %r, which no handler declares (modelreins_undeclared)",
                handler.name,
                missing[:200],
            )

    def of(self, options: WorkerNameOptions, queue_of: Callable[[Handler], str]) -> Registry:
        """The handlers that are offered under a worker name.

        Args:
            options: the worker name, with its selection of handlers.
            queue_of: returns the queue of a handler's tasks.

        Raises:
            RoutingError: no handler has a capability or queue of the worker name, or none has both.
        """
        queues = {handler.name: queue_of(handler) for handler in self.handlers}
        for what, named, there in (
            ("capability", options.capabilities, self.offered),
            ("queue", options.queues, sorted(set(queues.values()))),
        ):
            if unknown := sorted(named.difference(there)):
                raise RoutingError(
                    f"modelreins_workers: {options.name!r} names the {what} {unknown[0]!r}, which no handler has; "
                    f"available: {', '.join(there) or 'none'}"
                )
        offered = [each for each in self.handlers if options.offers(each.declaration.names, queues[each.name])]
        if self.handlers and not offered:
            raise RoutingError(
                f"modelreins_workers: no handler with a capability of {options.name!r} is on one of its queues"
            )
        return Registry(offered, undeclared=self._undeclared)

    @property
    def offered(self) -> list[str]:
        """The declared capabilities and tags, sorted, as presence reports them to the server."""
        names: set[str] = set()
        for handler in self.handlers:
            names |= handler.declaration.names
        return sorted(names)


def _place(frames: TracebackType | None) -> str:
    """The line of the application's own function that raised, or called what raised; empty if it is not in Python."""
    where = next((each for each in traceback.extract_tb(frames) if not each.filename.startswith(_PACKAGE)), None)
    return f", in {where.name} ({where.filename}:{where.lineno})" if where else ""


def handlers_of(app: Any) -> list[Handler]:
    """The decorated tasks of an application, resolved. This finalizes the application."""
    found: dict[str, Handler] = {}
    for target, declaration in declared():
        for task in _tasks_of(app, target):
            found[task.name] = Handler(task, declaration)
    return list(found.values())


def load_registry(app: Any, *, undeclared: Literal["refuse", "run"] = "refuse") -> Registry:
    """Import the application's task modules, and return its handlers.

    Args:
        app: the Celery application.
        undeclared: as for :class:`Registry`.

    Raises:
        ApplicationError: a task module cannot be imported.
        RoutingError: the declarations contradict each other.
    """
    import_tasks(app)
    return Registry(handlers_of(app), undeclared=undeclared)


def import_tasks(app: Any) -> None:
    """Import the application's task modules.

    Raises:
        ApplicationError: one of them cannot be imported.
    """
    try:
        app.loader.import_default_modules()
    except MrCeleryError:
        raise
    except Exception as error:
        raise ApplicationError(
            f"a module of the application cannot be imported: {import_failure(error)}. Correct it; the worker fails "
            "in the same way"
        ) from error


def import_failure(error: Exception) -> str:
    """Why a module cannot be imported, and in which file: one line."""
    text = f"{type(error).__name__}: {as_text(error)}".splitlines()[0]
    frames = [each for each in traceback.extract_tb(error.__traceback__) if _is_of_the_application(each.filename)]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"


def _is_of_the_application(path: str) -> bool:
    """Whether a file is neither of the libraries that import an application's modules, nor of Python itself."""
    importing = map(os.path.dirname, (__file__, celery.__file__, kombu.__file__))
    if path.startswith(("<", *importing)):
        return False
    return "site-packages" in path or not path.startswith(sysconfig.get_path("stdlib"))


def _tasks_of(app: Any, target: Any) -> Iterable[Any]:
    """The application's tasks that a decorated task, lazy task or task class stands for.

    Raises:
        RoutingError: the class is abstract, or it belongs to the application and is not registered.
    """
    tasks = app.tasks
    if isinstance(target, type):
        found = [task for task in tasks.values() if type(task) is target]
        if not found and vars(target).get("abstract"):
            raise RoutingError(
                f"{target.__qualname__} is abstract, so it takes no job: decorate the classes that are registered"
            )
        if not found and app_of_class(target) is app:
            raise RoutingError(
                f"{target.__qualname__} is not registered, so it takes no job: add app.register_task("
                f"{target.__qualname__}())"
            )
        return found
    if is_lazy(target):
        try:
            target = resolved(target)
        except Exception as error:
            logger.debug("a decorated task belongs to no application here: %s", type(error).__name__)
            return []
    return [target] if tasks.get(target.name) is target else []
