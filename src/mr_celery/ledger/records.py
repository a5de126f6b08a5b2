"""The values that the ledger returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..errors import JobError
from ..job import Job
from ..outcome import Outcome
from ..stored import known_fields
from ..telemetry.printing import printable

Admission = Literal["admitted", "full", "known", "again"]
Adoption = Literal["adopted", "full", "restored", "redelivered", "mended", "known"]
Damage = Literal["lists", "record", "outcome", "restored"]
"""The damage of a job that the ledger had partly lost, see :meth:`Ledger.mend`."""

Completion = Literal["accepted", "completed", "ended", "aborted", "superseded", "unknown"]
"""Whether a step with an :class:`AttemptKey` was accepted, or why not: the job was completed by an earlier call, ended
otherwise, was aborted, or is in another attempt; or the ledger does not know the key."""

Loss = Literal["again", "failed", "kept"]
Requeuing = Literal["requeued", "refused", "kept"]
Refusal = Literal["new", "again", "failed", "kept"]
Postponement = Literal["again", "spent", "kept"]

IN_FLIGHT = ("admitted", "claimed", "sent", "running", "deferred", "finished")
"""The states of a job in flight, in order. ``closed`` and ``aborted`` follow."""

ENDINGS = ("done", "failed", "escalated", "superseded", "aborted")
"""The ways in which a job may end."""

MOST_CHARACTERS = 500
"""Maximum length of a text in a job's record or history, in characters. Some are cut further, to 200 bytes."""


def recorded(text: str) -> str:
    """A text for a job's record or history: one printable line."""
    return printable(text, MOST_CHARACTERS)


@dataclass(frozen=True)
class Route:
    """The task and queue for a job, with the parts of the handler's declaration that the ledger stores."""

    task_name: str
    queue: str
    max_attempts: int = 3
    on_lost: Literal["requeue", "fail"] = "requeue"


@dataclass(frozen=True)
class RunKey:
    """The key of one execution: the attempt (by its task id) and the number of Celery retries in it.

    Together they are the fencing token: the ledger accepts an outcome only from the execution that it recorded last as
    running.
    """

    job_id: int
    task_id: str
    retries: int = 0


@dataclass(frozen=True)
class AttemptKey:
    """The key of one attempt for processes other than its worker: the job, the attempt's number and its secret.

    Whoever has it may end the job, while the attempt is the current one.
    """

    job_id: int
    attempt: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class GivenReference:
    """The fields that the ledger stored when a run requested its job's reference.

    Args:
        secret: the secret of the attempt.
        shaped: whether the handler declares ``result=`` or ``review=``.
    """

    secret: str = field(repr=False)
    shaped: bool


@dataclass(frozen=True)
class MemberKey:
    """The key of one execution of a workflow's member.

    Args:
        job_id: the job.
        task_id: the attempt that handed the job over to the workflow.
        member_id: the member's own task id.
        retries: its number of Celery retries.
    """

    job_id: int
    task_id: str
    member_id: str
    retries: int = 0


@dataclass(frozen=True)
class NewMember:
    """A member whose message is published: its task id, task name, queue, and the seconds until it is due."""

    member_id: str
    task_name: str
    queue: str
    seconds: float = 0.0


@dataclass(frozen=True)
class StartedMember:
    """The answer to the start of a member: the job, or what prevents it.

    Args:
        job: the job; ``None`` if the member must not run.
        attempt: the number of the attempt, from 1.
        trace: the job's trace context; empty if there is none.
        job_retries: the number of Celery retries of the run that handed the job over.
        job_nonce: the nonce of that run.
        handler: the task name of the job's handler.
        final: whether this member's result is the job's.
        refusal: what prevents it.
    """

    job: Job | None = None
    attempt: int = 0
    trace: str = ""
    job_retries: int = 0
    job_nonce: str = ""
    handler: str = ""
    final: bool = False
    refusal: str = ""


