"""Lists the jobs of a ledger, and reads the history of one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import merge
from itertools import islice
from typing import Any

from ..errors import MrCeleryError
from ..ledger import ENDINGS, IN_FLIGHT, Event, Ledger, Member, Record
from ..telemetry.quantities import duration

OPEN = ("claimed", "sent", "running", "deferred")
"""The states in which a job can be requeued or failed."""

ABSENT = "it has not been claimed yet, belongs to another worker name, or ended longer ago than MODELREINS_HISTORY"
"""Why a job may be in no ledger."""

STATE_AFTER = {
    "admitted": "admitted",
    "claimed": "claimed",
    "adopted": "claimed",
    "unstarted": "claimed",
    "postponed": "claimed",
    "lost": "claimed",
    "requeued": "claimed",
    "sent": "sent",
    "retry": "sent",
    "started": "running",
    "deferred": "deferred",
    "finished": "finished",
    "restored": "finished",
    "reopened": "finished",
    "closed": "",
    "aborted": "",
}
"""The state to which each event of a job's history leads; empty if it ends the job. Other events change no state."""


@dataclass(frozen=True)
class Filter:
    """Selects the jobs that match all fields that are set.

    Args:
        states: the states in flight and endings; empty: all.
        task: the name of the task.
        capability: one of the capabilities that a job requires.
        since: maximum seconds since a job entered its state or ended.
        older_than: minimum seconds since then.
    """

    states: Sequence[str] = ()
    task: str | None = None
    capability: str | None = None
    since: float | None = None
    older_than: float | None = None

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in (*IN_FLIGHT, *ENDINGS):
                raise MrCeleryError(f"unknown state {state!r}: use one of {', '.join((*IN_FLIGHT, *ENDINGS))}")

    def has_state(self, state: str) -> bool:
        """Whether jobs in a state, or with that ending, can match."""
        return not self.states or state in self.states

    def takes(self, job: JobSummary) -> bool:
        """Whether a job matches."""
        return (
            self.has_state(job.state)
            and self.task in (None, job.task)
            and (self.capability is None or self.capability in job.capability.split(", "))
            and (self.since is None or job.seconds <= self.since)
            and (self.older_than is None or job.seconds >= self.older_than)
        )


@dataclass(frozen=True)
class JobSummary:
    """A job for operators, without its prompt and its result.

    Args:
        id: the job.
        worker_name: the worker name whose ledger has it.
        state: its state in flight, or its ending.
        seconds: seconds since it entered that state or ended.
        duration: seconds from its claim to its end, or until now; ``None`` before it is claimed.
        capability: the capabilities that it requires.
        task: the task's name.
        queue: the queue that its messages are sent to.
        attempt: the current attempt, from 1; 0 before it is claimed.
        max_attempts: the number of attempts that it may have.
        task_id: the attempt's task id.
        node: the worker that started it last.
        deliveries: the number of deliveries of its outcome that began.
        reason: why it failed, was escalated or aborted, or cannot continue.
        waits_until: the deadline of a deferred job, in seconds since 1970 by the ledger's clock.
        waits_for: what a deferred job waits for, in its handler's words.
    """

    id: int
    worker_name: str
    state: str
    seconds: float
    duration: float | None
    capability: str
    task: str
    queue: str
    attempt: int
    max_attempts: int
    task_id: str
    node: str
    deliveries: int
    reason: str
    waits_until: float | None = None
    waits_for: str = ""

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDINGS

    def to_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def listed(ledger: Ledger, wanted: Filter, *, limit: int) -> Iterator[JobSummary]:
    """List jobs: those in flight by state and id, then ended jobs, the latest first.

    The ledger is read in pages, and only as far as the jobs are consumed.

    Args:
        ledger: the ledger.
        wanted: the jobs to list.
        limit: maximum number of jobs.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    now = ledger.survey().now
    found = (summary_of(ledger.worker_name, record, now) for record in ledger.outlines(_ids(ledger, wanted, now)))
    return islice((job for job in found if wanted.takes(job)), limit)


def _ids(ledger: Ledger, wanted: Filter, now: float) -> Iterator[int]:
    for state in IN_FLIGHT:
        if wanted.has_state(state):
            yield from ledger.in_state(state)
    oldest = 0.0 if wanted.since is None else now - wanted.since
    newest = now - (wanted.older_than or 0.0)
    endings = [ledger.ended(each, oldest=oldest, newest=newest) for each in ENDINGS if wanted.has_state(each)]
    for job_id, _ in merge(*endings, key=lambda found: -found[1]):
        yield job_id


def summary_of(worker_name: str, record: Record, now: float) -> JobSummary:
    """Summarize a record at a time of the ledger's clock."""
    over = record.state not in IN_FLIGHT
    ended = record.times.get("ended", now) if over else now
    claimed = record.times.get("claimed")
    return JobSummary(
        id=record.id,
        worker_name=worker_name,
        state=_state(record),
        seconds=max(0.0, now - (ended if over else record.times.get(record.state, now))),
        duration=None if claimed is None else max(0.0, ended - claimed),
        capability=record.capability,
        task=record.route.task_name,
        queue=record.route.queue,
        attempt=record.attempt,
        max_attempts=record.route.max_attempts,
        task_id=record.task_id,
        node=record.node,
        deliveries=record.deliveries,
        reason=_reason(record),
        waits_until=record.deadline if record.state == "deferred" else None,
        waits_for=record.note if record.state == "deferred" else "",
    )


