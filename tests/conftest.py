"""Fixtures for real servers and whole installations."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.servers import RabbitServer, RedisServer


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One Redis process for all tests of a session that do not disturb it."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running Redis that is empty."""
    shared_redis.client().flushall()
    return shared_redis


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """One RabbitMQ process for all tests of a session."""
    server = RabbitServer()
    yield server
    server.stop()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A running sandbox."""
    with Sandbox() as running:
        yield running


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with Redis as the broker; no process runs yet."""
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
    yield made
    made.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("MR_CELERY_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is not allowed here: {report.longrepr}"
    return report
