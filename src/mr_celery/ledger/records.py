"""What the ledger's transitions answer, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..job import Job
from ..outcome import Outcome

Admission = Literal["admitted", "full", "known", "again"]
Adoption = Literal["adopted", "redelivered", "known"]
Loss = Literal["again", "failed", "kept"]

IN_FLIGHT = ("admitted", "claimed", "sent", "running", "finished")
"""The states of a job's life in order; after them come ``closed`` and ``aborted``."""


@dataclass(frozen=True)
class Route:
    """How a job is to be run: what the ledger keeps of the handler's declaration."""

    task: str
    queue: str
    max_attempts: int = 3
    on_lost: Literal["requeue", "fail"] = "requeue"


@dataclass(frozen=True)
class RunKey:
    """What names one execution: the attempt (by its task id) and the number of Celery retries in it.

    Together they are the fencing token: the ledger takes an outcome only from the execution that it
    recorded last as running.
    """

    job_id: int
    task_id: str
    retries: int = 0


@dataclass(frozen=True)
class DeliveryKey:
    """What names one delivery: the attempt whose outcome it is, and its number, from 1.

    It is the fencing token: the ledger takes steps of a delivery only from the one that began last.
    """

    job_id: int
    task_id: str
    number: int


@dataclass(frozen=True)
class Started:
    """The answer to a start: the job, or the state that stands against running it.

    ``nonce`` tells this execution from others with the same :class:`RunKey`; ``trace`` is the carrier of the job's
    trace, empty where there is none.
    """

    job: Job | None = None
    attempt: int = 0
    nonce: str = ""
    refusal: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Missed:
    """In how many comparisons in a row the server did not list a job, and for how many seconds."""

    times: int
    seconds: float


@dataclass(frozen=True)
class Unstarted:
    """A message of which no worker has told for a while.

    Args:
        job_id: the job.
        task_id: the attempt.
        task: the handler's task name.
        queue: where it was sent to.
        why: what went wrong last; empty: nothing is known.
        held: a worker had told that it has the message, and fell silent.
        overtaken: workers have started messages that were sent well after it, or none of the queue for long.
        seconds: since it was sent.
    """

    job_id: int
    task_id: str
    task: str
    queue: str
    why: str
    held: bool
    overtaken: bool
    seconds: float

    @classmethod
    def read(cls, answer: Sequence[Any]) -> Unstarted:
        """What ``unstarted.lua`` answers of it."""
        job_id, task_id, task, queue, why, held, overtaken, seconds = answer
        task_id, task, queue, why = (text.decode(errors="replace") for text in (task_id, task, queue, why))
        return cls(int(job_id), task_id, task, queue, why, bool(held), bool(overtaken), float(seconds))


@dataclass(frozen=True)
class BridgeProcess:
    """A bridge process that is online.

    Args:
        id: host and process id.
        host: the host's name.
        version: its version of mr-celery.
        uptime: seconds since its start, when it said so.
        presence_age: seconds since the server last took its report of presence, when it said so; ``None``: never.
        token_rejected: whether the server refuses its token.
        pending: how many jobs were pending on the server at its last look; ``None``: it has not looked.
    """

    id: str
    host: str
    version: str
    uptime: float
    presence_age: float | None = None
    token_rejected: bool = False
    pending: int | None = None


@dataclass(frozen=True)
class Pause:
    """That an operator has paused the claiming: who did, when (seconds since 1970, the ledger's clock), and why."""

    by: str
    at: float
    why: str = ""

    def to_json(self) -> str:
        """The pause as JSON text, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Pause:
        """The pause that :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Registration:
    """How the worker name was registered last.

    Args:
        url: the server's address.
        risk_tiers: the risk tier of each capability, by its name.
        at: seconds since 1970, by the ledger's clock.
    """

    url: str
    risk_tiers: Mapping[str, str]
    at: float

    def to_json(self) -> str:
        """The registration as JSON text, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Registration:
        """The registration that :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Line:
    """One line of a job's story.

    Args:
        at: seconds since 1970, by the ledger's clock.
        event: ``admitted``, ``claimed``, ``sent``, ``started``, ``finished``, ``closed``, …
        attempt: the attempt that it was in; 0: before the first.
        note: what else is known: a node, a queue, a reason.
    """

    at: float
    event: str
    attempt: int
    note: str = ""


@dataclass(frozen=True)
class Aged:
    """A job that has waited for ``seconds``; for an outcome with the deliveries tried, and what went wrong last."""

    job_id: int
    seconds: float
    deliveries: int = 0
    why: str = ""

    @classmethod
    def read(cls, answer: Sequence[bytes]) -> Aged | None:
        """What ``standing.lua`` answers of it; ``None`` where there is none."""
        if not answer:
            return None
        job_id, seconds, *more = answer
        deliveries, why = more or (b"0", b"")
        return cls(int(job_id), max(0.0, float(seconds)), int(deliveries), why.decode(errors="replace"))


