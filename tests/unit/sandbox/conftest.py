"""A store with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mr_celery.sandbox.store import Store
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    made = Store(clock=clock)
    yield made
    made.close()
