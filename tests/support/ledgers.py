"""Ledgers for tests on an in-process Redis, with jobs in any state, and a bridge's context that uses one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from hashlib import sha1
from itertools import count
from typing import Any, Literal, cast
from urllib.parse import quote

import fakeredis
import pytest
from celery import Celery

from mr_celery.bridge.capacity import FleetCapacity, FleetReader
from mr_celery.bridge.context import BridgeContext
from mr_celery.bridge.destinations import Destination
from mr_celery.bridge.job_sender import JobSender
from mr_celery.bridge.outages import outages_of
from mr_celery.bridge.publisher import Publisher
from mr_celery.bridge.renewal import ClaimRenewer
from mr_celery.bridge.routes import Routes
from mr_celery.bridge.token_gate import TokenGate
from mr_celery.bridge.waiting import WaitingJobs
from mr_celery.errors import WorkerError
from mr_celery.handlers import Declaration, Handler, Registry
from mr_celery.job import Job
from mr_celery.ledger import (
    AttemptKey,
    Completion,
    DeliveryKey,
    Fleet,
    Ledger,
    Node,
    Record,
    Route,
    RunKey,
    Started,
    connections,
)
from mr_celery.ledger.records import Loss
from mr_celery.outcome import Outcome
from mr_celery.server import Listing, PartialList
from mr_celery.server.job_list import Reader
from mr_celery.settings import Settings

from .clock import Clock
from .servers import RedisServer

STATES = ("unknown", "admitted", "claimed", "sent", "running", "deferred", "finished", "closed", "aborted")
"""Every state that a job can be in; ``unknown``: the ledger has never heard of it."""

INSIDE = "redis://inside.the.test/0"
"""The address of the Redis inside the test."""

ROUTE = Route("proj.upper", "celery")
DONE = Outcome("done", "DONE")
LATER = 30.0
"""Seconds that are not over while a test runs."""

HOLDER = "this worker"
"""The worker process in which runs start, unless a test says otherwise."""

NONCE = "first"
"""The nonce of a start, unless a test says otherwise."""

FAILED = {
    "must_not": Outcome.failed("must not run again"),
    "too_often": Outcome.failed("lost too often"),
}


def admit(ledger: Ledger, job: Job, route: Route = ROUTE, *, queue_limit: int | None = None, **options: Any) -> str:
    """Admit one job."""
    (answer,) = ledger.admit([(job, route)], queue_limits={route.queue: queue_limit}, **options)
    return answer


def sent(ledger: Ledger, job_id: int, task_id: str, *, wait_seconds: float = LATER) -> str:
    """Record that one job was sent."""
    return ledger.sent({job_id: task_id}, wait_seconds=wait_seconds)[job_id]


class LedgerKit:
    """A ledger and its Redis, with short methods for the steps that tests take.

    Args:
        ledger: the ledger.
        redis: a client of its Redis.
    """

    def __init__(self, ledger: Ledger, redis: Any) -> None:
        self.ledger = ledger
        self.redis = redis

    def key(self, name: str) -> str:
        """The full name of one of the ledger's keys."""
        return f"modelreins:{{{quote(self.ledger.worker_name, safe='')}}}:{name}"

    def bring(self, state: str, job_id: int = 1, *, route: Route = ROUTE, **fields: Any) -> RunKey:
        """Bring a new job to a state, by the steps that lead there. Nothing is due afterwards.

        Args:
            state: one of :data:`STATES`.
            job_id: the job.
            route: how it is run.
            fields: of the job.

        Returns:
            The key of its run; the task id is empty before the job is claimed.
        """
        ledger = self.ledger
        if state == "unknown":
            return RunKey(job_id, "")
        job = Job({"id": job_id, "prompt": "hello", **fields})
        assert admit(ledger, job, route, asked_at=self.now(), settle_seconds=LATER) == "admitted"
        if state == "admitted":
            return RunKey(job_id, "")
        task_id = ledger.claimed(job_id, wait_seconds=LATER)
        assert task_id
        run = RunKey(job_id, task_id)
        if state == "claimed":
            return run
        assert sent(ledger, job_id, task_id) == "sent"
        if state == "sent":
            return run
        if state == "aborted":
            assert ledger.abort(job_id, "aborted for a test") == task_id
            return run
        assert self.start(run).job is not None
        if state == "running":
            return run
        if state == "deferred":
            assert self.defer(run) == "deferred"
            return run
        assert ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=LATER) == "finished"
        if state == "closed":
            assert self.close(job_id)
        return run

    def start(
        self,
        run: RunKey,
        *,
        nonce: str = NONCE,
        node: str = "celery@test",
        holder: str = HOLDER,
        lease: float = LATER,
        task_name: str = "",
    ) -> Started:
        """Start a run. Without ``task_name``, its message is for the recorded task."""
        return self.ledger.start(run, task_name=task_name, node=node, holder=holder, lease=lease, nonce=nonce)

    def start_again(self, job_id: int = 1) -> RunKey:
        """Publish the current attempt of a job, and start it."""
        run = self.run(job_id)
        sent(self.ledger, job_id, run.task_id)
        assert self.start(run, nonce=run.task_id).job is not None
        return run

    def renew(self, *runs: RunKey, holder: str = HOLDER, seconds: float = LATER) -> dict[int, str]:
        """Report that a worker has these messages. Returns those that belong to another run or worker."""
        pairs = [(run.job_id, run.task_id) for run in runs]
        return self.ledger.renew(pairs, holder=holder, lease=seconds, wait_seconds=seconds)

    def retry(self, run: RunKey, *, nonce: str = NONCE, seconds: float = LATER) -> bool:
        """End a run with a Celery retry."""
        return self.ledger.retry(run, nonce=nonce, wait_seconds=seconds)

    def announce(self, run: RunKey, *, nonce: str = NONCE) -> RunKey:
        """Announce the retry that a run is about to publish. Returns the key of the retry."""
        assert self.ledger.announce_retry(run, run.retries + 1, nonce=nonce)
        return replace(run, retries=run.retries + 1)

    def give_back(self, run: RunKey, *, nonce: str = NONCE, seconds: float = LATER) -> bool:
        """End a run by giving its message back to the broker."""
        return self.ledger.give_back(run, nonce=nonce, wait_seconds=seconds)

    def key_of(self, run: RunKey) -> AttemptKey:
        """The key with which any process may end the attempt of a run."""
        key = self.ledger.reference(run)
        assert key is not None
        return key

    def defer(self, run: RunKey, *, nonce: str = NONCE, seconds: float = LATER, **options: Any) -> str:
        """End a run by deferring its job. The job's reference has been given out."""
        self.ledger.reference(run)
        return self.ledger.defer(run, nonce=nonce, seconds=seconds, **options)

    def complete(self, key: AttemptKey, outcome: Outcome = DONE, *, call: str = "call", **options: Any) -> Completion:
        """End a job with the key of its attempt, as an external caller does."""
        return self.ledger.complete(key, outcome, call=call, hold_seconds=LATER, **options)

    def die(self, run: RunKey, *, holder: str = HOLDER) -> Loss:
        """Report that a run's process died, as its worker does."""
        return self.ledger.lose(run.job_id, run.task_id, retries=run.retries, holder=holder, why="it died", **FAILED)

    def reap(self, run: RunKey) -> Loss:
        """Report the lease of a run as expired, as a reaper does."""
        return self.ledger.lose(run.job_id, run.task_id, retries=None, why="no sign of life", **FAILED)

    def record(self, job_id: int = 1) -> Record:
        """A job's record, which must exist."""
        record = self.ledger.read(job_id)
        assert record is not None
        return record

    def outcome(self, job_id: int = 1) -> Outcome:
        """A job's outcome, which must exist."""
        outcome = self.record(job_id).outcome
        assert outcome is not None
        return outcome

    def state(self, job_id: int = 1) -> str:
        """A job's state, after checking that it is in that state's set and in no other."""
        record = self.ledger.read(job_id)
        state = record.state if record else "unknown"
        sets = [name for name in STATES[1:7] if self.score(name, job_id) is not None]
        assert sets == ([state] if state in STATES[1:7] else [])
        return state

    def score(self, state: str, job_id: int = 1) -> float | None:
        """The time at which a job is due; ``None`` if it is not in that state's set."""
        score: float | None = self.redis.zscore(self.key(state), job_id)
        return score

    def is_due(self, state: str, job_id: int = 1) -> bool:
        """Whether a job in that state is due now."""
        return job_id in self.ledger.due(state)

    def make_due(self, state: str, *job_ids: int) -> None:
        """Make jobs in a state due; without ids, all of them."""
        for job_id in job_ids or [int(each) for each in self.redis.zrange(self.key(state), 0, -1)]:
            self.redis.zadd(self.key(state), {str(job_id): 0}, xx=True)

    def age(self, job_id: int, state: str, *, seconds: float) -> None:
        """Backdate a job's entry into a state by that many seconds."""
        at = self.record(job_id).times[state]
        self.redis.hset(self.key(f"job:{job_id}"), f"{state}_at", f"{at - seconds:.6f}")

    def reach(self, queue: str = "celery", *, sent: float, seconds: float = 0.0) -> None:
        """Record that workers reached a queue's messages sent at that time, ``seconds`` seconds ago."""
        fields = {f"{queue}:sent": f"{sent:.6f}", f"{queue}:at": f"{self.now() - seconds:.6f}"}
        self.redis.hset(self.key("reached"), mapping=fields)

    def age_look(self, *, seconds: float) -> None:
        """Backdate the last search for lost runs, and the grace period after it, by that many seconds."""
        for name in ("at", "grace_until"):
            self.redis.hincrbyfloat(self.key("looked"), name, -seconds)

    def age_miss(self, job_id: int, *, seconds: float) -> None:
        """Make a job missing from the server's lists for that many seconds longer."""
        count, first = self.redis.hget(self.key("missed"), job_id).decode().split()
        self.redis.hset(self.key("missed"), job_id, f"{count} {float(first) - seconds:.6f}")

    def collect(self, job_id: int = 1) -> DeliveryKey:
        """Collect a finished job, and all others that are due, as a courier does. Returns the job's delivery."""
        self.make_due("finished", job_id)
        taken = {key.job_id: key for key in self.ledger.collect(100, lease=LATER)}
        return taken[job_id]

    def delivery(self, job_id: int = 1) -> DeliveryKey:
        """The latest delivery of a job."""
        record = self.record(job_id)
        return DeliveryKey(job_id, record.task_id, record.deliveries)

    def close(self, job_id: int = 1, how: str = "delivered") -> bool:
        """Close a job: the server accepted the outcome of its current attempt, or already has one."""
        return self.ledger.close(job_id, self.record(job_id).task_id, how)

    def run(self, job_id: int = 1) -> RunKey:
        """The run of a job's current attempt."""
        return RunKey(job_id, self.record(job_id).task_id)

    def age_refusals(self, seconds: float, job_id: int = 1) -> None:
        """Backdate the broker's first refusal of a job's message."""
        record = self.key(f"job:{job_id}")
        for name in ("claimed_at", "refused_at"):
            if (at := self.redis.hget(record, name)) is not None:
                self.redis.hset(record, name, f"{float(at) - seconds:.6f}")

    def outgrow_kept_outcome(self, job_id: int = 1) -> None:
        """Expire the outcome of a closed job."""
        assert self.redis.delete(self.key(f"outcome:{job_id}"))
        self.redis.delete(self.key(f"parts:{job_id}"))

    def now(self) -> float:
        """The ledger's time."""
        return self.ledger.survey().now

    def load(self, queue: str = "celery") -> int:
        """The number of occupied slots of a queue."""
        return self.ledger.survey([queue]).load[queue]


