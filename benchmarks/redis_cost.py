"""Cost of a job in Redis, and the number of jobs per second that one Redis can handle.

Redis runs commands in one thread, which can use at most one second of CPU per second. First its CPU, commands and bytes
are measured while a bridge and a worker process jobs, with ledger and broker in separate Redis servers and in a shared
one, and for plain Celery. Then Redis is saturated: one process replays the steps of many jobs over many connections,
with the exact commands of the ledger and of Celery's broker, but without bridge, worker and server.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from cost import JOBS, POOL, PRODUCER, until_quiet
from installation import NAME, Place, place
from report import Report

from mr_celery.job import Job
from mr_celery.ledger import Ledger
from mr_celery.ledger.records import Route, RunKey
from mr_celery.ledger.scripts import source_of
from mr_celery.outcome import Outcome
from mr_celery.telemetry.quantities import counted
from support.servers import RedisServer

PART = "Redis"

CONNECTIONS = (1, 4, 16, 64)

GROUP = 5
"""Jobs that a bridge admits at once, and whose publishes it records at once."""


@dataclass(frozen=True)
class Used:
    """CPU seconds of Redis' main thread, commands (including those in scripts), scripts, bytes received and sent."""

    cpu: float = 0.0
    commands: float = 0.0
    scripts: float = 0.0
    received: float = 0.0
    sent: float = 0.0

    @classmethod
    def so_far(cls, redis: RedisServer) -> Used:
        """The numbers since the server's start."""
        info = redis.client().info("everything")
        return cls(
            float(info["used_cpu_user_main_thread"]) + float(info["used_cpu_sys_main_thread"]),
            info["total_commands_processed"],
            info.get("cmdstat_evalsha", {}).get("calls", 0),
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
        )

    def since(self, before: Used, jobs: int) -> Used:
        """The difference per job."""
        return Used(*((now - then) / jobs for now, then in zip(astuple(self), astuple(before), strict=True)))


def ours(at: Place, jobs: int, redis: Sequence[RedisServer], **changes: str) -> list[Used]:
    """The usage of each Redis for a job that does nothing."""
    at.worker(*POOL, **changes)
    at.bridge(**changes)
    at.server.dispatch(300)
    at.server.until_done(300)
    before = [Used.so_far(each) for each in redis]
    at.server.dispatch(jobs)
    at.server.until_done(300 + jobs, look=0.2)
    return [Used.so_far(each).since(then, jobs) for each, then in zip(redis, before, strict=True)]


def plain_celery(at: Place, jobs: int) -> Used:
    """The usage of the broker's Redis for a task of plain Celery."""
    worker = at.worker(*POOL)
    at.python(PRODUCER, 300)
    until_quiet(worker)
    before = Used.so_far(at.broker)
    at.python(PRODUCER, jobs)
    until_quiet(worker)
    return Used.so_far(at.broker).since(before, jobs)


def encoded(*words: object) -> bytes:
    """A command as Redis reads it."""
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%s" % (len(texts), b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts))


