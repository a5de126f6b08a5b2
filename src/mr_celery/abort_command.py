"""The remote control command that makes workers check their runs for aborts.

The bridge broadcasts it, and workers handle it in :mod:`.celery_worker.aborts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ABORT_COMMAND = "modelreins_abort"
"""The command's name."""


def announce_abort(app: Any, task_ids: Sequence[str], *, nodes: Sequence[str] = (), connection: Any = None) -> None:
    """Broadcast to workers that the jobs of these tasks may have ended.

    A worker that runs one of the tasks checks its lease in the ledger, and stops the run if it is lost. Celery's own
    ``revoke(terminate=True)`` is no substitute: in pools that cannot terminate a task, it raises an error.

    Args:
        app: the Celery application.
        task_ids: the tasks.
        nodes: node names of the workers; empty for all. A worker without decorated tasks lacks the command,
            and logs an error.
        connection: a connection to the broker. Default: one of the application's.

    Raises:
        Exception: the broker did not accept the command. Workers then notice when they renew their leases.
    """
    arguments = {"task_ids": list(task_ids)}
    app.control.broadcast(ABORT_COMMAND, arguments=arguments, destination=list(nodes) or None, connection=connection)
