"""Wraps undocumented names of Celery, kombu and billiard, with one function for each use.

``tests/unit/test_celery_compat.py`` checks each of them against the installed versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import _state
from celery.app import trace, utils
from celery.app.trace import build_tracer, task_has_custom
from celery.local import Proxy


def is_lazy(target: object) -> bool:
    """Whether a task is a lazy proxy. This does not resolve it.

    ``isinstance()`` would resolve it, and with it the whole application.
    """
    return issubclass(type(target), Proxy)


def resolved(lazy_task: Any) -> Any:
    """Resolve a lazy task.

    Raises:
        Exception: its application cannot make the task.
    """
    return lazy_task._get_current_object()


def app_of_class(task_class: Any) -> Any:
    """The application that a task class was made for, or ``None``. The public ``app`` never returns ``None``."""
    return task_class._app


def current_task() -> Any:
    """The task that this thread executes, or ``None``.

    The public proxy ``celery.current_task`` cannot be compared with ``None``.
    """
    return _state.get_current_task()


@dataclass(frozen=True)
class TaskContext:
    """A Celery task and its request, which Celery keeps for the thread that executes it."""

    task: Any
    request: Any

    @staticmethod
    def current() -> TaskContext | None:
        """The context of the task that this thread executes, or ``None``."""
        task = current_task()
        return None if task is None else TaskContext(task, task.request_stack.top)

    def push(self) -> None:
        """Make this context the current one of this thread."""
        _state.push_current_task(self.task)  # type: ignore[attr-defined]
        self.task.request_stack.push(self.request)

    def pop(self) -> None:
        """Make the previous context the current one again."""
        self.task.request_stack.pop()
        _state.pop_current_task()  # type: ignore[attr-defined]


def active_requests(task_id: str) -> list[Any]:
    """The active requests of a task in this worker. A redelivered message can add a second one."""
    from celery.worker import state  # loads all of a worker

    active: Any = state.active_requests
    # Copied in one step: other threads change the set while it is read.
    requests = [reference() for reference in list(active.data)]
    return [request for request in requests if request is not None and request.id == task_id]


def request_context(request: Any) -> Any:
    """The task context of a worker's request."""
    return request._context


def pool_result(request: Any) -> Any:
    """The prefork pool's result of a request's execution, or ``None`` once the execution is over."""
    reference = getattr(request, "_apply_result", None)
    return None if reference is None else reference()


def is_handed_to_pool(request: Any) -> bool:
    """Whether a worker has handed a request to its pool."""
    return getattr(request, "_apply_result", None) is not None


def treat_as_connection_error(request: Any, error: type[BaseException]) -> None:
    """Make Celery treat an exception that acknowledging a request raises as a lost connection."""
    request._connection_errors = (*getattr(request, "connection_errors", ()), error)


def own_backend(task: Any) -> Any:
    """The result backend that was set for this task alone, or ``None``."""
    return task._backend


def argument_check(task: Any) -> Any:
    """The function with which Celery checks a task's arguments before publishing, or ``None``."""
    return getattr(task, "__header__", None)


def autoretried(task: Any) -> Any:
    """The function that Celery's ``autoretry_for=`` calls and whose exceptions it catches, or ``None``."""
    return getattr(task, "_orig_run", None)


def is_overridden(task: Any, name: str) -> bool:
    """Whether the class of a task overrides a method of Celery's own. A worker's own ``__call__`` does not count."""
    found = task_has_custom(task, name)
    return found is not None and getattr(vars(found)[name], "__module__", "") != trace.__name__


Replaced = Literal[
    "run",
    "before_start",
    "apply_async",
    "replace",
    "add_to_chord",
    "signature_from_request",
    "Request",
    "on_success",
    "on_failure",
    "on_retry",
    "after_return",
    "_backend",
    "_orig_run",
    "__header__",
    "__trace__",
]
"""The attributes of a task that are replaced. The last four are private, see the functions above."""


def replace_attribute(task: Any, name: Replaced, value: object, undo: ExitStack) -> None:
    """Set an attribute of a task. ``undo`` restores the task's own value, or else its class's."""
    restore_attribute(task, name, undo)
    setattr(task, name, value)


def restore_attribute(task: Any, name: Replaced, undo: ExitStack) -> None:
    """Let ``undo`` restore an attribute of a task that other code will replace."""
    own = vars(task)
    if name in own:
        undo.callback(setattr, task, name, own[name])
    else:
        undo.callback(own.pop, name, None)


def replace_class_attribute(kind: type, name: str, value: object, undo: ExitStack) -> None:
    """Set an attribute of a class. ``undo`` restores the class's own value, or else its base's."""
    if name in vars(kind):
        undo.callback(setattr, kind, name, vars(kind)[name])
    else:
        undo.callback(delattr, kind, name)
    setattr(kind, name, value)


def show_results(shown: Callable[[Any], Any], undo: ExitStack) -> None:
    """Let Celery's log and events show ``shown(value)`` instead of the value that a task returned."""
    represent: Any = trace.saferepr  # type: ignore[attr-defined]
    if hasattr(represent, "_mr_celery"):
        return

    def saferepr(value: Any, *args: Any, **kwargs: Any) -> Any:
        return represent(shown(value), *args, **kwargs)

    saferepr._mr_celery = True  # type: ignore[attr-defined]
    undo.callback(setattr, trace, "saferepr", represent)
    trace.saferepr = saferepr  # type: ignore[attr-defined]