@dataclass(frozen=True)
class Member:
    """A member of a job's workflow.

    Args:
        member_id: its task id.
        state: ``sent``, ``received``, ``running``, ``done``, ``failed`` or ``replaced``.
        since: when it came to that state, in seconds since 1970 by the ledger's clock.
        task_name: its task.
        queue: the queue of its message; empty if that is not known.
        node: the worker that has or had it.
        retries: its number of Celery retries.
    """

    member_id: str
    state: str
    since: float
    task_name: str
    queue: str = ""
    node: str = ""
    retries: int = 0

    @property
    def unfinished(self) -> bool:
        """Whether its message waits, or a worker has it."""
        return self.state in ("sent", "received", "running")

    @classmethod
    def read(cls, member_id: bytes, text: bytes) -> Member:
        """Read an entry that ``write_member`` in ``members.lua`` wrote."""
        parts = text.decode(errors="replace").split("\t")
        state, since, retries, _holder, _run, node, queue, task_name, *_ = [*parts, *[""] * 8]
        return cls(
            member_id.decode(errors="replace"), state, float(since or 0), task_name, queue, node, int(retries or 0)
        )


@dataclass(frozen=True)
class OverdueMember:
    """A member that no worker has reported in time.

    Args:
        member_id: its task id.
        state: its state.
        task_name: its task.
        node: the worker that had it.
        queue: the queue of its message.
        overtaken: seconds by which the newest started message of the queue was sent after it; negative if it was sent
            before it.
        silence: seconds since a message of the queue was started.
        seconds: seconds since it came to its state.
    """

    member_id: str
    state: str
    task_name: str
    node: str
    queue: str
    overtaken: float
    silence: float
    seconds: float

    def __str__(self) -> str:
        return f"member {self.task_name} ({self.member_id})"


@dataclass(frozen=True)
class Overdue:
    """The members of a workflow whose check is due.

    Args:
        verdict: ``none``: no workflow holds the job. ``alive``: ``members`` are messages that no worker has reported.
            ``lost``: the lease of the one in ``members`` is over. ``idle``: no member is unfinished.
        task_id: the attempt.
        attempt: its number.
        members: the members.
    """

    verdict: str
    task_id: str = ""
    attempt: int = 0
    members: tuple[OverdueMember, ...] = ()


@dataclass(frozen=True)
class DeliveryKey:
    """The key of one delivery: the attempt whose outcome it delivers, and its number, from 1.

    It is the fencing token: the ledger accepts steps only from the delivery that began last.
    """

    job_id: int
    task_id: str
    number: int


@dataclass(frozen=True)
class Started:
    """The answer to a start: the job, or the state that prevents its run.

    ``nonce`` distinguishes this execution from others with the same :class:`RunKey`. ``trace`` is the job's trace
    context, empty if there is none. ``unloadable`` is the reason if the job may run, but cannot be loaded in this
    process.
    """

    job: Job | None = None
    attempt: int = 0
    nonce: str = ""
    refusal: str = ""
    trace: str = ""
    unloadable: str = ""


@dataclass(frozen=True)
class Missed:
    """The number of times in a row that the server lacked a job or a route, and the seconds since the first."""

    times: int
    seconds: float


@dataclass(frozen=True)
class Tally:
    """Counts of all deliveries of a worker name, within the ledger's history.

    Args:
        now: seconds since 1970, by the ledger's clock.
        passed: requests of one route that succeeded.
        failed: deliveries that were put off by a response to a request of that route.
        closed: jobs closed.
    """

    now: float
    passed: int = 0
    failed: int = 0
    closed: int = 0


@dataclass(frozen=True)
class Unstarted:
    """A message that no worker has reported for a while.

    Args:
        job_id: the job.
        task_id: the attempt.
        task_name: the handler's task name.
        queue: the queue that it was sent to.
        why: the last problem; empty if none is known.
        received: a worker had reported the message, and stopped.
        overtaken: workers have started messages sent well after it, or none of its queue for long.
        seconds: seconds since it was sent.
    """

    job_id: int
    task_id: str
    task_name: str
    queue: str
    why: str
    received: bool
    overtaken: bool
    seconds: float

    @classmethod
    def read(cls, answer: Sequence[Any]) -> Unstarted:
        """Read a row of ``unstarted.lua``'s answer."""
        job_id, task_id, task_name, queue, why, received, overtaken, seconds = answer
        task_id, task_name, queue, why = (text.decode(errors="replace") for text in (task_id, task_name, queue, why))
        return cls(int(job_id), task_id, task_name, queue, why, bool(received), bool(overtaken), float(seconds))


