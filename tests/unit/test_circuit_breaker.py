"""The circuit breaker, and the concurrency limit for a server in trouble."""

from __future__ import annotations

import pytest

from mr_celery.backoff import CircuitBreaker, ConcurrencyLimit
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, seconds=30.0, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


class TestCircuitBreaker:
    def test_allows_calls_until_enough_have_failed_in_a_row(self, breaker: CircuitBreaker) -> None:
        assert breaker.allows()
        fail(breaker, 2)
        assert breaker.allows()
        fail(breaker, 1)
        assert not breaker.allows()

    def test_starts_its_count_again_after_a_success(self, breaker: CircuitBreaker) -> None:
        for _ in range(3):
            fail(breaker, 2)
            breaker.succeeded()
        assert breaker.allows()

    def test_allows_one_trial_at_a_time(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, 3)
        clock.advance(29.9)
        assert not breaker.allows()
        clock.advance(0.1)
        assert [breaker.allows() for _ in range(3)] == [True, False, False]
        clock.advance(30.0)
        assert [breaker.allows() for _ in range(3)] == [True, False, False]

    def test_stays_open_after_a_failed_trial(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, 3)
        clock.advance(30.0)
        assert breaker.allows()
        clock.advance(10.0)
        fail(breaker, 1)
        clock.advance(29.9)
        assert not breaker.allows()

    def test_closes_after_a_successful_trial(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, 3)
        clock.advance(30.0)
        assert breaker.allows()
        breaker.succeeded()
        fail(breaker, 1)
        assert [breaker.allows() for _ in range(3)] == [True] * 3


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without jitter."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


def test_the_limit_is_highest_while_requests_succeed() -> None:
    limit = ConcurrencyLimit(8, most_pause=5.0)
    for _ in range(3):
        limit.succeeded()
    assert limit.size == 8


def test_each_failure_halves_the_limit_down_to_one() -> None:
    limit = ConcurrencyLimit(8, most_pause=5.0)
    sizes = []
    for _ in range(3):
        assert limit.failed() == 0.0
        sizes.append(limit.size)
    assert sizes == [4, 2, 1]
    assert limit.failed() > 0.0
    assert limit.size == 1


@pytest.mark.usefixtures("longest")
def test_at_a_limit_of_one_the_pauses_grow() -> None:
    limit = ConcurrencyLimit(1, most_pause=5.0)
    assert [limit.failed() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.usefixtures("longest")
def test_a_success_doubles_the_limit_and_resets_the_pause() -> None:
    limit = ConcurrencyLimit(6, most_pause=5.0)
    for _ in range(8):
        limit.failed()
    sizes = []
    for _ in range(4):
        limit.succeeded()
        sizes.append(limit.size)
    assert sizes == [2, 4, 6, 6]
    for _ in range(2):
        assert limit.failed() == 0.0
    assert limit.size == 1
    assert limit.failed() == 0.5