@dataclass(frozen=True)
class CollectedMessage:
    """A task message that was collected instead of published.

    Args:
        name: the task's name.
        message: the complete message, as Celery built it.
        options: the publish options, including the route.
    """

    name: str
    message: Any
    options: dict[str, Any]

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers."""
        headers: dict[str, Any] = self.message.headers
        return headers

    @property
    def body(self) -> Any:
        """The task's arguments, not serialized."""
        return self.message.body


_collecting: ContextVar[list[CollectedMessage] | None] = ContextVar("mr_celery_collecting", default=None)


_hidden: ContextVar[tuple[str, Mapping[str, Any]]] = ContextVar("mr_celery_hidden")


def intercept_messages(app: Any, undo: ExitStack) -> None:
    """Make :func:`collected` and :func:`messages_without` work for an application, until ``undo`` is closed."""
    amqp = app.amqp
    publish = amqp.send_task_message
    if hasattr(publish, "_mr_celery"):
        return

    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        task_id, hidden = _hidden.get(("", {}))
        if hidden and message.headers.get("id") == task_id:
            args, kwargs, embedded = message.body
            kwargs = {key: value for key, value in kwargs.items() if key not in hidden or value is not hidden[key]}
            message = message._replace(body=(args, kwargs, embedded))
        collecting = _collecting.get()
        if collecting is None:
            return publish(producer, name, message, **options)
        collecting.append(CollectedMessage(name, message, options))
        return None

    send_task_message._mr_celery = True  # type: ignore[attr-defined]
    amqp.send_task_message = send_task_message
    undo.callback(setattr, amqp, "send_task_message", publish)


@contextmanager
def messages_without(arguments: Mapping[str, Any], task_id: str) -> Iterator[None]:
    """Leave these keyword arguments out of the message of a task that the block publishes in this context."""
    token = _hidden.set((task_id, arguments))
    try:
        yield
    finally:
        _hidden.reset(token)


@contextmanager
def collected() -> Iterator[list[CollectedMessage]]:
    """Collect the task messages that the block publishes in this context, instead of publishing them."""
    found: list[CollectedMessage] = []
    token = _collecting.set(found)
    try:
        yield found
    finally:
        _collecting.reset(token)


def publish_collected(app: Any, collected_message: CollectedMessage) -> None:
    """Publish a message that was collected. It may be repeated."""
    headers, properties, body, sent_event = collected_message.message
    copy = type(collected_message.message)(dict(headers), dict(properties), body, sent_event and dict(sent_event))
    with app.producer_or_acquire() as producer:
        app.amqp.send_task_message(producer, collected_message.name, copy, **collected_message.options)


def has_result_backend(app: Any) -> bool:
    """Whether an application has a result backend in which Celery can join groups."""
    try:
        app.backend.ensure_chords_allowed()
    except NotImplementedError:
        return False
    except Exception:
        return True  # it is configured but cannot be loaded, for instance because its package is missing
    return True


def exec_options(task: Any) -> dict[str, Any]:
    """The task's options for its messages: queue, time limits, serializer and so on."""
    return {key: value for key, value in task._get_exec_options().items() if value is not None}


def application_of_thread() -> Any:
    """The current application of this thread, or without one, as in a web server, the only one of this process.

    In such a thread, ``celery.current_app`` is an application without configuration, unless a default is set.
    """
    current: Any = _state.get_current_app()
    if current.set_as_current or current.main != "default":
        return current
    others = [each for each in _state._get_active_apps() if each is not current]  # type: ignore[attr-defined]
    return others[0] if len(others) == 1 else current


@contextmanager
def current_app_kept() -> Iterator[None]:
    """Restore the current and the default application of this thread after the block."""
    before, default = _state._tls.current_app, _state.default_app  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _state._tls.current_app = before  # type: ignore[attr-defined]
        _state.set_default_app(default)


@contextmanager
def configured(app: Any, changes: Mapping[str, Any]) -> Iterator[None]:
    """Override settings of an application inside the block, and reset its connections to the broker."""
    app.conf.get("broker_url")  # the configuration is loaded on first access
    # Under all names of a setting: with a namespace, CELERY_BROKER_URL takes precedence over broker_url.
    layer = {key: value for name, value in changes.items() for key in app.conf._to_keys(name)}
    maps = app.conf.maps
    maps.insert(0, layer)
    kept = {name: vars(app).pop(name) for name in ("amqp", "_pool") if name in vars(app)}
    try:
        yield
    finally:
        maps[:] = [each for each in maps if each is not layer]
        for name in ("amqp", "_pool"):
            vars(app).pop(name, None)
        vars(app).update(kept)


def mask_settings(names: Iterable[str]) -> None:
    """Mask settings in ``celery report`` and ``celery inspect conf``. Celery masks those named ``token`` by itself.

    Args:
        names: the names of the settings. Settings whose names contain one of them are masked, too.
    """
    masked: re.Pattern[str] = utils.HIDDEN_SETTINGS  # type: ignore[attr-defined]
    further = [re.escape(name) for name in names if not masked.search(name)]
    utils.HIDDEN_SETTINGS = re.compile("|".join((masked.pattern, *further)), masked.flags)  # type: ignore[attr-defined]


def rebuild_tracer(task: Any, hostname: str | None) -> None:
    """Rebuild the function that executes a task in a pool process, because it keeps the task's ``run`` and backend."""
    task.__trace__ = build_tracer(task.name, task, task.app.loader, hostname, app=task.app)


def reported_exception(info: Any) -> Any:
    """The exception in an ``ExceptionInfo``. A pool process sends it wrapped together with its traceback."""
    error = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