@dataclass(frozen=True)
class Trouble:
    """Something that does not work: the last error, without the content of a job, and for how many seconds."""

    why: str
    seconds: float


@dataclass(frozen=True)
class Waiting:
    """Pending jobs that cannot be claimed now.

    Args:
        reason: the kind of reason, one of a fixed set.
        text: the reason as a sentence.
        count: the number of jobs.
        seconds: seconds since a poll first found one.
    """

    reason: str
    text: str
    count: int
    seconds: float


ANNOUNCEMENTS_MISSED = 2
"""Announcements that a bridge may miss before its last one is no longer read as the present."""


@dataclass(frozen=True)
class BridgeProcess:
    """A bridge process that is online, as of its last announcement. Ages count from ``at``.

    Args:
        id: host and process id.
        host: the host's name.
        version: its version of mr-celery.
        uptime: seconds since its start.
        presence_age: seconds since the server last accepted its presence; ``None``: never.
        pending: jobs pending on the server at its last poll; ``None``: it has not polled.
        pending_age: seconds since that poll.
        at: the ledger's time of the announcement.
        interval: seconds between two announcements.
        app_version: the version of the application.
        handlers: its handlers, each with the jobs that it takes.
        answer_age: seconds since the last response of the server; ``None``: there was none.
        server: the server's outage.
        token: the server's refusal of the token.
        broker: the broker's outage.
        requests: requests that fail although the server answers.
        waiting: the pending jobs that cannot be claimed now.
        claims: whether it would claim a job now.
        has_finished: whether it is stopping, and no job of the worker name is in flight.
    """

    id: str
    host: str
    version: str
    uptime: float
    presence_age: float | None = None
    pending: int | None = None
    pending_age: float | None = None
    at: float = 0.0
    interval: float = 5.0
    app_version: str = ""
    handlers: tuple[str, ...] = ()
    answer_age: float | None = None
    server: Trouble | None = None
    token: Trouble | None = None
    broker: Trouble | None = None
    requests: Trouble | None = None
    waiting: tuple[Waiting, ...] = ()
    claims: bool = False
    has_finished: bool = False

    def is_old(self, now: float) -> bool:
        """Whether the announcement is too old to be read as the present.

        One of the future is, too: the ledger's clock was set back.
        """
        return abs(now - self.at) > (ANNOUNCEMENTS_MISSED + 0.5) * self.interval

    @classmethod
    def read(cls, about: Mapping[str, Any]) -> BridgeProcess:
        """Read an announcement. Fields of other versions are ignored.

        Raises:
            ValueError: it is not an announcement; also KeyError and TypeError.
        """
        known = known_fields(cls, about)
        kinds = {"id": str, "host": str, "version": str, "uptime": float, "at": float, "interval": float}
        known |= {name: kinds[name](known[name]) for name in kinds.keys() & known.keys()}
        for name in ("server", "token", "broker", "requests"):
            if isinstance(value := known.get(name), Mapping):
                known[name] = Trouble(str(value["why"]), float(value["seconds"]))
        known["handlers"] = tuple(known.get("handlers", ()))
        known["waiting"] = tuple(Waiting(**known_fields(Waiting, each)) for each in known.get("waiting", ()))
        return cls(**known)


@dataclass(frozen=True)
class Pause:
    """An operator's pause of claiming: the operator, the time (seconds since 1970, the ledger's clock), the reason."""

    by: str
    at: float
    why: str = ""

    def to_json(self) -> str:
        """The pause as JSON text, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Pause:
        """Read a pause that :meth:`to_json` wrote."""
        return cls(**known_fields(cls, json.loads(text)))


@dataclass(frozen=True)
class Registration:
    """The last registration of the worker name.

    Args:
        url: the server's address.
        risk_tiers: the risk tier of each capability.
        at: seconds since 1970, by the ledger's clock.
        secrets: the names of the secrets that a capability requires.
    """

    url: str
    risk_tiers: Mapping[str, str]
    at: float
    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The registration as JSON text, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Registration:
        """Read a registration that :meth:`to_json` wrote."""
        return cls(**known_fields(cls, json.loads(text)))


@dataclass(frozen=True)
class TokenRefusal:
    """A token that the server refuses.

    Args:
        refusals: consecutive refusals; those at the same time count once.
        status: the HTTP status of the last one.
        why: the last one in words, without the token.
        is_open: whether the server has accepted the token since for some requests, so that all are tried again.
    """

    refusals: int
    status: int
    why: str
    is_open: bool = False

    def to_json(self) -> str:
        """The refusal as JSON text, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> TokenRefusal:
        """Read a refusal that :meth:`to_json` wrote."""
        return cls(**known_fields(cls, json.loads(text)))


