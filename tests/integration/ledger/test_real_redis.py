"""The job's life on a real Redis and on a real Cluster, and many hands at the same job."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import redis

from mr_celery.errors import LedgerUnavailable
from mr_celery.job import Job
from mr_celery.ledger import DeliveryKey, Fleet, Ledger, Node, RunKey
from mr_celery.ledger.connection import MINIMUM_VERSION, connect
from mr_celery.ledger.ledger import MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from support.ledgers import DONE, LATER, NONCE, ROUTE, Books, admit, sent
from support.ports import free_port, until
from support.servers import RedisServer

THREADS = 16


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisServer]:
    """A Redis Cluster of one node that has all slots."""
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    client = server.client()
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    until(lambda: b"cluster_state:ok" in _raw_cluster_info(client), what="the Cluster is up")
    yield server
    server.stop()


def _raw_cluster_info(client: Any) -> bytes:
    info = client.execute_command("CLUSTER INFO")
    if isinstance(info, dict):
        return f"cluster_state:{info['cluster_state']}".encode()
    return info if isinstance(info, bytes) else str(info).encode()


@pytest.fixture(params=["one Redis", "a Cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty ledger."""
    if request.param == "one Redis":
        return str(request.getfixturevalue("redis_server").url(1))
    server: RedisServer = request.getfixturevalue("cluster")
    server.client().flushall()
    return f"redis+cluster://127.0.0.1:{server.port}"


@pytest.fixture
def books(url: str) -> Books:
    return Books(Ledger(url, "render 1/{ü}"), connect(url))


def in_parallel(step: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """What ``step(0)`` to ``step(count - 1)`` return, begun at the same moment in as many threads."""
    barrier = threading.Barrier(count)

    def wait_and_step(index: int) -> Any:
        barrier.wait(20)
        return step(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_step, range(count)))


# -- the life of a job -------------------------------------------------------------------------------------


def test_a_job_lives_from_admission_to_its_close(books: Books) -> None:
    ledger = books.ledger
    job = Job({"id": 7, "prompt": "grüße", "input": {"a": [1, None]}})
    asked_at = books.now()
    assert ledger.found()
    assert admit(ledger, job, ROUTE, asked_at=asked_at, queue_limit=1, total_limit=1) == "admitted"
    assert admit(ledger, Job({"id": 8}), ROUTE, asked_at=asked_at, queue_limit=1) == "full"
    task_id = ledger.claimed(7)
    assert task_id
    assert sent(ledger, 7, task_id, wait_seconds=LATER) == "sent"
    run = RunKey(7, task_id)
    started = books.start(run)
    assert (started.job, started.nonce) == (job, NONCE)
    assert books.hold(run, RunKey(9, "mr-9-1-x")) == {9: "unknown"}
    assert ledger.survey(["celery"]).load == {"celery": 1}
    blob = bytes(range(256)) * 100
    assert ledger.finish(run, DONE, blobs=[blob], deliver_seconds=0) == "finished"
    (key,) = ledger.collect(10, hold_seconds=LATER)
    assert key == DeliveryKey(7, task_id, 1)
    assert ledger.blob(7, 0) == blob
    record = ledger.read(7)
    assert record is not None
    assert (record.outcome, record.deliveries) == (DONE, 1)
    assert not ledger.carry(replace(key, number=2), hold_seconds=LATER)
    assert not ledger.carry(replace(key, task_id="mr-7-1-x"), hold_seconds=LATER)
    assert ledger.carry(key, hold_seconds=LATER)
    assert ledger.delivered_part(key, "artifact:0", "{}", hold_seconds=LATER)
    assert not ledger.close(7, "mr-7-1-x", "delivered")
    assert ledger.close(7, task_id, "delivered")
    assert ledger.in_flight() == {}
    assert ledger.survey(["celery"]).load == {"celery": 0}
    assert ledger.blob(7, 0) is None
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.how, record.job) == ("closed", "delivered", None)


