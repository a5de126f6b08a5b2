"""The courier: delivers the outcomes that were not delivered where they arose."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

from .. import tracing
from ..backoff import backoff
from ..delivery import HOLD_SECONDS, Consignment, Delivery, Stores
from ..errors import LedgerUnavailable, WorkerError
from ..ledger import DeliveryKey
from .office import Office
from .watch import REST

SIDE_BY_SIDE = 8
"""How many outcomes are delivered at once, when all is well."""

LOOK_SECONDS = 1.0
"""Seconds between two looks while deliveries are under way, or the token is refused."""

MOST_PAUSE = 5.0
"""Seconds between two single deliveries that find out whether a server in trouble is back."""


MOST_RETRY_AFTER = 30.0
"""Seconds for which one answer may stop all deliveries; the delivery that got it waits for as long as it says."""


class Window:
    """How much may be tried at once with a server that may be in trouble.

    Each failure halves it; with one at a time left, the pauses grow. Each success doubles it. So a server that
    comes back is not run over, and one that fails now and then hardly slows anything.

    Args:
        most: how much when all is well.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures = 0
        self.size = most

    def succeeded(self) -> None:
        """A delivery got through."""
        self._failures = 0
        self.size = min(self._most, self.size * 2)

    def failed(self) -> float:
        """A delivery told of trouble. Returns the seconds to pause now."""
        alone = self.size == 1
        self.size = max(1, self.size // 2)
        if not alone:
            return 0.0
        self._failures += 1
        return backoff(self._failures, first=0.5, most=MOST_PAUSE)


class Courier:
    """Takes the outcomes that are due from the ledger and delivers them, a few side by side.

    Args:
        office: the bridge's parts.
        side_by_side: how many at once.
    """

    def __init__(self, office: Office, *, side_by_side: int = SIDE_BY_SIDE) -> None:
        self._office = office
        self._hold_seconds = min(HOLD_SECONDS, office.settings.lease)
        stores = Stores(office.ledger, office.spool)
        self._delivery = Delivery(office.api, office.ledger, stores, hold_seconds=self._hold_seconds)
        self._pool = ThreadPoolExecutor(side_by_side, thread_name_prefix="modelreins-courier")
        self._delivering: set[Future[WorkerError | None]] = set()
        self._window = Window(side_by_side)
        self._resume_at = float("-inf")

    def run_once(self) -> float:
        """Deliver what is due. Returns seconds until the next look; the watch and the bell wake it before.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        self._look_back()
        pause = self._resume_at - self._office.clock()
        if pause > 0:
            return pause
        if self._office.token_rejected:
            return LOOK_SECONDS
        free = self._window.size - len(self._delivering)
        if free <= 0:
            wait(self._delivering, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
            return 0.0
        taken = self._office.ledger.collect(free, hold_seconds=self._hold_seconds)
        self._delivering |= {self._pool.submit(self._deliver, key) for key in taken}
        if len(taken) == free:
            return 0.0
        return LOOK_SECONDS if self._delivering else REST

    def _look_back(self) -> None:
        """Learn from the deliveries that have ended."""
        done = {future for future in self._delivering if future.done()}
        self._delivering -= done
        for future in done:
            if future.exception() is not None:
                continue  # it is logged, and tells nothing of the server
            error = future.result()
            if error is None:
                self._window.succeeded()
                self._office.token_works()
            elif error.trouble:
                pause = max(self._window.failed(), min(error.retry_after or 0.0, MOST_RETRY_AFTER))
                self._resume_at = max(self._resume_at, self._office.clock() + pause)
                if error.unauthorized:
                    self._office.reject_token(error)

    def close(self, timeout: float) -> None:
        """Wait for the deliveries that are under way, for at most ``timeout`` seconds."""
        wait(self._delivering, timeout=timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, key: DeliveryKey) -> WorkerError | None:
        """Deliver one outcome. Returns what put it off; after an exception the job becomes due again."""
        ledger, job_id = self._office.ledger, key.job_id
        try:
            record = ledger.read(job_id)
            if record is None or record.state != "finished" or record.outcome is None:
                return None
            consignment = Consignment(key, record.outcome, parts=record.parts)
            with self._office.delivery_under_way(key), tracing.following(record.trace):
                return self._delivery.deliver(consignment)
        except LedgerUnavailable as error:
            log = self._office.log(job_id, key.task_id)
            log.warning("delivery_interrupted", f"delivery interrupted: {error}", reason=str(error))
            raise
        except Exception as error:
            self._office.log(job_id, key.task_id).error("delivery_interrupted", "delivery interrupted", error=error)
            raise
