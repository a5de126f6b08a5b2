"""A ledger that loses any part at any moment: each job still ends, once, and nothing of it is left over.

Other tests assume that a ledger is whole or empty. Here each subset of a job's keys is lost in each state, such as a
record whose slot and place in the lists remain. The worker either continues or dies. Each key of the worker name is
lost in the same way. ``tests/faults/test_damaged_ledger.py`` loses keys at random under load.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from itertools import combinations
from typing import Any, cast

import pytest

from mr_celery.bridge.recovery.in_flight_sync import InFlightSync
from mr_celery.bridge.recovery.reaper import Reaper
from mr_celery.job import Job
from mr_celery.ledger import Ledger, Route, RunKey
from mr_celery.ledger.scripts import source_of
from mr_celery.operations.audit import Listed, differences
from mr_celery.redis_compat import OneConnectionClient
from support.ledgers import DONE, FAILED, HOLDER, LATER, BridgeHarness, LedgerKit, admit, listed, make_harness
from support.servers import RedisServer

POLL = 5.0
IN_FLIGHT = ("admitted", "claimed", "sent", "running", "finished")

JOB_KEYS = {
    "record": ("job:1",),
    "payload": ("payload:1",),
    "state": IN_FLIGHT,
    "age": ("waiting", "undelivered"),
    "slots": ("load:celery",),
}
"""The keys of a job in flight, by their purpose."""

SUBSETS = [subset for size in range(1, len(JOB_KEYS) + 1) for subset in combinations(JOB_KEYS, size)]


FEW_SUBSETS = [subset for subset in SUBSETS if len(subset) in (1, 5) or (len(subset) == 2 and "record" in subset)]
"""Each part alone, each with the record, and all parts."""


class Installation:
    """A bridge and a worker over one ledger and server, without processes: each turn is a lease's time or more.

    Args:
        harness: the bridge's context.
        going: whether the run under way goes on, and ends some turns later.
    """

    def __init__(self, harness: BridgeHarness, *, going: RunKey | None = None) -> None:
        self.harness = harness
        self.ledger = harness.kit.ledger
        self.sync = InFlightSync(harness.context)
        self.reaper = Reaper(harness.context)
        self.starts: Counter[int] = Counter()
        self.closes: Counter[int] = Counter()
        self.going = going

    def turn(self, number: int) -> None:
        kit = self.harness.kit
        if self.going is not None:
            assert self.ledger.renew([(1, self.going.task_id)], holder=HOLDER, lease=LATER, wait_seconds=LATER) in (
                {},
                {1: "unknown"},
            ), "its run must not be stopped"
            if number == 3:
                self.ledger.finish(self.going, DONE, deliver_seconds=0)
                self.going = None
        self.harness.clock.advance(POLL + 0.1)
        kit.redis.delete(kit.key("turn:sync"))
        self.sync.run_once()
        self.claim()
        self.reaper.run_once()
        self.work()
        self.deliver()
        for state in IN_FLIGHT:
            if self.going is None or state not in ("claimed", "running"):
                kit.make_due(state)

    def claim(self) -> None:
        server, route = self.harness.server, self.harness.context.routes["tiny.upper"]
        for job_id in list(server.pending):
            answer = admit(self.ledger, _job(job_id), route, asked_at=self.harness.kit.now() + 0.001)
            if answer in ("admitted", "again"):
                server.claim(job_id)
            if answer == "admitted":
                task_id = self.ledger.claimed(job_id)
                assert task_id
                self.harness.context.sender.publish(job_id, route, task_id, priority="normal")

    def work(self) -> None:
        while self.harness.publisher.sent:
            job_id, task_id = self.harness.publisher.sent.pop()
            run = RunKey(job_id, task_id)
            if self.harness.kit.start(run, nonce=f"run {sum(self.starts.values())}").job is not None:
                assert self.going is None, "two runs at once"
                self.starts[job_id] += 1
                assert self.ledger.finish(run, DONE, deliver_seconds=0) == "finished"

    def deliver(self) -> None:
        server = self.harness.server
        for key in self.ledger.collect(10, lease=LATER):
            record = self.ledger.read(key.job_id)
            assert record is not None
            assert record.outcome is not None
            if key.job_id in server.running:
                server.close(key.job_id, record.outcome.text, record.outcome.status)
                self.closes[key.job_id] += 1
            assert self.ledger.close(key.job_id, key.task_id, "delivered")

    def run(self, *, unlisted: bool = False) -> None:
        """Continue until the job is over.

        Args:
            unlisted: whether the job is listed nowhere any more: then nothing finds what is left of it.
        """
        for number in range(12):
            self.turn(number)
            if not (self.harness.server.running or self.harness.server.pending or self.going):
                break
        assert not self.harness.server.running
        self.turn(99)
        self.must_be_clean(unlisted=unlisted)

    def must_be_clean(self, *, unlisted: bool) -> None:
        kit = self.harness.kit
        left = {
            key.decode().rpartition("}:")[2] for key in kit.redis.keys("modelreins:{w}:*") if kit.redis.ttl(key) < 0
        }
        left -= {"stats"} | ({"job:1", "payload:1", "events:1"} if unlisted else set())
        assert not left, "keys of jobs that are over stay for ever"
        assert kit.load() == 0
        inventory = kit.ledger.inventory(self.harness.context.capacity.queues)
        lists = Listed.read(cast(Any, self.harness.server))
        assert differences(inventory, lists) == []


def _job(job_id: int) -> Job:
    return Job(listed(job_id))


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer) -> BridgeHarness:
    return make_harness(monkeypatch, ledger_url=redis_server.url(1), poll_interval=POLL, lease=30.0)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer) -> BridgeHarness:
    """A harness with handlers that must not run twice."""
    return make_harness(monkeypatch, ledger_url=redis_server.url(1), on_lost="fail", poll_interval=POLL, lease=30.0)


def lose(kit: LedgerKit, *names: str) -> None:
    """Delete keys."""
    kit.redis.delete(*map(kit.key, names))


def lose_subset(kit: LedgerKit, subset: tuple[str, ...]) -> None:
    lose(kit, *(key for kind in subset for key in JOB_KEYS[kind]))


@pytest.mark.parametrize("subset", SUBSETS, ids=["+".join(subset) for subset in SUBSETS])
@pytest.mark.parametrize("state", [*IN_FLIGHT, "running on"])
def test_any_lost_part_of_a_job_is_repaired(harness: BridgeHarness, state: str, subset: tuple[str, ...]) -> None:
    """Each subset of its keys in each state; ``running on``: the worker that runs it goes on."""
    run = harness.bring(state.split()[0])
    if state == "admitted":
        harness.server.running[1] = listed(1)  # the bridge that claimed it died at once
    if state in ("claimed", "sent"):
        harness.publisher.sent.append((run.job_id, run.task_id))
    lose_subset(harness.kit, subset)
    installation = Installation(harness, going=run if state == "running on" else None)
    installation.run()
    assert installation.closes == {1: 1}
    assert harness.server.closed[1] == ("done", DONE.text)
    outcome_is_there = (state == "finished" and "payload" not in subset) or state == "running on"
    assert installation.starts[1] == (0 if outcome_is_there else 1)


@pytest.mark.parametrize("subset", SUBSETS, ids=["+".join(subset) for subset in SUBSETS])
def test_a_second_loss_after_the_adoption_is_repaired(harness: BridgeHarness, subset: tuple[str, ...]) -> None:
    """Its first run continues, and no second one starts."""
    run = harness.bring("running")
    lose_subset(harness.kit, ("record",))
    installation = Installation(harness, going=run)
    installation.turn(0)
    assert harness.kit.record().state == "claimed"
    lose_subset(harness.kit, subset)
    installation.turn(1)
    installation.run()
    assert (installation.closes[1], installation.starts[1]) == (1, 0)


@pytest.mark.parametrize("subset", FEW_SUBSETS, ids=["+".join(subset) for subset in FEW_SUBSETS])
@pytest.mark.parametrize("state", IN_FLIGHT[1:])
@pytest.mark.parametrize("sync_first", [False, True])
def test_a_damaged_job_that_was_requeued(
    harness: BridgeHarness, state: str, subset: tuple[str, ...], sync_first: bool
) -> None:
    """The server requeued the job after its own timeout. A remaining outcome is delivered and not computed again."""
    run = harness.bring(state)
    harness.server.pending[1] = harness.server.running.pop(1)
    if state in ("claimed", "sent"):
        harness.publisher.sent.append((run.job_id, run.task_id))
    lose_subset(harness.kit, subset)
    installation = Installation(harness)
    if not sync_first:
        installation.claim()
    installation.run()
    assert installation.closes == {1: 1}
    assert installation.starts[1] == (0 if state == "finished" and "payload" not in subset else 1)


@pytest.mark.parametrize("subset", FEW_SUBSETS, ids=["+".join(subset) for subset in FEW_SUBSETS])
def test_a_damaged_claim_that_had_not_succeeded(harness: BridgeHarness, subset: tuple[str, ...]) -> None:
    harness.bring("admitted")
    harness.server.dispatch(1)
    lose_subset(harness.kit, subset)
    installation = Installation(harness)
    installation.run()
    assert (installation.closes, installation.starts) == ({1: 1}, {1: 1})


@pytest.mark.parametrize("subset", FEW_SUBSETS, ids=["+".join(subset) for subset in FEW_SUBSETS])
@pytest.mark.parametrize("state", IN_FLIGHT[1:])
def test_a_damaged_job_that_the_server_ended_leaves_nothing(
    harness: BridgeHarness, state: str, subset: tuple[str, ...]
) -> None:
    harness.bring(state)
    harness.server.abort(1)
    lose_subset(harness.kit, subset)
    lists = {"state", "age" if state in ("claimed", "sent", "finished") else "", "slots" if state != "finished" else ""}
    Installation(harness).run(unlisted=lists - {""} <= set(subset))
    assert harness.server.closed == {}


@pytest.mark.parametrize("subset", FEW_SUBSETS, ids=["+".join(subset) for subset in FEW_SUBSETS])
@pytest.mark.parametrize("state", ["claimed", "running", "running on", "finished"])
def test_what_must_not_be_run_twice_is_not(once: BridgeHarness, state: str, subset: tuple[str, ...]) -> None:
    harness = once
    run = harness.bring(state.split()[0])
    lose_subset(harness.kit, subset)
    installation = Installation(harness, going=run if state == "running on" else None)
    installation.run()
    assert installation.closes == {1: 1}
    status, text = harness.server.closed[1]
    if state == "claimed" and "record" not in subset:
        assert (status, installation.starts[1]) == ("done", 1), "it is known that it was not started"
        return
    assert installation.starts[1] == 0
    if state == "running on" or (state == "finished" and "payload" not in subset):
        assert (status, text) == ("done", DONE.text)
    else:
        assert status == "failed"
        assert "on_lost='fail'" in text


def test_a_late_claim_counts_as_not_started(once: BridgeHarness) -> None:
    harness = once
    harness.bring("admitted")
    assert harness.kit.ledger.drop(1)
    harness.server.running[1] = listed(1)
    installation = Installation(harness)
    installation.run()
    assert installation.starts == {1: 1}


@pytest.mark.parametrize("state", IN_FLIGHT)
def test_each_key_of_the_worker_name_may_be_lost(harness: BridgeHarness, state: str) -> None:
    """Lose each existing key, one after the other."""
    harness.kit.ledger.mark_in_use()
    harness.kit.ledger.lost(lease=30)
    harness.bring(state)
    names = sorted(key.decode().rpartition("}:")[2] for key in harness.kit.redis.keys("modelreins:{w}:*"))
    for number, name in enumerate(names):
        if number:
            harness.kit.redis.flushall()
            harness.announce()
            harness.server.closed.clear()
            harness.bring(state)
        if state == "admitted":
            harness.server.running[1] = listed(1)
        lose(harness.kit, name)
        installation = Installation(harness)
        installation.run()
        assert installation.closes == {1: 1}, name


def test_the_last_job_is_found_where_all_of_it_is_lost_between_two_comparisons(harness: BridgeHarness) -> None:
    installation = Installation(harness)
    installation.turn(0)
    before = len(harness.server.asked("jobs"))
    installation.turn(1)
    assert len(harness.server.asked("jobs")) == before, "nothing is in flight, and nothing is asked"
    harness.server.dispatch(1)
    harness.server.claim(1)
    harness.context.counters.claims["claimed"] += 1  # and lost at once, with all that the ledger knew of it
    installation.run()
    assert installation.closes == {1: 1}


# -- what is said of it ------------------------------------------------------------------------------------------


def test_each_job_is_logged_once(harness: BridgeHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    harness.bring("running", 1)
    harness.bring("sent", 2)
    harness.bring("finished", 3)
    lose(harness.kit, "job:1", "load:celery", "job:3")
    installation = Installation(harness)
    for _ in range(3):
        installation.sync.run_once()
        harness.clock.advance(POLL + 0.1)
        lose(harness.kit, "turn:sync")
    told = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert told == [
        "job=1 the ledger is damaged: its record was lost; it is adopted again if the server lists it as running",
        "job=2 the ledger is damaged: it was missing from the list of its state, and was added",
        "job=3 the ledger is damaged: its record was lost; its outcome was not, and is delivered",
    ]


def content(redis: Any, key: bytes) -> Any:
    """The value of a key of any type."""
    readers = {
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"string": redis.get,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
    }
    return readers[redis.type(key)](key)


def test_a_whole_ledger_is_left_alone(harness: BridgeHarness, caplog: pytest.LogCaptureFixture) -> None:
    for job_id, state in enumerate((*IN_FLIGHT, "closed", "aborted"), 1):
        harness.bring(state, job_id)
    redis = harness.kit.redis
    keys = {key for key in redis.keys("*") if b"bridges" not in key}
    before = {key: content(redis, key) for key in keys}
    assert len(before) > 20
    mending = harness.kit.ledger.mend(harness.context.capacity.queues, wait_seconds=30)
    assert mending.mended == {}
    assert mending.bare == frozenset()
    assert mending.in_flight == dict(enumerate(IN_FLIGHT, 1))
    assert {key: content(redis, key) for key in keys} == before


# -- half a record -------------------------------------------------------------------------------------------------


def every_step(ledger: Ledger, run: RunKey, route: Route) -> None:
    """Each step of the ledger for a job. None may raise, whatever is left of the record."""
    asked_at = ledger.survey().now
    for delivery in ledger.collect(10, lease=0):
        ledger.renew_delivery(delivery, lease=1)
        ledger.delivered_part(delivery, "artifact:0", "{}", lease=1)
        ledger.undelivered(delivery, "why", wait_seconds=0)
    ledger.renew([(1, run.task_id)], holder=HOLDER, lease=1, wait_seconds=1)
    ledger.sent({1: run.task_id}, wait_seconds=0)
    ledger.take("admitted", lease=0)
    ledger.take("claimed", lease=0)
    ledger.unstarted(lease=0, overtaken_seconds=0, silent_seconds=0)
    ledger.watch(lease=1)
    ledger.snapshot([60.0])
    ledger.read(1)
    ledger.inventory(["celery"])
    ledger.holds(run)
    ledger.settle_later(1, 0)
    ledger.claimed(1)
    ledger.start(run, task_name="", node="n", holder=HOLDER, lease=1, nonce="x")
    ledger.retry(run, nonce="x", wait_seconds=0)
    ledger.resend(1, run.task_id, why="why", budget=3, wait_seconds=0, exhausted=DONE)
    ledger.requeue(1, run.task_id, "note", wait_seconds=0)
    ledger.lose(1, run.task_id, retries=None, why="why", **FAILED)
    ledger.lose(1, run.task_id, retries=0, why="why", **FAILED)
    ledger.finish(run, DONE, deliver_seconds=1)
    ledger.fail(1, run.task_id, DONE)
    ledger.close(1, run.task_id, "delivered")
    admit(ledger, _job(1), route, asked_at=asked_at)
    ledger.mend(["celery"], wait_seconds=0)
    ledger.adopt(_job(1), route, asked_at=asked_at + 1, wait_seconds=0)
    ledger.abort(1, "why")
    ledger.drop(1)
    ledger.events(1)


@pytest.mark.parametrize("state", [*IN_FLIGHT, "closed", "aborted"])
def test_no_step_raises_over_half_a_record(harness: BridgeHarness, state: str) -> None:
    """Any one field is lost, or all but the state."""
    redis, key, route = harness.kit.redis, harness.kit.key("job:1"), harness.context.routes["tiny.upper"]
    harness.bring(state)
    fields = sorted(redis.hkeys(key))
    for lost in [*([field] for field in fields), [field for field in fields if field != b"state"]]:
        for made_due in (False, state in IN_FLIGHT):
            redis.flushall()
            run = harness.bring(state)
            redis.hdel(key, *lost)
            if made_due:
                harness.kit.make_due(state)
            every_step(harness.kit.ledger, run, route)


def test_a_dead_process_is_not_online_for_ever_where_a_key_of_the_register_is_lost(harness: BridgeHarness) -> None:
    """The one that says until when each is online, or the one that says what each is."""
    for key in ("nodes", "online"):
        harness.announce("celery@dead")
        harness.kit.redis.delete(f"modelreins:{{fleet}}:{key}")
        assert harness.fleet.online() == ()
        harness.announce("celery@alive")
        assert [node.hostname for node in harness.fleet.online()] == ["celery@alive"]


def test_mending_is_one_script_for_a_page_of_jobs(harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses neither KEYS nor SCAN, which would read the whole Redis."""
    for job_id in range(1, 450):
        harness.kit.bring("claimed", job_id)
    harness.kit.ledger.mend(["celery", "slow"], wait_seconds=1)
    asked: Counter[str] = Counter()
    execute = OneConnectionClient.execute_command

    def count(self: Any, *command: Any, **options: Any) -> Any:
        asked[str(command[0])] += 1
        return execute(self, *command, **options)

    monkeypatch.setattr(OneConnectionClient, "execute_command", count)
    assert len(harness.kit.ledger.mend(["celery", "slow"], wait_seconds=1).in_flight) == 449
    assert asked["EVALSHA"] == 3
    assert set(asked) <= {"EVALSHA", "ZSCAN", "SSCAN"}
    assert "'KEYS'" not in source_of(("record", "mending", "mend"))


