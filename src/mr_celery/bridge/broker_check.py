"""Checks whether the broker can be reached, also while there is nothing to publish."""

from __future__ import annotations

from ..telemetry.outages import Outage
from .publisher import NotPublished, Publisher

INTERVAL = 7.0
"""Seconds between two checks, so that an outage shows within 15 s. A published message counts as a check."""


class BrokerCheck:
    """Opens a connection to the broker now and then, and records the result as an outage or its end.

    Args:
        publisher: connects to the broker.
        outage: the outage of the broker.
    """

    def __init__(self, publisher: Publisher, outage: Outage) -> None:
        self._publisher = publisher
        self._outage = outage

    def run_once(self) -> float:
        """Check once, unless a message was just published. Returns the seconds until the next check."""
        broker = self._outage
        age = broker.answer_age
        if age is not None and age < INTERVAL and broker.seconds is None:
            return INTERVAL - age
        try:
            self._publisher.connect()
        except NotPublished as error:
            broker.failed(str(error))
            return 2.0  # shorter, so that the end of the outage is logged soon
        broker.works()
        return INTERVAL
