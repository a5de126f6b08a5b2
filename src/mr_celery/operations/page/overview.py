"""Reads the page of a worker name from the ledger, in a bounded number of steps for any number of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...bridge import Bridge
from ...bridge.state import State
from ...clients import Clients
from ...ledger import IN_FLIGHT, Histogram, Stats
from .. import Status, Subject, read_statuses
from ..jobs import JobSummary, summary_of
from ..metrics import CAUSES, DELIVERIES

JOBS_OF_STATE = 40
"""Jobs of each state that are read, the oldest ones."""

MOST_TASKS = 50
"""Tasks whose run times are shown."""


@dataclass(frozen=True)
class Flying:
    """A job in flight.

    Args:
        job: the job.
        due: seconds until its next check or, if it has finished, its next delivery; negative if overdue.
        why: why it was sent again, or its delivery was put off.
    """

    job: JobSummary
    due: float
    why: str

    @property
    def is_put_off(self) -> bool:
        """Whether a delivery of its outcome has failed, and will be retried."""
        return self.job.state == "finished" and bool(self.why) and self.job.deliveries > 0


@dataclass(frozen=True)
class Times:
    """Durations of one kind, in seconds, since the ledger began to count them.

    Args:
        what: the step that took that time.
        count: how many there were.
        median: the time that half of them did not exceed.
        most: the time that 95 % of them did not exceed.
    """

    what: str
    count: int
    median: float
    most: float


@dataclass(frozen=True)
class Overview:
    """The state of a worker name at one moment.

    Args:
        status: the status, as the command ``status`` shows it.
        jobs: jobs in flight, those longest in their state first; at most :data:`JOBS_OF_STATE` of each state.
        stats: counters and histograms.
        task_names: the tasks that take jobs.
    """

    status: Status
    jobs: Sequence[Flying]
    stats: Stats
    task_names: Sequence[str]

    @property
    def put_off(self) -> list[Flying]:
        """The outcomes whose delivery is put off, the oldest first."""
        return [each for each in self.jobs if each.is_put_off]

    @property
    def in_flight(self) -> int:
        """The number of jobs in flight."""
        return sum(self.status.states.values())

    @cached_property
    def times(self) -> list[Times]:
        """Pickup, delivery, and the runs of each task, without those that have not happened yet."""
        found = {"pickup": self.stats.histogram("pickup"), "delivery": self.stats.histogram("delivery")}
        found |= {f"run of {name}": self.stats.histogram(f"run:{name}") for name in self.task_names[:MOST_TASKS]}
        return [times for what, histogram in found.items() if (times := _times(what, histogram))]

    @property
    def counts(self) -> Mapping[str, int]:
        """The counters, by their names on the page."""
        count = self.stats.count
        return {
            "claimed": count("claimed"),
            "adopted": count("adopted"),
            "aborted": count("aborted"),
            "sent again": count("resends"),
            **{f"runs lost: {cause}": count(f"lost:{cause}") for cause in CAUSES},
            **{f"deliveries {outcome.replace('_', ' ')}": count(f"deliveries:{outcome}") for outcome in DELIVERIES},
        }


def _times(what: str, histogram: Histogram) -> Times | None:
    median, most = histogram.quantile(0.5), histogram.quantile(0.95)
    return None if median is None or most is None else Times(what, histogram.count, median, most)


def read_overview(bridge: Bridge, clients: Clients) -> Overview:
    """Read the state of a bridge's worker name from the ledger.

    Args:
        bridge: the bridge.
        clients: the page's connections for it. When reused, they read only the changes of the fleet.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    context, ledger = bridge.context, clients.ledger()
    subject = Subject(ledger, context.routes, context.settings.max_inflight)
    (status,) = read_statuses(clients.fleet(), [subject], clients.neighbours())
    oldest = ledger.oldest(IN_FLIGHT, JOBS_OF_STATE)
    due = {job_id: seconds for jobs in oldest.values() for job_id, seconds in jobs.items()}
    flying = [
        Flying(summary_of(ledger.worker_name, record, status.at), due[record.id], record.why)
        for record in ledger.outlines(due)
        if record.state in IN_FLIGHT
    ]
    flying.sort(key=lambda each: -each.job.seconds)
    return Overview(status, flying, ledger.stats(), sorted(context.routes))


@dataclass(frozen=True)
class NameRow:
    """A worker name and its state in the memory of its bridge, without a request to the ledger.

    Args:
        name: the worker name.
        state: its state.
        pending: pending jobs on the server at the last poll; ``None`` if unknown.
    """

    name: str
    state: State
    pending: int | None


def name_rows(bridges: Sequence[Bridge]) -> list[NameRow]:
    """The worker names of this process: those with problems first."""
    rows = [NameRow(bridge.context.settings.name, bridge.states[0], bridge.context.pending) for bridge in bridges]
    return sorted(rows, key=lambda row: (not row.state.wrong, row.name))
