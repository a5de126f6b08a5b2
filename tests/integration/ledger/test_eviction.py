"""The findings of the check, and the warnings of a starting bridge, about a Redis that may lose the ledger's keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from mr_celery import modelreins_job
from mr_celery.bridge.bridge import Bridge
from mr_celery.errors import LedgerUnavailable
from mr_celery.job import Job
from mr_celery.ledger import BridgeProcess, Ledger, Route
from mr_celery.operations.check import Finding, _check_ledger
from mr_celery.settings import Settings
from support.servers import RedisServer

POLICIES = {
    "noeviction": None,
    "allkeys-lru": False,
    "allkeys-lfu": False,
    "allkeys-random": False,
    "volatile-lru": True,
    "volatile-lfu": True,
    "volatile-random": True,
    "volatile-ttl": True,
}
"""Each policy: no finding, one that fails the check, or a warning."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def same(prompt: str) -> str:
    return prompt


def found(url: str) -> Finding | None:
    settings = Settings(name="w", ledger_url=url)
    return next((finding for finding, _ in _check_ledger(settings, derived=False) if finding.what == "eviction"), None)


def test_each_policy(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("evicted", broker="memory://", set_as_current=False)
    modelreins_job("evicted")(app.task(same, name="evicted.task", lazy=False))
    settings = Settings(name="w", token="t", ledger_url=redis.url())
    bridge = Bridge(app, settings)
    for policy, ok in POLICIES.items():
        redis.client().config_set("maxmemory-policy", policy)
        assert Ledger(redis.url(), "w").eviction() == policy
        finding = found(redis.url())
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            bridge._check_ledger()
        if ok is None:
            assert finding is None
            assert caplog.text == ""
            continue
        assert finding is not None
        assert finding.ok is ok
        for text in (f"{finding.detail} {finding.hint}", caplog.text):
            assert policy in text
            assert "Set it to noeviction" in text


@pytest.mark.parametrize(
    ("allowed", "known"),
    [
        (("+@all",), True),
        (("+@all", "-config"), True),
        (("+@all", "-info", "+info|server"), True),
        (("+@all", "-config", "-info"), False),
    ],
)
def test_an_unreadable_policy_gives_no_finding(redis: RedisServer, allowed: tuple[str, ...], known: bool) -> None:
    client: Any = redis.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.execute_command("ACL", "SETUSER", "ours", "on", ">secret", "~*", "&*", *allowed)
    url = redis.url().replace("redis://", "redis://ours:secret@")
    assert Ledger(url, "w").eviction() == ("allkeys-lru" if known else None)


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({"appendonly": "no", "save": ""}, False),
        ({"appendonly": "no", "save": "900 1"}, True),
        ({"appendonly": "yes", "save": ""}, True),
    ],
)
def test_data_in_memory_only_is_a_warning(redis: RedisServer, changes: dict[str, str], keeps: bool) -> None:
    for name, value in changes.items():
        redis.client().config_set(name, value)
    assert Ledger(redis.url(), "w").persists() is keeps
    settings = Settings(name="w", ledger_url=redis.url())
    findings = [finding for finding, _ in _check_ledger(settings, derived=False) if finding.what == "persistence"]
    assert [(each.ok, each.warning) for each in findings] == ([] if keeps else [(True, True)])
    redis.client().config_set("appendonly", "no")  # it stops at once


def test_unknown_persistence_gives_no_finding(redis: RedisServer) -> None:
    client: Any = redis.client()
    client.config_set("save", "")
    client.execute_command("ACL", "SETUSER", "ours", "on", ">secret", "~*", "&*", "+@all", "-config")
    assert Ledger(redis.url().replace("redis://", "redis://ours:secret@"), "w").persists() is None


@pytest.mark.parametrize(
    ("program", "limit", "risky"),
    [("/data/redis-server", 0, True), ("/data/redis-server", 2**30, False), ("/usr/bin/redis-server", 0, False)],
)
def test_a_container_without_a_memory_limit(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, program: str, limit: int, risky: bool
) -> None:
    ledger = Ledger(redis.url(), "w")
    answers = {"server": {"executable": program}, "memory": {"maxmemory": limit}}
    monkeypatch.setattr("redis.Redis.info", lambda self, section: answers[section])
    assert ledger.unlimited_in_container() is risky


def test_a_full_memory_is_named_and_hides_no_process(redis: RedisServer) -> None:
    client, ledger = redis.client(), Ledger(redis.url(), "w")
    client.config_set("maxmemory-policy", "noeviction")
    assert not ledger.is_full()
    client.config_set("maxmemory", "1mb")
    try:
        assert ledger.is_full()
        settings = Settings(name="w", ledger_url=redis.url())
        found = [finding for finding, _ in _check_ledger(settings, derived=False) if finding.what == "memory"]
        assert [(each.ok, "maxmemory" in each.hint) for each in found] == [(False, True)]
        ledger.announce_bridge(BridgeProcess("host:1", "host", "1.0", 60.0), seconds=30)
        assert [each.id for each in ledger.bridges()] == ["host:1"]
        with pytest.raises(LedgerUnavailable, match=r"is full \(OOM: its Redis has reached maxmemory\)"):
            ledger.admit([(Job({"id": 1, "prompt": "p"}), Route("t", "celery"))], asked_at=0.0)
    finally:
        client.config_set("maxmemory", "0")
