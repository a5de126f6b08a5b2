"""The sweeper: the spool keeps nothing that nobody will deliver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..ledger import Record
from ..spool import Entry, Spool, SpoolUnavailable
from .office import Office

logger = logging.getLogger("mr_celery.bridge")

INTERVAL = 600.0
"""Seconds between two sweeps."""

GRACE = 7200.0
"""Seconds for which every file is left alone: its run may not have been able to record its outcome yet."""


class Sweeper:
    """Removes files from the spool that belong to no outcome: of runs that were lost or aborted, or never finished.

    Args:
        office: the bridge's parts.
        now: seconds since 1970.
    """

    def __init__(self, office: Office, *, now: Callable[[], float] = time.time) -> None:
        self._office = office
        self._now = now

    def run_once(self) -> float:
        """Sweep once. Returns seconds until the next time.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        spool = self._office.spool
        if spool is None:
            return INTERVAL
        try:
            entries = spool.entries()
        except SpoolUnavailable as error:
            logger.warning("%s", error)
            return INTERVAL
        for entry in entries:
            if self._now() - entry.written_at > GRACE and not self._needed(entry):
                self._remove(spool, entry)
        return INTERVAL

    def _remove(self, spool: Spool, entry: Entry) -> None:
        try:
            spool.remove(entry.file)
        except SpoolUnavailable as error:
            logger.warning("%s", error)
        else:
            logger.info("removed from the spool, since no job needs it: %s, %d bytes", entry.file, entry.size)

    def _needed(self, entry: Entry) -> bool:
        if entry.name is None:
            return False
        record = self._office.ledger.read(entry.name.job_id)
        return record is not None and needs(record, entry)


def needs(record: Record, entry: Entry) -> bool:
    """Whether a job still needs a file: the run that made it goes on, or its outcome waits for delivery."""
    if entry.name is None or record.task_id != entry.name.task_id:
        return False
    if record.outcome is None:
        return record.state in ("claimed", "sent", "running")
    upload = next((each for each in record.outcome.uploads if each.spooled == entry.file), None)
    return upload is not None and not upload.refused and f"artifact:{entry.name.index}" not in record.parts
