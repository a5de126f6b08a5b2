"""The life of a job on a real Redis and on a real Cluster, and concurrent steps of many processes."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from redis.cluster import RedisCluster

from mr_celery.errors import LedgerUnavailable
from mr_celery.job import Job
from mr_celery.ledger import MINIMUM_VERSION, BridgeProcess, DeliveryKey, Ledger, RunKey
from mr_celery.ledger.connections import clients_of
from mr_celery.ledger.transitions import MOST_REDELIVERIES
from mr_celery.operations.jobs import Filter, listed
from mr_celery.outcome import Outcome
from support.ledgers import DONE, LATER, NONCE, ROUTE, LedgerKit, admit, sent
from support.ports import free_port, until
from support.servers import LEDGER_USER, RedisServer

THREADS = 16


@pytest.fixture
def kit(url: str) -> LedgerKit:
    return LedgerKit(Ledger(url, "render 1/{ü}"), RedisServer.client_of(url))


def test_jobs_are_listed_from_a_real_redis_in_pages(kit: LedgerKit) -> None:
    for job_id in range(1, 260):
        run = kit.bring("running", job_id, capability="a.b")
        if job_id > 3:
            kit.ledger.finish(run, Outcome.failed("…", reason="ValueError"), deliver_seconds=LATER)
            assert kit.close(job_id)
    found = list(listed(kit.ledger, Filter(), limit=1000))
    assert [job.id for job in found] == [1, 2, 3, *range(259, 3, -1)]
    assert {(job.state, job.capability, job.reason) for job in found[3:]} == {("failed", "a.b", "ValueError")}
    assert [job.id for job in listed(kit.ledger, Filter(states=("failed",), since=3600), limit=2)] == [259, 258]


def in_parallel(step: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """The results of ``step(0)`` to ``step(count - 1)``, begun at the same moment in as many threads."""
    barrier = threading.Barrier(count)

    def wait_and_step(index: int) -> Any:
        barrier.wait(20)
        return step(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_step, range(count)))


# -- the life of a job -------------------------------------------------------------------------------------


def test_a_job_lives_from_admission_to_its_close(kit: LedgerKit) -> None:
    ledger = kit.ledger
    job = Job({"id": 7, "prompt": "grüße", "input": {"a": [1, None]}})
    asked_at = kit.now()
    assert ledger.mark_in_use()
    assert admit(ledger, job, ROUTE, asked_at=asked_at, queue_limit=1, total_limit=1) == "admitted"
    assert admit(ledger, Job({"id": 8}), ROUTE, asked_at=asked_at, queue_limit=1) == "full"
    task_id = ledger.claimed(7)
    assert task_id
    assert sent(ledger, 7, task_id, wait_seconds=LATER) == "sent"
    run = RunKey(7, task_id)
    started = kit.start(run)
    assert (started.job, started.nonce) == (job, NONCE)
    assert kit.renew(run, RunKey(9, "mr-9-1-x")) == {9: "unknown"}
    assert ledger.survey(["celery"]).load == {"celery": 1}
    blob = bytes(range(256)) * 100
    assert ledger.finish(run, DONE, blobs=[blob], deliver_seconds=0) == "finished"
    (key,) = ledger.collect(10, lease=LATER)
    assert key == DeliveryKey(7, task_id, 1)
    assert ledger.blob(7, 0) == blob
    record = ledger.read(7)
    assert record is not None
    assert (record.outcome, record.deliveries) == (DONE, 1)
    assert not ledger.renew_delivery(replace(key, number=2), lease=LATER)
    assert not ledger.renew_delivery(replace(key, task_id="mr-7-1-x"), lease=LATER)
    assert ledger.renew_delivery(key, lease=LATER)
    assert ledger.delivered_part(key, "artifact:0", "{}", lease=LATER)
    assert not ledger.close(7, "mr-7-1-x", "delivered")
    assert ledger.close(7, task_id, "delivered")
    assert ledger.in_flight() == {}
    assert ledger.survey(["celery"]).load == {"celery": 0}
    assert ledger.blob(7, 0) is None
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.how, record.job) == ("closed", "delivered", None)


def test_a_job_costs_few_commands(redis_server: RedisServer) -> None:
    """Commands in scripts count, too: they take most of Redis' time for a job."""
    client = redis_server.client(1)
    kit = LedgerKit(Ledger(redis_server.url(1), "render"), client)

    def commands_of(job_id: int) -> int:
        before = client.info("stats")["total_commands_processed"]
        assert admit(kit.ledger, Job({"id": job_id}), queue_limit=10, total_limit=10, asked_at=0.0) == "admitted"
        task_id = kit.ledger.claimed(job_id)
        assert task_id
        assert sent(kit.ledger, job_id, task_id) == "sent"
        run = RunKey(job_id, task_id)
        assert kit.start(run).job is not None
        assert kit.ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
        assert kit.ledger.close(job_id, task_id, "delivered", has_parts=False)
        return int(client.info("stats")["total_commands_processed"] - before - 1)

    commands_of(1)  # also connects, and sends the scripts
    assert commands_of(2) <= 78  # 76, and two more once a second


