"""What every part of a bridge works with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..client import Api
from ..errors import WorkerError
from ..ledger import Fleet, Ledger, Route
from ..outcome import Outcome
from ..routing import Registry
from ..settings import Settings
from .capacity import Capacity, capacity_of
from .sender import Sender, route_of

logger = logging.getLogger("mr_celery.bridge")

FLEET_SECONDS = 1.0
"""How long the bridge works with what it knows of the fleet before it looks again."""

CLAIM_LEASE = 5.0
"""Seconds for which a claim under way belongs to its bridge; the reaper prolongs it as long as the claim lasts."""


class Office:
    """The parts that the loops of one bridge share.

    Args:
        settings: the settings.
        registry: the handlers.
        api: the server.
        ledger: the ledger of the worker name.
        fleet: the register of online workers.
        sender: the way to the broker.
        app: the Celery application.
        clock: seconds, monotonic.

    Attributes:
        token_rejected: set while the server refuses the token: then nothing is claimed.
        stopping: set when the bridge was told to stop.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        registry: Registry,
        api: Api,
        ledger: Ledger,
        fleet: Fleet,
        sender: Sender,
        app: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.api = api
        self.ledger = ledger
        self.fleet = fleet
        self.sender = sender
        self.app = app
        self.clock = clock
        self.token_rejected = threading.Event()
        self.stopping = threading.Event()
        self.routes: dict[str, Route] = {
            handler.name: route_of(app, handler, settings.max_attempts) for handler in registry.handlers
        }
        self.queues: list[str] = sorted({route.queue for route in self.routes.values()})
        self._capacity: tuple[float, Capacity] | None = None
        self._claims_under_way: set[int] = set()
        self._lock = threading.Lock()

    def capacity(self) -> Capacity:
        """What the fleet can run, at most :data:`FLEET_SECONDS` old.

        Raises:
            LedgerUnavailable: the register of workers cannot be read.
        """
        with self._lock:
            now = self.clock()
            if self._capacity is None or now - self._capacity[0] > FLEET_SECONDS:
                nodes = self.fleet.online()
                self._capacity = (now, capacity_of(nodes, self.routes, self.settings.max_inflight))
            return self._capacity[1]

    @contextmanager
    def claim_under_way(self, job_id: int) -> Iterator[None]:
        """Mark that a job is being claimed, while the block lasts."""
        with self._lock:
            self._claims_under_way.add(job_id)
        try:
            yield
        finally:
            with self._lock:
                self._claims_under_way.discard(job_id)

    def hold_claims(self) -> None:
        """Prolong the leases of the claims under way.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        with self._lock:
            under_way = list(self._claims_under_way)
        for job_id in under_way:
            self.ledger.settle_later(job_id, CLAIM_LEASE)

    def publish(self, job_id: int, route: Route, task_id: str, *, priority: str, retries: int = 0) -> bool:
        """Claimed → sent. Returns whether the broker took it; if not, the reaper publishes it again.

        Raises:
            LedgerUnavailable: it could not be recorded; the reaper publishes it again.
        """
        handler = self.registry.named(route.task)
        if handler is None:
            why = "no handler of this worker takes the job"
            if route.task:
                why = f"its handler {route.task} is not declared in the application that the bridge runs"
            self.ledger.fail(job_id, task_id, Outcome.failed(why))
            return False
        try:
            self.sender.send(handler, self.ledger.worker, job_id, task_id, priority=priority, retries=retries)
        except Exception as error:
            logger.warning("job=%d not published, next try soon: %s: %s", job_id, type(error).__name__, error)
            return False
        self.ledger.sent(job_id, task_id, wait_seconds=self.settings.lease)
        return True

    def reject_token(self, error: WorkerError) -> None:
        """The server refuses the token: nothing is claimed until it takes it again."""
        if not self.token_rejected.is_set():
            self.token_rejected.set()
            logger.error(
                "the server refuses the token (%s): no jobs are claimed, and outcomes wait in the ledger. Check "
                "MODELREINS_TOKEN; after a change, restart the bridge and the workers",
                error.summary,
            )

    def accept_token(self) -> None:
        """The server takes the token."""
        if self.token_rejected.is_set():
            self.token_rejected.clear()
            logger.info("the server takes the token again")
