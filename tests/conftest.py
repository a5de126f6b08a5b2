"""Fixtures for real servers and whole installations."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path

import pytest
import urllib3

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.mocked_http import MockedHttp
from support.recorder import Recorder
from support.servers import RabbitServer, RedisServer


@pytest.fixture
def mocked_http(monkeypatch: pytest.MonkeyPatch) -> MockedHttp:
    """Mocked HTTP responses."""
    mocked = MockedHttp()
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", lambda pool, *a, **o: mocked.urlopen(pool, *a, **o))
    return mocked


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A Redis process for tests that can share one."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running, empty Redis."""
    shared_redis.client().flushall()
    return shared_redis


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """A RabbitMQ process that all tests of a session share."""
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
    """An installation with Redis as the broker. No process is running yet."""
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
    yield made
    made.stop()


@pytest.fixture
def recorder(fleet: Fleet) -> Iterator[Recorder]:
    """Celery's events of the installation."""
    recorder = Recorder(fleet.environment["PROJ_BROKER"])
    recorder.start()
    recorder.listening()
    yield recorder
    recorder.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each xdist process start with long tests, so that none of them runs last.

    Each process gets the next part of the list.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    ordered: list[pytest.Item] = []
    for index in range(processes):
        first = long[index::processes]
        size = (len(items) - len(ordered)) // (processes - index)
        ordered += [*first, *islice(others, max(0, size - len(first)))]
    items[:] = [*ordered, *others]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report skipped tests as failed if MR_CELERY_NO_SKIPS is set."""
    report = yield
    if report.skipped and os.environ.get("MR_CELERY_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is not allowed here: {report.longrepr}"
    return report
