"""What every part of a bridge works with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .. import tracing
from ..backoff import backoff
from ..client import Api
from ..delivery import HOLD_SECONDS
from ..errors import WorkerError
from ..ledger import DeliveryKey, Fleet, Ledger, Route
from ..log import JobLog
from ..outcome import Outcome
from ..routing import Registry
from ..settings import Settings
from ..spool import Spool
from .capacity import Capacity, capacity_of, shared
from .sender import NotPublished, Sender, routes_of
from .vitals import Vitals

logger = logging.getLogger("mr_celery.bridge")

FLEET_SECONDS = 1.0
"""How long the bridge works with what it knows of the fleet before it looks again."""

CLAIM_LEASE = 5.0
"""Seconds for which a claim under way belongs to its bridge; the keeper prolongs it as long as the claim lasts."""

UNCLEAR_SECONDS = 120.0
"""Seconds for which the server's lists are compared after a claim without a clear answer."""

TOKEN_LAPSES = 3
"""How many refusals of the token in a row are an error, and not a lapse of the server."""

TOKEN_PAUSE = 30.0
"""Seconds between two tries of a token that the server refuses again and again."""


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
        spool: where large artifacts wait; ``None`` where no spool is set.
        vitals: counts the requests to the server.
        neighbours: the ledgers of other worker names on the same fleet.
        clock: seconds, monotonic.

    Attributes:
        token_rejected: whether the server refuses the token: then nothing is claimed.
        stopping: set when the bridge was told to stop.
        presence_at: when the server last took a report of presence, by the clock; ``None``: never.
        pending: how many jobs were pending at the last look into the inbox, less those that were claimed since;
            ``None``: there was no look yet.
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
        spool: Spool | None = None,
        vitals: Vitals | None = None,
        neighbours: Sequence[Ledger] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.api = api
        self.ledger = ledger
        self.fleet = fleet
        self.sender = sender
        self.spool = spool
        self.clock = clock
        self.token_rejected = False
        self.stopping = threading.Event()
        self.vitals = vitals or Vitals()
        self.neighbours = neighbours
        self.presence_at: float | None = None
        self.pending: int | None = None
        self.routes = routes_of(app, registry, settings.max_attempts)
        self.queues: list[str] = sorted({route.queue for route in self.routes.values()})
        self._capacity: tuple[float, Capacity] | None = None
        self._claims_under_way: set[int] = set()
        self._deliveries_under_way: set[DeliveryKey] = set()
        self._refusals = 0
        self._token_doubted_until = float("-inf")
        self._claims_unclear_until = float("-inf")
        self._lock = threading.Lock()

    @property
    def presence_age(self) -> float | None:
        """Seconds since the server last took a report of presence; ``None``: it never has."""
        return None if self.presence_at is None else self.clock() - self.presence_at

    def capacity(self) -> Capacity:
        """What the fleet can run for this worker name, at most :data:`FLEET_SECONDS` old.

        Raises:
            LedgerUnavailable: the register of workers, or a neighbour's ledger, cannot be read.
        """
        with self._lock:
            now = self.clock()
            if self._capacity is None or now - self._capacity[0] > FLEET_SECONDS:
                whole = capacity_of(self.fleet.online(), self.routes, self.settings.max_inflight)
                self._capacity = (now, shared(whole, [each.survey(self.queues) for each in self.neighbours]))
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

    @contextmanager
    def delivery_under_way(self, key: DeliveryKey) -> Iterator[None]:
        """Mark that a job is being delivered, while the block lasts."""
        with self._lock:
            self._deliveries_under_way.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._deliveries_under_way.discard(key)

    def hold_claims(self) -> None:
        """Prolong the leases of the claims under way.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        with self._lock:
            under_way = list(self._claims_under_way)
        for job_id in under_way:
            self.ledger.settle_later(job_id, CLAIM_LEASE)

    def hold_deliveries(self) -> None:
        """Prolong the holds of the deliveries under way.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        with self._lock:
            under_way = list(self._deliveries_under_way)
        for key in under_way:
            self.ledger.carry(key, hold_seconds=min(HOLD_SECONDS, self.settings.lease))

    def claim_unclear(self) -> None:
        """A claim got no clear answer: the server may yet carry it out, and the job is to be found then."""
        self._claims_unclear_until = self.clock() + UNCLEAR_SECONDS

    @property
    def claims_unclear(self) -> bool:
        """Whether a claim without a clear answer may still come to light."""
        return self.clock() < self._claims_unclear_until

    def log(self, job_id: int, task_id: str = "", task: str = "") -> JobLog:
        """The log of a job of the worker name."""
        return JobLog(logger, job_id, worker_name=self.ledger.worker, task_id=task_id, task=task)

    def send(
        self,
        job_id: int,
        route: Route,
        task_id: str,
        *,
        priority: str,
        retries: int = 0,
        trace: str = "",
        again: bool = False,
    ) -> bool:
        """Publish the task of a claimed job, which is then to be recorded as sent.

        Args:
            job_id: the job.
            route: how it is run.
            task_id: the attempt's task id.
            priority: the job's priority.
            retries: the number of Celery retries that the attempt has had.
            trace: the carrier of the job's trace, where no span of it is under way.
            again: tells in the log that it is not the job's first sending.

        Returns:
            ``False`` if the job has no handler here: then it is failed.

        Raises:
            NotPublished: the broker did not take it; the reaper publishes it again.
            LedgerUnavailable: it could not be recorded as failed; the reaper tries again.
        """
        handler = self.registry.named(route.task)
        if handler is None:
            why = "no handler of this worker takes the job"
            if route.task:
                why = f"its handler {route.task} is not declared in the application that the bridge runs"
            if self.ledger.fail(job_id, task_id, Outcome.failed(why)):
                self.log(job_id, task_id, route.task).warning("failed", f"failed: {why}", reason=why)
            return False
        try:
            with tracing.following(trace):
                self.sender.send(handler, self.ledger.worker, job_id, task_id, priority=priority, retries=retries)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"  # the broker's words: the message has nothing of the job's content
            self.log(job_id, task_id, route.task).warning(
                "not_sent", f"not published, next try soon: {why}", reason=why
            )
            raise NotPublished from error
        event, text = ("sent_again", "sent again") if again else ("sent", f"sent to queue {route.queue}")
        self.log(job_id, task_id, route.task).info(event, text, queue=route.queue)
        return True

    def sent(self, tasks: Mapping[int, str]) -> None:
        """Claimed → sent, for each job that was published under that task id.

        Raises:
            LedgerUnavailable: it could not be recorded; the reaper publishes them again, which is safe.
        """
        self.ledger.sent(tasks, wait_seconds=self.settings.lease)

    def publish(self, job_id: int, route: Route, task_id: str, **options: Any) -> None:
        """Claimed → sent, for one job: :meth:`send`, and :meth:`sent`."""
        if self.send(job_id, route, task_id, **options):
            self.sent({job_id: task_id})

    def reject_token(self, error: WorkerError) -> None:
        """The server refuses the token: nothing is claimed until it takes it again.

        It may be a lapse, so the first refusals in a row stop the claiming for moments only. Requests that were made
        side by side are refused together: they count as one.
        """
        with self._lock:
            if self.token_pause:
                return
            self._refusals += 1
            refusals = self._refusals
            pause = backoff(refusals, first=1.0, most=TOKEN_PAUSE)
            self._token_doubted_until = self.clock() + pause
            self.token_rejected = True
        if refusals == TOKEN_LAPSES:
            logger.error(
                "the server refuses the token (%s): no jobs are claimed, and outcomes wait in the ledger. Check "
                "MODELREINS_TOKEN; after a change, restart the bridge and the workers",
                error.summary,
            )
        elif refusals < TOKEN_LAPSES:
            logger.warning("the server refused the token (%s); it is tried again in %.1f s", error.summary, pause)

    @property
    def token_pause(self) -> float:
        """Seconds until the token may be tried again; 0: now."""
        return max(0.0, self._token_doubted_until - self.clock())

    def accept_token(self) -> None:
        """The server answered a request with this token; it is used again once the pause is over."""
        with self._lock:
            if self.token_pause or not self.token_rejected:
                return
            self.token_rejected = False
        logger.info("the server takes the token again")

    def token_works(self) -> None:
        """The server did something for this token: what it refused before was a lapse."""
        self._refusals = 0
