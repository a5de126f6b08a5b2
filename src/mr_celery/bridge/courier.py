"""The courier: delivers the outcomes that were not delivered where they arose."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..delivery import HOLD_SECONDS, Consignment, Delivery
from ..errors import LedgerUnavailable
from .office import Office

logger = logging.getLogger("mr_celery.bridge")

SIDE_BY_SIDE = 8
"""How many outcomes are delivered at once."""

LOOK_SECONDS = 1.0
"""Seconds between two looks for outcomes that are due."""


class Courier:
    """Takes the outcomes that are due from the ledger and delivers them, a few side by side.

    Args:
        office: the bridge's parts.
        side_by_side: how many at once.
    """

    def __init__(self, office: Office, *, side_by_side: int = SIDE_BY_SIDE) -> None:
        self._office = office
        self._side_by_side = side_by_side
        self._delivery = Delivery(office.api, office.ledger)
        self._pool = ThreadPoolExecutor(side_by_side, thread_name_prefix="modelreins-courier")
        self._delivering: set[Future[None]] = set()

    def run_once(self) -> float:
        """Deliver what is due. Returns seconds until the next look.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        self._delivering = {future for future in self._delivering if not future.done()}
        free = self._side_by_side - len(self._delivering)
        if free == 0:
            wait(self._delivering, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
            return 0.0
        taken = self._office.ledger.take("finished", free, hold_seconds=HOLD_SECONDS)
        for job_id in taken:
            self._delivering.add(self._pool.submit(self._deliver, job_id))
        return 0.0 if len(taken) == free else LOOK_SECONDS

    def close(self, timeout: float) -> None:
        """Wait for the deliveries that are under way, for at most ``timeout`` seconds."""
        wait(self._delivering, timeout=timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, job_id: int) -> None:
        """Deliver one outcome. No exception leaves it: the job stays due."""
        ledger = self._office.ledger
        try:
            record = ledger.read(job_id)
            if record is None or record.state != "finished" or record.outcome is None:
                return
            consignment = Consignment(
                job_id,
                record.outcome,
                blob=lambda index: ledger.blob(job_id, index),
                parts=record.parts,
                tries=record.deliveries,
            )
            if self._delivery.deliver(consignment):
                logger.info("job=%d delivered by the courier, try %d", job_id, record.deliveries)
        except LedgerUnavailable as error:
            logger.warning("job=%d delivery interrupted: %s", job_id, error)
        except Exception:
            logger.exception("job=%d delivery interrupted", job_id)
