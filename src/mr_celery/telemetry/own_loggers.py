"""Keeps the warnings and errors of bridges and workers visible, whatever the application does with logging.

``dictConfig`` disables all loggers that it does not name, a root logger at ERROR drops warnings, and handlers may drop
what is left. The loggers of this package cannot be disabled. In a bridge or a worker, a warning that no handler of the
application takes is written to standard error, or to the command's log file. If the application configures the loggers
named ``mr_celery…`` themselves, its levels, handlers, filters and ``propagate`` apply unchanged.

Log lines may repeat text from the server, from other hosts or from a handler. Each value is made printable before it
reaches the application's handlers, whatever their format is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from logging.handlers import WatchedFileHandler
from typing import Any

from celery.utils.log import LoggingProxy, mlevel
from celery.utils.nodenames import node_format

from .printing import Lines, printable_line

ROOT = "mr_celery"
_PARTS = ("bridge", "completion", "delivery", "monitoring", "operations", "runner", "worker")
NAMES = (ROOT, *(f"{ROOT}.{each}" for each in _PARTS))
"""The loggers of this package."""

FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"

MOST_CHARACTERS = 4000
"""Maximum length of a value in a line, in characters."""


class _Fallback:
    """The lowest level that must be visible in this process, and the handler for records that no other one takes."""

    level: int | None = None
    handler: logging.Handler = logging.NullHandler()


class OwnLogger(logging.Logger):
    """A logger of printable lines that cannot be disabled. In a bridge or a worker, its warnings are visible."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, except ``disabled``: ``dictConfig`` and ``fileConfig`` disable loggers not named there.

        It is not a property, because ``logging`` reads it for each line, also for those below the level.
        """
        super().__setattr__(name, False if name == "disabled" else value)

    def getEffectiveLevel(self) -> int:  # noqa: N802 - the name in logging
        """The level of this logger. The root logger's level does not hide warnings."""
        level = super().getEffectiveLevel()
        if _Fallback.level is None or any(each.level for each in self._own()):
            return level
        return min(level, _Fallback.level)

    def makeRecord(  # noqa: N802 - the name in logging
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """Make a record of printable values."""
        shown = tuple(map(_shown, args)) if isinstance(args, tuple) else args
        fields = extra and {key: _shown(value) if isinstance(value, str) else value for key, value in extra.items()}
        return super().makeRecord(name, level, fn, lno, _shown(msg), shown, exc_info, func, fields, sinfo)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in logging
        """Pass a record to the application's handlers, and to the fallback if none of them takes it."""
        super().callHandlers(record)  # Sentry patches this method
        if _Fallback.level is None or record.levelno < _Fallback.level or self._is_handled(record):
            return
        _Fallback.handler.handle(record)

    def _is_handled(self, record: logging.LogRecord) -> bool:
        """Whether a handler accepts a record, or the application has configured handlers for this package."""
        if any(each.handlers or not each.propagate for each in self._own()):
            return True
        handlers = [handler for logger in self._chain() for handler in logger.handlers]
        if not handlers:  # logging writes it to sys.stderr, which Celery may have replaced by a logger
            return logging.lastResort is not None and sys.stderr is sys.__stderr__
        return any(_takes(handler, record) for handler in handlers)

    def _chain(self) -> Iterator[logging.Logger]:
        """This logger and those that it propagates to."""
        logger: logging.Logger | None = self
        while logger is not None:
            yield logger
            logger = logger.parent if logger.propagate else None

    def _own(self) -> Iterator[logging.Logger]:
        """This logger and its parents in this package."""
        logger: logging.Logger | None = self
        while logger is not None and logger.name.partition(".")[0] == ROOT:
            yield logger
            logger = logger.parent


def _shown(value: object) -> object:
    """A value for a line: a number, or printable text."""
    if isinstance(value, (int, float, Lines)):
        return value
    text = str(value)
    if len(text) <= MOST_CHARACTERS and text.isascii() and text.isprintable():
        return text
    return printable_line(text, MOST_CHARACTERS)


def _takes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Whether a handler writes a record somewhere."""
    # A handler made in a task has Celery's proxy as its stream, which logs to that handler again, and drops the line.
    nowhere = isinstance(handler, logging.NullHandler) or isinstance(getattr(handler, "stream", None), LoggingProxy)
    return not nowhere and record.levelno >= handler.level and bool(handler.filter(record))


def make_own() -> None:
    """Make the loggers of this package :class:`OwnLogger` objects, including those that already exist."""
    for name in NAMES:
        logger = logging.getLogger(name)
        if not isinstance(logger, OwnLogger):
            kind = type(logger)
            bases = (OwnLogger,) if kind is logging.Logger else (OwnLogger, kind)
            logger.__class__ = type(kind.__name__, bases, {})
            logger.disabled = False


def show_warnings(
    level: Any, logfile: Any = None, *, hostname: str = "", formatter: logging.Formatter | None = None
) -> None:
    """Make warnings visible in this process, and in those that it forks.

    Args:
        level: the command's ``--loglevel``. Above WARNING, it is the lowest level that must be visible.
        logfile: the command's ``--logfile``; default: standard error.
        hostname: the worker's node name, for a log file with ``%n`` or the like.
        formatter: default: Celery's format of lines.
    """
    if isinstance(logfile, str):
        handler: logging.Handler = WatchedFileHandler(node_format(logfile, hostname), encoding="utf-8", delay=True)
    else:
        handler = logging.StreamHandler(sys.__stderr__)  # Celery may replace sys.stderr by a logger
    handler.setFormatter(formatter or logging.Formatter(FORMAT))
    _use(max(logging.WARNING, mlevel(level) or 0), handler)


def undo_show_warnings() -> None:
    """Undo :func:`show_warnings`, for a process that outlives its worker."""
    _use(None, logging.NullHandler())


def _use(level: int | None, handler: logging.Handler) -> None:
    _Fallback.level, _Fallback.handler = level, handler
    root = logging.getLogger()
    root.setLevel(root.level)  # clears the loggers' caches of enabled levels
