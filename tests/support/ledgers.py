"""Ledgers for tests: on a Redis inside the test, with jobs brought to any state."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from mr_celery.job import Job
from mr_celery.ledger import Fleet, Ledger, Record, Route, RunKey, Started, connection
from mr_celery.outcome import Outcome

STATES = ("unknown", "admitted", "claimed", "sent", "running", "finished", "closed", "aborted")
"""Every state that a job can be in; ``unknown``: the ledger has never heard of it."""

ROUTE = Route("proj.upper", "celery")
DONE = Outcome("done", "DONE")
LATER = 30.0
"""Seconds that are not over while a test runs."""

FAILED = {
    "must_not": Outcome.failed("must not run again"),
    "too_often": Outcome.failed("lost too often"),
}


class Books:
    """A ledger, the Redis under it, and short ways to what tests do with both.

    Args:
        ledger: the ledger.
        redis: a client of its Redis.
    """

    def __init__(self, ledger: Ledger, redis: Any) -> None:
        self.ledger = ledger
        self.redis = redis

    def key(self, name: str) -> str:
        """The full name of one of the ledger's keys."""
        return f"modelreins:{{{self.ledger.worker}}}:{name}"

    def bring(self, state: str, job_id: int = 1, *, route: Route = ROUTE, **fields: Any) -> RunKey:
        """Bring a new job to a state, by the steps that lead there. Nothing of it is due.

        Args:
            state: one of :data:`STATES`.
            job_id: the job.
            route: how it is run.
            fields: of the job.

        Returns:
            What names its run; with an empty task id before it is claimed.
        """
        ledger = self.ledger
        if state == "unknown":
            return RunKey(job_id, "")
        job = Job({"id": job_id, "prompt": "hello", **fields})
        assert ledger.admit(job, route, asked_at=self.now(), settle_seconds=LATER) == "admitted"
        if state == "admitted":
            return RunKey(job_id, "")
        task_id = ledger.claimed(job_id, wait_seconds=LATER)
        assert task_id
        run = RunKey(job_id, task_id)
        if state == "claimed":
            return run
        assert ledger.sent(job_id, task_id, wait_seconds=LATER) == "sent"
        if state == "sent":
            return run
        if state == "aborted":
            assert ledger.abort(job_id, "aborted for a test") == task_id
            return run
        assert self.start(run).job is not None
        if state == "running":
            return run
        assert ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=LATER) == "finished"
        if state == "closed":
            assert ledger.close(job_id, "delivered")
        return run

    def start(self, run: RunKey, *, nonce: str = "first", node: str = "celery@test", lease: float = LATER) -> Started:
        """The start of a run."""
        return self.ledger.start(run, node=node, lease=lease, nonce=nonce)

    def record(self, job_id: int = 1) -> Record:
        """A job's record, which must be there."""
        record = self.ledger.read(job_id)
        assert record is not None
        return record

    def state(self, job_id: int = 1) -> str:
        """A job's state, after checking that it is in that state's set and in no other."""
        record = self.ledger.read(job_id)
        state = record.state if record else "unknown"
        sets = [name for name in STATES[1:6] if self.score(name, job_id) is not None]
        assert sets == ([state] if state in STATES[1:6] else [])
        return state

    def score(self, state: str, job_id: int = 1) -> float | None:
        """The time at which somebody must look at a job; ``None`` if it is not in that state's set."""
        score: float | None = self.redis.zscore(self.key(state), job_id)
        return score

    def is_due(self, state: str, job_id: int = 1) -> bool:
        """Whether somebody must look at a job of that state now."""
        return job_id in self.ledger.due(state)

    def make_due(self, state: str, *job_ids: int) -> None:
        """Let the time of jobs of a state be come; without ids: of all of them."""
        for job_id in job_ids or [int(each) for each in self.redis.zrange(self.key(state), 0, -1)]:
            self.redis.zadd(self.key(state), {str(job_id): 0}, xx=True)

    def age(self, job_id: int, state: str, *, seconds: float) -> None:
        """Let a job have come to a state that many seconds earlier."""
        at = self.record(job_id).times[state]
        self.redis.hset(self.key(f"job:{job_id}"), f"{state}_at", f"{at - seconds:.6f}")

    def now(self) -> float:
        """The ledger's time."""
        return self.ledger.survey().now

    def load(self, queue: str = "celery") -> int:
        """How many slots of a queue are taken."""
        return self.ledger.survey([queue]).load[queue]


def fake_redis(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let every ledger and fleet of this test be in one new Redis inside the test. Returns a client of it."""
    server = fakeredis.FakeServer()

    def connect(url: str, timeout: float) -> Any:
        return fakeredis.FakeRedis(server=server)

    monkeypatch.setattr(connection, "_clients", {})
    monkeypatch.setattr(connection, "_connect", connect)
    return connect("", 0.0)


def fake_books(monkeypatch: pytest.MonkeyPatch, *, worker: str = "w", history: float = 86400.0) -> Books:
    """A ledger in a Redis inside the test."""
    redis = fake_redis(monkeypatch)
    return Books(Ledger("redis://inside.the.test/0", worker, history=history), redis)


def fake_fleet() -> Fleet:
    """The register of workers beside the ledger of :func:`fake_books`."""
    return Fleet("redis://inside.the.test/0")