def write_wrong(client: Any, key: str) -> None:
    """Put a value of another type where the ledger has one."""
    was = client.type(key)
    client.delete(key)
    if was == b"list":
        client.set(key, "nonsense")
    else:
        client.rpush(key, "nonsense")


@pytest.mark.parametrize("state", ["admitted", "claimed", "sent", "running", "deferred", "finished", "closed"])
def test_a_key_of_a_wrong_type_counts_as_lost(kit: LedgerKit, state: str, caplog: pytest.LogCaptureFixture) -> None:
    """No step fails because of it, and the other keys of the job are consistent."""
    ledger, job = kit.ledger, Job({"id": 1, "prompt": "hello"})
    kit.bring(state)
    names = [key.decode().partition("}:")[2] for key in kit.redis.scan_iter(match=kit.key("*"))]
    for name in names:
        kit.redis.delete(*kit.redis.scan_iter(match=kit.key("*")))
        run = kit.bring(state)
        write_wrong(kit.redis, kit.key(name))
        ledger.mark_in_use()
        ledger.survey(["celery"])
        with suppress(LedgerUnavailable):  # of a plain read, which is not repeated at once
            ledger.mend(["celery"], wait_seconds=0)
        kit.renew(run)
        kit.reap(run)
        ledger.finish(run, DONE, blobs=[], deliver_seconds=0)
        ledger.adopt(job, ROUTE, asked_at=kit.now() + LATER, wait_seconds=0)
        ledger.read(1)
        ledger.close(1, run.task_id, "delivered")
        ledger.mend(["celery"], wait_seconds=0)
        assert ledger.mend(["celery"], wait_seconds=0).mended == {}, name
    assert all(record.args[0] in names for record in caplog.records if "of type" in record.msg)  # type: ignore[index]


def test_a_bridge_whose_announcement_cannot_be_read_is_left_out(kit: LedgerKit) -> None:
    whole = {"id": "a:1", "host": "a", "version": "1", "uptime": 1.0}
    kit.ledger.announce_bridge(BridgeProcess(**whole), seconds=LATER)
    nonsense = [
        "not JSON",
        "[" * 5000,
        "[]",
        "{}",
        *(json.dumps({**whole, key: None}) for key in ("uptime", "waiting")),
    ]
    nonsense += [json.dumps({**whole, "server": {}}), json.dumps({**whole, "at": "now"})]
    for number, about in enumerate(nonsense):
        kit.redis.hset(kit.key("bridges"), f"nonsense {number}", about)
        kit.redis.zadd(kit.key("bridges_online"), {f"nonsense {number}": kit.now() + LATER})
    assert [each.id for each in kit.ledger.bridges()] == ["a:1"]


