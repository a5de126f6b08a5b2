"""The sweeper: removes spool files that no job needs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ...ledger import Record
from ...spool import Entry, Spool, SpoolUnavailable
from ...telemetry.quantities import data_size
from ..context import BridgeContext
from ..limits import SWEEP_AGE

logger = logging.getLogger("mr_celery.bridge")


class Sweeper:
    """Removes files from the spool that belong to no outcome, because their run was lost, aborted or never finished.

    Args:
        context: the objects that the loops share.
        now: returns the seconds since 1970.
    """

    def __init__(self, context: BridgeContext, *, now: Callable[[], float] = time.time) -> None:
        self._context = context
        self._now = now

    def run_once(self) -> float:
        """Sweep once. Returns the seconds until the next sweep.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        if self._context.spool is not None:
            self._sweep(self._context.spool)
        return SWEEP_AGE / 12  # files are removed at most this much later than they might be

    def _sweep(self, spool: Spool) -> None:
        try:
            entries = spool.entries()
        except SpoolUnavailable as error:
            logger.warning("%s", error)
            return
        for entry in entries:
            if self._now() - entry.written_at > SWEEP_AGE and not self._needed(entry):
                self._remove(spool, entry)

    def _remove(self, spool: Spool, entry: Entry) -> None:
        try:
            spool.remove(entry.file)
        except SpoolUnavailable as error:
            logger.warning("%s", error)
        else:
            logger.info("removed from the spool, since no job needs it: %s, %s", entry.file, data_size(entry.size))

    def _needed(self, entry: Entry) -> bool:
        if entry.name is None:
            return False
        record = self._context.ledger.read(entry.name.job_id)
        return record is not None and needs(record, entry)


def needs(record: Record, entry: Entry) -> bool:
    """Whether a job still needs a file: its run is not over, or its outcome waits for delivery."""
    if entry.name is None or record.task_id != entry.name.task_id:
        return False
    if record.outcome is None:
        return record.state in ("claimed", "sent", "running", "deferred")
    # The index in a file's name is that in its own run. The outcome may also have uploads of other runs and calls.
    uploads = enumerate(record.outcome.uploads)
    index, upload = next(((index, each) for index, each in uploads if each.spooled == entry.file), (0, None))
    return upload is not None and not upload.refused and f"artifact:{index}" not in record.parts
