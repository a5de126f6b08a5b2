"""Prometheus metrics: counters of the ledger, the current status, and the state of this process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from prometheus_client import CollectorRegistry
from prometheus_client import exposition as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..bridge import Bridge
from ..bridge.state import KINDS
from ..bridge.waiting import REASONS, Reason
from ..clients import Clients
from ..errors import LedgerUnavailable, error_labels
from ..ledger import Histogram, Stats
from ..telemetry.printing import printable
from ..version import __version__
from . import Status, Subject, read_statuses

logger = logging.getLogger("mr_celery.monitoring")

LEDGER_SECONDS = 2.0
"""Timeout of a ledger operation during a scrape, in seconds."""

STATUSES = ("done", "failed", "escalated")
DELIVERIES = ("delivered", "superseded", "put_off", "refused")
CAUSES = ("lease", "process", "deadline")

Labels = Mapping[str, str]


def exposition(bridges: Sequence[Bridge]) -> Callable[[], tuple[bytes, str]]:
    """Make a function that returns the body of a scrape and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BridgeCollector(bridges))

    def render() -> tuple[bytes, str]:
        return prometheus.generate_latest(registry), prometheus.CONTENT_TYPE_LATEST

    return render


class _Families:
    """The metric families of one scrape, with a sample for each worker name and set of labels."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    @staticmethod
    def _values(labels: Labels) -> list[str]:
        return [printable(value) for value in labels.values()]

    def gauge(self, name: str, help_text: str, value: float, **labels: str) -> None:
        family = self._families.setdefault(name, GaugeMetricFamily(name, help_text, labels=list(labels)))
        assert isinstance(family, GaugeMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(self._values(labels), value)

    def counter(self, name: str, help_text: str, value: float, **labels: str) -> None:
        family = self._families.setdefault(name, CounterMetricFamily(name, help_text, labels=list(labels)))
        assert isinstance(family, CounterMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(self._values(labels), value)

    def histogram(self, name: str, help_text: str, value: Histogram, **labels: str) -> None:
        family = self._families.setdefault(name, HistogramMetricFamily(name, help_text, labels=list(labels)))
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101 - a name has one type
        family.add_metric(self._values(labels), list(value.cumulative), value.total)


class BridgeCollector(Collector):
    """Collects the metrics of bridges on each scrape.

    While the ledger is unavailable, its metrics are missing rather than stale.

    Args:
        bridges: the bridges of this process.
    """

    def __init__(self, bridges: Sequence[Bridge]) -> None:
        self._bridges = bridges
        contexts = [bridge.context for bridge in bridges]
        clients = Clients(contexts[0].settings, ledger_timeout=LEDGER_SECONDS)
        self._fleet = clients.fleet()
        self._subjects = [
            Subject(clients.ledger(each.settings.name), each.routes, each.settings.max_inflight) for each in contexts
        ]
        names = {each.settings.name for each in contexts}
        self._others = [ledger for ledger in clients.neighbours() if ledger.worker_name not in names]

    def collect(self) -> Iterator[Metric]:
        families = _Families()
        for bridge in self._bridges:
            self._of_process(families, bridge)
        try:
            self._of_ledger(families)
        except LedgerUnavailable as error:
            logger.debug("the ledger's metrics are missing: %s", error)
        return iter(families)

    @staticmethod
    def _of_process(add: _Families, bridge: Bridge) -> None:
        context = bridge.context
        name = context.settings.name
        about = "Bridge process, with its version."
        add.gauge("modelreins_bridge_info", about, 1, worker_name=name, version=__version__)
        for result, count in context.counters.claims.items():
            about = "Claims requested by this bridge, by result."
            add.counter("modelreins_claim_requests", about, count, worker_name=name, result=result)
        for (route, status), count in _by_labels(context.counters.errors).items():
            about = "Failed requests of this bridge, by kind and HTTP status."
            add.counter("modelreins_server_errors", about, count, worker_name=name, route=route, status=status)
        about = "Whether the server rejects the token."
        add.gauge("modelreins_token_rejected", about, context.token.rejected, worker_name=name)
        if context.presence_age is not None:
            about = "Seconds since the server last accepted a presence report."
            add.gauge("modelreins_presence_age_seconds", about, context.presence_age, worker_name=name)
        state = bridge.states[0]
        for kind in KINDS:
            about = "Whether this is the state of the worker name, as this bridge knows it."
            add.gauge("modelreins_state", about, state.kind == kind, worker_name=name, state=kind)
        waiting = Counter(dict.fromkeys(REASONS, 0))
        for each in context.waiting.now:
            waiting[cast(Reason, each.reason)] += each.count
        for reason, jobs in waiting.items():
            about = "Pending jobs that cannot be claimed now, by reason."
            add.gauge("modelreins_waiting_jobs", about, jobs, worker_name=name, reason=reason)
        if context.pending is not None:
            about = "Pending jobs on the server at the last poll."
            add.gauge("modelreins_pending_jobs", about, context.pending, worker_name=name)

    def _of_ledger(self, add: _Families) -> None:
        for status in read_statuses(self._fleet, self._subjects, self._others):
            _add_status(add, status)
        for subject in self._subjects:
            ledger = subject.ledger
            _add_stats(add, ledger.worker_name, ledger.stats(), sorted(subject.routes))


def _by_labels(errors: Mapping[str, int]) -> Counter[tuple[str, str]]:
    """Counts errors by route and status. Both are limited to known values, whatever the server or Redis contains."""
    counts: Counter[tuple[str, str]] = Counter()
    for label, count in dict(errors).items():
        counts[error_labels(label)] += count
    return counts


def _add_status(add: _Families, status: Status) -> None:
    name = status.worker_name
    for state, count in status.states.items():
        add.gauge("modelreins_jobs_in_flight", "Jobs in flight, by state.", count, worker_name=name, state=state)
    for metric, about, value in (
        ("capacity_jobs", "Maximum number of claimed, unfinished jobs.", status.capacity),
        ("workers_online", "Celery workers that run jobs.", len(status.nodes)),
        ("worker_slots", "Total concurrency of these workers.", sum(kind.slots for kind in status.nodes.kinds)),
        ("bridges_online", "Bridges of the worker name.", len(status.bridges)),
        ("paused", "Whether an operator has paused claiming.", status.pause is not None),
        (
            "oldest_waiting_seconds",
            "Age of the job that has waited longest for a worker, in seconds.",
            status.waiting.seconds if status.waiting else 0,
        ),
        (
            "oldest_undelivered_seconds",
            "Age of the oldest undelivered outcome, in seconds.",
            status.undelivered.seconds if status.undelivered else 0,
        ),
    ):
        add.gauge(f"modelreins_{metric}", about, value, worker_name=name)


def _add_stats(add: _Families, name: str, stats: Stats, task_names: Sequence[str]) -> None:
    """Add the ledger's counters. Those with known labels start at 0, so that the first increase is visible."""
    for counter, about in (
        ("claimed", "Claimed jobs."),
        ("adopted", "Jobs that were running on the server and unknown to the ledger."),
        ("aborted", "Jobs aborted on the server."),
    ):
        add.counter(f"modelreins_jobs_{counter}", about, stats.count(counter), worker_name=name)
    about = "Messages sent again because no worker started them."
    add.counter("modelreins_resends", about, stats.count("resends"), worker_name=name)
    for cause in CAUSES:
        about = "Lost runs: the lease expired or the process died."
        add.counter("modelreins_runs_lost", about, stats.count(f"lost:{cause}"), worker_name=name, cause=cause)
    for outcome in DELIVERIES:
        about = "Deliveries, by outcome."
        count = stats.count(f"deliveries:{outcome}")
        add.counter("modelreins_deliveries", about, count, worker_name=name, outcome=outcome)
    for (route, status), count in _by_labels(stats.counts("errors")).items():
        about = "Errors that postponed deliveries, by kind of request and HTTP status."
        add.counter("modelreins_delivery_errors", about, count, worker_name=name, route=route, status=status)
    for task_name in task_names:
        for status in STATUSES:
            about = "Recorded outcomes, by task."
            count = stats.count(f"finished:{status}:{task_name}")
            add.counter("modelreins_jobs_finished", about, count, worker_name=name, task=task_name, status=status)
        about = "Duration of handlers."
        run = stats.histogram(f"run:{task_name}")
        add.histogram("modelreins_run_duration_seconds", about, run, worker_name=name, task=task_name)
    about = "Time from the start of the claim to the start of the handler."
    add.histogram("modelreins_pickup_seconds", about, stats.histogram("pickup"), worker_name=name)
    about = "Time from the recorded outcome to the close on the server."
    add.histogram("modelreins_delivery_duration_seconds", about, stats.histogram("delivery"), worker_name=name)