def test_damaged_stats_begin_again(kit: LedgerKit) -> None:
    kit.redis.hset(kit.key("stats"), mapping={"closed": "x", "claims": "x", "deliveries:delivered": "x"})
    run = kit.bring("finished")
    assert kit.close(run.job_id)
    assert ledger_figures(kit)["deliveries:delivered"] == b"1"


def ledger_figures(kit: LedgerKit) -> dict[str, bytes]:
    return {name.decode(): value for name, value in kit.redis.hgetall(kit.key("stats")).items()}


def test_a_lost_run_a_lost_message_and_an_abort(kit: LedgerKit) -> None:
    ledger = kit.ledger
    admit(ledger, Job({"id": 7}), ROUTE, asked_at=kit.now())
    first = ledger.claimed(7) or ""
    run = RunKey(7, first)
    kit.start(run)
    assert kit.reap(run) == "kept"
    assert kit.die(replace(run, retries=1)) == "kept"
    assert kit.die(run) == "again"
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.attempt) == ("claimed", 2)
    assert kit.start(run, nonce="second").refusal == "superseded"
    assert sent(ledger, 7, record.task_id, wait_seconds=LATER) == "sent"
    outcome = Outcome.failed("never started")
    again = ledger.resend(7, record.task_id, why="", budget=1, wait_seconds=0, exhausted=outcome)
    assert again == "again"
    assert ledger.due("claimed") == [7]
    assert ledger.abort(7, "operator") == record.task_id
    assert ledger.in_flight() == {}


def test_a_closed_job_that_the_server_lists_as_running_is_closed_again_and_finally_runs_again(
    kit: LedgerKit,
) -> None:
    ledger, job = kit.ledger, Job({"id": 7, "prompt": "p"})
    kit.bring("closed", 7)
    for _ in range(MOST_REDELIVERIES):
        assert ledger.adopt(job, ROUTE, asked_at=kit.now() + 0.001, wait_seconds=LATER) == "redelivered"
        assert kit.record(7).outcome == DONE
        assert kit.close(7)
    assert ledger.adopt(job, ROUTE, asked_at=kit.now() + 0.001, wait_seconds=LATER) == "known"
    kit.outgrow_kept_outcome(7)
    assert ledger.adopt(job, ROUTE, asked_at=kit.now() + 0.001, wait_seconds=LATER) == "adopted"
    assert ledger.in_flight() == {7: "claimed"}


def test_no_run_counts_as_lost_just_after_a_gap_in_the_checks(kit: LedgerKit) -> None:
    kit.bring("running", 7)
    kit.make_due("running")
    assert kit.ledger.lost(lease=30) == [7]
    kit.age_look(seconds=11)
    assert kit.ledger.lost(lease=30) == []
    for _ in range(2):
        kit.age_look(seconds=8)
        answer = kit.ledger.lost(lease=30)
    assert answer == [7]


def test_misses_are_counted_in_a_row(kit: LedgerKit) -> None:
    kit.ledger.missed([7, 8])
    kit.age_miss(7, seconds=50)
    found = kit.ledger.missed([8, 7])
    assert (found[7].times, found[8].times) == (2, 2)
    assert 50 <= found[7].seconds < 80
    assert kit.ledger.missed([8])[8].times == 3


def test_another_client_receives_the_notifications(kit: LedgerKit, url: str) -> None:
    admit(kit.ledger, Job({"id": 7}), ROUTE, asked_at=kit.now())
    notifications = Ledger(url, kit.ledger.worker_name).listen(5.0)
    rings: list[list[tuple[str, str]]] = []
    heard = threading.Thread(target=lambda: rings.append(next(ring for ring in notifications if ring)), daemon=True)
    heard.start()
    until(lambda: _subscribers(kit.redis), what="the notifications has a listener")
    kit.ledger.drop(7)
    heard.join(20)
    assert rings == [[(kit.ledger.worker_name, "dropped")]]


