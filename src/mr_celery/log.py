"""How our code tells what happens to a job: one line for each event, with the same facts as fields.

The line is for readers: ``job=42 attempt=1 task=mr-42-1-ab3d done after 3.214 s``. The record has ``job``,
``attempt``, ``task_id``, ``task``, ``worker_name``, ``event`` and what else there is to know as attributes, for JSON
and for anybody's own handler. No prompt, result or token belongs in either: of an exception only what
:func:`~.discretion.withheld` leaves.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from .discretion import withheld
from .texts import never_started

_TASK_ID = re.compile(r"mr-\d+-(\d+)-")


def attempt_of(task_id: str) -> int | None:
    """Which attempt of its job a task is, as its id says."""
    match = _TASK_ID.match(task_id)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class JobLog:
    """The log of one job, or of one attempt of it.

    Args:
        logger: where it is written.
        job: the job's id.
        worker_name: the worker name that the job is assigned to.
        task_id: the attempt's task id, where there is one yet.
        task: the name of its task.

    Example::

        log = JobLog(logger, 42, worker_name="studio", task_id="mr-42-1-ab3d")
        log.info("finished", f"done after {seconds:.3f} s", status="done", seconds=seconds)
    """

    logger: logging.Logger
    job: int
    worker_name: str = ""
    task_id: str = ""
    task: str = ""

    def debug(self, event: str, text: str = "", **facts: Any) -> None:
        """Tell an event that is of use only to who looks for a fault."""
        self._tell(logging.DEBUG, event, text, facts)

    def info(self, event: str, text: str = "", **facts: Any) -> None:
        """Tell an event that asks nobody to do anything.

        Args:
            event: its name, one of those in docs/logs.md.
            text: the event in words; default: its name.
            facts: what else is to be a field; ``None`` is none.
        """
        self._tell(logging.INFO, event, text, facts)

    def warning(self, event: str, text: str = "", **facts: Any) -> None:
        """Tell an event that is worth a look when convenient."""
        self._tell(logging.WARNING, event, text, facts)

    def error(self, event: str, text: str = "", *, error: BaseException | None = None, **facts: Any) -> None:
        """Tell an event that asks for somebody to act; with the stack of an unexpected ``error``, not its words."""
        self._tell(logging.ERROR, event, text, facts, error)

    def _tell(
        self, level: int, event: str, text: str, facts: dict[str, Any], error: BaseException | None = None
    ) -> None:
        if not self.logger.isEnabledFor(level):
            return
        attempt = attempt_of(self.task_id)
        about = {"job": self.job, "attempt": attempt, "task": self.task_id}
        words = [f"{name}={value}" for name, value in about.items() if value]
        fields = {
            "event": event,
            "job": self.job,
            "attempt": attempt,
            "task_id": self.task_id or None,
            "task": self.task or None,
            "worker_name": self.worker_name or None,
            **facts,
        }
        self.logger.log(
            level,
            "%s %s",
            " ".join(words),
            text or event.replace("_", " "),
            exc_info=withheld(error) if error is not None else None,
            extra={name: value for name, value in fields.items() if value is not None},
            stacklevel=3,
        )


def tell_lost(log: JobLog, loss: str, why: str) -> None:
    """Tell what became of a job whose run was lost, as the ledger says: ``again``, ``failed``; ``kept`` is no event."""
    if loss == "again":
        log.warning("lost", f"lost: {why}; it is sent again", reason=why)
    elif loss == "failed":
        log.error("failed", f"lost and failed: {why}", reason=why)


def tell_not_started(log: JobLog, loss: str, why: str, *, seconds: float | None = None) -> None:
    """Tell what became of a job whose message nobody started, likewise."""
    after = "" if seconds is None else f" after {seconds:.0f} s"
    if loss == "again":
        log.warning("not_started", f"not started{after}, it is sent again: {why}", reason=why, seconds=seconds)
    elif loss == "failed":
        log.error("failed", f"failed: {never_started(why)}", reason=why)


def unexpected(logger: logging.Logger, text: str, error: BaseException) -> None:
    """Tell an error that nobody has foreseen, and that is no job's own: its stack, but not its words."""
    logger.error("%s", text, exc_info=withheld(error), stacklevel=2)
