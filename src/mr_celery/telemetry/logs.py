"""Logs the events of jobs: one line per event, with the same values as fields of the record.

The line is for people: ``job=42 attempt=1 task_id=mr-42-1-ab3d done after 3.2 s``. The record has ``job``,
``attempt``, ``task_id``, ``task_name``, ``worker_name``, ``event`` and further values as attributes, for JSON and for
your own handlers. Neither contains a prompt, a result or a token. Exceptions go through :func:`~.redaction.redacted`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from .printing import Lines, indented
from .redaction import redacted

_TASK_ID = re.compile(r"mr-\d+-(\d+)-")


def attempt_of(task_id: str) -> int | None:
    """The attempt in a task id; ``None`` if the task is not ours."""
    match = _TASK_ID.match(task_id)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class JobLog:
    """The log of a job, or of one attempt at it.

    Args:
        logger: the logger to write to.
        job: the job's id.
        worker_name: the worker name that the job is assigned to.
        task_id: the attempt's task id; empty if it has none yet.
        task_name: the name of its task.
        output: where its output can be read; empty if unknown.

    Example::

        log = JobLog(logger, 42, worker_name="studio", task_id="mr-42-1-ab3d")
        log.info("finished", f"done after {duration(seconds)}", status="done", seconds=seconds)
    """

    logger: logging.Logger
    job: int
    worker_name: str = ""
    task_id: str = ""
    task_name: str = ""
    output: str = ""

    def failed(self, text: str, *, why: str, level: int = logging.WARNING, **facts: Any) -> None:
        """Log that the job failed outside of its handler, and where its output can be read.

        Args:
            text: the event in words.
            why: the reason.
            level: ``logging.WARNING``, or ``logging.ERROR`` if it needs action.
            facts: as for :meth:`info`.
        """
        where = f"; output: {self.output}" if self.output else ""
        self._log(level, "failed", f"{text}{where}", {"reason": why, **facts})

    def debug(self, event: str, text: str = "", **facts: Any) -> None:
        """Log an event that helps only to find a fault."""
        self._log(logging.DEBUG, event, text, facts)

    def info(self, event: str, text: str = "", **facts: Any) -> None:
        """Log an event that needs no action.

        Args:
            event: its name, as listed in docs/logs.md.
            text: the event in words; default: its name.
            facts: further fields. ``None`` values are left out.
        """
        self._log(logging.INFO, event, text, facts)

    def warning(self, event: str, text: str = "", **facts: Any) -> None:
        """Log an event that is worth a look when convenient."""
        self._log(logging.WARNING, event, text, facts)

    def show_output(self, text: str) -> None:
        """Log the job's output, line by line."""
        self._log(logging.INFO, "output", Lines(f"output:\n{indented(text)}"), {})

    def error(self, event: str, text: str = "", *, error: BaseException | None = None, **facts: Any) -> None:
        """Log an event that needs action, with the stack of an unexpected ``error`` but without its message."""
        self._log(logging.ERROR, event, text, facts, error)

    def _log(
        self, level: int, event: str, text: str, facts: dict[str, Any], error: BaseException | None = None
    ) -> None:
        if not self.logger.isEnabledFor(level):
            return
        attempt = attempt_of(self.task_id)
        about = {"job": self.job, "attempt": attempt, "task_id": self.task_id}
        prefix = [f"{name}={value}" for name, value in about.items() if value]
        fields = {
            "event": event,
            "job": self.job,
            "attempt": attempt,
            "task_id": self.task_id or None,
            "task_name": self.task_name or None,
            "worker_name": self.worker_name or None,
            **facts,
        }
        self.logger.log(
            level,
            "%s %s",
            " ".join(prefix),
            text or event.replace("_", " "),
            exc_info=redacted(error) if error is not None else None,
            extra={name: value for name, value in fields.items() if value is not None},
            stacklevel=3,
        )


def unexpected(logger: logging.Logger, text: str, error: BaseException) -> None:
    """Log an unforeseen error that belongs to no job, with its stack but without its message."""
    logger.error("%s", text, exc_info=redacted(error), stacklevel=2)
