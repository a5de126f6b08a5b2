"""Backoff and retries, with a clock that advances only during waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mr_celery.backoff import backoff, pause_after, retry_until
from mr_celery.errors import MOST_RETRY_AFTER, WorkerError
from support.clock import Clock


def failing(times: int, error: Exception) -> Callable[[], int]:
    """A step that raises this many times, then returns the number of its calls."""
    done = 0

    def step() -> int:
        nonlocal done
        done += 1
        if done <= times:
            raise error
        return done

    return step


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the jitter always choose the longest wait."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


@pytest.fixture
def shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the jitter always choose the shortest wait."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: low)


GROWTH = [
    (1, 1.0),
    (2, 2.0),
    (3, 4.0),
    (5, 16.0),
    (6, 30.0),
    (60, 30.0),
    (10**9, 30.0),
    (0, 1.0),
]
"""Failures in a row, and the most seconds to wait with ``first=1, most=30``."""


class TestBackoff:
    @pytest.mark.parametrize(("failures", "seconds"), GROWTH)
    @pytest.mark.usefixtures("longest")
    def test_doubles_up_to_the_most(self, failures: int, seconds: float) -> None:
        assert backoff(failures, first=1.0, most=30.0) == seconds

    @pytest.mark.parametrize(("failures", "seconds"), GROWTH)
    @pytest.mark.usefixtures("shortest")
    def test_is_never_shorter_than_half_of_that(self, failures: int, seconds: float) -> None:
        assert backoff(failures, first=1.0, most=30.0) == seconds / 2

    def test_begins_with_the_first(self, longest: None) -> None:
        assert backoff(1, first=0.2, most=5.0) == 0.2

    def test_never_exceeds_the_most_even_the_first_time(self, longest: None) -> None:
        assert backoff(1, first=10.0, most=3.0) == 3.0

    def test_differs_from_one_caller_to_the_next(self) -> None:
        waits = {backoff(3, first=1.0, most=30.0) for _ in range(50)}

        assert len(waits) > 1
        assert all(2.0 <= wait <= 4.0 for wait in waits)


class TestPauseAfter:
    @pytest.mark.parametrize(
        ("asked", "usual", "most", "seconds"),
        [
            (None, 2.0, 60.0, 2.0),
            (0.0, 2.0, 60.0, 2.0),
            (1.0, 2.0, 60.0, 2.0),
            (20.0, 2.0, 60.0, 20.0),
            (600.0, 2.0, 60.0, 60.0),
            (1e12, 2.0, 60.0, 60.0),
            (1e12, 90.0, 60.0, 90.0),
            (1e12, 0.0, 1e15, MOST_RETRY_AFTER),
        ],
    )
    def test_a_requested_pause_is_respected_up_to_a_limit(
        self, asked: float | None, usual: float, most: float, seconds: float
    ) -> None:
        error = WorkerError("GET /x -> 429: no", status=429, retryable=True, retry_after=asked)
        assert pause_after(error, usual, most=most) == seconds


class TestRetryUntil:
    def test_returns_what_the_step_returns_without_waiting(self) -> None:
        clock = Clock()

        assert retry_until(lambda: 7, errors=OSError, seconds=1, sleep=clock.sleep, clock=clock) == 7
        assert clock.slept == []

    def test_tries_again_after_longer_and_longer_waits(self, longest: None) -> None:
        clock = Clock()
        step = failing(3, OSError("away"))

        assert retry_until(step, errors=OSError, seconds=60, first=1.0, most=3.0, sleep=clock.sleep, clock=clock) == 4
        assert clock.slept == [1.0, 2.0, 3.0]

    def test_raises_the_last_error_when_the_time_is_over(self, longest: None) -> None:
        clock = Clock()
        errors = iter([OSError("first"), OSError("second"), OSError("third"), OSError("fourth")])

        def step() -> None:
            raise next(errors)

        with pytest.raises(OSError, match="third"):
            retry_until(step, errors=OSError, seconds=3.0, first=1.0, most=30.0, sleep=clock.sleep, clock=clock)
        assert clock.slept == [1.0, 2.0]

    def test_never_waits_beyond_its_time(self, longest: None) -> None:
        clock = Clock()

        with pytest.raises(OSError, match="away"):
            retry_until(
                failing(99, OSError("away")), errors=OSError, seconds=10.0, first=1.0, sleep=clock.sleep, clock=clock
            )
        assert clock.now <= 1010.0
        assert sum(clock.slept) == 7.0

    def test_tries_once_where_it_has_no_time(self) -> None:
        clock = Clock()

        with pytest.raises(OSError, match="away"):
            retry_until(failing(1, OSError("away")), errors=OSError, seconds=0, sleep=clock.sleep, clock=clock)
        assert clock.slept == []

    def test_counts_the_time_that_the_step_itself_takes(self, longest: None) -> None:
        clock = Clock()

        def slow() -> None:
            clock.now += 8.0
            raise OSError("slow")

        with pytest.raises(OSError, match="slow"):
            retry_until(slow, errors=OSError, seconds=10.0, first=1.0, sleep=clock.sleep, clock=clock)
        assert clock.slept == [1.0]

    def test_goes_on_after_a_call_of_the_caller(self, longest: None) -> None:
        clock = Clock()
        first, step, seen = OSError("first"), failing(1, OSError("away")), list[Exception]()

        made = retry_until(
            step,
            failed=first,
            errors=OSError,
            seconds=60,
            first=1.0,
            sleep=clock.sleep,
            clock=clock,
            on_first_error=seen.append,
        )
        assert (made, clock.slept, seen) == (2, [1.0, 2.0], [first])

    def test_other_errors_are_not_waited_for(self) -> None:
        clock = Clock()

        with pytest.raises(KeyError):
            retry_until(failing(1, KeyError("bug")), errors=OSError, seconds=60, sleep=clock.sleep, clock=clock)
        assert clock.slept == []

    def test_a_subclass_of_the_error_is_waited_for(self) -> None:
        clock = Clock()
        step = failing(1, ConnectionResetError("reset"))

        assert retry_until(step, errors=OSError, seconds=60, sleep=clock.sleep, clock=clock) == 2
        assert len(clock.slept) == 1
