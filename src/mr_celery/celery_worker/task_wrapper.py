"""Wraps decorated tasks in the runner. Calls of a task without a job reach its own code unchanged.

Methods that a task's base class overrides get the handler's arguments, although a job's message has none. Celery calls
``before_start`` and ``__call__`` with the arguments of the message, before the runner begins. For a job they are called
inside the run instead, with the handler's arguments. The hooks after the run, and ``apply_async`` for a Celery retry,
get the same arguments.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, wraps
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Literal

from celery.app.task import Task
from celery.exceptions import Ignore

from ..celery_compat import (
    argument_check,
    autoretried,
    intercept_messages,
    is_overridden,
    messages_without,
    replace_attribute,
    replace_class_attribute,
)
from ..errors import JobError
from ..handlers import Arguments, Declaration, handlers_of
from ..message import (
    HEADER,
    MAPPINGS,
    MemberMessage,
    Message,
    accept,
    header,
    limits_of,
    member_of_request,
    message_of_request,
    message_options,
    refuse,
)
from ..telemetry.tracebacks import calls_application, hide_variables, hides_variables
from .current import RequestedRetry, current_run, running_here
from .handing_over import Replaced
from .members import Members, running_member
from .redaction import SHOWN, mark
from .runner import Returned, Runner

logger = logging.getLogger("mr_celery.worker")

RETRY_OPTIONS = frozenset({"countdown", "eta", "retries"})
"""The options of a Celery retry that the bridge can set, too."""

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


def install(app: Any, runner: Runner, members: Members | None = None) -> ExitStack:
    """Wrap every decorated task of an application in a runner.

    Args:
        app: the Celery application.
        runner: runs jobs.
        members: runs the members of workflows, which any task may be; ``None``: there are none.

    Returns a stack that undoes it when it is closed.
    """
    undo = _wrapped(app, runner.run, accept, members)
    intercept_messages(app, undo)
    if members is None:
        return undo
    decorated = {handler.name for handler in handlers_of(app)}
    for task in list(app.tasks.values()):
        if task.name not in decorated:
            _wrap_member(task, members, undo)
        _intercept_replacements(task, members, undo)
    return undo


def keep_jobs_away(app: Any, why: str) -> ExitStack:
    """Refuse jobs for every decorated task of an application. Run as a plain call, a job would have no arguments.

    Args:
        app: the Celery application.
        why: what this worker lacks.

    Returns a stack that undoes it when it is closed.
    """

    def not_run(message: Message, *_: Any) -> Returned:
        # Such a message is not decoded, and does not get here unless the broker has dropped its compression header.
        message.log(logger).error("not_run", f"not run: {why}", reason=why)
        raise Ignore(f"job {message.job_id} is not run here")

    return _wrapped(app, not_run, partial(refuse, why=why))


def _wrapped(
    app: Any,
    run_job: Callable[..., Returned],
    encoding: Callable[[str], Callable[[], None]],
    members: Members | None = None,
) -> ExitStack:
    undo = ExitStack()
    for handler in handlers_of(app):
        _wrap_run(handler.task, handler.declaration, run_job, members, undo)
        _await_inside_autoretry(handler.task, undo)
        _skip_argument_check(handler.task, undo)
        _keep_options_in_retries(handler.task, undo)
        undo.callback(encoding(handler.name))
    return undo


def _wrap_run(
    task: Any,
    declaration: Declaration,
    run_job: Callable[..., Returned],
    members: Members | None,
    undo: ExitStack,
) -> None:
    original = _original(task)
    base_class = adapted(task, original, undo)

    @calls_application
    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        value: Any = None
        request = task.request
        try:
            if members is not None and getattr(request, "stamps", None):
                member = _member_of(request, task)
                if member is not None:
                    return members.run(member, task, partial(run, *args, **kwargs))
            message = message_of_request(request, task)
            if message is None:
                return original(*args, **kwargs)
            if running_here(message.task_id):
                value = original(*args, **kwargs)
                return value if base_class is None else base_class.value_for_call(value)
            try:
                _keep_header(request, message)
                handler = original if base_class is None else base_class.handler()
                value = run_job(message, handler, declaration, args, kwargs)
            except BaseException as error:
                mark(error, request, message.job_id)
                raise
            setattr(request, SHOWN, value.status)
            return value.value
        except BaseException as error:
            hide_variables(error)
            if sys.version_info < (3, 11):  # there, a plain raise restores the former traceback
                del args, kwargs, request, value
                raise error  # noqa: TRY201
            raise

    run._mr_celery_original = original  # type: ignore[attr-defined]
    replace_attribute(task, "run", run, undo)


def _original(task: Any) -> Callable[..., Any]:
    """The task's own code."""
    original: Callable[..., Any] = getattr(task.run, "_mr_celery_original", task.run)
    return original


def _wrap_member(task: Any, members: Members, undo: ExitStack) -> None:
    """Run a task under the fence if its message makes it a member of a workflow. Other calls reach it unchanged."""
    original = _original(task)

    @hides_variables
    @calls_application
    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        member = _member_of(request, task) if getattr(request, "stamps", None) else None
        if member is None:
            return original(*args, **kwargs)
        return members.run(member, task, partial(original, *args, **kwargs))

    run._mr_celery_original = original  # type: ignore[attr-defined]
    replace_attribute(task, "run", run, undo)


