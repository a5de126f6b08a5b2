"""The threads, connections and loops that the bridges of one process share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..clients import Clients
from ..settings import Settings
from .broker_check import BrokerCheck
from .capacity import FleetReader, Surveys
from .context import BridgeContext
from .limits import CONCURRENT_CLAIMS, CONCURRENT_DELIVERIES, CONCURRENT_REPORTS, SLOW_DELIVERIES
from .loops import InTurn, Loop
from .notification_listener import NotificationListener, Woken
from .outages import outages_of
from .publisher import Publisher
from .scheduler import Scheduler
from .threads import Pool, Threads
from .watch import DuePoller, FleetWatch


@dataclass(frozen=True)
class Contribution:
    """The parts of a bridge that the loops of all bridges use."""

    context: BridgeContext
    due_poller: DuePoller
    woken: Woken
    claim_loop: Loop


def presence_clients(settings: Settings, **options: Any) -> Clients:
    """Clients with short timeouts, so that presence does not lapse because the server or the ledger is slow."""
    interval = settings.heartbeat_interval
    short = replace(settings, timeout=min(settings.timeout, interval))
    return Clients(short, ledger_timeout=min(1.0, interval / 4), **options)


class Shared:
    """Objects that the bridges of one process share: threads, connections, and those that suit all worker names.

    So the number of threads and connections does not grow with the number of worker names. Each kind of work has
    threads of its own: a server that hangs delays neither presence nor the renewal of leases.

    Args:
        app: the Celery application.
        settings: the settings, with all worker names of the process.

    Attributes:
        outages: the outages of server, ledger and broker.
        publisher: publishes messages to the broker.
        fleet: reads the online workers.
        presence_fleet: reads them with a short timeout.
        surveys: the surveys of all worker names on the fleet; ``None`` if there is only one name.
        scheduler: runs the loops.
        claiming, reporting, comparing: the threads of the loops that claim, report presence, and read the server's
            lists.
        recovering, keeping: the threads of the loops that need the broker, and only the ledger.
        claims, deliveries, reports: the threads of single claims, deliveries and presence reports.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self.outages = outages_of(settings, app)
        self.publisher = Publisher(app)
        self.scheduler = Scheduler()
        self.claiming, self.reporting = Threads("claim", 6), Threads("heartbeat", 4)
        self.comparing, self.recovering = Threads("sync", 3), Threads("recovery", 3)
        self.keeping = Threads("ledger", 2)
        self._listening = Threads("notifications", 1)
        self.claims = Pool("claims", CONCURRENT_CLAIMS)
        self.deliveries = Pool("deliveries", CONCURRENT_DELIVERIES + SLOW_DELIVERIES)
        self.reports = Pool("reports", CONCURRENT_REPORTS)
        clients = Clients(settings)
        self.fleet, self.presence_fleet = FleetReader(clients.fleet()), FleetReader(presence_clients(settings).fleet())
        own = [each.name for each in settings.each()]
        names = dict.fromkeys([*own, *settings.neighbours])
        self.surveys = Surveys([clients.ledger(name) for name in names], own) if len(names) > 1 else None
        self._contributions: list[Contribution] = []
        self._running = 0
        self._loops: tuple[Loop, ...] = ()
        self._lock = threading.Lock()

    @property
    def _threads(self) -> Sequence[Threads | Pool]:
        loops = (self.claiming, self.reporting, self.comparing, self.recovering, self.keeping, self._listening)
        return (*loops, self.claims, self.deliveries, self.reports)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The loops that all bridges share."""
        return self._loops

    def add(self, contribution: Contribution) -> None:
        """Add a bridge, before any of them is started."""
        self._contributions.append(contribution)

    def start(self) -> None:
        """Start the shared loops with the first bridge."""
        with self._lock:
            self._running += 1
            if self._running > 1:
                return
            contributions = self._contributions
            listener = NotificationListener(
                [each.context.ledger for each in contributions],
                {each.context.ledger.worker_name: each.woken for each in contributions},
                stopping=lambda: all(each.context.stopping.is_set() for each in contributions),
            )
            renewers = InTurn([each.context.renewer for each in contributions])
            fleet_watch = FleetWatch(self.fleet, [each.claim_loop for each in contributions])
            pollers = InTurn([*(each.due_poller for each in contributions), fleet_watch])
            check = BrokerCheck(self.publisher, self.outages.broker)
            loop = partial(Loop, scheduler=self.scheduler, outages=self.outages)
            self._loops = (
                loop("renewer", renewers, threads=self.keeping, most_backoff=2.0),
                loop("watch", pollers, threads=self.keeping, most_backoff=5.0),
                loop("broker", check, threads=self.recovering),
                loop("notifications", listener, threads=self._listening, most_backoff=5.0, endless=True),
            )
        for each in self._loops:
            each.start()

    def leave(self) -> None:
        """Stop the shared loops, end the threads, and close the connections to the broker, with the last bridge."""
        with self._lock:
            self._running -= 1
            if self._running:
                return
        for each in self._loops:
            each.stop()
        self.scheduler.close()
        for threads in self._threads:
            threads.close()
        self.publisher.close()
