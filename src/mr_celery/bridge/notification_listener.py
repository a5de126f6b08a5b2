"""Listens to the ledger's notifications and wakes the loops concerned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ..ledger import PERMISSION_HINT, Ledger, NotificationsRefused
from .limits import CHECK_SECONDS
from .loops import Loop
from .wake_ups import LoopName, of_notification

logger = logging.getLogger("mr_celery.bridge")

RETRY_SECONDS = 60.0
"""Seconds until a listener without permission tries again."""


class Woken:
    """The loops of a worker name, which its notifications wake, following :data:`.wake_ups.WAKE_UPS`.

    Args:
        loops: the loops by name.
        wants_slot: returns whether a job, or the next poll of the inbox, waits for a free slot.
    """

    def __init__(self, loops: Mapping[LoopName, Loop], *, wants_slot: Callable[[], bool]) -> None:
        self._loops = loops
        self._wants_slot = wants_slot

    def wake(self, notification: str) -> None:
        """Wake the loops that handle a notification."""
        for wake_up in of_notification(notification, slot_wanted=self._wants_slot()):
            loop = self._loops[wake_up.loop]
            if wake_up.condition == "always":
                loop.wake()
            else:
                loop.call()


class NotificationListener:
    """Wakes loops as soon as the ledger publishes a change, on one connection for all worker names of a process.

    If the Redis user has no permission for this, the loops find changes when they poll.

    Args:
        ledgers: the ledgers of the worker names.
        woken: the loops of each worker name.
        stopping: whether all bridges are stopping.
    """

    def __init__(
        self, ledgers: Sequence[Ledger], woken: Mapping[str, Woken], *, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._ledgers = ledgers
        self._woken = woken
        self._stopping = stopping
        self._refused = False

    def run_once(self) -> float:
        """Listen until all bridges stop, or it is refused. Returns the seconds until the next try.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        try:
            self._listen()
        except NotificationsRefused as error:
            if not self._refused:
                logger.warning(
                    "no notifications from the ledger: %s. The bridge polls it once a second. To be quicker, %s",
                    error,
                    PERMISSION_HINT,
                )
            self._refused = True
            return RETRY_SECONDS
        return 0.0

    def _listen(self) -> None:
        first, *others = self._ledgers
        for notifications in first.listen(CHECK_SECONDS, *others):
            if self._refused:
                self._refused = False
                logger.info("notifications from the ledger are allowed again")
            if self._stopping():
                break
            for worker_name, notification in dict.fromkeys(notifications):
                self._woken[worker_name].wake(notification)
            if notifications:
                time.sleep(0.02)  # under load, they arrive continuously, and are handled together
