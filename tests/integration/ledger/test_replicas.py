"""A ledger whose steps wait for replicas: a real Redis, and a replica that is frozen."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger, MemberKey, NewMember
from mr_celery.ledger.permissions import REPLICAS
from mr_celery.ledger.records import RunKey
from mr_celery.ledger.scripts import AWAITED
from support.ledgers import DONE, HOLDER, LATER, NONCE, LedgerKit
from support.ports import until
from support.servers import RedisServer


class Replicated(LedgerKit):
    """The ledger of a user with the documented permissions, and a client of its replica."""

    def __init__(self, master: RedisServer, replica: RedisServer) -> None:
        url = master.ledger_url(more=REPLICAS)
        super().__init__(Ledger(url, "w", replicas=1, timeout=1.0), master.client())
        self.replica: Any = replica.client()
        self._process = replica.process

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    master = RedisServer()
    replica = RedisServer("--replicaof", "127.0.0.1", str(master.port))
    yield master, replica
    for each in (replica, master):
        each.stop()


@pytest.fixture
def kit(servers: tuple[RedisServer, RedisServer]) -> Replicated:
    made = Replicated(*servers)
    made.redis.flushall()
    until(lambda: made.ledger.confirming_replicas() == 1, what="the replica is connected")
    return made


def start_member(kit: Replicated, run: RunKey) -> str:
    key = MemberKey(run.job_id, run.task_id, "final")
    started = kit.ledger.start_member(key, "t", node="n", holder=HOLDER, lease=LATER, nonce=NONCE)
    return started.refusal or "started"


def finish_member(kit: Replicated, run: RunKey) -> str:
    return kit.ledger.finish_member(MemberKey(run.job_id, run.task_id, "final"), DONE, nonce=NONCE)


def hand_over(kit: Replicated, run: RunKey) -> bool:
    members = [NewMember("final", "t", "celery")]
    return kit.ledger.hand_over(run, nonce=NONCE, final="final", members=members, lease=LATER, note="")


def reference(kit: Replicated, run: RunKey) -> bool:
    key = kit.ledger.reference(run)
    return key is not None and kit.replica.hget(kit.key("job:1"), "secret") == key.secret.encode()


def finish(kit: Replicated, run: RunKey) -> str:
    return kit.ledger.finish(run, DONE, blobs=[], deliver_seconds=LATER)


def handed_over(kit: Replicated) -> RunKey:
    run = kit.bring("running")
    assert hand_over(kit, run)
    assert kit.ledger.handed_over(run, final="final", wait_seconds=LATER)
    return run


def member_started(kit: Replicated) -> RunKey:
    run = handed_over(kit)
    assert start_member(kit, run) == "started"
    return run


def deferred(kit: Replicated) -> Any:
    return kit.key_of(kit.bring("deferred"))


STEPS: dict[str, tuple[Callable[[Replicated], Any], Callable[[Replicated, Any], object], object]] = {
    "start": (lambda kit: kit.bring("sent"), lambda kit, run: kit.start(run).refusal, ""),
    "finish": (lambda kit: kit.bring("running"), finish, "finished"),
    "reference": (lambda kit: kit.bring("running"), reference, True),
    "complete": (deferred, lambda kit, key: kit.complete(key), "accepted"),
    "start_member": (handed_over, start_member, "started"),
    "finish_member": (member_started, finish_member, "finished"),
}
"""For each step: what leads to it, the step, and its answer however often it is repeated."""


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_refused_until_a_replica_has_it_and_can_be_repeated(kit: Replicated, name: str) -> None:
    lead, step, answer = STEPS[name]
    subject = lead(kit)
    with kit.frozen():
        for _ in range(2):  # the second one finds its work done, on a new connection
            with pytest.raises(LedgerUnavailable, match=r"0 of 1 replicas have confirmed a step within 0\.5 s"):
                step(kit, subject)
        before = kit.record()
    until(lambda: kit.ledger.confirming_replicas() == 1, what="the replica confirms again")
    assert step(kit, subject) == answer
    key = kit.key("job:1")
    assert kit.replica.hget(key, "state") == kit.redis.hget(key, "state")
    assert (kit.record().state, kit.record().attempt) == (before.state, 1)


def test_a_start_that_no_replica_has_is_no_other_run_s(kit: Replicated) -> None:
    run = kit.bring("sent")
    with kit.frozen(), pytest.raises(LedgerUnavailable):
        kit.start(run)
    assert kit.start(run, nonce="another run").refusal == "running"
    assert kit.start(run).job is not None


def test_nothing_is_admitted_that_could_not_start(kit: Replicated) -> None:
    with kit.frozen():
        assert kit.ledger.confirming_replicas() == 0
        with pytest.raises(LedgerUnavailable):
            kit.bring("admitted")
    assert kit.ledger.confirming_replicas() == 1


def test_a_master_without_its_replicas_accepts_nothing_if_redis_is_told_so(kit: Replicated) -> None:
    run = kit.bring("sent")
    kit.redis.config_set("min-replicas-max-lag", 1)
    kit.redis.config_set("min-replicas-to-write", 1)
    try:
        with kit.frozen():
            until(lambda: kit.redis.info("replication")["min_slaves_good_slaves"] == 0, what="the replica lags")
            with pytest.raises(LedgerUnavailable, match=r"accepts no writes, as it has too few replicas \(min-repl"):
                kit.start(run)
            assert kit.state() == "sent"
    finally:
        kit.redis.config_set("min-replicas-to-write", 0)


def test_every_step_that_waits_exists() -> None:
    folder = files("mr_celery.ledger").joinpath("lua")
    assert all(folder.joinpath(f"{name}.lua").is_file() for name in AWAITED)