def _subscribers(client: Any) -> bool:
    # Each node of a Cluster counts only the subscriptions of its own clients.
    nodes = [node.redis_connection for node in client.get_nodes()] if isinstance(client, RedisCluster) else [client]
    return any(name.endswith(b":notifications") for node in nodes for name in node.pubsub_channels())


def test_the_server_version_is_read(kit: LedgerKit, url: str) -> None:
    assert kit.ledger.server_version() is None  # its user lacks the permission
    version = Ledger(url.replace(LEDGER_USER, ""), "w").server_version()
    assert version is not None
    assert version >= MINIMUM_VERSION


def test_an_emptied_ledger_counts_as_new(kit: LedgerKit) -> None:
    assert kit.ledger.mark_in_use()
    assert not kit.ledger.mark_in_use()
    kit.redis.flushall()
    assert kit.ledger.mark_in_use()


def test_a_restarted_redis_is_used_again_and_its_scripts_are_loaded_again(tmp_path: Any) -> None:
    server = RedisServer(folder=tmp_path)
    try:
        ledger = Ledger(server.url(), "w")
        assert admit(ledger, Job({"id": 1}), ROUTE, asked_at=0.0) == "admitted"
        server.kill()
        with pytest.raises(LedgerUnavailable):
            ledger.survey()
        server.start()
        assert admit(ledger, Job({"id": 1}), ROUTE, asked_at=0.0) == "admitted"
    finally:
        server.stop()


# -- many at once ------------------------------------------------------------------------------------------


def test_exactly_one_of_many_messages_of_an_attempt_starts(kit: LedgerKit) -> None:
    for job_id in range(1, 21):
        run = kit.bring("claimed", job_id)
        answers = in_parallel(lambda index, run=run: kit.start(run, nonce=str(index)))
        assert Counter(answer.refusal for answer in answers) == {"": 1, "running": THREADS - 1}


def test_many_bridges_never_admit_more_than_the_limit(kit: LedgerKit, url: str) -> None:
    bridges = [Ledger(url, kit.ledger.worker_name) for _ in range(4)]
    asked_at = kit.now()
    answers = in_parallel(
        lambda index: [
            admit(bridges[index % 4], Job({"id": index * 10 + each}), ROUTE, asked_at=asked_at, queue_limit=7)
            for each in range(10)
        ]
    )
    assert Counter(chain.from_iterable(answers)) == {"admitted": 7, "full": THREADS * 10 - 7}
    assert kit.ledger.survey(["celery"]).load == {"celery": 7}


def test_one_job_is_admitted_by_one_bridge(kit: LedgerKit) -> None:
    asked_at = kit.now()
    answers = in_parallel(lambda index: admit(kit.ledger, Job({"id": 1}), ROUTE, asked_at=asked_at))
    assert Counter(answers) == {"admitted": 1, "known": THREADS - 1}


def test_a_due_job_is_taken_by_one_bridge(kit: LedgerKit) -> None:
    ledger = kit.ledger
    for job_id in range(50):
        admit(ledger, Job({"id": job_id}), ROUTE, asked_at=kit.now(), settle_seconds=0)
    taken = in_parallel(lambda index: ledger.take("admitted", 10, lease=LATER))
    assert sorted(chain.from_iterable(taken)) == list(range(50))


def test_a_due_outcome_is_collected_by_one_courier(kit: LedgerKit) -> None:
    for job_id in range(50):
        kit.bring("finished", job_id)
    kit.make_due("finished")
    taken = in_parallel(lambda index: kit.ledger.collect(10, lease=LATER))
    assert sorted((key.job_id, key.number) for key in chain.from_iterable(taken)) == [(each, 2) for each in range(50)]


def test_only_the_last_of_many_couriers_delivers(kit: LedgerKit) -> None:
    kit.bring("finished", 7)
    keys = [kit.collect(7) for _ in range(THREADS)]
    answers = in_parallel(lambda index: kit.ledger.renew_delivery(keys[index], lease=LATER))
    assert answers == [False] * (THREADS - 1) + [True]