class Recorder:
    """Stands in for the ledger's :class:`Scripts`: records each command, and returns the reply for a new job."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._digests: dict[tuple[str, ...], str] = {}
        self.last = b""
        self.nonces: list[Any] = []

    def run(self, *names: str, keys: Sequence[str], arguments: Sequence[Any], **_: Any) -> Any:
        if names not in self._digests:
            self._digests[names] = self._client.script_load(source_of(names))
        self.last = encoded("EVALSHA", self._digests[names], len(keys), *keys, *arguments)
        if names[-1] == "admit":
            self.nonces = list(arguments[10::9])
        return {
            "admit": [b"admitted"] * GROUP,
            "claimed": b"task",
            "start": [b"started", b'{"id": 1}', b"1", b""],
            "sent": [b"running"] * GROUP,
            "finish": b"finished",
            "close": 1,
        }[names[-1]]


def messages(ledger: Ledger, recorder: Recorder, first: int, *, broker: bool) -> Iterator[bytes]:
    """The messages that process a group of jobs. Each is sent after the reply to the previous one."""
    route, tasks = Route("bench.nothing", "celery", 3, "requeue"), {}
    jobs = [(Job({"id": job_id, "prompt": "x"}), route) for job_id in range(first, first + GROUP)]
    ledger.admit(jobs, asked_at=time.time(), queue_limits={"celery": 10_000}, total_limit=10_000)
    yield recorder.last
    body = b"x" * 1000  # the size of a message
    for (job, _), nonce in zip(jobs, recorder.nonces, strict=True):
        run = RunKey(job.id, f"mr-{job.id}-1-{nonce}", 0)
        tasks[job.id] = run.task_id
        ledger.claimed(job.id)
        yield recorder.last
        if broker:  # like kombu: publish, receive, record as unacknowledged, acknowledge
            yield encoded("LPUSH", "celery", body)
            yield encoded("BRPOP", "celery", "celery\x06\x163", "celery\x06\x166", "celery\x06\x169", 1)
            yield (
                encoded("MULTI")
                + encoded("ZADD", "unacked_index", time.time(), run.task_id)
                + encoded("HSET", "unacked", run.task_id, body)
                + encoded("EXEC")
            )
        ledger.start(run, task_name=route.task_name, node="celery@host", holder="h", lease=30.0, nonce=nonce)
        yield recorder.last
        if broker:
            yield (
                encoded("MULTI")
                + encoded("ZREM", "unacked_index", run.task_id)
                + encoded("HDEL", "unacked", run.task_id)
                + encoded("EXEC")
            )
        ledger.finish(run, Outcome(status="done", text=""), deliver_seconds=30.0)
        yield recorder.last
        ledger.close(job.id, run.task_id, how="delivered", has_parts=False)
        yield recorder.last
    ledger.sent(tasks, wait_seconds=30.0)
    yield recorder.last


def filled(jobs: int, connections: int, *, broker: bool) -> tuple[float, float]:
    """Process jobs over some connections, as fast as Redis can. Returns jobs per second, and CPU seconds per job."""
    redis = RedisServer()
    try:
        recorder = Recorder(redis.client())
        ledger = Ledger(redis.url(), NAME)
        ledger._redis = recorder  # type: ignore[assignment]
        groups = max(connections, jobs // GROUP)
        scripts = [list(messages(ledger, recorder, 1 + GROUP * each, broker=broker)) for each in range(groups)]
        with selectors.DefaultSelector() as selector:
            for lane in range(connections):
                connection = socket.create_connection(("127.0.0.1", redis.port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                own = [message for script in scripts[lane::connections] for message in script]
                selector.register(connection, selectors.EVENT_READ, iter(own))
            before, since = Used.so_far(redis), time.monotonic()
            for key in list(selector.get_map().values()):
                key.fileobj.sendall(next(key.data))  # type: ignore[union-attr]
            while selector.get_map():
                for key, _ in selector.select():
                    connection = key.fileobj  # type: ignore[assignment]
                    connection.recv(65536)
                    message = next(key.data, None)
                    if message is None:
                        selector.unregister(connection)
                        connection.close()
                    else:
                        connection.sendall(message)
            passed = time.monotonic() - since
        used = Used.so_far(redis).since(before, groups * GROUP)
        ended = redis.client().zcard(f"modelreins:{{{NAME}}}:ended:done")
        assert ended == groups * GROUP, f"{ended} of {groups * GROUP} jobs ended"
        return groups * GROUP / passed, used.cpu
    finally:
        redis.stop()


def measure(report: Report) -> None:
    """Run all measurements, round by round."""
    jobs = report.jobs(JOBS)
    apart: list[list[Used]] = []
    together: list[Used] = []
    celery: list[Used] = []
    for _ in range(report.rounds):
        with place() as at:
            apart.append(ours(at, jobs, (at.ledger, at.broker)))
        with place() as at:
            together += ours(at, jobs, (at.broker,), MODELREINS_LEDGER_URL=at.broker.url(1))
        with place() as at:
            celery.append(plain_celery(at, jobs))
    ledger, broker = [each[0] for each in apart], [each[1] for each in apart]
    whole = [(one.cpu + other.cpu) * 1e3 for one, other in apart]
    report.add(PART, "CPU of a job: ledger and broker", "ms", whole, at_most=0.3)
    report.add(PART, "CPU of a job: ledger and broker, in one Redis", "ms", [each.cpu * 1e3 for each in together])
    for name, used in (("ledger", ledger), ("broker", broker), ("plain Celery's broker", celery)):
        report.add(PART, f"CPU of a job: {name}", "ms", [each.cpu * 1e3 for each in used])
        report.add(PART, f"commands of a job: {name}", "", [each.commands for each in used])
        report.add(
            PART, f"bytes received and sent for a job: {name}", "B", [each.received + each.sent for each in used]
        )
    report.add(PART, "scripts of a job: ledger", "", [each.scripts for each in ledger])
    for name, has_broker in (("ledger alone", False), ("ledger and broker", True)):
        points = []
        for connections in CONNECTIONS:
            found = [filled(report.jobs(JOBS), connections, broker=has_broker) for _ in range(report.rounds)]
            what = f"saturated Redis, {counted(connections, 'connection')}: {name}"
            carried = report.add(PART, what, "jobs/s", [rate for rate, _ in found])
            points.append((float(connections), carried.median))
        report.curve(f"jobs a second in one Redis over connections: {name}", points)
        report.add(PART, f"CPU of a job in a saturated Redis: {name}", "ms", [cpu * 1e3 for _, cpu in found])