def _member_of(request: Any, task: Any) -> MemberMessage | None:
    """The member that a task's message starts, unless this is a call from its own code."""
    message = member_of_request(request)
    if message is None or running_here(message.key.member_id):
        return None
    hard, soft = limits_of(request, task)
    return replace(message, task_name=message.task_name or task.name, hard_limit=hard, soft_limit=soft)


def _intercept_replacements(task: Any, members: Members, undo: ExitStack) -> None:
    """Let a handler that replaces its task hand its job over, and a member's replacement be members."""
    replace_task, add_to_chord = task.replace, task.add_to_chord
    if hasattr(replace_task, "_mr_celery"):
        return

    @hides_variables
    @wraps(replace_task)
    def replaced(signature: Any, *args: Any, **kwargs: Any) -> Any:
        if running_member(members, task):
            signature = members.replacement(task, signature)
        elif _runs_job(task):
            raise Replaced(signature, returned=False)
        return replace_task(signature, *args, **kwargs)

    @hides_variables
    @wraps(add_to_chord)
    def added(signature: Any, *args: Any, **kwargs: Any) -> Any:
        if running_member(members, task):
            signature = members.addition(task, signature)
        elif _runs_job(task):
            raise JobError(
                "a handler is in no chord that self.add_to_chord() could add to: return the chord as a workflow",
                about="it called add_to_chord",
            )
        return add_to_chord(signature, *args, **kwargs)

    replaced._mr_celery = True  # type: ignore[attr-defined]
    replace_attribute(task, "replace", replaced, undo)
    replace_attribute(task, "add_to_chord", added, undo)


def _runs_job(task: Any) -> bool:
    """Whether the task's request is the run of a job's handler."""
    message = message_of_request(task.request)
    return message is not None and running_here(message.task_id)


def _await_inside_autoretry(task: Any, undo: ExitStack) -> None:
    """Run an ``async def`` handler inside Celery's ``autoretry_for=``, so that it catches the handler's exceptions."""
    function = autoretried(task)
    if function is None or hasattr(function, "_mr_celery"):
        return

    @calls_application
    @wraps(function)
    def awaited(*args: Any, **kwargs: Any) -> Any:
        value, run = function(*args, **kwargs), current_run()
        if run is None or run.task_id != task.request.id or not isawaitable(value):
            return value
        return run.wait_for(value)

    awaited._mr_celery = True  # type: ignore[attr-defined]
    replace_attribute(task, "_orig_run", awaited, undo)


def _skip_argument_check(task: Any, undo: ExitStack) -> None:
    """Let a handler retry without arguments: the next run gets them from the ledger."""
    check = argument_check(task)
    if check is None or hasattr(check, "_mr_celery"):
        return

    def lenient(*args: Any, **kwargs: Any) -> Any:
        if running_here(str(task.request.id)):
            return None
        return check(*args, **kwargs)

    lenient._mr_celery = True  # type: ignore[attr-defined]
    replace_attribute(task, "__header__", lenient, undo)


def _keep_options_in_retries(task: Task[Any, Any], undo: ExitStack) -> None:
    """Publish a job's Celery retries with the options of its first message, and add them to the current run.

    At a retry, Celery drops the representation of the arguments, and up to 5.6 the option that ignores the result.
    Arguments of a retry may have content of the job.
    """
    build = task.signature_from_request
    if hasattr(build, "_mr_celery"):
        return

    @hides_variables
    @wraps(build)
    def signature_from_request(request: Any = None, *args: Any, **options: Any) -> Any:
        signature = build(request, *args, **options)
        message = message_of_request(request or task.request)
        if message is None:
            return signature
        signature.set(**message_options(message.job_id, task.name))
        run = current_run()
        if run is not None and run.task_id == message.task_id:
            own = bool(signature.args or signature.kwargs or options.keys() - {"args", "kwargs"} - RETRY_OPTIONS)
            run.retries.append(RequestedRetry(signature, own=own))
        return signature

    signature_from_request._mr_celery = True  # type: ignore[attr-defined]
    replace_attribute(task, "signature_from_request", signature_from_request, undo)


def _keep_header(request: Any, message: Message) -> None:
    """Restore the job's header in a task's context, from which Celery builds the message of a retry.

    Some add-ons (sentry-sdk before 2.55) replace the headers by their own.
    """
    headers = request.headers if isinstance(request.headers, MAPPINGS) else {}
    if HEADER not in headers:
        request.headers = {**headers, **header(message.worker_name, message.job_id)}


# -- what a task's base class overrides --------------------------------------------------------------


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
        """The value that ``__call__`` gets from ``run``: that of an awaitable, unless ``__call__`` is ``async def``."""
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
        positional = inspect.signature(task.run).bind_partial(*args).arguments
    except TypeError:
        positional = {}
    return {name: value for name, value in bound.items() if name not in kwargs and name not in positional}
