"""Outputs and log lines of jobs that failed without a result from their handler."""

from __future__ import annotations

import logging

from .telemetry.logs import JobLog
from .telemetry.quantities import duration

RESEND_BUDGET = 3
"""Number of times a message that no worker started is sent again. Attempts after lost runs do not count."""


def lost_texts(why: str) -> tuple[str, str]:
    """The outputs of a job whose run was lost, for ``on_lost='fail'`` and for the last attempt."""
    return (
        f"the run was lost ({why}), and its handler is declared with on_lost='fail': it was not run again",
        f"the run was lost ({why}), as were all the attempts before it: the job was not run again "
        "(max_attempts). Something in it may kill its worker: look for out-of-memory kills and crashes",
    )


UNPUBLISHED_TRIES = 5
"""Minimum number of failed publish attempts before a job fails because its broker refuses the message."""

UNPUBLISHED_SECONDS = 60.0
"""Minimum duration of these attempts in seconds."""


def never_published(where: str, why: str) -> str:
    """The output of a job whose message the broker refuses.

    Args:
        where: the destination of the message.
        why: the broker's error, or the problem with the route.
    """
    return (
        f"no message could be published for the job, to {where}: {why}. It was tried at least {UNPUBLISHED_TRIES} "
        f"times in {duration(UNPUBLISHED_SECONDS)}, while the broker worked. Correct the task's route (task_routes, "
        "task_queues), its options or the broker's permissions; `celery -A proj modelreins check` shows where its "
        "messages go"
    )


def never_started(why: str) -> str:
    """The output of a job whose messages no worker started."""
    return (
        f"no worker started the job, though it was sent {RESEND_BUDGET + 1} times: {why}. "
        "Is the task registered on the workers, and does one of them consume its queue? A worker that lacks "
        "MODELREINS_LEDGER_URL, or runs code from before @modelreins_job, drops the messages of jobs: its log says "
        '"Can\'t decode message body"'
    )


def log_lost(log: JobLog, loss: str, why: str) -> None:
    """Log a lost run. The ledger's verdict ``loss`` is ``again`` or ``failed``; ``kept`` is not logged."""
    if loss == "again":
        log.warning("lost", f"lost: {why}; it is sent again", reason=why)
    elif loss == "failed":
        log.failed(f"lost and failed: {why}", why=why, level=logging.ERROR)


def log_not_started(log: JobLog, loss: str, why: str, *, seconds: float | None = None) -> None:
    """Log a message that no worker started, with the same verdicts."""
    after = "" if seconds is None else f" after {duration(seconds)}"
    if loss == "again":
        log.warning("not_started", f"not started{after}, it is sent again: {why}", reason=why, seconds=seconds)
    elif loss == "failed":
        log.failed(f"failed: {never_started(why)}", why=why, level=logging.ERROR)
