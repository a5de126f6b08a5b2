"""mr-celery: ModelReins jobs on a Celery fleet.

Decorate a task with :func:`modelreins_job`, run ``celery -A proj modelreins bridge`` beside the workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import current_app, signals

from .current import raise_if_aborted, worker
from .errors import Escalate, JobAborted, JobFailed, MrCeleryError, WorkerError
from .job import Job
from .result import Artifact, Result, Review
from .routing.decorator import declared, modelreins_job
from .version import __version__

if TYPE_CHECKING:
    from .client import Worker

__all__ = [
    "Artifact",
    "Escalate",
    "Job",
    "JobAborted",
    "JobFailed",
    "MrCeleryError",
    "Result",
    "Review",
    "Worker",
    "WorkerError",
    "__version__",
    "modelreins_job",
    "raise_if_aborted",
    "worker",
]


def __getattr__(name: str) -> Any:
    if name == "Worker":  # only who uses it pays for importing an HTTP client
        from .client import Worker

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@signals.after_setup_logger.connect(weak=False)
@signals.after_setup_task_logger.connect(weak=False)
def _on_logging_set_up(**_: Any) -> None:
    """Celery has set up its logging: where it is to be JSON, it becomes that."""
    if declared():
        from .log_format import json_wanted, write_json

        if json_wanted(current_app.conf):
            write_json()


@signals.worker_init.connect(weak=False)
def _on_worker_init(sender: Any, **_: Any) -> None:
    """A Celery worker comes up; where it has decorated tasks, they are made ready for jobs."""
    if declared():
        from .celery_hooks import set_up_worker  # here, so that who only sends tasks need not load all this

        set_up_worker(sender)
