"""Fixtures of the unit tests: an application with only the tasks that a test declares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, _state

from mr_celery.handlers import registry


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate applications from the tasks of earlier tests, which Celery shares among applications by default."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))


@pytest.fixture
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate this package's declarations: each test has only its own."""
    monkeypatch.setattr(registry, "_declared", [])


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()