# -- any keys, again and again -------------------------------------------------------------------------------------


class Busy(Installation):
    """Many jobs, whose runs take several turns and are renewed by a worker."""

    def __init__(self, harness: BridgeHarness, chance: random.Random) -> None:
        super().__init__(harness)
        self.chance = chance
        self.runs: dict[RunKey, int] = {}
        self.must_not: list[str] = []

    def turn(self, number: int) -> None:
        kit, server = self.harness.kit, self.harness.server
        lost = kit.renew(*self.runs)
        for run in [each for each in self.runs if lost.get(each.job_id) in ("superseded", "aborted", "ended")]:
            del self.runs[run]  # it is interrupted
        for run in [each for each, ends in self.runs.items() if ends <= number]:
            self.ledger.finish(run, DONE, deliver_seconds=0)
            del self.runs[run]
        if self.chance.random() < 0.1 and self.runs:
            del self.runs[self.chance.choice(list(self.runs))]  # its worker dies
        self.harness.clock.advance(POLL + 0.1)
        kit.redis.delete(kit.key("turn:sync"))
        self.sync.run_once()
        self.claim()
        self.reaper.run_once()
        self.work_on(number)
        self.deliver()
        held = {run.job_id for run in self.runs}
        for state in IN_FLIGHT:
            due = [int(each) for each in kit.redis.zrange(kit.key(state), 0, -1)]
            if others := [each for each in due if each not in held]:
                kit.make_due(state, *others)
        assert set(server.closed) <= set(self.closes)

    def work_on(self, number: int) -> None:
        waiting, self.harness.publisher.sent = self.harness.publisher.sent, []
        for job_id, task_id in waiting:
            run = RunKey(job_id, task_id)
            if self.harness.kit.start(run, nonce=f"run {sum(self.starts.values())}").job is not None:
                assert job_id not in {each.job_id for each in self.runs}, "two runs at once"
                self.starts[job_id] += 1
                self.runs[run] = number + self.chance.randrange(4)


@pytest.mark.parametrize("number", range(12))
def test_any_keys_are_lost_again_and_again(harness: BridgeHarness, number: int) -> None:
    """Each job ends once, soon after the last loss, and never has two runs at the same time."""
    chance = random.Random(number)
    busy = Busy(harness, chance)
    jobs = range(1, 11)
    harness.server.dispatch(*jobs)
    for turn in range(10):
        busy.turn(turn)
        keys = sorted(harness.kit.redis.keys("modelreins:{w}:*"))
        for key in chance.sample(keys, min(len(keys), chance.choice((0, 1, 2, 5, 20)))):
            harness.kit.redis.delete(key)
    for turn in range(10, 40):
        busy.turn(turn)
        if not (harness.server.running or harness.server.pending or busy.runs):
            break
    assert busy.closes == dict.fromkeys(jobs, 1)
    busy.turn(99)
    assert harness.kit.ledger.in_flight() == {}
    assert harness.kit.load() == 0