def test_a_lost_run_a_lost_message_and_an_abort(books: Books) -> None:
    ledger = books.ledger
    admit(ledger, Job({"id": 7}), ROUTE, asked_at=books.now())
    first = ledger.claimed(7) or ""
    run = RunKey(7, first)
    books.start(run)
    assert books.reap(run) == "kept"
    assert books.die(replace(run, retries=1)) == "kept"
    assert books.die(run) == "again"
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.attempt) == ("claimed", 2)
    assert books.start(run, nonce="second").refusal == "superseded"
    assert sent(ledger, 7, record.task_id, wait_seconds=LATER) == "sent"
    outcome = Outcome.failed("never started")
    again = ledger.resend(7, record.task_id, why="", budget=1, wait_seconds=0, exhausted=outcome)
    assert again == "again"
    assert ledger.due("claimed") == [7]
    assert ledger.abort(7, "operator") == record.task_id
    assert ledger.in_flight() == {}


def test_a_closed_job_that_the_server_lists_as_running_is_closed_once_more_and_in_the_end_run_anew(
    books: Books,
) -> None:
    ledger, job = books.ledger, Job({"id": 7, "prompt": "p"})
    books.bring("closed", 7)
    for _ in range(MOST_REDELIVERIES):
        assert ledger.adopt(job, ROUTE, asked_at=books.now() + 0.001, wait_seconds=LATER) == "redelivered"
        assert books.record(7).outcome == DONE
        assert books.close(7)
    assert ledger.adopt(job, ROUTE, asked_at=books.now() + 0.001, wait_seconds=LATER) == "known"
    books.outgrow_kept_outcome(7)
    assert ledger.adopt(job, ROUTE, asked_at=books.now() + 0.001, wait_seconds=LATER) == "adopted"
    assert ledger.in_flight() == {7: "claimed"}


def test_lost_runs_are_looked_for_with_patience_after_a_gap(books: Books) -> None:
    books.bring("running", 7)
    books.make_due("running")
    assert books.ledger.lost(lease=30) == [7]
    books.age_look(seconds=11)
    assert books.ledger.lost(lease=30) == []
    for _ in range(2):
        books.age_look(seconds=8)
        answer = books.ledger.lost(lease=30)
    assert answer == [7]


def test_misses_are_counted_in_a_row(books: Books) -> None:
    books.ledger.missed([7, 8])
    books.age_miss(7, seconds=50)
    found = books.ledger.missed([8, 7])
    assert (found[7].times, found[8].times) == (2, 2)
    assert 50 <= found[7].seconds < 80
    assert books.ledger.missed([8])[8].times == 3


def test_the_bell_is_heard_by_another_client(books: Books, url: str) -> None:
    admit(books.ledger, Job({"id": 7}), ROUTE, asked_at=books.now())
    bell = Ledger(url, books.ledger.worker).bell(5.0)
    rings: list[str] = []
    heard = threading.Thread(target=lambda: rings.append(next(ring for ring in bell if ring)), daemon=True)
    heard.start()
    until(lambda: _subscribers(books.redis), what="the bell has a listener")
    books.ledger.drop(7)
    heard.join(20)
    assert rings == ["dropped"]


def _subscribers(client: Any) -> bool:
    channels = client.pubsub_channels()
    return any(name.endswith(b":bell") for name in channels)


def test_the_servers_version_is_known(books: Books) -> None:
    assert books.ledger.server_version() >= MINIMUM_VERSION


def test_an_emptied_ledger_is_noticed(books: Books) -> None:
    assert books.ledger.found()
    assert not books.ledger.found()
    books.redis.flushall()
    assert books.ledger.found()


def test_a_restarted_redis_is_used_again_and_its_scripts_are_loaded_anew(tmp_path: Any) -> None:
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


def test_of_many_messages_of_one_attempt_exactly_one_starts(books: Books) -> None:
    for job_id in range(1, 21):
        run = books.bring("claimed", job_id)
        answers = in_parallel(lambda index, run=run: books.start(run, nonce=str(index)))
        assert Counter(answer.refusal for answer in answers) == {"": 1, "running": THREADS - 1}


