"""The bridge: its loops, wired, started and stopped in one place."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..client import Api
from ..errors import LedgerUnavailable, RoutingError, SettingsError
from ..ledger import Fleet, Ledger
from ..ledger.connection import MINIMUM_VERSION
from ..settings import Settings, require
from ..spool import spool_of
from ..version import __version__
from .claimer import Claimer
from .courier import Courier
from .heartbeat import Heartbeat
from .keeper import Keeper
from .loops import Loop
from .office import Office
from .reaper import Reaper
from .sender import Sender, registry_of
from .sweeper import Sweeper
from .sync import InFlightSync
from .vitals import Vitals
from .watch import Watch

logger = logging.getLogger("mr_celery.bridge")

BELL_SECONDS = 1.0
"""Seconds after which the bell's listener looks whether it is to stop."""

REST_SECONDS = 0.01
"""Seconds from one ring of the bell to the next at the least: under load it rings without end."""

CLAIM_SECONDS = 0.02
"""Seconds from one turn of claiming to the next at the least: slots that become free meanwhile are filled together."""

PRESENCE_LAPSES = 3
"""How many reports of presence may fail in a row before a bridge is not ready."""


class Bridge:
    """One bridge process' work for one worker name. Any number of them work side by side.

    Args:
        app: the Celery application.
        settings: the settings of one worker name.

    Raises:
        SettingsError: the token or the ledger's address is missing, the ledger's Redis is too old, or the spool needs
            a package that is not installed.
        RoutingError: no task is decorated, the declarations contradict each other, or what the worker name is to offer
            is not there.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        token = require(settings, "token")
        ledger_url = require(settings, "ledger_url")
        registry = registry_of(app, settings)
        if not registry.handlers:
            raise RoutingError(
                "no task of this application takes jobs: decorate one with @modelreins_job, and see that its module "
                "is imported (imports=, include= or autodiscover_tasks())"
            )
        if app.conf.task_protocol == 1:
            raise SettingsError("task_protocol: 1 has no message headers; jobs need protocol 2, Celery's default")
        presence_timeout = min(settings.timeout, settings.heartbeat_interval)
        glance = min(1.0, settings.heartbeat_interval / 4)
        vitals = Vitals()
        self._office = Office(
            settings=settings,
            registry=registry,
            api=Api(settings.url, token, settings.name, timeout=settings.timeout, on_error=vitals.error),
            ledger=Ledger(ledger_url, settings.name, history=settings.history),
            fleet=Fleet(ledger_url),
            sender=Sender(app),
            app=app,
            spool=spool_of(settings, settings.name),
            vitals=vitals,
            neighbours=[Ledger(ledger_url, name) for name in settings.neighbours],
        )
        self._claimer = Claimer(self._office)
        self._courier = Courier(self._office)
        self._heartbeat = Heartbeat(
            self._office,
            Api(settings.url, token, settings.name, timeout=presence_timeout, on_error=vitals.error),
            Ledger(ledger_url, settings.name, timeout=glance),
            Fleet(ledger_url, timeout=glance),
        )
        self._claim_loop = Loop("claim", self._claimer, most_backoff=10.0, least_interval=CLAIM_SECONDS)
        self._courier_loop = Loop("courier", self._courier, most_backoff=5.0)
        self._heartbeat_loop = Loop("heartbeat", self._heartbeat, most_backoff=settings.heartbeat_interval)
        self._keeper_loop = Loop("keeper", Keeper(self._office), most_backoff=2.0)
        self._reaper_loop = Loop("reaper", Reaper(self._office), most_backoff=5.0)
        self._sync_loop = Loop("sync", InFlightSync(self._office))
        self._sweep_loop = Loop("sweep", Sweeper(self._office))
        called = {
            "admitted": self._sync_loop,
            "claimed": self._reaper_loop,
            "sent": self._reaper_loop,
            "running": self._reaper_loop,
            "finished": self._courier_loop,
        }
        self._watch_loop = Loop("watch", Watch(self._office, called), most_backoff=5.0)
        self._bell_loop = Loop("bell", self, most_backoff=5.0, endless=True)

    @property
    def office(self) -> Office:
        """The parts that its loops share."""
        return self._office

    def unwell(self) -> dict[str, str]:
        """What of this process does not work any more, and can only be mended by starting it anew; empty: nothing."""
        if self._office.stopping.is_set():
            return {}
        return {loop.name: loop.trouble for loop in self._loops if loop.trouble}

    def unready(self) -> dict[str, str]:
        """Why it does not claim and deliver now; empty: it does, or is paused. It asks nobody."""
        office = self._office
        reasons = self.unwell()
        if office.stopping.is_set():
            reasons["bridge"] = "it is stopping"
        if office.token_rejected:
            reasons["token"] = "the server refuses it"  # noqa: S105 - no password
        if self._watch_loop.failures:
            reasons["ledger"] = "it does not answer"
        age, limit = office.presence_age, PRESENCE_LAPSES * office.settings.heartbeat_interval + office.settings.timeout
        if age is None or age > limit:
            reasons["presence"] = "never taken by the server" if age is None else f"last taken {age:.0f} s ago"
        return reasons

    @property
    def _loops(self) -> tuple[Loop, ...]:
        return (
            self._heartbeat_loop,
            self._sync_loop,
            self._claim_loop,
            self._courier_loop,
            self._keeper_loop,
            self._reaper_loop,
            self._sweep_loop,
            self._watch_loop,
            self._bell_loop,
        )

    def start(self) -> None:
        """Start all loops."""
        office = self._office
        self._check_ledger()
        for handler in office.registry.handlers:
            route = office.routes[handler.name]
            logger.info("%s takes %s, from queue %s", handler.name, handler.declaration.offers, route.queue)
        logger.info("bridge %s for worker %r at %s, ready", __version__, office.settings.name, office.settings.url)
        for loop in self._loops:
            loop.start()

    def _check_ledger(self) -> None:
        """Refuse a Redis that is too old. One that is away is waited for by the loops."""
        try:
            version = self._office.ledger.server_version()
        except LedgerUnavailable as error:
            logger.error("%s; the bridge waits for it", error)
            return
        if version < MINIMUM_VERSION:
            shown = ".".join(map(str, version))
            raise SettingsError(f"the ledger's Redis is version {shown}; 6.2 or later is needed")

    def run_once(self) -> float:
        """Listen to the ledger's bell, and wake whom it is for, until the bridge stops."""
        for ring in self._office.ledger.bell(BELL_SECONDS):
            if self._office.stopping.is_set():
                break
            slot_is_free = ring in ("finished", "deliver", "dropped", "aborted") and self._claimer.hungry
            if slot_is_free or ring == "resumed":
                self._claim_loop.wake()
            if ring == "deliver":
                self._courier_loop.wake()
            elif ring == "claimed":
                self._reaper_loop.wake()
            if ring:
                time.sleep(REST_SECONDS)
        return 0.0

    def stop(self) -> None:
        """Stop claiming, end what is being claimed or delivered, and report a last presence.

        Presence and delivery go on while the claims under way are ended. It takes at most
        ``shutdown_timeout`` seconds and the last request.
        """
        deadline = time.monotonic() + self._office.settings.shutdown_timeout

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        logger.info("stopping: no more jobs are claimed")
        self._office.stopping.set()
        for loop in (self._claim_loop, self._sync_loop, self._reaper_loop, self._sweep_loop, self._bell_loop):
            loop.stop()
        self._claim_loop.join(left())
        self._claimer.close(left())
        self._courier_loop.stop()
        self._courier_loop.join(left())
        self._courier.close(left())
        self._watch_loop.stop()
        self._keeper_loop.stop()
        self._heartbeat_loop.stop()
        self._heartbeat_loop.join(left())
        self._heartbeat.leave()
        self._office.sender.close()
        logger.info("stopped")
