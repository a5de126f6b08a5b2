"""The metrics: what the ledger counts, how the work stands, and what this process knows of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client import exposition as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..bridge import Bridge
from ..errors import LedgerUnavailable
from ..ledger import Figures, Fleet, Histogram, Ledger
from ..operations import Status, look
from ..version import __version__

logger = logging.getLogger("mr_celery.monitoring")

LEDGER_SECONDS = 2.0
"""Seconds that one step of the ledger may take in a scrape."""

STATUSES = ("done", "failed", "escalated")
DELIVERIES = ("delivered", "superseded", "put_off", "refused")
CAUSES = ("lease", "process")

Labels = Mapping[str, str]


def exposition(bridges: Sequence[Bridge]) -> Callable[[], tuple[bytes, str]]:
    """What answers a scrape: the body, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BridgeCollector(bridges))

    def answer() -> tuple[bytes, str]:
        return prometheus.generate_latest(registry), prometheus.CONTENT_TYPE_LATEST

    return answer


class _Families:
    """The metrics of one scrape: each family once, with a sample for each worker name and set of labels."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def gauge(self, name: str, about: str, value: float, **labels: str) -> None:
        family = self._families.setdefault(name, GaugeMetricFamily(name, about, labels=list(labels)))
        assert isinstance(family, GaugeMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(list(labels.values()), value)

    def counter(self, name: str, about: str, value: float, **labels: str) -> None:
        family = self._families.setdefault(name, CounterMetricFamily(name, about, labels=list(labels)))
        assert isinstance(family, CounterMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(list(labels.values()), value)

    def histogram(self, name: str, about: str, value: Histogram, **labels: str) -> None:
        family = self._families.setdefault(name, HistogramMetricFamily(name, about, labels=list(labels)))
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(list(labels.values()), list(value.cumulative), value.total)


class BridgeCollector(Collector):
    """Collects the metrics of bridges, anew for each scrape.

    While the ledger does not answer, what it would tell is left out: no figure is better than an old one.

    Args:
        bridges: the bridges of this process.
    """

    def __init__(self, bridges: Sequence[Bridge]) -> None:
        self._bridges = bridges

    def collect(self) -> Iterator[Metric]:
        families = _Families()
        for bridge in self._bridges:
            self._of_process(families, bridge)
            try:
                self._of_ledger(families, bridge)
            except LedgerUnavailable as error:
                logger.warning("metrics without the ledger's: %s", error)
        return iter(families)

    @staticmethod
    def _of_process(add: _Families, bridge: Bridge) -> None:
        office = bridge.office
        name = office.settings.name
        about = "Bridge process, by its version."
        add.gauge("modelreins_bridge_info", about, 1, worker_name=name, version=__version__)
        for result, count in office.vitals.claims.items():
            about = "Claims that this bridge requested, by how they ended."
            add.counter("modelreins_claim_requests", about, count, worker_name=name, result=result)
        for label, count in office.vitals.errors.items():
            route, _, status = label.partition(" ")
            about = "Requests of this bridge that failed, by kind and HTTP status."
            add.counter("modelreins_server_errors", about, count, worker_name=name, route=route, status=status)
        about = "Whether the server refuses the token."
        add.gauge("modelreins_token_rejected", about, office.token_rejected, worker_name=name)
        if office.presence_age is not None:
            about = "Seconds since the server last took a report of presence."
            add.gauge("modelreins_presence_age_seconds", about, office.presence_age, worker_name=name)
        if office.pending is not None:
            about = "Jobs that were pending on the server at the last look."
            add.gauge("modelreins_pending_jobs", about, office.pending, worker_name=name)

    @staticmethod
    def _of_ledger(add: _Families, bridge: Bridge) -> None:
        office = bridge.office
        settings = office.settings
        ledger = Ledger(settings.ledger_url, settings.name, history=settings.history, timeout=LEDGER_SECONDS)
        fleet = Fleet(settings.ledger_url, timeout=LEDGER_SECONDS)
        neighbours = [Ledger(settings.ledger_url, each.worker, timeout=LEDGER_SECONDS) for each in office.neighbours]
        _add_status(add, look(ledger, fleet, office.routes, settings.max_inflight, neighbours))
        _add_figures(add, settings.name, ledger.figures(), sorted(office.routes))


def _add_status(add: _Families, status: Status) -> None:
    name = status.worker_name
    for state, count in status.states.items():
        add.gauge("modelreins_jobs_in_flight", "Jobs in flight, by state.", count, worker_name=name, state=state)
    for metric, about, value in (
        ("capacity_jobs", "Jobs that may be claimed and not finished.", status.capacity),
        ("workers_online", "Celery workers that take jobs.", len(status.nodes)),
        ("worker_slots", "How many tasks they run at once.", sum(node.concurrency for node in status.nodes)),
        ("bridges_online", "Bridges of the worker name.", len(status.bridges)),
        ("paused", "Whether an operator has paused the claiming.", status.pause is not None),
        (
            "oldest_waiting_seconds",
            "For how long the job has waited that waits longest for a worker.",
            status.waiting.seconds if status.waiting else 0,
        ),
        (
            "oldest_undelivered_seconds",
            "For how long the oldest outcome waits for its delivery.",
            status.undelivered.seconds if status.undelivered else 0,
        ),
    ):
        add.gauge(f"modelreins_{metric}", about, value, worker_name=name)


def _add_figures(add: _Families, name: str, figures: Figures, tasks: Sequence[str]) -> None:
    """Counters of which all labels are known begin at 0, so that their first rise is seen."""
    for figure, about in (
        ("claimed", "Jobs that were claimed."),
        ("adopted", "Jobs that ran on the server and that the ledger did not know."),
        ("aborted", "Jobs that were aborted on the server."),
    ):
        add.counter(f"modelreins_jobs_{figure}", about, figures.count(figure), worker_name=name)
    about = "Messages that were sent again, since no worker started them."
    add.counter("modelreins_resends", about, figures.count("resends"), worker_name=name)
    for cause in CAUSES:
        about = "Runs that were lost: their lease ran out, or their process died."
        add.counter("modelreins_runs_lost", about, figures.count(f"lost:{cause}"), worker_name=name, cause=cause)
    for how in DELIVERIES:
        about = "Deliveries, by how they ended."
        add.counter("modelreins_deliveries", about, figures.count(f"deliveries:{how}"), worker_name=name, outcome=how)
    for label, count in figures.counts("errors").items():
        route, _, status = label.partition(" ")
        about = "What put deliveries off, by kind of request and HTTP status."
        add.counter("modelreins_delivery_errors", about, count, worker_name=name, route=route, status=status)
    for task in tasks:
        for status in STATUSES:
            about = "Outcomes that were recorded, by task."
            count = figures.count(f"finished:{status}:{task}")
            add.counter("modelreins_jobs_finished", about, count, worker_name=name, task=task, status=status)
        about = "How long handlers ran."
        run = figures.histogram(f"run:{task}")
        add.histogram("modelreins_run_duration_seconds", about, run, worker_name=name, task=task)
    about = "From the beginning of the claim to the start of the handler."
    add.histogram("modelreins_pickup_seconds", about, figures.histogram("pickup"), worker_name=name)
    about = "From the recorded outcome to the close on the server."
    add.histogram("modelreins_delivery_duration_seconds", about, figures.histogram("delivery"), worker_name=name)
