"""The keeper: what this bridge has in hand stays in its hand, for as long as it lives."""

from __future__ import annotations

from .office import Office

INTERVAL = 1.0
"""Seconds between two prolongations: a third of the shortest hold, or less."""


class Keeper:
    """Prolongs the claims and the deliveries under way, however long the server takes.

    It asks nobody but the ledger, so that nothing else that is slow can make the bridge lose them. When the bridge
    dies, others take them over within seconds.
    """

    def __init__(self, office: Office) -> None:
        self._office = office

    def run_once(self) -> float:
        """Prolong once. Returns seconds until the next time.

        Raises:
            LedgerUnavailable: the ledger is away.
        """
        self._office.hold_claims()
        self._office.hold_deliveries()
        return INTERVAL
