"""The watch: one look a second at the ledger tells whom there is work for."""

from __future__ import annotations

from collections.abc import Mapping

from .loops import Loop
from .office import Office

REST = 30.0
"""Seconds after which a loop that is woken by the watch looks by itself."""


class Watch:
    """Wakes the loops that look after jobs when there is one for them to look at.

    So an idle bridge asks the ledger one question a second, and not one for each state. It does nothing else
    that could keep it waiting: while the ledger answers, nobody comes late to a job because another loop is busy.

    Args:
        office: the bridge's parts.
        loops: which loop looks after the jobs that are due in a state.
    """

    def __init__(self, office: Office, loops: Mapping[str, Loop]) -> None:
        self._office = office
        self._loops = loops

    def run_once(self) -> float:
        """Look once. Returns seconds until the next look.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        lease = self._office.settings.lease
        due = self._office.ledger.watch(lease=lease)
        for loop in {loop for state, loop in self._loops.items() if due[state]}:
            loop.call()
        return min(1.0, lease / 10)
