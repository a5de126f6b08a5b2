"""The job's life on a real Redis and on a real Cluster, and many hands at the same job."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
import redis

from mr_celery.errors import LedgerUnavailable
from mr_celery.job import Job
from mr_celery.ledger import Fleet, Ledger, Node, RunKey
from mr_celery.ledger.connection import MINIMUM_VERSION, connect
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, LATER, ROUTE, Books
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
    assert ledger.admit(job, ROUTE, asked_at=asked_at, queue_limit=1, total_limit=1) == "admitted"
    assert ledger.admit(Job({"id": 8}), ROUTE, asked_at=asked_at, queue_limit=1) == "full"
    task_id = ledger.claimed(7)
    assert task_id
    assert ledger.sent(7, task_id, wait_seconds=LATER) == "sent"
    run = RunKey(7, task_id)
    started = ledger.start(run, node="celery@a", lease=LATER, nonce="n")
    assert started.job == job
    assert ledger.hold([(7, task_id), (9, "mr-9-1-x")], lease=LATER, wait_seconds=LATER) == {9: "unknown"}
    assert ledger.survey(["celery"]).load == {"celery": 1}
    blob = bytes(range(256)) * 100
    assert ledger.finish(run, DONE, blobs=[blob], deliver_seconds=0) == "finished"
    assert ledger.take("finished", hold_seconds=LATER) == [7]
    assert ledger.blob(7, 0) == blob
    record = ledger.read(7)
    assert record is not None
    assert (record.outcome, record.deliveries) == (DONE, 1)
    assert ledger.delivered_part(7, "artifact:0", "{}", hold_seconds=LATER)
    assert ledger.close(7, "delivered")
    assert ledger.in_flight() == {}
    assert ledger.survey(["celery"]).load == {"celery": 0}
    assert ledger.blob(7, 0) is None
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.how, record.job) == ("closed", "delivered", None)


def test_a_lost_run_a_lost_message_and_an_abort(books: Books) -> None:
    ledger = books.ledger
    ledger.admit(Job({"id": 7}), ROUTE, asked_at=books.now())
    first = ledger.claimed(7) or ""
    ledger.start(RunKey(7, first), node="a", lease=LATER, nonce="n")
    assert ledger.lose(7, first, only_due=True, why="gone", **FAILED) == "kept"
    assert ledger.lose(7, first, only_due=False, why="gone", **FAILED) == "again"
    record = ledger.read(7)
    assert record is not None
    assert (record.state, record.attempt) == ("claimed", 2)
    assert ledger.start(RunKey(7, first), node="a", lease=LATER, nonce="m").refusal == "superseded"
    assert ledger.sent(7, record.task_id, wait_seconds=LATER) == "sent"
    outcome = Outcome.failed("never started")
    again = ledger.resend(7, record.task_id, why="", budget=1, wait_seconds=0, exhausted=outcome)
    assert again == "again"
    assert ledger.due("claimed") == [7]
    assert ledger.abort(7, "operator") == record.task_id
    assert ledger.in_flight() == {}


def test_the_bell_is_heard_by_another_client(books: Books, url: str) -> None:
    books.ledger.admit(Job({"id": 7}), ROUTE, asked_at=books.now())
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
        assert ledger.admit(Job({"id": 1}), ROUTE, asked_at=0.0) == "admitted"
        server.kill()
        with pytest.raises(LedgerUnavailable):
            ledger.survey()
        server.start()
        assert ledger.admit(Job({"id": 1}), ROUTE, asked_at=0.0) == "admitted"
    finally:
        server.stop()


# -- many at once ------------------------------------------------------------------------------------------


def test_of_many_messages_of_one_attempt_exactly_one_starts(books: Books) -> None:
    ledger = books.ledger
    for job_id in range(1, 21):
        ledger.admit(Job({"id": job_id}), ROUTE, asked_at=books.now())
        run = RunKey(job_id, ledger.claimed(job_id) or "")
        answers = in_parallel(lambda index, run=run: ledger.start(run, node="n", lease=LATER, nonce=str(index)))
        assert Counter(answer.refusal for answer in answers) == {"": 1, "running": THREADS - 1}


def test_many_bridges_never_admit_more_than_the_limit(books: Books, url: str) -> None:
    bridges = [Ledger(url, books.ledger.worker) for _ in range(4)]
    asked_at = books.now()
    answers = in_parallel(
        lambda index: [
            bridges[index % 4].admit(Job({"id": index * 10 + each}), ROUTE, asked_at=asked_at, queue_limit=7)
            for each in range(10)
        ]
    )
    assert Counter(chain.from_iterable(answers)) == {"admitted": 7, "full": THREADS * 10 - 7}
    assert books.ledger.survey(["celery"]).load == {"celery": 7}


def test_one_job_is_admitted_by_one_bridge(books: Books) -> None:
    asked_at = books.now()
    answers = in_parallel(lambda index: books.ledger.admit(Job({"id": 1}), ROUTE, asked_at=asked_at))
    assert Counter(answers) == {"admitted": 1, "known": THREADS - 1}


def test_what_is_due_is_taken_by_one_courier(books: Books) -> None:
    ledger = books.ledger
    for job_id in range(50):
        ledger.admit(Job({"id": job_id}), ROUTE, asked_at=books.now(), settle_seconds=0)
    taken = in_parallel(lambda index: ledger.take("admitted", 10, hold_seconds=LATER))
    assert sorted(chain.from_iterable(taken)) == list(range(50))


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
        "admit": lambda ledger: ledger.admit(Job({"id": 1}), ROUTE, asked_at=0.0),
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
