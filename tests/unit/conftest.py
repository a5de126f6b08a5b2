"""Fixtures of the unit tests: an application, and nothing but what a test declares for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, _state

from mr_celery.handlers import registry


@pytest.fixture(autouse=True)
def own_tasks() -> Iterator[None]:
    """No application gets the tasks of an earlier test: by default, Celery shares tasks among applications."""
    before = _state._on_app_finalizers
    _state._on_app_finalizers = set(before)
    yield
    _state._on_app_finalizers = before


@pytest.fixture
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this package, only what a test declares is declared. It is gone after the test."""
    monkeypatch.setattr(registry, "_declared", [])


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()
