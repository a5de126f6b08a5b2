"""The application, runner and ledger for the tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from celery import Celery

from mr_celery.celery_worker import aborts
from mr_celery.celery_worker import signals as worker_signals
from mr_celery.celery_worker.worker_jobs import WorkerJobs
from mr_celery.clients import Clients
from mr_celery.settings import Settings
from support.celery_worker import APP, FakeRunner
from support.ledgers import HOLDER, LedgerKit, fake_kit


@pytest.fixture(autouse=True)
def _nothing_declared(nothing_declared: None) -> None:
    """In all tests of this package."""


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    made = FakeRunner()
    yield made
    made.installed.close()


@pytest.fixture
def kit(app: Celery, monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    """The ledger of the worker name that this worker process works for."""
    made = fake_kit(monkeypatch)
    clients = SimpleNamespace(
        ledger=lambda worker: {"w": made.ledger}[worker],
        output_of=lambda worker, job_id: f"https://server.test/jobs/{job_id}",
        settings=Settings(lease=30.0),
    )
    jobs = WorkerJobs(cast(Clients, clients))
    jobs.holder = HOLDER
    for each in (APP, app):
        monkeypatch.setattr(each, "modelreins_jobs", jobs, raising=False)
    aborts.register()
    worker_signals.connect()
    return made
