"""Presence: the server is told that this worker name is here."""

from __future__ import annotations

import logging

from ..client import Api
from ..errors import LedgerUnavailable, WorkerError
from ..ledger import Fleet, Ledger
from .capacity import capacity_of
from .office import TOKEN_LAPSES, Office

logger = logging.getLogger("mr_celery.bridge")

REJECTED_PACE = 6
"""How many times slower presence is reported while the token is refused."""


class Heartbeat:
    """Reports presence, with the declared capabilities as tags and the state of work as details.

    It has connections of its own, with time-outs so short that presence does not lapse because the server or the
    ledger is slow.

    Args:
        office: the bridge's parts.
        api: the server.
        ledger: the ledger.
        fleet: the register of workers.
    """

    def __init__(self, office: Office, api: Api, ledger: Ledger, fleet: Fleet) -> None:
        self._office = office
        self._api = api
        self._ledger = ledger
        self._fleet = fleet
        self._tags = ",".join(office.registry.offered) or None
        self._refusals = 0

    def run_once(self) -> float:
        """Report presence. Returns seconds until the next report.

        Raises:
            WorkerError: it could not be reported, for another reason than the token.
        """
        office = self._office
        interval = office.settings.heartbeat_interval
        began = office.clock()
        try:
            self._api.presence("active", self._details(), self._tags)
        except WorkerError as error:
            if not error.unauthorized:
                raise
            self._refusals += 1
            office.reject_token(error)
            return interval * (REJECTED_PACE if self._refusals >= TOKEN_LAPSES else 1)
        self._refusals = 0
        office.accept_token()
        return max(0.0, interval - (office.clock() - began))

    def leave(self) -> None:
        """Report a last time that this worker name was here, and is idle now."""
        try:
            self._api.presence("idle", "bridge stopped", self._tags)
        except WorkerError as error:
            logger.warning("last presence not reported: %s", error.summary)

    def _details(self) -> str:
        office = self._office
        try:
            survey = self._ledger.survey()
            capacity = capacity_of(self._fleet.online(), office.routes, office.settings.max_inflight)
        except LedgerUnavailable:
            return "ledger away"
        waiting = survey.states["claimed"] + survey.states["sent"]
        return f"in flight {survey.in_flight}, waiting {waiting}, capacity {capacity.shown}"
