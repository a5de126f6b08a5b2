"""The register of online workers on a real Redis and on a real Cluster: correctness and cost of reading it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Fleet, Node
from support.ledgers import LATER
from support.ports import free_port
from support.servers import RedisServer

KEYS = ("nodes", "online", "changes")


def node(hostname: str = "celery@a", concurrency: int = 4, *queues: str) -> Node:
    return Node(hostname, concurrency, queues=queues or ("celery", "slow"), tasks=("proj.upper",), version="1")


def by_name(nodes: Iterable[Node]) -> dict[str, Node]:
    return {each.hostname: each for each in nodes}


def key(name: str) -> str:
    return f"modelreins:{{fleet}}:{name}"


def bytes_sent(client: Any) -> int:
    return int(client.info("stats")["total_net_output_bytes"])


def test_a_worker_is_online_from_its_announcement_to_its_withdrawal(url: str) -> None:
    fleet = Fleet(url)
    assert fleet.online() == ()
    fleet.announce(node("celery@a"), seconds=LATER)
    fleet.announce(node("celery@b", 8), seconds=LATER)
    assert by_name(fleet.online()) == by_name([node("celery@a"), node("celery@b", 8)])
    fleet.withdraw("celery@a")
    assert fleet.online() == (node("celery@b", 8),)


@pytest.mark.parametrize("change", [{"concurrency": 2}, {"queues": ("slow",)}, {"version": "2"}, {"app_version": "7"}])
def test_an_announcement_replaces_the_one_before(url: str, change: dict[str, Any]) -> None:
    fleet = Fleet(url)
    for each in (node(), replace(node(), **change)):
        fleet.announce(each, seconds=LATER)
        assert fleet.online() == (each,)
        assert Fleet(url).online() == (each,)


def test_what_a_later_version_adds_to_a_profile_is_ignored(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node(), seconds=LATER)
    client = RedisServer.client_of(url)
    (profile,) = client.scan_iter(key("profile:*"))
    client.set(profile, json.dumps([*json.loads(client.get(profile)), "of a later version"]))
    assert fleet.online() == (node(),)


NO_JSON = ["not JSON", "[" * 5000, b"\xff"]
NO_PROFILES = [
    "{}",
    "null",
    "[1, 2, 3, 4]",
    '["a", "b", "1", "1"]',
    '[["a"], [{}], "1", "1"]',
    '[["a"], ["b"], null, null]',
]


@pytest.mark.parametrize("profile", [*NO_JSON, *NO_PROFILES, '[["a"], ["b"]]'])
def test_a_worker_whose_profile_cannot_be_read_is_left_out(url: str, profile: Any) -> None:
    fleet, client = Fleet(url), RedisServer.client_of(url)
    fleet.announce(node("celery@nonsense", 4, "odd"), seconds=LATER)
    (stored,) = client.scan_iter(key("profile:*"))
    client.set(stored, profile)
    fleet.announce(node(), seconds=LATER)
    for _ in range(2):
        assert fleet.online() == (node(),)
    fleet.withdraw("celery@nonsense")
    assert fleet.online() == (node(),)


@pytest.mark.parametrize("about", [b"", b"many {}", b"-1 {}", b"9" * 5000 + b" {}", b"1e9 {}", b"\xff {}", b"{} 4"])
def test_a_worker_whose_concurrency_cannot_be_read_is_left_out(url: str, about: bytes) -> None:
    fleet, client = Fleet(url), RedisServer.client_of(url)
    fleet.announce(node(), seconds=LATER)
    digest = client.hget(key("nodes"), "celery@a").partition(b" ")[2]
    fleet.announce(node("celery@nonsense"), seconds=LATER)
    client.hset(key("nodes"), "celery@nonsense", about.replace(b"{}", digest))
    for reader in (fleet, Fleet(url)):
        assert reader.online() == (node(),)


def test_a_worker_that_stops_announcing_itself_is_offline(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node("celery@a"), seconds=LATER)
    fleet.announce(node("celery@b"), seconds=LATER)
    client = RedisServer.client_of(url)
    client.zadd(key("online"), {"celery@b": 1})
    assert fleet.online() == (node("celery@a"),)
    assert client.hkeys(key("nodes")) == [b"celery@a"]


def test_a_worker_is_online_again_once_it_announces_itself(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node(), seconds=0)
    assert fleet.online() == ()
    fleet.announce(node(), seconds=LATER)
    assert fleet.online() == (node(),)


def test_the_workers_are_the_same_object_until_one_changes(url: str) -> None:
    fleet = Fleet(url)
    fleet.announce(node(), seconds=LATER)
    first = fleet.online()
    fleet.announce(node(), seconds=LATER)
    assert fleet.online() is first
    fleet.announce(node("celery@b"), seconds=LATER)
    assert fleet.online() is not first


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_follows_the_changes_knows_what_a_new_one_reads(url: str, seed: int) -> None:
    """This includes readers that read rarely, more changes than are kept, and lost keys."""
    chance, client, announcer = random.Random(seed), RedisServer.client_of(url), Fleet(url)
    readers = [Fleet(url) for _ in range(3)]
    names = [f"celery@{number}" for number in range(40)]
    alive: dict[str, Node] = {}

    def announce(name: str) -> None:
        alive[name] = node(name, chance.randint(1, 3), *chance.sample(["red", "green", "blue"], 2))
        announcer.announce(alive[name], seconds=LATER)

    def withdraw(name: str) -> None:
        announcer.withdraw(name)
        alive.pop(name, None)

    def expire(name: str) -> None:
        if alive.pop(name, None):
            client.zadd(key("online"), {name: 1})

    def lose_key(name: str) -> None:
        client.delete(key(chance.choice(KEYS)), *client.scan_iter(key("profile:*")))
        Fleet(url).online()  # workers announce themselves before and after a reader has noticed the loss
        for each in alive.values():
            announcer.announce(each, seconds=LATER)

    steps: list[Callable[[str], None]] = [announce] * 30 + [withdraw] * 10 + [expire] * 10 + [lose_key]
    for _ in range(40):
        for _ in range(chance.choice([1, 1, 5, 20])):
            chance.choice(steps)(chance.choice(names))
        for reader in readers[: chance.randint(1, 3)]:
            assert by_name(reader.online()) == alive
    for number in range(1500):  # more than the number of changes that are kept
        announcer.announce(node(f"celery@{number % 40}", number), seconds=LATER)
    expected = by_name(Fleet(url).online())
    assert len(expected) >= 40
    assert all(by_name(reader.online()) == expected for reader in readers)
    assert client.zcard(key("changes")) <= 1001


def test_a_ledger_of_a_moment_ago_hides_no_worker(url: str) -> None:
    """What replication can lose: changes that a reader has seen, while others take place."""
    client, fleet = RedisServer.client_of(url), Fleet(url)
    fleet.announce(node("celery@a"), seconds=LATER)
    earlier = {name: client.dump(key(name)) for name in KEYS}
    fleet.announce(node("celery@lost"), seconds=LATER)
    fleet.announce(node("celery@dead"), seconds=LATER)
    assert set(by_name(fleet.online())) == {"celery@a", "celery@lost", "celery@dead"}
    for name, value in earlier.items():
        client.restore(key(name), 0, value, replace=True)
    Fleet(url).announce(node("celery@new"), seconds=LATER)
    assert set(by_name(fleet.online())) == {"celery@a", "celery@new"}
    Fleet(url).announce(node("celery@lost"), seconds=LATER)
    assert set(by_name(fleet.online())) == {"celery@a", "celery@new", "celery@lost"}


def test_after_the_clock_was_set_back_only_workers_that_announce_themselves_are_online(url: str) -> None:
    client, fleet = RedisServer.client_of(url), Fleet(url)
    for hostname in ("celery@a", "celery@dead"):
        fleet.announce(node(hostname), seconds=LATER)
    assert len(fleet.online()) == 2
    for name, seconds in (("online", 3600.0), ("changes", 3600.0 * 1e6)):
        for member, score in client.zrange(key(name), 0, -1, withscores=True):
            client.zadd(key(name), {member: score + seconds})
    Fleet(url).announce(node(), seconds=LATER)
    fleet.online()
    Fleet(url).announce(node(), seconds=LATER)
    for reader in (fleet, Fleet(url)):
        assert reader.online() == (node(),)


def test_a_look_at_rest_costs_the_same_for_one_worker_and_for_thousands(redis_server: RedisServer) -> None:
    url, client = redis_server.url(1), redis_server.client(1)
    client.flushdb()
    fleet, tasks = Fleet(url), tuple(f"proj.task_{number}" for number in range(20))
    sent = []
    for count in (1, 3000):
        for number in range(count):
            fleet.announce(Node(f"celery@{number}", 4, ("celery",), tasks), seconds=300)
        assert len(fleet.online()) == count
        before = bytes_sent(client)
        for _ in range(10):
            fleet.online()
        sent.append(bytes_sent(client) - before)
    assert sent[1] < sent[0] + 200
    assert client.memory_usage(key("nodes"), samples=0) < 3000 * 100
    assert len(list(client.scan_iter(key("profile:*")))) == 1


def test_a_change_of_one_worker_leaves_thousands_of_others_alone(redis_server: RedisServer) -> None:
    url, client = redis_server.url(1), redis_server.client(1)
    client.flushdb()
    fleet, reader = Fleet(url), Fleet(url)
    for number in range(1000):
        fleet.announce(node(f"celery@{number}"), seconds=LATER)
    before, at_first = by_name(reader.online()), bytes_sent(client)
    fleet.announce(node("celery@7", 8), seconds=LATER)
    fleet.withdraw("celery@8")
    after = by_name(reader.online())
    assert bytes_sent(client) - at_first < 10_000  # mostly the reply to INFO
    assert {name for name in before if after.get(name) is not before[name]} == {"celery@7", "celery@8"}
    assert after["celery@7"].concurrency == 8


def test_a_reader_forgets_the_queues_and_tasks_that_no_worker_has_any_more(url: str) -> None:
    fleet, reader = Fleet(url), Fleet(url)
    fleet.announce(node("celery@stays"), seconds=LATER)
    for number in range(20):
        fleet.announce(node("celery@host", 4, f"queue of {number}"), seconds=LATER)
        assert len(reader.online()) == 2
    assert len(reader._profiles) <= 3


def test_the_clocks_of_this_host_and_of_redis_are_compared(url: str) -> None:
    assert abs(Fleet(url).clock_difference()) < 60


def test_the_fleet_reports_an_unreachable_ledger() -> None:
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