# -- a full memory ---------------------------------------------------------------------------------

Step = Callable[[LedgerKit, RunKey], object]

KNOWN_WORK: dict[str, tuple[str, Step, object]] = {
    "claimed": ("admitted", lambda kit, run: bool(kit.ledger.claimed(7)), True),
    "settle_later": ("admitted", lambda kit, run: kit.ledger.settle_later(7, LATER), True),
    "drop": ("admitted", lambda kit, run: kit.ledger.drop(7), True),
    "sent": ("claimed", lambda kit, run: sent(kit.ledger, 7, run.task_id, wait_seconds=LATER), "sent"),
    "start": ("sent", lambda kit, run: kit.start(run).refusal, ""),
    "renew": ("running", lambda kit, run: kit.renew(run), {}),
    "renew a message": ("sent", lambda kit, run: kit.renew(run), {}),
    "retry": ("running", lambda kit, run: kit.retry(run), True),
    "finish": (
        "running",
        lambda kit, run: kit.ledger.finish(run, DONE, blobs=[b"x" * 9], deliver_seconds=9),
        "finished",
    ),
    "fail": ("running", lambda kit, run: kit.ledger.fail(7, run.task_id, Outcome.failed("no")), True),
    "lose": ("running", lambda kit, run: kit.die(run), "again"),
    "resend": (
        "sent",
        lambda kit, run: kit.ledger.resend(7, run.task_id, why="", budget=3, wait_seconds=0, exhausted=DONE),
        "again",
    ),
    "abort": ("running", lambda kit, run: kit.ledger.abort(7, "operator") == run.task_id, True),
    "collect": ("finished", lambda kit, run: [key.number for key in kit.ledger.collect(9, lease=9)], [2]),
    "renew_delivery": ("finished", lambda kit, run: kit.ledger.renew_delivery(kit.delivery(7), lease=LATER), True),
    "delivered_part": (
        "finished",
        lambda kit, run: kit.ledger.delivered_part(kit.delivery(7), "review:0", "7", lease=LATER),
        True,
    ),
    "undelivered": (
        "finished",
        lambda kit, run: kit.ledger.undelivered(kit.delivery(7), "503", wait_seconds=LATER),
        True,
    ),
    "replace_outcome": (
        "finished",
        lambda kit, run: kit.ledger.replace_outcome(kit.delivery(7), Outcome.failed("413")),
        True,
    ),
    "close": ("finished", lambda kit, run: kit.close(7), True),
    "take": ("sent", lambda kit, run: kit.ledger.take("sent", lease=LATER), [7]),
    "lost": ("running", lambda kit, run: kit.ledger.lost(lease=LATER), [7]),
    "missed": ("running", lambda kit, run: kit.ledger.missed([7])[7].times, 1),
    "my_turn": ("running", lambda kit, run: kit.ledger.my_turn("sync", LATER), True),
    "mark_in_use": ("running", lambda kit, run: kit.ledger.mark_in_use(), True),
    "survey": ("running", lambda kit, run: kit.ledger.survey().in_flight, 1),
    "in_flight": ("running", lambda kit, run: kit.ledger.in_flight(), {7: "running"}),
}
"""The steps of accepted work: the state from which each begins, the step, and its answer."""


@contextmanager
def full_memory(client: Any) -> Iterator[None]:
    """A Redis that has reached its memory limit and may not evict anything."""
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", used // 2)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@pytest.fixture
def own_kit(redis_server: RedisServer) -> LedgerKit:
    """A ledger on the Redis of the session, which the test may put into a bad state for a while."""
    return LedgerKit(Ledger(redis_server.url(1), "w"), redis_server.client(1))


@pytest.mark.parametrize("step", KNOWN_WORK)
def test_accepted_work_continues_while_the_memory_is_full(own_kit: LedgerKit, step: str) -> None:
    state, do, answer = KNOWN_WORK[step]
    run = own_kit.bring(state, 7)
    if state != "finished" or step == "collect":
        own_kit.make_due(state)
    with full_memory(own_kit.redis):
        assert do(own_kit, run) == answer


