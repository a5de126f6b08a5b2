"""mr-celery: ModelReins jobs on a Celery fleet.

Decorate a task with :func:`modelreins_job`, and run ``celery -A proj modelreins bridge`` beside the workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import current_app, signals

from .celery_compat import mask_settings
from .celery_worker.current import raise_if_aborted, worker
from .errors import Escalate, JobAborted, JobError, LedgerUnavailable, MrCeleryError, WorkerError
from .handlers import declared, modelreins_job
from .job import Job
from .result import Artifact, Deferred, JobFailed, Result, Review
from .settings import names_ledger, secret_settings
from .telemetry.own_loggers import make_own
from .telemetry.tracebacks import hides_variables
from .version import __version__

if TYPE_CHECKING:
    from .completion import complete, escalate, extend, fail
    from .sdk import Worker

__all__ = [
    "Artifact",
    "Deferred",
    "Escalate",
    "Job",
    "JobAborted",
    "JobError",
    "JobFailed",
    "LedgerUnavailable",
    "MrCeleryError",
    "Result",
    "Review",
    "Worker",
    "WorkerError",
    "__version__",
    "complete",
    "escalate",
    "extend",
    "fail",
    "modelreins_job",
    "raise_if_aborted",
    "worker",
]


make_own()
mask_settings(secret_settings())


def __getattr__(name: str) -> Any:
    if name == "Worker":  # imported on first use, because it loads an HTTP client
        from .sdk import Worker

        return Worker
    if name in ("complete", "escalate", "extend", "fail"):  # imported on first use, because it loads the ledger
        from . import completion

        return getattr(completion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@signals.after_setup_logger.connect(weak=False)
@signals.after_setup_task_logger.connect(weak=False)
@hides_variables
def _on_logging_set_up(**_: Any) -> None:
    """Switch Celery's logging to JSON if the settings ask for it."""
    if declared():
        from .telemetry.json_format import json_wanted, write_json

        if json_wanted(current_app.conf):
            write_json()


@signals.worker_process_init.connect(weak=False)
@hides_variables
def _on_pool_process_init(sender: Any = None, **_: Any) -> None:
    """Prepare the decorated tasks in a spawned pool process. A forked one inherits them."""
    if declared():
        from .celery_worker.setup import set_up_pool_process

        set_up_pool_process(current_app, hostname=sender)


@signals.worker_init.connect(weak=False)
@hides_variables
def _on_worker_init(sender: Any, **_: Any) -> None:
    """Prepare the decorated tasks of a starting Celery worker for jobs.

    A worker that has none, but is configured for jobs, still announces itself, so that the bridge can name it.
    """
    if declared() or names_ledger(sender.app.conf):
        from .celery_worker.setup import set_up_worker  # here: a process that only sends tasks need not load it

        set_up_worker(sender)
