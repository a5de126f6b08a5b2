"""The objects and state that the loops of a bridge share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..handlers import Handler, Registry
from ..ledger import Ledger, Nodes
from ..server import Api
from ..settings import Settings
from ..spool import Spool
from ..telemetry.logs import JobLog
from .capacity import FleetCapacity
from .counters import RequestCounters
from .job_sender import JobSender, job_log
from .outages import Outages
from .publisher import Publisher
from .renewal import ClaimRenewer
from .routes import Routes
from .token_gate import TokenGate
from .waiting import Block, WaitingJobs, blocked

logger = logging.getLogger("mr_celery.bridge")


@dataclass(eq=False, repr=False)
class BridgeContext:
    """The objects and state that the loops of one bridge share.

    Args:
        settings: the settings.
        registry: the handlers.
        api: the server.
        ledger: the ledger of the worker name.
        publisher: publishes messages to the broker.
        routes: the routes of the handlers.
        capacity: the fleet's capacity for this worker name.
        sender: publishes claimed jobs.
        renewer: renews the claims and deliveries in progress.
        outages: the outages of server, ledger and broker.
        token: pauses claims and deliveries while the server refuses the token.
        counters: counts the requests to the server.
        waiting: the pending jobs that cannot be claimed now.
        failing: returns the last error of requests that fail repeatedly, and for how many seconds they have.
        spool: the storage of large artifacts; ``None`` if no spool is configured.
        clock: monotonic seconds.

    Attributes:
        stopping: set when the bridge begins to stop.
        claims_unclear_until: the time, by the clock, until which the job of a claim with an unclear result may still
            appear as running on the server.
        unadopted: the queues for which jobs wait to be adopted, and the time by the clock at which that was found.
        presence_at: the time, by the clock, at which the server last accepted a presence report; ``None``: never.
        pending: the number of pending jobs at the last poll of the inbox, minus those claimed since; ``None`` before
            the first poll.
        pending_at: the time of that poll, by the clock.
    """

    settings: Settings
    registry: Registry
    api: Api
    ledger: Ledger
    publisher: Publisher
    routes: Routes
    capacity: FleetCapacity
    sender: JobSender
    renewer: ClaimRenewer
    outages: Outages
    token: TokenGate = field(default_factory=TokenGate)
    counters: RequestCounters = field(default_factory=RequestCounters)
    waiting: WaitingJobs = field(default_factory=WaitingJobs)
    failing: Callable[[], tuple[str, float] | None] = lambda: None
    spool: Spool | None = None
    clock: Callable[[], float] = time.monotonic
    stopping: threading.Event = field(default_factory=threading.Event, init=False)
    claims_unclear_until: float = field(default=float("-inf"), init=False)
    unadopted: tuple[frozenset[str], float] = field(default=(frozenset(), float("-inf")), init=False)
    presence_at: float | None = field(default=None, init=False)
    pending: int | None = field(default=None, init=False)
    pending_at: float | None = field(default=None, init=False)

    @property
    def presence_age(self) -> float | None:
        """Seconds since the server last accepted a presence report; ``None``: never."""
        return None if self.presence_at is None else self.clock() - self.presence_at

    def block_of(self, handler: Handler, nodes: Nodes) -> Block | None:
        """The reason why a handler's jobs cannot be claimed now; ``None`` if none is known.

        Args:
            handler: the handler.
            nodes: the online workers.
        """
        destination = self.routes.latest(handler)
        if destination.problem:
            return Block("route", destination.problem, handler.name)
        block = blocked(handler.name, destination.queues, nodes)
        if block is None and (why := self.sender.refusal(handler.name, destination)):
            block = Block("refused", f"the broker refuses messages to {destination}: {why}", handler.name)
        return block

    def log(self, job_id: int, task_id: str = "", task_name: str = "") -> JobLog:
        """The log of a job."""
        return job_log(self.ledger.worker_name, self.settings.url, job_id, task_id, task_name)