class QuickRedis(fakeredis.FakeRedis):
    """A client of an in-process Redis that compiles each script once, instead of at each run like fakeredis."""

    def register_script(self, script: str | bytes) -> Any:
        """Keep the script as a Lua function, and return a script that calls it."""
        name = sha1(str(script).encode()).hexdigest()
        if name not in _compiled:
            # fakeredis collects all of Lua's garbage after each run, which takes longer than most scripts.
            self.eval(f'collectgarbage = function() end; redis["{name}"] = function() {script}\nend', 0)
            _compiled[name] = bool(self.eval(f'return redis["{name}"] and 1', 0))
        # Older versions of fakeredis start each run with a new state of Lua.
        return super().register_script(f'return redis["{name}"]()' if _compiled[name] else script)


_server = fakeredis.FakeServer()
_databases = count()
_compiled: dict[str, bool] = {}


def new_database() -> Callable[[], Any]:
    """A function that makes clients of a new in-process database. Integration tests replace it with a real Redis."""
    database = next(_databases) % 16  # a thread left over from an earlier test keeps using its own
    return lambda: QuickRedis(server=_server, db=database)


def for_ledger(make: Callable[[], Any]) -> Callable[[], Any]:
    """A function that makes a ledger's clients. Integration tests replace it, with a user of fewer permissions."""
    return make


