"""Retries of ``arguments=``, ``result=`` and ``review=`` after transient errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded, TaskPredicate

from ..backoff import backoff
from ..databases import close_old_connections
from ..errors import LedgerUnavailable, MrCeleryError, WorkerError
from ..job import Job
from ..message import Message
from ..telemetry.tracebacks import call_application

logger = logging.getLogger("mr_celery.runner")

T = TypeVar("T")

ABOUT_THE_DATA = frozenset(
    {
        "DataError",
        "IntegrityError",
        "MultipleObjectsReturned",
        "MultipleResultsFound",
        "NoResultFound",
        "NotSupportedError",
        "ObjectDoesNotExist",
        "ProgrammingError",
        "ValidationError",
    }
)
"""Exceptions of databases and validators that recur: those of the DB-API (PEP 249), Django, SQLAlchemy and others."""


def may_pass(error: BaseException) -> bool:
    """Whether an exception is probably transient, judged by its class.

    - Python's own exceptions, and classes derived from them, are about the job or the code. They recur, except
      ``OSError`` with ``ConnectionError`` and ``TimeoutError``.
    - Exceptions of libraries, such as a database's or an HTTP client's, are transient, except :data:`ABOUT_THE_DATA`.
    - Of this package's, ``LedgerUnavailable`` and a retryable ``WorkerError`` are transient.
    """
    kind = type(error)  # not isinstance(), which reads attributes of the exception
    if issubclass(kind, WorkerError):
        return bool(error.retryable)  # type: ignore[attr-defined]
    if issubclass(kind, MrCeleryError):
        return issubclass(kind, LedgerUnavailable)
    if not issubclass(kind, Exception) or issubclass(kind, (SoftTimeLimitExceeded, TaskPredicate)):
        return False
    if kind is Exception or any(each.__name__ in ABOUT_THE_DATA for each in kind.__mro__):
        return False
    own = [each for each in kind.__mro__ if each.__module__ == "builtins"]
    return all(issubclass(each, OSError) for each in own if each not in (Exception, BaseException, object))


class NotReady(Exception):
    """``arguments=`` keeps raising a transient exception, which is the ``__cause__``."""


@dataclass(frozen=True)
class FunctionRetries:
    """The limits for repeating ``arguments=``, ``result=`` and ``review=`` after transient errors.

    Args:
        seconds: seconds for which a run repeats such a function.
        times: number of times that an attempt is then given back, before its handler has begun.
        wait_seconds: seconds until it is sent again. The second wait is twice as long, and so on.
    """

    seconds: float = 10.0
    times: int = 3
    wait_seconds: float = 10.0

    def arguments(self, make: Callable[[], T], message: Message, job: Job) -> T:
        """Call ``make``, which calls ``arguments=``, and repeat it after transient errors.

        Raises:
            NotReady: it still raises a transient error.
            BaseException: it raises another exception.
        """
        try:
            return self.call("arguments=", make, message, job)
        except BaseException as error:
            if may_pass(error):
                raise NotReady(f"arguments= raised {type(error).__name__}") from error
            raise

    def retrying(self, name: str, function: Any, message: Message, job: Job) -> Any:
        """Wrap a function so that it is repeated after transient errors. Returns anything but a function unchanged."""
        if not callable(function):
            return function

        @wraps(function, assigned=(), updated=())
        def repeated(*args: Any) -> Any:
            return self.call(name, partial(function, *args), message, job)

        return repeated

    def call(self, name: str, function: Callable[[], T], message: Message, job: Job) -> T:
        """Call a function, and repeat it after transient errors, for at most :attr:`seconds`.

        Raises:
            JobAborted: the job was aborted meanwhile.
            BaseException: the function's last exception.
        """
        ends_at, failures = time.monotonic() + self.seconds, 0
        while True:
            try:
                return call_application(function)
            except BaseException as error:
                failures += 1
                pause = backoff(failures, first=0.2, most=2.0)
                if not may_pass(error) or time.monotonic() + pause > ends_at:
                    raise
                why = f"{name} raised {type(error).__name__}"
            if failures == 1:
                message.log(logger).warning("tried_again", f"{why}; it is called again", reason=why)
            close_old_connections()
            time.sleep(pause)
            job.raise_if_aborted()


FUNCTION_RETRIES = FunctionRetries()
"""The limits that workers use."""