@dataclass(frozen=True)
class Event:
    """One line of a job's history.

    Args:
        at: seconds since 1970, by the ledger's clock.
        event: ``admitted``, ``claimed``, ``sent``, ``started``, ``finished``, ``closed``, …
        attempt: the current attempt; 0: before the first.
        note: a node, a queue or a reason.
    """

    at: float
    event: str
    attempt: int
    note: str = ""


@dataclass(frozen=True)
class Aged:
    """A job that has waited for ``seconds``; an outcome also has the deliveries tried and the last problem."""

    job_id: int
    seconds: float
    deliveries: int = 0
    why: str = ""

    @classmethod
    def read(cls, answer: Sequence[bytes]) -> Aged | None:
        """Read an entry of ``snapshot.lua``'s answer; ``None`` if there is none."""
        if not answer:
            return None
        job_id, seconds, *more = answer
        deliveries, why = more or (b"0", b"")
        return cls(int(job_id), max(0.0, float(seconds)), int(deliveries), why.decode(errors="replace"))


@dataclass(frozen=True)
class Snapshot:
    """The state of the work.

    Args:
        pause: the pause; ``None`` if jobs are claimed.
        waiting: the job that has waited longest for a worker.
        undelivered: the oldest outcome that is not delivered yet.
        ended: for each period in seconds, the number of jobs that ended in it, by their ending.
    """

    pause: Pause | None
    waiting: Aged | None
    undelivered: Aged | None
    ended: Mapping[float, Mapping[str, int]]


@dataclass(frozen=True)
class Deferring:
    """The tasks of which jobs were deferred.

    Args:
        tasks: their names.
        in_slots: the number of their jobs that hold a slot, and may be deferred next.
    """

    tasks: frozenset[str] = frozenset()
    in_slots: int = 0


@dataclass(frozen=True)
class Survey:
    """The numbers of jobs in flight, and the ledger's time in seconds."""

    now: float
    states: Mapping[str, int]
    load: Mapping[str, int]
    paused: bool = False

    @classmethod
    def read(cls, answer: Sequence[Any], queues: Sequence[str]) -> Survey:
        """Create it from a script's answer about these queues."""
        counts, load = answer[2 : 2 + len(IN_FLIGHT)], answer[2 + len(IN_FLIGHT) :]
        states = dict(zip(IN_FLIGHT, counts, strict=True))
        return cls(float(answer[0]), states, dict(zip(queues, load, strict=True)), paused=bool(answer[1]))

    @property
    def slots_taken(self) -> int:
        """Jobs that are claimed or being claimed, and whose handler has not returned."""
        return sum(map(self.states.__getitem__, IN_FLIGHT[:4]))

    @property
    def in_flight(self) -> int:
        """Jobs in flight."""
        return sum(self.states.values())


@dataclass(frozen=True)
class Record:
    """A job's record.

    Args:
        received: a worker has reported that it has the message of the current attempt.
        status: the outcome's status; empty until the outcome is known.
        capability: the capabilities that the job requires, at most 200 bytes.
        reason: the reason of a failure, without content of the job, at most 200 bytes.
        trace: the job's trace context; empty if there is none.
        failures: the failures of the outcome's delivery, as the last delivery recorded them.
        workflow: the task id of the final member of the workflow that has the job; empty if a run has it.
    """

    id: int
    state: str
    route: Route
    attempt: int
    task_id: str
    resends: int
    retries: int
    deliveries: int
    received: bool
    why: str
    how: str
    status: str
    node: str
    trace: str
    job: Job | None = field(repr=False)
    outcome: Outcome | None = field(repr=False)
    parts: Mapping[str, str] = field(repr=False)
    times: Mapping[str, float] = field(repr=False)
    failures: str = field(default="", repr=False)
    capability: str = ""
    reason: str = ""
    note: str = ""
    deadline: float | None = None
    shaped: bool = False
    workflow: str = ""