def fake_redis(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keep every ledger and fleet of this test in one new in-process database. Returns a client of it."""
    make = new_database()
    make_for_ledger = for_ledger(make)

    def connect(url: str, timeout: float) -> Any:
        return make_for_ledger()

    monkeypatch.setattr(connections, "_clients", {})
    monkeypatch.setattr(connections, "_connect", connect)
    client = make()
    client.flushdb()
    return client


def fake_kit(monkeypatch: pytest.MonkeyPatch, *, worker: str = "w", history: float = 86400.0) -> LedgerKit:
    """A ledger in an in-process Redis."""
    redis = fake_redis(monkeypatch)
    return LedgerKit(Ledger(INSIDE, worker, history=history), redis)


def fake_fleet() -> Fleet:
    """The register of workers beside the ledger of :func:`fake_kit`."""
    return Fleet(INSIDE)


# -- a bridge's context over such a ledger --------------------------------------------------------------------


class FakeServer:
    """A ModelReins server without HTTP, with the methods of :class:`mr_celery.server.Api`.

    Attributes:
        pending: the jobs of the inbox, by id.
        running: the claimed jobs, by id.
        ended: the status of each listed job that is over, by id.
        known: the responses to requests for single jobs, by id.
        closed: the status and result of each closed job, by id.
        torn: the statuses whose lists contain an invalid entry.
        cut: the statuses whose lists break off after the last entry.
        left_out: the reasons why entries could not be used.
        calls: each request, in order.
        faults: by request name: errors to raise, or functions to call, one per request.
    """

    url = "https://server.test"
    name = "w"

    def __init__(self) -> None:
        self.pending: dict[int, dict[str, Any]] = {}
        self.running: dict[int, dict[str, Any]] = {}
        self.ended: dict[int, str] = {}
        self.known: dict[int, dict[str, Any]] = {}
        self.closed: dict[int, tuple[str, str]] = {}
        self.torn: set[str] = set()
        self.cut: set[str] = set()
        self.left_out: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        self.faults: dict[str, list[Any]] = {}

    def dispatch(self, *job_ids: int, **fields: Any) -> None:
        """Add pending jobs."""
        for job_id in job_ids:
            self.pending[job_id] = listed(job_id, **fields)

    def abort(self, *job_ids: int) -> None:
        """End jobs, as an operator does."""
        for job_id in job_ids:
            self.pending.pop(job_id, None)
            self.running.pop(job_id, None)
            self.ended[job_id] = "failed"

    def asked(self, name: str) -> list[Any]:
        """The arguments of each request of one kind; a single argument is not wrapped in a tuple."""
        return [call[1] if len(call) == 2 else call[1:] for call in self.calls if call[0] == name]

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        faults = self.faults.get(name)
        if faults:
            fault = faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            if fault is not None:
                fault()

    def jobs(self, status: str = "pending", *, take: Any = None, about: Collection[int] | None = None) -> Listing:
        self._note("jobs", status)
        of_one = {"pending": self.pending, "running": self.running}.get(status)
        if of_one is None:
            of_one = {job_id: {"id": job_id} for job_id, ended in self.ended.items() if ended == status}
        reader = Reader(status, take, about)
        try:
            reader.read([json.dumps({"jobs": [*of_one.values(), *([None] if status in self.torn else [])]}).encode()])
        finally:
            self.left_out += [*reader.left_out, *reader.refused]
        if status in self.cut:
            raise PartialList(
                WorkerError("GET /my-jobs -> network: it broke off", retryable=True), reader.listing(whole=False)
            )
        return reader.listing()

    def job(self, job_id: int) -> dict[str, Any] | None:
        self._note("job", job_id)
        return self.known.get(job_id)

    def claim(self, job_id: int) -> dict[str, Any]:
        self._note("claim", job_id)
        if job_id not in self.pending:
            raise refusal(409)
        self.running[job_id] = self.pending.pop(job_id)
        return {}

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        self._note("close", job_id)
        if job_id not in self.running:
            raise refusal(409)
        del self.running[job_id]
        self.ended[job_id] = status
        self.closed[job_id] = (status, result)
        return {}

    def presence(
        self,
        status: str = "active",
        details: str | None = None,
        tags: str | None = None,
        *,
        provider: str | None = None,
    ) -> dict[str, Any]:
        self._note("presence", status, details, tags, *([] if provider is None else [provider]))
        return {}


def listed(job_id: int, **fields: Any) -> dict[str, Any]:
    """A job as a server lists it."""
    return {"id": job_id, "prompt": "hello", "capability": "text.upper", **fields}


def refusal(status: int | None, **fields: Any) -> WorkerError:
    """The error of a request that fails with that status; ``None``: without a response."""
    if status is None:
        return WorkerError("POST /x -> network: timed out", retryable=True)
    retryable = status in (408, 425, 429) or status >= 500
    return WorkerError(f"POST /x -> {status}: the server's words", status=status, retryable=retryable, **fields)


class FakePublisher:
    """A broker that records what is published.

    Attributes:
        sent: (job id, task id) of each message.
        details: the priority and the retries of each message.
        destinations: the destination of each message.
        verified: the destinations that were verified, in order.
        refuses: errors to raise, one per verification.
        fails: errors to raise, one per message.
        length: the reported length of each queue; ``None``: unknown.
        counted: the queues whose length was requested, in order.
        announced: the task id of each abort, with the worker that is notified; empty: all workers.
        deaf: whether notifications of aborts fail.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.details: list[tuple[str, int]] = []
        self.destinations: list[Destination] = []
        self.verified: list[Destination] = []
        self.refuses: list[Exception] = []
        self.fails: list[Exception] = []
        self.length: int | None = 0
        self.counted: list[str] = []
        self.announced: list[tuple[str, str]] = []
        self.deaf = False

    def send(
        self,
        handler: Handler,
        worker: str,
        job_id: int,
        task_id: str,
        *,
        destination: Destination,
        priority: str,
        retries: int = 0,
    ) -> None:
        assert worker == "w"
        if self.fails:
            raise self.fails.pop(0)
        self.sent.append((job_id, task_id))
        self.destinations.append(destination)
        self.details.append((priority, retries))

    def verify(self, destination: Destination) -> None:
        self.verified.append(destination)
        if self.refuses:
            raise self.refuses.pop(0)

    def connect(self) -> None:
        """The broker always accepts a connection."""

    def announce_abort(self, task_id: str, node: str) -> None:
        if self.deaf:
            raise OSError("the broker is unreachable")
        self.announced.append((task_id, node))

    def waiting(self, queue: str) -> int | None:
        self.counted.append(queue)
        return self.length

    @property
    def jobs(self) -> list[int]:
        """The jobs of the messages, in order."""
        return [job_id for job_id, _ in self.sent]


@dataclass
class BridgeHarness:
    """A bridge's context, with test doubles for everything around it."""

    context: BridgeContext
    kit: LedgerKit
    server: FakeServer
    publisher: FakePublisher
    clock: Clock
    fleet: Fleet

    def bring(self, state: str, job_id: int = 1, *, task: str = "tiny.upper", **fields: Any) -> RunKey:
        """Bring a job of one of the context's handlers to a state; the server lists it accordingly."""
        run = self.kit.bring(state, job_id, route=self.context.routes[task], capability="text.upper", **fields)
        if state in ("claimed", "sent", "running", "finished"):
            self.server.running[job_id] = listed(job_id)
        return run

    def handler(self, task: str) -> Handler:
        """One of the context's handlers."""
        found = self.context.registry.named(task)
        assert found is not None
        return found

    @staticmethod
    def job(job_id: int) -> Job:
        """A pending job."""
        return Job(listed(job_id))

    def announce(self, hostname: str = "celery@a", *, concurrency: int = 2, **changes: Any) -> None:
        """Announce a worker as online."""
        node = Node(
            hostname,
            concurrency,
            changes.get("queues", ("celery", "slow")),
            changes.get("tasks", ("tiny.upper", "tiny.slow")),
        )
        self.fleet.announce(node, seconds=3600)


class Called:
    """A loop that counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    def call(self) -> None:
        self.times += 1


def upper(prompt: str) -> str:
    return prompt.upper()


def slow(prompt: str) -> str:
    return prompt


def make_harness(
    monkeypatch: pytest.MonkeyPatch,
    *,
    ledger_url: str = "",
    worker_online: bool = True,
    on_lost: Literal["requeue", "fail"] = "requeue",
    match: Callable[[Job], object] | None = None,
    **settings: Any,
) -> BridgeHarness:
    """A context with two handlers, and one worker of concurrency 2 that runs both.

    Args:
        monkeypatch: pytest's fixture.
        ledger_url: an empty Redis; by default a new in-process one.
        worker_online: whether the worker is announced.
        on_lost: the option of both handlers.
        match: the option of the handler tiny.upper.
        settings: the bridge's settings.
    """
    app = Celery("tiny", broker="memory://", set_as_current=False)
    app.conf.task_routes = {"tiny.slow": {"queue": "slow"}}
    handlers = [
        Handler(
            app.task(upper, name="tiny.upper", lazy=False), Declaration(("text.upper",), on_lost=on_lost, match=match)
        ),
        Handler(app.task(slow, name="tiny.slow", lazy=False), Declaration(("slow",))),
    ]
    kit = LedgerKit(Ledger(ledger_url, "w"), RedisServer.client_of(ledger_url)) if ledger_url else fake_kit(monkeypatch)
    clock, server, publisher = Clock(), FakeServer(), FakePublisher()
    fleet, registry, given = Fleet(ledger_url or INSIDE), Registry(handlers), Settings(name="w", **settings)
    routes, broker = Routes(app, registry, given.max_attempts, clock=clock), cast(Publisher, publisher)
    outages = outages_of(given, app, clock=clock)
    context = BridgeContext(
        settings=given,
        registry=registry,
        api=cast(Any, server),
        ledger=kit.ledger,
        publisher=broker,
        routes=routes,
        capacity=FleetCapacity(FleetReader(fleet, clock=clock), routes, given.max_inflight),
        sender=JobSender(
            kit.ledger, registry, routes, broker, outages.broker, wait_seconds=given.lease, url=given.url, clock=clock
        ),
        renewer=ClaimRenewer(kit.ledger, given.lease),
        outages=outages,
        token=TokenGate(clock),
        waiting=WaitingJobs(clock=clock),
        clock=clock,
    )
    harness = BridgeHarness(context, kit, server, publisher, clock, fleet)
    if worker_online:
        harness.announce()
    return harness
