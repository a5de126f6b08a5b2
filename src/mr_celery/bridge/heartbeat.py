"""Presence: the server is told that this worker name is here."""

from __future__ import annotations

import logging
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

from ..client import Api
from ..errors import LedgerUnavailable, WorkerError
from ..ledger import BridgeProcess, Fleet, Ledger
from ..version import __version__
from .capacity import capacity_of
from .office import TOKEN_LAPSES, Office

logger = logging.getLogger("mr_celery.bridge")

REJECTED_PACE = 6
"""How many times slower presence is reported while the token is refused."""

SIDE_BY_SIDE = 4
"""How many reports may wait for their answers."""

ONLINE = 3
"""For how many intervals a bridge counts as online after it has announced itself."""


class Heartbeat:
    """Reports presence, with the declared capabilities as tags and the state of work as details.

    It announces the bridge in the ledger, too, for whoever asks how things stand.

    It has connections of its own, with short time-outs, and a report whose answer is late does not delay the next one:
    so presence does not lapse because the server or the ledger is slow.

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
        self._began_at = office.clock()
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="modelreins-heartbeat")
        self._under_way: list[Future[object]] = []

    def run_once(self) -> float:
        """Report presence. Returns seconds until the next report.

        Raises:
            WorkerError: it could not be reported, for another reason than the token.
        """
        interval = self._office.settings.heartbeat_interval
        began = self._office.clock()
        if len(self._under_way) < SIDE_BY_SIDE:
            self._under_way.append(self._pool.submit(self._api.presence, "active", self._details(), self._tags))
        wait(self._under_way[-1:], timeout=interval)
        try:
            refusals = self._learn()
        finally:
            self._announce(interval * ONLINE * REJECTED_PACE if self._refusals >= TOKEN_LAPSES else interval * ONLINE)
        if refusals >= TOKEN_LAPSES:
            return interval * REJECTED_PACE
        return max(0.0, interval - (self._office.clock() - began))

    def _learn(self) -> int:
        """Learn from the answers that are there. Returns how often in a row the token was refused."""
        answered = [each for each in self._under_way if each.done()]
        self._under_way = [each for each in self._under_way if each not in answered]
        for report in answered:
            try:
                report.result()
            except WorkerError as error:
                if not error.unauthorized:
                    raise
                self._refusals += 1
                self._office.reject_token(error)
            else:
                self._refusals = 0
                self._office.presence_at = self._office.clock()
                self._office.accept_token()
        return self._refusals

    def leave(self) -> None:
        """Report a last time that this worker name was here, and is idle now."""
        try:
            self._api.presence("idle", "bridge stopped", self._tags)
        except WorkerError as error:
            logger.warning("last presence not reported: %s", error.summary)
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(LedgerUnavailable):  # it is gone from there by itself, a little later
            self._ledger.withdraw_bridge(self._id)

    @property
    def _id(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"

    def _announce(self, seconds: float) -> None:
        bridge = BridgeProcess(
            id=self._id,
            host=socket.gethostname(),
            version=__version__,
            uptime=self._office.clock() - self._began_at,
            presence_age=self._office.presence_age,
            token_rejected=self._office.token_rejected,
            pending=self._office.pending,
        )
        try:
            self._ledger.announce_bridge(bridge, seconds=seconds)
        except LedgerUnavailable as error:
            logger.debug("this bridge cannot be announced: %s", error)

    def _details(self) -> str:
        office = self._office
        try:
            survey = self._ledger.survey()
            capacity = capacity_of(self._fleet.online(), office.routes, office.settings.max_inflight)
        except LedgerUnavailable:
            return "ledger away"
        waiting = survey.states["claimed"] + survey.states["sent"]
        paused = "paused, " if survey.paused else ""
        return f"{paused}in flight {survey.in_flight}, waiting {waiting}, capacity {capacity.shown}"