def test_many_bridges_never_admit_more_than_the_limit(books: Books, url: str) -> None:
    bridges = [Ledger(url, books.ledger.worker) for _ in range(4)]
    asked_at = books.now()
    answers = in_parallel(
        lambda index: [
            admit(bridges[index % 4], Job({"id": index * 10 + each}), ROUTE, asked_at=asked_at, queue_limit=7)
            for each in range(10)
        ]
    )
    assert Counter(chain.from_iterable(answers)) == {"admitted": 7, "full": THREADS * 10 - 7}
    assert books.ledger.survey(["celery"]).load == {"celery": 7}


def test_one_job_is_admitted_by_one_bridge(books: Books) -> None:
    asked_at = books.now()
    answers = in_parallel(lambda index: admit(books.ledger, Job({"id": 1}), ROUTE, asked_at=asked_at))
    assert Counter(answers) == {"admitted": 1, "known": THREADS - 1}


def test_what_is_due_is_taken_by_one_bridge(books: Books) -> None:
    ledger = books.ledger
    for job_id in range(50):
        admit(ledger, Job({"id": job_id}), ROUTE, asked_at=books.now(), settle_seconds=0)
    taken = in_parallel(lambda index: ledger.take("admitted", 10, hold_seconds=LATER))
    assert sorted(chain.from_iterable(taken)) == list(range(50))


def test_what_is_due_is_collected_by_one_courier(books: Books) -> None:
    for job_id in range(50):
        books.bring("finished", job_id)
    books.make_due("finished")
    taken = in_parallel(lambda index: books.ledger.collect(10, hold_seconds=LATER))
    assert sorted((key.job_id, key.number) for key in chain.from_iterable(taken)) == [(each, 2) for each in range(50)]


def test_of_many_couriers_the_last_one_delivers(books: Books) -> None:
    books.bring("finished", 7)
    keys = [books.collect(7) for _ in range(THREADS)]
    answers = in_parallel(lambda index: books.ledger.carry(keys[index], hold_seconds=LATER))
    assert answers == [False] * (THREADS - 1) + [True]


# -- a memory that is full ---------------------------------------------------------------------------------

Step = Callable[[Books, RunKey], object]

KNOWN_WORK: dict[str, tuple[str, Step, object]] = {
    "claimed": ("admitted", lambda books, run: bool(books.ledger.claimed(7)), True),
    "settle_later": ("admitted", lambda books, run: books.ledger.settle_later(7, LATER), True),
    "drop": ("admitted", lambda books, run: books.ledger.drop(7), True),
    "sent": ("claimed", lambda books, run: sent(books.ledger, 7, run.task_id, wait_seconds=LATER), "sent"),
    "start": ("sent", lambda books, run: books.start(run).refusal, ""),
    "hold": ("running", lambda books, run: books.hold(run), {}),
    "hold a message": ("sent", lambda books, run: books.hold(run), {}),
    "retry": ("running", lambda books, run: books.retry(run), True),
    "finish": (
        "running",
        lambda books, run: books.ledger.finish(run, DONE, blobs=[b"x" * 9], deliver_seconds=9),
        "finished",
    ),
    "fail": ("running", lambda books, run: books.ledger.fail(7, run.task_id, Outcome.failed("no")), True),
    "lose": ("running", lambda books, run: books.die(run), "again"),
    "resend": (
        "sent",
        lambda books, run: books.ledger.resend(7, run.task_id, why="", budget=3, wait_seconds=0, exhausted=DONE),
        "again",
    ),
    "abort": ("running", lambda books, run: books.ledger.abort(7, "operator") == run.task_id, True),
    "collect": ("finished", lambda books, run: [key.number for key in books.ledger.collect(9, hold_seconds=9)], [2]),
    "carry": ("finished", lambda books, run: books.ledger.carry(books.delivery(7), hold_seconds=LATER), True),
    "delivered_part": (
        "finished",
        lambda books, run: books.ledger.delivered_part(books.delivery(7), "review:0", "7", hold_seconds=LATER),
        True,
    ),
    "undelivered": (
        "finished",
        lambda books, run: books.ledger.undelivered(books.delivery(7), "503", wait_seconds=LATER),
        True,
    ),
    "replace_outcome": (
        "finished",
        lambda books, run: books.ledger.replace_outcome(books.delivery(7), Outcome.failed("413")),
        True,
    ),
    "close": ("finished", lambda books, run: books.close(7), True),
    "take": ("sent", lambda books, run: books.ledger.take("sent", hold_seconds=LATER), [7]),
    "lost": ("running", lambda books, run: books.ledger.lost(lease=LATER), [7]),
    "missed": ("running", lambda books, run: books.ledger.missed([7])[7].times, 1),
    "my_turn": ("running", lambda books, run: books.ledger.my_turn("sync", LATER), True),
    "found": ("running", lambda books, run: books.ledger.found(), True),
    "survey": ("running", lambda books, run: books.ledger.survey().in_flight, 1),
    "in_flight": ("running", lambda books, run: books.ledger.in_flight(), {7: "running"}),
}
"""What looks after work that was taken in: the state it begins from, the step, and its answer."""