@dataclass(frozen=True)
class Standing:
    """How the work stands.

    Args:
        pause: the pause; ``None``: jobs are claimed.
        waiting: the job that has waited longest for a worker.
        undelivered: the oldest outcome that is not delivered yet.
        ended: how many jobs ended, by the seconds that are looked back, and how they ended.
    """

    pause: Pause | None
    waiting: Aged | None
    undelivered: Aged | None
    ended: Mapping[float, Mapping[str, int]]


@dataclass(frozen=True)
class Survey:
    """What is in flight, and the ledger's clock (seconds)."""

    now: float
    states: Mapping[str, int]
    load: Mapping[str, int]
    paused: bool = False

    @property
    def slots_taken(self) -> int:
        """Jobs that are claimed or being claimed, and whose handler has not ended."""
        return sum(self.states[state] for state in IN_FLIGHT[:4])

    @property
    def in_flight(self) -> int:
        """Jobs that are not over."""
        return sum(self.states.values())


@dataclass(frozen=True)
class Record:
    """One job's record.

    ``held``: a worker has told that it has the message of the present attempt. ``status``: how the job is, or was,
    closed, once its outcome is known. ``trace``: the carrier of the job's trace, empty where there is none.
    """

    id: int
    state: str
    route: Route
    attempt: int
    task_id: str
    resends: int
    retries: int
    deliveries: int
    held: bool
    why: str
    how: str
    status: str
    node: str
    trace: str
    job: Job | None = field(repr=False)
    outcome: Outcome | None = field(repr=False)
    parts: Mapping[str, str] = field(repr=False)
    times: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class Holding:
    """What the ledger holds of one job, without its payloads: where it is listed, and what its record says.

    Args:
        id: the job.
        sets: the states in whose sets it is.
        slots: the queues of which it holds a slot.
        state: the state that its record says; empty where there is no record.
        queue: the queue that its record says.
        seconds: since it came to that state.
        deliveries: how many deliveries of its outcome were begun.
        why: what went wrong last; it may repeat a server's words.
    """

    id: int
    sets: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    state: str = ""
    queue: str = ""
    seconds: float = 0.0
    deliveries: int = 0
    why: str = field(default="", repr=False)


@dataclass(frozen=True)
class Inventory:
    """Everything that the ledger holds of the jobs in flight, read job by job while work goes on.

    Args:
        holdings: the jobs, by id.
        looked: seconds since a bridge looked for lost runs, which each does about every second; ``None``: none has,
            for a day.
    """

    holdings: Mapping[int, Holding]
    looked: float | None = None


def read_record(job_id: int, fields: Mapping[bytes, bytes]) -> Record | None:
    """The record in a hash's fields; ``None`` where there is none."""
    text = {key.decode(): value for key, value in fields.items()}
    if "state" not in text:
        return None

    def string(name: str) -> str:
        return text.get(name, b"").decode(errors="replace")

    def number(name: str) -> int:
        return int(text.get(name, b"0"))

    return Record(
        id=job_id,
        state=string("state"),
        route=Route(
            task=string("route"),
            queue=string("queue"),
            max_attempts=number("max_attempts"),
            on_lost="fail" if string("on_lost") == "fail" else "requeue",
        ),
        attempt=number("attempt"),
        task_id=string("task"),
        resends=number("resends"),
        retries=number("retries"),
        deliveries=number("deliveries"),
        held="held" in text,
        why=string("why"),
        how=string("how"),
        status=string("status"),
        node=string("node"),
        trace=string("trace"),
        job=Job.from_json(text["job"]) if "job" in text else None,
        outcome=Outcome.from_json(text["outcome"]) if "outcome" in text else None,
        parts={key: string(key) for key in text if key.startswith(("artifact:", "review:"))},
        times={key[:-3]: float(text[key]) for key in text if key.endswith("_at")},
    )


def read_line(line: bytes) -> Line:
    """The line that ``tell`` in ``record.lua`` wrote."""
    at, event, attempt, note = line.decode(errors="replace").split(" ", 3)
    return Line(float(at), event, int(attempt), note)


def read_holding(job_id: int, sets: Sequence[bytes], slots: Sequence[bytes], known: Sequence[bytes | None]) -> Holding:
    """The holding in what ``holdings.lua`` answers of one job."""
    state, queue, deliveries, why, seconds = ((value or b"").decode(errors="replace") for value in known)
    return Holding(
        id=job_id,
        sets=tuple(name.decode() for name in sets),
        slots=tuple(sorted(name.decode() for name in slots)),
        state=state,
        queue=queue,
        seconds=max(0.0, float(seconds)),
        deliveries=int(deliveries or 0),
        why=why,
    )
