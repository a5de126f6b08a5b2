"""The state of a Celery worker that takes jobs."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..clients import Clients
from ..errors import LedgerUnavailable
from ..telemetry.logs import unexpected
from ..telemetry.outages import Outage
from .event_loop import EventLoop
from .received import Executions, ReceivedMessages

if TYPE_CHECKING:
    from .members import Members

logger = logging.getLogger("mr_celery.worker")

ATTRIBUTE = "modelreins_jobs"
"""The attribute of a Celery application that has its worker's state. Celery's signals carry nothing but the app."""


class WorkerJobs:
    """The jobs of one application's worker in this process, and the worker's connections.

    Two workers of an application in one process share it.

    Args:
        clients: the worker's connections.
        holder: the worker's id as a holder of leases; empty: a new one.
    """

    def __init__(self, clients: Clients, holder: str = "") -> None:
        self.clients = clients
        self.holder = holder or secrets.token_hex(8)
        """Identifies this worker as the holder of leases, also against an earlier worker of the same node name.

        Its pool processes inherit it.
        """
        self.received = ReceivedMessages()
        self.executions = Executions()
        self.event_loop = EventLoop()
        self.members: Members | None = None
        """The members of workflows that run in this process."""
        self.hard_limit: float | None = None
        """The worker's option ``--time-limit``: the hard time limit in seconds of tasks that set none."""
        self.changes = ExitStack()
        """Undoes what the worker changed in its application, when it is closed."""

    @staticmethod
    def of(app: Any) -> WorkerJobs | None:
        """The state of an application's worker, or ``None`` if no worker of it takes jobs here."""
        jobs: WorkerJobs | None = getattr(app, ATTRIBUTE, None)
        return jobs

    @classmethod
    def begin(cls, app: Any, clients: Clients, *, holder: str = "") -> WorkerJobs:
        """Let the worker of an application take jobs over these connections, as a new or the given holder."""
        jobs = cls.of(app)
        if jobs is None:
            jobs = cls(clients, holder)
            setattr(app, ATTRIBUTE, jobs)
            jobs.changes.callback(delattr, app, ATTRIBUTE)
        jobs.clients = clients
        return jobs


def quietly(what: str, step: Callable[[], Any], *, outage: Outage | None = None) -> None:
    """Run a step whose failures must not reach Celery's event loop: they are logged.

    Args:
        what: the step in words that follow "cannot".
        step: the step.
        outage: the outage of the ledger, for steps that are repeated. It logs an unreachable ledger.
    """
    try:
        step()
    except LedgerUnavailable as error:
        if outage is not None:
            outage.failed(str(error))
        else:
            logger.warning("cannot %s: %s", what, error)
    except Exception as error:
        unexpected(logger, f"cannot {what}", error)