@dataclass(frozen=True)
class AuditRow:
    """A job's entries in the ledger, without its payload.

    Args:
        id: the job.
        sets: the states whose sets contain it.
        slots: the queues in which it has a slot.
        state: the state in its record; empty if there is no record.
        queue: the queue in its record.
        seconds: seconds since it came to that state.
        deliveries: the number of deliveries of its outcome that began.
        why: the last problem; it may contain text from the server.
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
    """The entries of all jobs in flight. They are read job by job, while jobs run.

    Args:
        rows: the jobs, by id.
        looked: seconds since a bridge last checked for lost runs, which each does about once a second; ``None``: none
            has for a day.
    """

    rows: Mapping[int, AuditRow]
    looked: float | None = None


@dataclass(frozen=True)
class Mending:
    """The jobs in flight after lost parts were repaired.

    Args:
        in_flight: each job in flight, with its state.
        bare: records whose job itself is lost, to be completed by :meth:`Ledger.adopt`.
        mended: the jobs that were repaired or given up, with the damage.
    """

    in_flight: Mapping[int, str]
    bare: frozenset[int]
    mended: Mapping[int, Damage]


def read_record(job_id: int, fields: Mapping[bytes, bytes]) -> Record | None:
    """Read a record from the fields of a job's hashes; ``None`` if there is none."""
    text = {key.decode(): value for key, value in fields.items()}
    if "state" not in text:
        return None

    def string(name: str) -> str:
        return text.get(name, b"").decode(errors="replace")

    def number(name: str) -> int:
        return int(text.get(name) or 0)

    return Record(
        id=job_id,
        state=string("state"),
        route=Route(
            task_name=string("task_name"),
            queue=string("queue"),
            max_attempts=number("max_attempts"),
            on_lost="fail" if string("on_lost") == "fail" else "requeue",
        ),
        attempt=number("attempt"),
        task_id=string("task_id"),
        resends=number("resends"),
        retries=number("retries"),
        deliveries=number("deliveries"),
        received="received" in text,
        why=string("why"),
        how=string("how"),
        status=string("status"),
        node=string("node"),
        trace=string("trace"),
        job=_job(job_id, text["job"]) if "job" in text else None,
        outcome=Outcome.from_json(text["outcome"]) if "outcome" in text else None,
        parts={key: string(key) for key in text if key.startswith(("artifact:", "review:"))},
        times={key[:-3]: float(text[key]) for key in text if key.endswith("_at")},
        failures=string("failures"),
        capability=string("capability"),
        reason=string("reason"),
        note=string("note"),
        deadline=float(text["deadline"]) if "deadline" in text else None,
        shaped=string("shaped") == "1",
        workflow=string("workflow"),
    )


def _job(job_id: int, text: bytes) -> Job:
    """The job, or only its id if it cannot be loaded in this process."""
    try:
        return Job.from_json(text)
    except JobError:
        return Job({"id": job_id})


def read_event(line: bytes) -> Event:
    """Read a line that ``add_event`` in ``record.lua`` wrote."""
    at, event, attempt, note = line.decode(errors="replace").split(" ", 3)
    return Event(float(at), event, int(attempt), note)


def read_audit_row(
    job_id: int, sets: Sequence[bytes], slots: Sequence[bytes], known: Sequence[bytes | None]
) -> AuditRow:
    """Read a row of ``rows.lua``'s answer."""
    state, queue, deliveries, why, seconds = ((value or b"").decode(errors="replace") for value in known)
    return AuditRow(
        id=job_id,
        sets=tuple(name.decode() for name in sets),
        slots=tuple(sorted(name.decode() for name in slots)),
        state=state,
        queue=queue,
        seconds=max(0.0, float(seconds)),
        deliveries=int(deliveries or 0),
        why=why,
    )
