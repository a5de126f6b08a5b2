"""Keeps the messages of a job's exceptions, and its handler's result, out of Celery's log, events and result backend.

Celery would write an exception's message to the worker's log, the events ``task-failed`` and ``task-retried``, and the
result backend. Only its class and stack stay there. The job's output on the server has the full message. Instead of the
handler's result, Celery gets the job's status.

An intended failure (``JobFailed``, a missing field) is left out of Celery's log: the runner logs one line. Code in the
process still sees the real exception: ``on_failure``, ``task_failure``, ``throws``, ``autoretry_for``, Sentry.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from copy import copy
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name

from ..celery_compat import (
    current_task,
    own_backend,
    replace_attribute,
    reported_exception,
    request_context,
    show_results,
)
from ..message import message_of_request
from ..telemetry.redaction import redacted, stack
from .handler_errors import is_meant

NEVER_REDACTED = (Terminated, TimeLimitExceeded, WorkerLostError, Ignore, Reject, SystemExit, KeyboardInterrupt)
"""Exceptions that Celery and its pools raise or check for. Their messages have no content of a job."""

TRACE = "celery.app.trace"
"""The logger that reports the failures of tasks."""

LOGGERS = (TRACE, "celery.utils.dispatch.signal", "celery.worker", "py.warnings")
"""Loggers that report exceptions in the process of the task. The last two report exceptions of task hooks."""

_MARK = "_mr_celery_job"
_MEANT = "_mr_celery_meant"

SHOWN = "_mr_celery_shown"
"""The attribute of a task's request with what Celery shows as its result: the job's status."""


def redact_exceptions(tasks: Iterable[Any]) -> ExitStack:
    """Redact the exceptions that Celery reports for runs of these tasks with a job.

    Returns a stack that undoes it when it is closed.
    """
    undo = ExitStack()
    for task in tasks:
        if not isinstance(task.backend, _Backend):
            replace_attribute(task, "_backend", _Backend(task, own_backend(task)), undo)
            replace_attribute(task, "Request", _request_class(symbol_by_name(task.Request)), undo)
    show_results(_shown_by_current_task, undo)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _RedactionFilter) for each in logger.filters):
            filter_ = _RedactionFilter()
            logger.addFilter(filter_)
            undo.callback(logger.removeFilter, filter_)
    return undo


def mark(error: BaseException, request: Any, job_id: int) -> None:
    """Mark an exception as raised by a run of a job, and the task's request if the handler meant it as a failure."""
    with suppress(Exception):
        setattr(error, _MARK, job_id)
    setattr(request, _MEANT, is_meant(error))


def _shown_by_current_task(value: Any) -> Any:
    task = current_task()
    return value if task is None else getattr(task.request, SHOWN, value)


def _job_of(request: Any) -> int | None:
    """The id of a task request's job, or ``None`` if it has none."""
    message = message_of_request(request)
    return None if message is None else message.job_id


def _redacted(error: BaseException, job_id: int) -> Any:
    """Redact an exception of a job's run."""
    message = f"redacted: see the output of job {job_id}"
    if isinstance(error, Retry):
        return Retry(None, redacted(error.exc, message) if error.exc else None, error.when)
    if isinstance(error, MemoryError):
        return MemoryError(message)  # Celery's worker checks for this class
    return redacted(error, message)


# -- the log -----------------------------------------------------------------------------------------


class _RedactionFilter(logging.Filter):
    """Redacts a job's exceptions in log records of the process that runs the task."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record if it reports a job's exception. Returns whether it is to be logged."""
        error = (record.exc_info or sys.exc_info())[1]
        if error is None:
            return True
        task = current_task()
        job_id = marked(error) if task is None else _job_of(task.request)
        if job_id is None:
            return True
        if record.name == TRACE and task is not None and getattr(task.request, _MEANT, False):
            return False
        self._redact(record, error, job_id)
        return True

    @staticmethod
    def _redact(record: logging.LogRecord, error: BaseException, job_id: int) -> None:
        record.job = job_id
        redacted = _redacted(error, job_id)
        if record.exc_info:
            record.exc_info = (type(redacted), redacted, redacted.__traceback__)
        if isinstance(record.args, dict):
            shown = str(redacted) if isinstance(redacted, Retry) else repr(redacted)
            record.args = {**record.args, "exc": shown, "traceback": stack(error)}
            record.__dict__["data"] = record.args
        elif record.name == "py.warnings":
            record.msg, record.args = f"Exception raised outside a task's body: {redacted!r}", ()
        elif record.args:
            record.args = tuple(
                _redacted(arg, job_id) if isinstance(arg, BaseException) else arg for arg in record.args
            )


def marked(error: BaseException | None) -> int | None:
    """The id of the job that an exception, or one of its causes, is marked with."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if (job_id := getattr(error, _MARK, None)) is not None:
            return int(job_id)
        error = error.__cause__ or error.__context__
    return None


# -- events ------------------------------------------------------------------------------------------


def _request_class(base: Any) -> Any:
    """A class for a task's requests. They send the events, from the worker's main process."""

    class Request(base):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            job_id = _job_of(request_context(self))
            if job_id is not None:
                exc_info = _redacted_info(exc_info, job_id)
            return super().on_failure(exc_info, *args, **kwargs)

    return Request


def _redacted_info(info: Any, job_id: int) -> Any:
    """A redacted copy of the ``ExceptionInfo`` that a pool reports."""
    error = reported_exception(info)
    if isinstance(error, NEVER_REDACTED):
        return info
    changed, redacted = copy(info), _redacted(error, job_id)
    changed.type, changed.exception, changed.traceback = type(redacted), redacted, _stack(info.tb, redacted)
    return changed


def _stack(tb: Any, redacted: BaseException) -> str:
    frames: list[str] = []
    with suppress(Exception):  # a pool process sends copies of frames, which lack some attributes
        frames = traceback.format_tb(tb)
    last = traceback.format_exception_only(redacted)
    return "".join(["Traceback (most recent call last):\n", *frames, *last])


# -- the result backend ------------------------------------------------------------------------------


class _Backend:
    """Wraps a task's result backend, and redacts a job's exceptions and results."""

    def __init__(self, task: Any, own: Any) -> None:
        self._task = task
        self._own = own

    @property
    def _real(self) -> Any:
        # Looked up each time: the application has one backend per process, and for some kinds one per thread.
        return self._task.app.backend if self._own is None else self._own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, *args: Any, **options: Any) -> Any:
        return self._real.mark_as_done(task_id, getattr(request, SHOWN, result), request, *args, **options)

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        exc, traceback = self._redacted(exc, traceback, request)
        return self._real.mark_as_failure(task_id, exc, traceback=traceback, request=request, **options)

    def mark_as_retry(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        exc, traceback = self._redacted(exc, traceback, request)
        return self._real.mark_as_retry(task_id, exc, traceback=traceback, request=request, **options)

    def _redacted(self, error: Any, text: Any, request: Any) -> tuple[Any, Any]:
        job_id = None if request is None else _job_of(request)
        if job_id is None or not isinstance(error, BaseException) or isinstance(error, NEVER_REDACTED):
            return error, text
        redacted = _redacted(error, job_id)
        return redacted, _stack(error.__traceback__, redacted)
