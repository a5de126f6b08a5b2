"""The renewer: keeps the claims and deliveries of this bridge from expiring while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..delivery import DELIVERY_LEASE
from ..ledger import DeliveryKey, Ledger
from .limits import CHECK_SECONDS, CLAIM_LEASE


@dataclass
class ClaimRenewer:
    """Renews the leases of the claims and deliveries in progress, for as long as the server takes.

    It uses only the ledger, so a slow server or broker cannot make the bridge lose them. If the bridge
    dies, other bridges take them over within seconds.

    Args:
        ledger: the ledger.
        lease: the setting, in seconds.

    Attributes:
        claims: the jobs whose claims are in progress. The code that claims a job adds and removes it.
        deliveries: the deliveries in progress, likewise.
    """

    ledger: Ledger
    lease: float
    claims: set[int] = field(default_factory=set, init=False)
    deliveries: set[DeliveryKey] = field(default_factory=set, init=False)

    def run_once(self) -> float:
        """Renew all leases once. Returns the seconds until the next run.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        # Copies, which are atomic: other threads add and remove.
        for job_id in list(self.claims):
            self.ledger.settle_later(job_id, CLAIM_LEASE)
        for key in list(self.deliveries):
            self.ledger.renew_delivery(key, lease=min(DELIVERY_LEASE, self.lease))
        return CHECK_SECONDS
