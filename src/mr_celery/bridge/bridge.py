"""The bridge: creates, connects, starts and stops its loops. A process has one for each worker name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..clients import Clients
from ..errors import LedgerUnavailable, RoutingError, SettingsError, WorkerError
from ..ledger import EVICTION_HINT, MINIMUM_VERSION, evicts
from ..settings import Settings, is_default, require
from ..version import __version__
from .capacity import FleetCapacity, FleetReader, Surveys
from .claiming.claimer import Claimer
from .context import BridgeContext
from .counters import RequestCounters
from .courier import Courier
from .heartbeat import Heartbeat
from .job_sender import JobSender
from .limits import CHECK_SECONDS
from .loops import Loop
from .notification_listener import Woken
from .recovery.in_flight_sync import InFlightSync
from .recovery.reaper import Reaper
from .recovery.sweeper import Sweeper
from .renewal import ClaimRenewer
from .routes import Routes, registry_of
from .shared import Contribution, Shared, presence_clients
from .state import Kind, State
from .token_gate import TokenGate
from .wake_ups import LoopName, loops_of_due_jobs
from .watch import DuePoller

logger = logging.getLogger("mr_celery.bridge")

PARTS: dict[Kind, str] = {
    "ledger_unreachable": "ledger",
    "token_refused": "token",
    "server_unreachable": "server",
    "requests_fail": "requests",
    "broker_unreachable": "broker",
}
"""States in which the bridge is not ready, with the part that is at fault. Missing workers are not one."""


class Bridge:
    """The bridge of one worker name. Any number of bridges can share a worker name.

    Args:
        app: the Celery application.
        settings: the settings of one worker name.
        shared: what it shares with other bridges of this process; by default its own.

    Raises:
        SettingsError: the token or the ledger's address is missing, the ledger's Redis is too old, or the spool needs
            a package that is not installed.
        RoutingError: no task is decorated, the declarations contradict each other, or the worker name is restricted to
            handlers that do not exist.
    """

    def __init__(self, app: Any, settings: Settings, shared: Shared | None = None) -> None:
        for name in ("token", "ledger_url"):
            require(settings, name)
        self._prefix_is_derived = is_default("ledger_prefix", app.conf, flags={})
        registry = registry_of(app, settings)
        if not registry.handlers:
            raise RoutingError(
                "no task of this application takes jobs: decorate one with @modelreins_job, and make sure that its "
                "module is imported (imports=, include= or autodiscover_tasks())"
            )
        self._shared = shared = Shared(app, settings) if shared is None else shared
        counters, outages = RequestCounters(), shared.outages
        for outage in (outages.ledger, outages.broker):
            outage.on_first_answer(self._log_ready)
        self._is_ready = self._is_accepted = False

        def on_error(error: WorkerError) -> None:
            counters.error(error)
            outages.server_failed(error)

        def on_success() -> None:
            outages.server.works()
            self._is_accepted = True
            self._log_ready()

        clients = Clients(settings, on_error=on_error, on_success=on_success)
        for_presence = presence_clients(settings, on_error=on_error, on_success=on_success)
        api, ledger, publisher = clients.api(), clients.ledger(), shared.publisher
        routes = Routes(app, registry, settings.max_attempts)

        def capacity(fleet: FleetReader) -> FleetCapacity:
            return FleetCapacity(fleet, routes, settings.max_inflight, settings.name, shared.surveys)

        self._context = BridgeContext(
            settings=settings,
            registry=registry,
            api=api,
            ledger=ledger,
            publisher=publisher,
            routes=routes,
            capacity=capacity(shared.fleet),
            sender=JobSender(
                ledger, registry, routes, publisher, outages.broker, wait_seconds=settings.lease, url=settings.url
            ),
            renewer=ClaimRenewer(ledger, settings.lease),
            outages=outages,
            counters=counters,
            spool=clients.spool(),
            token=TokenGate(token_id=lambda: api.token_id),
        )
        self._claimer = Claimer(self._context, pool=shared.claims)
        self._courier = Courier(self._context, pool=shared.deliveries)
        self._heartbeat = Heartbeat(
            self._context,
            for_presence.api(),
            for_presence.ledger(),
            capacity(shared.presence_fleet),
            pool=shared.reports,
        )
        loop = partial(Loop, scheduler=shared.scheduler, outages=outages)
        # Slots that become free within 20 ms are filled together.
        self._claim_loop = loop("claim", self._claimer, threads=shared.claiming, most_backoff=10.0, least_interval=0.02)
        self._courier_loop = loop("courier", self._courier, threads=shared.keeping, most_backoff=5.0)
        self._heartbeat_loop = loop(
            "heartbeat",
            self._heartbeat,
            threads=shared.reporting,
            most_backoff=settings.heartbeat_interval,
            most_retry_after=settings.heartbeat_interval,
        )
        self._reaper_loop = loop("reaper", Reaper(self._context), threads=shared.recovering, most_backoff=5.0)
        self._sync_loop = loop("sync", InFlightSync(self._context), threads=shared.comparing)
        self._sweep_loop = loop("sweep", Sweeper(self._context), threads=shared.recovering)
        self._courier.on_end = self._courier_loop.call
        self._heartbeat.on_answer = self._heartbeat_loop.wake
        self._context.failing = lambda: self._claim_loop.failing or self._heartbeat_loop.failing
        woken: dict[LoopName, Loop] = {
            "claim": self._claim_loop,
            "courier": self._courier_loop,
            "reaper": self._reaper_loop,
            "sync": self._sync_loop,
        }
        shared.add(
            Contribution(
                self._context,
                DuePoller(self._context, loops_of_due_jobs(woken), shared.surveys or Surveys()),
                Woken(woken, wants_slot=lambda: self._claimer.wants_slot),
                self._claim_loop,
            )
        )

    @property
    def context(self) -> BridgeContext:
        """The objects that the loops share."""
        return self._context

    def unwell(self) -> dict[str, str]:
        """Problems that only a restart can fix, by loop; empty if there are none."""
        if self._context.stopping.is_set():
            return {}
        loops = (*self._loops, *self._shared.loops)
        return {loop.name: trouble for loop in loops if (trouble := loop.trouble)}

    @property
    def states(self) -> tuple[State, ...]:
        """The state of the worker name as this bridge knows it, followed by everything else that is wrong.

        Uses only what the bridge already knows, so it returns immediately.
        """
        return self._heartbeat.condition.states()

    def unready(self) -> dict[str, str]:
        """Reasons why the bridge cannot claim and deliver now, by part; empty if it can, or is paused.

        Uses only what the bridge already knows, so it returns immediately.
        """
        reasons = self.unwell()
        if self._context.stopping.is_set():
            reasons["bridge"] = "it is stopping"
        reasons |= {PARTS[each.kind]: each.text for each in self.states if each.kind in PARTS}
        if self._context.presence_age is None:
            reasons["presence"] = "never accepted by the server"
        return reasons

    @property
    def _loops(self) -> tuple[Loop, ...]:
        return (
            self._heartbeat_loop,
            self._sync_loop,
            self._claim_loop,
            self._courier_loop,
            self._reaper_loop,
            self._sweep_loop,
        )

    def start(self) -> None:
        """Start all loops."""
        context = self._context
        self._check_ledger()
        for handler in context.registry.handlers:
            logger.info("%s takes %s, %s", handler.name, handler.declaration.offers, context.routes.describe(handler))
        waiting_for = ", ".join(context.outages.waiting_for)
        logger.info("bridge %s for worker name %r: waiting for %s", __version__, context.settings.name, waiting_for)
        self._shared.start()
        for loop in self._loops:
            loop.start()

    def _log_ready(self) -> None:
        """Log once that the server has accepted a request, and ledger and broker have answered."""
        context = self._context
        if not self._is_ready and self._is_accepted and not context.outages.waiting_for:
            self._is_ready = True
            settings = context.settings
            logger.info("bridge %s for worker name %r at %s, ready", __version__, settings.name, settings.url)

    def _check_ledger(self) -> None:
        """Refuse an old Redis and a ledger of another version. The loops wait for one that is unreachable."""
        try:
            version, policy = self._context.ledger.server_version(), self._context.ledger.eviction()
            self._context.ledger.check_version(prefix_is_derived=self._prefix_is_derived)
        except LedgerUnavailable as error:
            self._context.outages.ledger.failed(str(error))
            return
        if version is not None and version < MINIMUM_VERSION:
            shown = ".".join(map(str, version))
            raise SettingsError(f"the ledger's Redis is version {shown}; 6.2 or later is needed")
        if what := evicts(policy):
            logger.warning("the ledger's Redis has maxmemory-policy %s: %s. %s", policy, what, EVICTION_HINT)

    def stop_claiming(self) -> None:
        """Begin no further claim."""
        if not self._context.stopping.is_set():
            logger.info("stopping: no further jobs are claimed")
        self._context.stopping.set()
        for loop in (self._claim_loop, self._sync_loop, self._reaper_loop, self._sweep_loop):
            loop.stop()

    def stop(self, deadline: float | None = None) -> None:
        """Stop claiming, finish the claims and deliveries in progress, and report presence one last time.

        Presence and delivery continue while the claims in progress finish.

        Args:
            deadline: the time, in monotonic seconds, until which it waits for them, plus the last request; by default
                ``shutdown_timeout`` seconds from now.
        """
        until = time.monotonic() + self._context.settings.shutdown_timeout if deadline is None else deadline

        def left() -> float:
            return max(0.1, until - time.monotonic())

        self.stop_claiming()
        self._claim_loop.join(left())
        self._claimer.close(left())
        self._courier_loop.stop()
        self._courier_loop.join(left())
        self._courier.close(left())
        self._heartbeat_loop.stop()
        self._heartbeat_loop.join(left())
        self._heartbeat.leave(left())
        self._shared.leave()
        logger.info("stopped")


def bridges_of(app: Any, settings: Settings) -> list[Bridge]:
    """Create a bridge for each worker name of the settings.

    Raises:
        SettingsError: as :class:`Bridge` does.
        RoutingError: as :class:`Bridge` does.
    """
    if settings.output_warning:
        logger.warning("%s", settings.output_warning)
    shared = Shared(app, settings)
    return [Bridge(app, each, shared) for each in settings.each()]


def run(bridges: Sequence[Bridge], stop: threading.Event) -> None:
    """Run bridges until ``stop`` is set, then stop them all at the same time.

    Raises:
        SettingsError: the ledger's Redis is too old, or the ledger has another version.
    """
    for bridge in bridges:
        bridge.start()
    # The system may deliver a signal to another thread, which does not wake this one. Only this one can handle it.
    while not stop.wait(CHECK_SECONDS):
        pass
    deadline = time.monotonic() + max(bridge.context.settings.shutdown_timeout for bridge in bridges)
    for bridge in bridges:
        bridge.stop_claiming()
    with ThreadPoolExecutor(min(16, len(bridges))) as pool:
        list(pool.map(lambda bridge: bridge.stop(deadline), bridges))
