"""What Celery tells of a job's task that fails or is retried: the exception's class and stack, but not its words.

The words are in the job's output, on the server. Celery itself would write them into the worker's log, send them in the
events ``task-failed`` and ``task-retried``, and keep them in the result backend where it is told to. The real exception
stays what the code in the process gets to see: ``on_failure``, ``task_failure``, ``throws``, ``autoretry_for``, Sentry.

Like :mod:`.celery_hooks`, this touches Celery's internals.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name

from .discretion import stack, withheld

JobOf = Callable[[Any], int | None]
"""Gives the id of the job that a task's request brings; ``None``: it brings none."""

OUTSPOKEN = (Terminated, TimeLimitExceeded, WorkerLostError, Ignore, Reject, SystemExit, KeyboardInterrupt)
"""What Celery and its pools raise themselves, or look at: it has none of a job's content in it."""

LOGGERS = ("celery.app.trace", "celery.utils.dispatch.signal", "celery.worker", "py.warnings")
"""The loggers by which Celery tells of exceptions where the task runs; the last two of those that its hooks raise."""

_MARK = "_mr_celery_job"


def keep_discreet(task: Any, job_of: JobOf) -> None:
    """See that Celery tells no exception's words of those runs of ``task`` that bring a job."""
    if isinstance(task.backend, _Backend):
        return
    task.backend = _Backend(task, task._backend, job_of)
    task.Request = _request_class(symbol_by_name(task.Request), job_of)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Words) for each in logger.filters):
            logger.addFilter(_Words(job_of))


def mark(error: BaseException, job_id: int) -> None:
    """Note on an exception that it comes from a job's run."""
    with suppress(Exception):
        setattr(error, _MARK, job_id)


def _of_job(error: BaseException, job_id: int) -> Any:
    """What stands in for an exception of a job's run."""
    words = f"withheld: see the output of job {job_id}"
    if isinstance(error, Retry):
        return Retry(None, withheld(error.exc, words) if error.exc else None, error.when)
    if isinstance(error, MemoryError):
        return MemoryError(words)  # Celery's worker looks for this class
    return withheld(error, words)


# -- the log -----------------------------------------------------------------------------------------


class _Words(logging.Filter):
    """Takes the words of a job's exceptions out of what Celery logs where the task runs."""

    def __init__(self, job_of: JobOf) -> None:
        super().__init__()
        self._job_of = job_of

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, some of them changed."""
        error = (record.exc_info or sys.exc_info())[1]
        if error is None:
            return True
        task = get_current_task()
        job_id = _marked(error) if task is None else self._job_of(task.request)
        if job_id is not None:
            self._withhold(record, error, job_id)
        return True

    @staticmethod
    def _withhold(record: logging.LogRecord, error: BaseException, job_id: int) -> None:
        record.job = job_id
        stand_in = _of_job(error, job_id)
        if record.exc_info:
            record.exc_info = (type(stand_in), stand_in, stand_in.__traceback__)
        if isinstance(record.args, dict):
            shown = str(stand_in) if isinstance(stand_in, Retry) else repr(stand_in)
            record.args = {**record.args, "exc": shown, "traceback": stack(error)}
            record.__dict__["data"] = record.args
        elif record.name == "py.warnings":
            record.msg, record.args = f"Exception raised outside a task's body: {stand_in!r}", ()
        elif record.args:
            record.args = tuple(_of_job(arg, job_id) if isinstance(arg, BaseException) else arg for arg in record.args)


def _marked(error: BaseException | None) -> int | None:
    """The job of which an exception, or one that led to it, comes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if (job_id := getattr(error, _MARK, None)) is not None:
            return int(job_id)
        error = error.__cause__ or error.__context__
    return None


# -- events ------------------------------------------------------------------------------------------


def _request_class(base: Any, job_of: JobOf) -> Any:
    """The class of a task's requests, in the worker's own process: it sends the events."""

    class Request(base):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            job_id = job_of(self._context)
            if job_id is not None:
                exc_info = _discreet_info(exc_info, job_id)
            return super().on_failure(exc_info, *args, **kwargs)

    return Request


def _discreet_info(info: Any, job_id: int) -> Any:
    """A copy of what a pool tells of an exception, without words."""
    error = info.exception.exc if isinstance(info.exception, ExceptionWithTraceback) else info.exception
    if isinstance(error, OUTSPOKEN):
        return info
    told, stand_in = copy(info), _of_job(error, job_id)
    told.type, told.exception, told.traceback = type(stand_in), stand_in, _stack(info.tb, stand_in)
    return told


def _stack(tb: Any, stand_in: BaseException) -> str:
    frames: list[str] = []
    with suppress(Exception):  # a pool process' frames are copies, and not all that Python's own are
        frames = traceback.format_tb(tb)
    last = traceback.format_exception_only(stand_in)
    return "".join(["Traceback (most recent call last):\n", *frames, *last])


# -- the result backend ------------------------------------------------------------------------------


class _Backend:
    """A task's result backend, but for the words of a job's exceptions."""

    def __init__(self, task: Any, own: Any, job_of: JobOf) -> None:
        self._task = task
        self._own = own
        self._job_of = job_of

    @property
    def _real(self) -> Any:
        # The application's is another one in each process, and in each thread where it must be.
        return self._task.app.backend if self._own is None else self._own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        exc, traceback = self._told(exc, traceback, request)
        return self._real.mark_as_failure(task_id, exc, traceback=traceback, request=request, **options)

    def mark_as_retry(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        exc, traceback = self._told(exc, traceback, request)
        return self._real.mark_as_retry(task_id, exc, traceback=traceback, request=request, **options)

    def _told(self, error: Any, text: Any, request: Any) -> tuple[Any, Any]:
        job_id = None if request is None else self._job_of(request)
        if job_id is None or not isinstance(error, BaseException) or isinstance(error, OUTSPOKEN):
            return error, text
        stand_in = _of_job(error, job_id)
        return stand_in, _stack(error.__traceback__, stand_in)
