"""Fixtures of the unit tests: an application, and nothing but what a test declares for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, _state

from mr_celery.handlers import registry


@pytest.fixture
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test declares is declared, for this package and for Celery. It is gone after the test."""
    monkeypatch.setattr(registry, "_declared", [])
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()
