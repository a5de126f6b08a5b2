"""The worker's side of :mod:`~mr_celery.abort_command`: checks at once whether runs have lost their jobs."""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command

from ..abort_command import ABORT_COMMAND
from ..telemetry.tracebacks import hides_variables


def register() -> None:
    """Register the command with Celery. Further calls change nothing."""
    control_command(name=ABORT_COMMAND, visible=False)(_on_abort)


@hides_variables
def _on_abort(state: Any, task_ids: object = (), **_: Any) -> dict[str, str]:
    # A worker that takes no jobs has no renewer.
    renewer = getattr(state.consumer.controller, "modelreins_lease_renewer", None)
    if renewer is not None:
        listed = task_ids if isinstance(task_ids, (list, tuple)) else ()
        renewer.check({each for each in listed if isinstance(each, str)})
    return {"ok": "looked"}