def take_in(kit: LedgerKit, step: str) -> str:
    now = kit.now() + 0.001
    if step == "admit":
        return admit(kit.ledger, Job({"id": 8}), ROUTE, asked_at=now)
    return kit.ledger.adopt(Job({"id": 8}), ROUTE, asked_at=now, wait_seconds=LATER)


@pytest.mark.parametrize("earlier", ["unknown", "aborted", "closed"])
@pytest.mark.parametrize("step", ["admit", "adopt"])
def test_no_work_is_accepted_while_the_memory_is_full(own_kit: LedgerKit, step: str, earlier: str) -> None:
    own_kit.bring("running", 7)
    own_kit.bring(earlier, 8)
    before = own_kit.ledger.read(8)
    with full_memory(own_kit.redis):
        with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1.*maxmemory"):
            take_in(own_kit, step)
        assert own_kit.ledger.read(8) == before
        assert own_kit.ledger.survey(["celery"]).load == {"celery": 1}
    adopted = "redelivered" if earlier == "closed" else "adopted"
    assert take_in(own_kit, step) == ("admitted" if step == "admit" else adopted)


def test_a_job_that_ends_while_the_memory_is_full_frees_memory(own_kit: LedgerKit) -> None:
    run = own_kit.bring("sent", 7)
    ledger = own_kit.ledger
    with full_memory(own_kit.redis):
        assert own_kit.start(run).job is not None
        assert own_kit.renew(run) == {}
        assert ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=0) == "finished"
        (key,) = ledger.collect(9, lease=LATER)
        assert ledger.delivered_part(key, "artifact:0", "{}", lease=LATER)
        assert ledger.undelivered(key, "503", wait_seconds=0)
        assert ledger.collect(9, lease=LATER) == [replace(key, number=2)]
        assert own_kit.close(7)
        assert ledger.in_flight() == {}
        assert own_kit.state(7) == "closed"


# -- a replica ---------------------------------------------------------------------------------------------


@pytest.fixture
def replica(own_kit: LedgerKit) -> Iterator[LedgerKit]:
    """A ledger whose Redis has just become a replica of another one, as in a failover."""
    own_kit.bring("running", 7)
    own_kit.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield own_kit
    own_kit.redis.execute_command("REPLICAOF", "NO", "ONE")


def test_a_replica_is_reported_and_used_again_once_it_is_a_primary(replica: LedgerKit) -> None:
    ledger, run = replica.ledger, RunKey(7, replica.record(7).task_id)
    steps: list[Callable[[], object]] = [
        lambda: replica.renew(run),
        lambda: ledger.finish(run, DONE, deliver_seconds=0),
        lambda: admit(ledger, Job({"id": 8}), ROUTE, asked_at=0.0),
        lambda: ledger.my_turn("sync", 1.0),
        lambda: ledger.mark_in_use(),
    ]
    for step in steps:
        with pytest.raises(
            LedgerUnavailable, match=r"the ledger at redis://127\.0\.0\.1:\d+/1 is read-only, a replica"
        ):
            step()
    assert ledger.in_flight() == {7: "running"}
    replica.redis.execute_command("REPLICAOF", "NO", "ONE")
    assert ledger.finish(run, DONE, deliver_seconds=0) == "finished"
    assert replica.state(7) == "finished"


def test_connections_are_new_after_an_answer_from_a_replica(replica: LedgerKit) -> None:
    clients = clients_of(f"redis://127.0.0.1:{replica.redis.connection_pool.connection_kwargs['port']}/1", 5.0)

    def connection_id() -> int:
        with clients.client() as client:
            return int(client.client_id())

    before = connection_id()
    assert connection_id() == before
    with pytest.raises(LedgerUnavailable):
        replica.ledger.mark_in_use()
    assert connection_id() != before