def _state(record: Record) -> str:
    if record.state != "closed":
        return record.state
    return "superseded" if record.how == "superseded" else record.status


def _reason(record: Record) -> str:
    if record.how == "superseded":
        return "closed by something else"
    if record.state in ("claimed", "sent", "aborted"):
        return record.why
    if record.state == "finished" and record.why and record.deliveries > 1:
        return "; ".join(filter(None, (record.reason, f"not delivered: {record.why}")))
    return record.reason


@dataclass(frozen=True)
class History:
    """A job with its history.

    Args:
        job: the job.
        events: its events, oldest first.
        seconds: the time that it spent in each state, in seconds.
        at: the ledger's time.
        members: the tasks of the workflow that it was handed over to, by the time of their last change.
    """

    job: JobSummary
    events: Sequence[Event]
    seconds: dict[str, float]
    at: float
    members: Sequence[Member] = ()

    @property
    def deferral(self) -> str:
        """Until when a deferred job waits, and for what; empty if it is not deferred."""
        job = self.job
        if job.waits_until is None:
            return ""
        left = job.waits_until - self.at
        text = f"its outcome is expected within {duration(left)}" if left > 0 else "its outcome is overdue"
        return f"{text}: {job.waits_for}" if job.waits_for else text

    @property
    def facts(self) -> dict[str, str]:
        """The facts about the job, by name, without those that it lacks."""
        job = self.job
        facts = {
            "reason": job.reason,
            "task": job.task or "(no handler)",
            "capability": job.capability,
            "queue": job.queue,
            "node": job.node,
            "deferred": self.deferral,
            "attempt": f"{job.attempt} of {job.max_attempts}",
            "times": ", ".join(f"{state} {duration(seconds)}" for state, seconds in self.seconds.items()),
        }
        return {name: fact for name, fact in facts.items() if fact}


def history_of(ledger: Ledger, job_id: int) -> History:
    """Read a job and its history.

    Raises:
        MrCeleryError: the job is not in the ledger.
        LedgerUnavailable: the ledger cannot be reached.
    """
    record = next(ledger.outlines([job_id]), None)
    if record is None:
        raise MrCeleryError(f"job {job_id} is not in the ledger of {ledger.worker_name!r}: {ABSENT}")
    now, events = ledger.survey().now, ledger.events(job_id)
    summary, seconds = summary_of(ledger.worker_name, record, now), seconds_in_states(events, now)
    return History(summary, events, seconds, now, ledger.members(job_id))


def seconds_in_states(events: Sequence[Event], now: float) -> dict[str, float]:
    """The time that a job spent in each state, in seconds, by its history. Repeated visits are added up."""
    seconds: dict[str, float] = {}
    state, since = "", now
    for event in events:
        after = STATE_AFTER.get(event.event)
        if after is None:
            continue
        if state:
            seconds[state] = seconds.get(state, 0.0) + max(0.0, event.at - since)
        state, since = after, event.at
    if state:
        seconds[state] = seconds.get(state, 0.0) + max(0.0, now - since)
    return seconds