@contextmanager
def full_memory(client: Any) -> Iterator[None]:
    """A Redis that has reached its memory limit and may not throw anything away."""
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", used // 2)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@pytest.fixture
def own_books(redis_server: RedisServer) -> Books:
    """A ledger on the one Redis of the session, which the test may put into a bad state for a while."""
    return Books(Ledger(redis_server.url(1), "w"), redis_server.client(1))


@pytest.mark.parametrize("step", KNOWN_WORK)
def test_work_that_was_taken_in_goes_on_when_the_memory_is_full(own_books: Books, step: str) -> None:
    state, do, answer = KNOWN_WORK[step]
    run = own_books.bring(state, 7)
    if state != "finished" or step == "collect":
        own_books.make_due(state)
    with full_memory(own_books.redis):
        assert do(own_books, run) == answer


def take_in(books: Books, step: str) -> str:
    now = books.now() + 0.001
    if step == "admit":
        return admit(books.ledger, Job({"id": 8}), ROUTE, asked_at=now)
    return books.ledger.adopt(Job({"id": 8}), ROUTE, asked_at=now, wait_seconds=LATER)


@pytest.mark.parametrize("earlier", ["unknown", "aborted", "closed"])
@pytest.mark.parametrize("step", ["admit", "adopt"])
def test_no_more_work_is_taken_in_while_the_memory_is_full(own_books: Books, step: str, earlier: str) -> None:
    own_books.bring("running", 7)
    own_books.bring(earlier, 8)
    before = own_books.ledger.read(8)
    with full_memory(own_books.redis):
        with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1.*maxmemory"):
            take_in(own_books, step)
        assert own_books.ledger.read(8) == before
        assert own_books.ledger.survey(["celery"]).load == {"celery": 1}
    adopted = "redelivered" if earlier == "closed" else "adopted"
    assert take_in(own_books, step) == ("admitted" if step == "admit" else adopted)


def test_a_job_ends_although_the_memory_is_full_and_makes_room(own_books: Books) -> None:
    run = own_books.bring("sent", 7)
    ledger = own_books.ledger
    with full_memory(own_books.redis):
        assert own_books.start(run).job is not None
        assert own_books.hold(run) == {}
        assert ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=0) == "finished"
        (key,) = ledger.collect(9, hold_seconds=LATER)
        assert ledger.delivered_part(key, "artifact:0", "{}", hold_seconds=LATER)
        assert ledger.undelivered(key, "503", wait_seconds=0)
        assert ledger.collect(9, hold_seconds=LATER) == [replace(key, number=2)]
        assert own_books.close(7)
        assert ledger.in_flight() == {}
        assert own_books.state(7) == "closed"


# -- a replica ---------------------------------------------------------------------------------------------


@pytest.fixture
def replica(own_books: Books) -> Iterator[Books]:
    """A ledger whose Redis has just become a replica of another one, as in a failover."""
    own_books.bring("running", 7)
    own_books.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield own_books
    own_books.redis.execute_command("REPLICAOF", "NO", "ONE")