# -- unreachable --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_an_unreachable_ledger_is_reported_with_its_address_and_without_the_password(scheme: str) -> None:
    port = free_port()
    url = f"{scheme}://user:topsecret@127.0.0.1:{port}"
    with pytest.raises(LedgerUnavailable) as caught:
        Ledger(url, "w", timeout=1.0).survey()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "topsecret" not in str(caught.value)


def _each_step() -> dict[str, Callable[[Ledger], object]]:
    return {
        "survey": lambda ledger: ledger.survey(),
        "admit": lambda ledger: admit(ledger, Job({"id": 1}), ROUTE, asked_at=0.0),
        "read": lambda ledger: ledger.read(1),
        "blob": lambda ledger: ledger.blob(1, 0),
        "in_flight": lambda ledger: ledger.in_flight(),
        "my_turn": lambda ledger: ledger.my_turn("sync", 1.0),
        "mark_in_use": lambda ledger: ledger.mark_in_use(),
        "notifications": lambda ledger: next(ledger.listen(0.1)),
        "server_version": lambda ledger: ledger.server_version(),
    }


@pytest.mark.parametrize("step", _each_step())
def test_every_step_reports_an_unreachable_ledger_in_the_same_way(step: str) -> None:
    ledger = Ledger(f"redis://user:topsecret@127.0.0.1:{free_port()}", "w", timeout=1.0)
    with pytest.raises(LedgerUnavailable) as caught:
        _each_step()[step](ledger)
    assert "topsecret" not in str(caught.value)


def test_a_wrong_password_is_reported_without_repeating_it() -> None:
    server = RedisServer("--requirepass", "right")
    try:
        with pytest.raises(LedgerUnavailable) as caught:
            Ledger(f"redis://:topsecret@127.0.0.1:{server.port}", "w").survey()
        assert "topsecret" not in str(caught.value)
        assert Ledger(f"redis://:right@127.0.0.1:{server.port}", "w").survey().in_flight == 0
    finally:
        server.stop()


# -- memory ------------------------------------------------------------------------------------------------


MEMORY = 2048
"""Bytes that a job in flight may take beside its prompt."""


@pytest.mark.parametrize("state", ["admitted", "claimed", "sent", "running", "finished"])
def test_a_job_in_flight_takes_little_memory_beside_its_prompt(redis_server: RedisServer, state: str) -> None:
    url = str(redis_server.url(1))
    kit = LedgerKit(Ledger(url, "render-01"), RedisServer.client_of(url))
    prompt, count, first = "x" * 1000, 2048, 1_000_000
    kit.bring(state, first - 1)

    def used() -> int:
        return int(kit.redis.info("memory")["used_memory_dataset"])

    before = used()
    for job_id in range(first, first + count):
        kit.bring(state, job_id, prompt=prompt)
    assert len(kit.ledger.in_flight()) == count + 1
    assert 0 < (used() - before) / count - len(prompt) <= MEMORY


def test_nothing_is_left_a_day_after_the_last_job(redis_server: RedisServer) -> None:
    url = str(redis_server.url(1))
    kit = LedgerKit(Ledger(url, "render-01", history=86400.0), RedisServer.client_of(url))
    ledger = kit.ledger
    ledger.mark_in_use()
    ledger.my_turn("sync", 5.0)
    ledger.watch(lease=30.0)
    for job_id, state in enumerate(("closed", "aborted", "closed"), 1):
        kit.bring(state, job_id)
    kit.bring("admitted", 4)
    ledger.drop(4)
    kit.die(kit.bring("running", 5))
    ledger.missed([5])
    ledger.abort(5, "operator")
    keys = kit.redis.keys("*")
    assert kit.key("job:1").encode() in keys
    # The expiry of keys that all jobs share is renewed every 10 s.
    forever = [key for key in keys if not 0 < kit.redis.ttl(key) <= 86400 + 10]
    assert forever == []
