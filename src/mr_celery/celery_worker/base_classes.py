"""Calls what a task's base class overrides as for a plain call, although a job's message has no arguments.

Celery calls ``before_start`` and ``__call__`` with the arguments of the message, before the runner begins. For a job
they are called inside the run instead, with the handler's arguments. The hooks after the run, and ``apply_async`` for a
Celery retry, get the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial, wraps
from inspect import isawaitable, iscoroutinefunction, signature
from typing import Any, Literal

from celery.app.task import Task

from ..celery_compat import (
    is_overridden,
    messages_without,
    replace_attribute,
    replace_class_attribute,
)
from ..handlers import Arguments
from ..message import message_of_request
from ..telemetry.tracebacks import calls_application, hides_variables
from .current import current_run, running_here

ARGUMENTS = "_mr_celery_arguments"
"""The attribute of a task's request with the arguments of its handler. No message and no result backend has them."""

_AWAITS = "_mr_celery_awaits"
"""The attribute of a task's request: ``__call__`` gets the value of an ``async def`` handler, and no awaitable."""

_ORIGINAL = "_mr_celery_overridden"

HOOKS: tuple[Literal["on_success", "on_failure", "on_retry", "after_return"], ...] = (
    "on_success",
    "on_failure",
    "on_retry",
    "after_return",
)


def adapted(task: Any, original: Callable[..., Any], undo: ExitStack) -> BaseClass | None:
    """Let a task's base class take jobs. Returns ``None`` if it overrides nothing.

    Args:
        task: the task.
        original: the task's own ``run``.
        undo: restores the task and its class.
    """
    steps = (_skip_early_call, _skip_early_before_start, _pass_arguments_to_hooks, _pass_arguments_to_apply_async)
    overrides = [step(task, undo) for step in steps]
    return BaseClass(task, original) if any(overrides) else None


class BaseClass:
    """The base class of a task that takes jobs.

    Args:
        task: the task.
        original: the task's own ``run``.
    """

    def __init__(self, task: Any, original: Callable[..., Any]) -> None:
        self._task = task
        self._original = original
        self._before_start = getattr(task.before_start, _ORIGINAL, None)
        self._call = getattr(type(task).__call__, _ORIGINAL, None)

    def handler(self) -> Callable[..., Any]:
        """The function that runs the handler of the current job as Celery does: ``before_start``, ``__call__``."""
        task, call, before_start = self._task, self._call, self._before_start
        request = task.request
        function = self._original if call is None else partial(call, task)

        @calls_application
        @wraps(self._original)
        def handler(*args: Any, **kwargs: Any) -> Any:
            setattr(request, ARGUMENTS, Arguments(args, kwargs))
            if before_start is not None:
                before_start(request.id, request.args, kwargs)
            if call is not None and not iscoroutinefunction(call):
                setattr(request, _AWAITS, True)
            return function(*args, **kwargs)

        return handler

    def value_for_call(self, value: Any) -> Any:
        """What ``run`` returns to ``__call__``: the value of an awaitable, unless ``__call__`` is ``async def``."""
        run = current_run()
        if vars(self._task.request).pop(_AWAITS, False) and run is not None and isawaitable(value):
            return run.wait_for(value)
        return value


def _is_early(task: Any) -> bool:
    """Whether Celery calls the task for a job before the runner."""
    message = message_of_request(task.request)
    return message is not None and not running_here(message.task_id)


# Each of these returns whether the base class overrides something.


def _skip_early_call(task: Any, undo: ExitStack) -> bool:
    """Let Celery call ``run``, and so the runner, for a job, in place of an overridden ``__call__``."""
    call = type(task).__call__
    if hasattr(call, _ORIGINAL) or not is_overridden(task, "__call__"):
        return hasattr(call, _ORIGINAL)

    @wraps(call)
    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs) if _is_early(self) else call(self, *args, **kwargs)

    setattr(late, _ORIGINAL, call)
    replace_class_attribute(type(task), "__call__", late, undo)
    return True


def _skip_early_before_start(task: Any, undo: ExitStack) -> bool:
    before_start = task.before_start
    if hasattr(before_start, _ORIGINAL) or not is_overridden(task, "before_start"):
        return hasattr(before_start, _ORIGINAL)

    @wraps(before_start)
    def late(*args: Any, **kwargs: Any) -> Any:
        return None if _is_early(task) else before_start(*args, **kwargs)

    setattr(late, _ORIGINAL, before_start)
    replace_attribute(task, "before_start", late, undo)
    return True


def _pass_arguments_to_hooks(task: Any, undo: ExitStack) -> bool:
    """Call the hooks that follow a run with the arguments that the handler was called with."""
    found = False
    for name in HOOKS:
        hook = getattr(task, name)
        if getattr(hook, "__func__", None) is getattr(Task, name):
            continue  # Celery's own does nothing
        found = True
        if hasattr(hook, "_mr_celery"):
            continue

        @calls_application
        def with_arguments(*given: Any, _hook: Any = hook, **named: Any) -> Any:
            arguments = getattr(task.request, ARGUMENTS, None)
            if arguments is None:
                return _hook(*given, **named)
            bound = arguments.named
            if "kwargs" in named:
                return _hook(*given, **{**named, "kwargs": bound})
            *before, _, last = given  # …, args, kwargs, einfo; on_success has no einfo
            return _hook(*given[:-1], bound) if _hook.__name__ == "on_success" else _hook(*before, bound, last)

        wrapper: Any = hides_variables(wraps(hook)(with_arguments))
        wrapper._mr_celery = True
        replace_attribute(task, name, wrapper, undo)
    return found


def _pass_arguments_to_apply_async(task: Any, undo: ExitStack) -> bool:
    """Call an overridden ``apply_async`` for a Celery retry with the arguments of the handler.

    The message has only what the handler gave to the retry, and what the override changed.
    """
    publish = task.apply_async
    if hasattr(publish, "_mr_celery") or not is_overridden(task, "apply_async"):
        return hasattr(publish, "_mr_celery")

    @hides_variables
    @calls_application
    @wraps(publish)
    def apply_async(args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        arguments, task_id = getattr(task.request, ARGUMENTS, None), task.request.id
        if arguments is None or options.get("task_id") != task_id:
            return publish(args, kwargs, *more, **options)
        hidden = _without(arguments.named, task, args or (), kwargs or {})
        with messages_without(hidden, task_id):
            return publish(args, {**hidden, **(kwargs or {})}, *more, **options)

    apply_async._mr_celery = True  # type: ignore[attr-defined]
    replace_attribute(task, "apply_async", apply_async, undo)
    return True


def _without(bound: Mapping[str, Any], task: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a handler that a retry does not replace by its own."""
    try:
        positional = signature(task.run).bind_partial(*args).arguments
    except TypeError:
        positional = {}
    return {name: value for name, value in bound.items() if name not in kwargs and name not in positional}