def test_a_ledger_that_has_become_a_replica_says_so_and_is_used_again_when_it_is_none(replica: Books) -> None:
    ledger, run = replica.ledger, RunKey(7, replica.record(7).task_id)
    steps: list[Callable[[], object]] = [
        lambda: replica.hold(run),
        lambda: ledger.finish(run, DONE, deliver_seconds=0),
        lambda: admit(ledger, Job({"id": 8}), ROUTE, asked_at=0.0),
        lambda: ledger.my_turn("sync", 1.0),
        lambda: ledger.found(),
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


def test_who_meets_a_replica_connects_anew(replica: Books) -> None:
    ledger = replica.ledger
    client = connect(f"redis://127.0.0.1:{replica.redis.connection_pool.connection_kwargs['port']}/1")
    before = client.client_id()
    assert client.client_id() == before
    with pytest.raises(LedgerUnavailable):
        ledger.found()
    assert client.client_id() != before


# -- away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_ledger_that_is_away_says_where_it_was_looked_for_and_never_the_password(scheme: str) -> None:
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
        "found": lambda ledger: ledger.found(),
        "bell": lambda ledger: next(ledger.bell(0.1)),
        "server_version": lambda ledger: ledger.server_version(),
    }


@pytest.mark.parametrize("step", _each_step())
def test_every_step_tells_of_an_absent_ledger_in_the_same_way(step: str) -> None:
    ledger = Ledger(f"redis://user:topsecret@127.0.0.1:{free_port()}", "w", timeout=1.0)
    with pytest.raises(LedgerUnavailable) as caught:
        _each_step()[step](ledger)
    assert "topsecret" not in str(caught.value)


def test_a_wrong_password_is_told_as_an_absent_ledger_without_it() -> None:
    server = RedisServer("--requirepass", "right")
    try:
        with pytest.raises(LedgerUnavailable) as caught:
            Ledger(f"redis://:topsecret@127.0.0.1:{server.port}", "w").survey()
        assert "topsecret" not in str(caught.value)
        assert Ledger(f"redis://:right@127.0.0.1:{server.port}", "w").survey().in_flight == 0
    finally:
        server.stop()


# -- the fleet ---------------------------------------------------------------------------------------------


def node(hostname: str = "celery@a", concurrency: int = 4) -> Node:
    return Node(hostname, concurrency, queues=("celery", "slow"), tasks=("proj.upper",), version="1")


def test_a_worker_is_online_from_its_announcement_to_its_withdrawal(url: str) -> None:
    fleet = Fleet(url)
    assert fleet.online() == []
    fleet.announce(node("celery@a"), seconds=LATER)
    fleet.announce(node("celery@b", 8), seconds=LATER)
    assert sorted(fleet.online(), key=lambda each: each.hostname) == [node("celery@a"), node("celery@b", 8)]
    fleet.withdraw("celery@a")
    assert fleet.online() == [node("celery@b", 8)]


def test_an_announcement_replaces_the_one_before(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node(concurrency=4), seconds=LATER)
    fleet.announce(node(concurrency=2), seconds=LATER)
    assert fleet.online() == [node(concurrency=2)]


def test_a_worker_that_does_not_announce_itself_any_more_is_gone(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node("celery@a"), seconds=LATER)
    fleet.announce(node("celery@b"), seconds=LATER)
    connect(url).zadd("modelreins:{fleet}:online", {"celery@b": 1})
    assert fleet.online() == [node("celery@a")]
    assert connect(url).hkeys("modelreins:{fleet}:nodes") == [b"celery@a"]


def test_a_worker_that_was_gone_comes_back_by_announcing_itself(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node(), seconds=0)
    assert fleet.online() == []
    fleet.announce(node(), seconds=LATER)
    assert fleet.online() == [node()]


def test_the_clocks_of_this_host_and_of_redis_are_compared(url: str) -> None:
    assert abs(Fleet(url).clock_difference()) < 60


def test_an_absent_fleet_register_is_told_as_an_absent_ledger() -> None:
    fleet = Fleet(f"redis://user:topsecret@127.0.0.1:{free_port()}", timeout=1.0)
    steps: list[Callable[[], object]] = [
        fleet.online,
        fleet.clock_difference,
        lambda: fleet.announce(node(), seconds=1),
        lambda: fleet.withdraw("celery@a"),
    ]
    for step in steps:
        with pytest.raises(LedgerUnavailable) as caught:
            step()
        assert "topsecret" not in str(caught.value)


def test_one_client_serves_an_address(url: str) -> None:
    assert connect(url) is connect(url)
    assert isinstance(connect(url), (redis.Redis, redis.RedisCluster))
