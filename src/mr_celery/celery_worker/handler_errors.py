"""Classifies exceptions of a handler: a failure of its own, or a stop from outside."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

from ..errors import JobError
from ..result import JobFailed

ENDING_SIGNALS = frozenset(getattr(signal, name) for name in ("SIGTERM", "SIGQUIT") if hasattr(signal, name))
"""The signals that end a pool process."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_BEFORE_HANDLER = frozenset(os.path.join(_PACKAGE, each) for each in ("celery_worker", "handlers", "telemetry"))
"""The folders of the code that calls handlers."""


class HandlerStopped(Exception):
    """Replaces an exception of a handler that would end more than its task. The original is its ``__cause__``."""


def readable(error: BaseException) -> BaseException:
    """The exception, or a stand-in if an attribute of it or of its causes cannot be read without an exception."""
    try:
        for each in _chain(error):
            _ = each.__class__, each.__traceback__, each.__suppress_context__, each.args
        return error
    except BaseException as failure:
        if type(failure) is SystemExit and _ends_the_pool_process(failure):
            raise
    stand_in = HandlerStopped(f"the handler raised {type(error).__qualname__}, whose attributes cannot be read")
    stand_in.__traceback__ = BaseException.__dict__["__traceback__"].__get__(error)
    return stand_in


def raised_by_a_signal(error: BaseException) -> bool:
    """Whether a signal that ends this process raised the exception, or one of its causes.

    The run is then lost, because its handler was interrupted. A handler's own ``SystemExit`` or ``WorkerShutdown`` is a
    failure like any other.
    """
    return any(_ends_the_pool_process(each) or _passed("celery.apps.worker", each) for each in _chain(error))


def is_meant(error: BaseException) -> bool:
    """Whether an exception is an intended failure of the job, and not a fault in the code.

    That is ``JobFailed``, or a :class:`~mr_celery.errors.JobError` such as a missing field.
    """
    if isinstance(error, HandlerStopped) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, (JobFailed, JobError))


def is_greenlet_exit(error: BaseException) -> bool:
    """Whether the run's greenlet was killed, as the pools of gevent and eventlet do to end a task."""
    return _is_a(error, sys.modules.get("greenlet"), "GreenletExit")


def is_hard_limit(error: BaseException, limit: float | None) -> bool:
    """Whether the exception is the gevent pool's hard time limit, and not a handler's own ``gevent.Timeout``.

    Args:
        error: the exception.
        limit: the task's hard time limit in seconds, or ``None``.
    """
    # The pool's timeout began first, so a handler's own of the same length cannot end before it.
    timeout = _is_a(error, sys.modules.get("gevent"), "Timeout")
    return bool(timeout and limit and getattr(error, "seconds", None) == limit)


def for_celery(error: BaseException) -> BaseException:
    """The exception to raise to Celery: the same one, or a :class:`HandlerStopped` if it would harm the pool.

    Celery's pools treat an ``Exception`` as a task's failure. Anything else ends a pool process, a thread's callback or
    the worker. So do a ``MemoryError`` and an exception that cannot be printed or pickled.
    """
    if isinstance(error, Exception) and not isinstance(error, MemoryError) and _can_be_shown(error):
        return error
    stand_in = HandlerStopped(f"the handler raised {type(error).__qualname__}")
    stand_in.__cause__ = error
    return stand_in


def reason_of(error: BaseException) -> str:
    """The reason of a failure for operators: the exception's class, and what this package has to say about it.

    An exception's own text may repeat the content of the job.
    """
    about = getattr(error, "about", "") if isinstance(error, JobError) else ""
    return f"{type(error).__name__}: {about}" if about else type(error).__name__


def traceback_of(error: BaseException) -> str:
    """The traceback as text, without the frames of this package."""
    frames = error.__traceback__
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) in _BEFORE_HANDLER:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames)).strip()
    except BaseException as failure:
        if raised_by_a_signal(failure):
            raise
        return f"{type(error).__qualname__} (it cannot be printed: {type(failure).__qualname__})"


def _ends_the_pool_process(error: BaseException) -> bool:
    """Whether billiard's signal handler raised the exception. Its exit code is the signal's number less 256."""
    # billiard also handles signals that a handler's code causes, such as SIGPIPE and SIGALRM.
    if not (isinstance(error, SystemExit) and isinstance(error.code, int)):
        return False
    return error.code + 256 in ENDING_SIGNALS and _passed("billiard.common", error)


def _passed(module: str, error: BaseException) -> bool:
    """Whether the traceback of an exception has code of a module."""
    return any(frame.f_globals.get("__name__") == module for frame, _ in traceback.walk_tb(error.__traceback__))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all its causes and contexts."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            left += (each.__cause__, each.__context__)
            yield each


def _is_a(error: BaseException, module: ModuleType | None, name: str) -> bool:
    kind = getattr(module, name, None)  # absent if the module is not imported, so it cannot have been raised
    return isinstance(kind, type) and isinstance(error, kind)


def _can_be_shown(error: Exception) -> bool:
    """Whether an exception can be printed and pickled. Ordinary exceptions meanwhile are harmless."""
    for step in (repr, str, pickle.dumps):
        try:
            step(error)
        except Exception:  # noqa: S112 - Celery handles it
            continue
        except BaseException as failure:
            if raised_by_a_signal(failure):
                raise
            return False
    return True
