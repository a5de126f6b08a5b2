"""The runner of the bridge's loops: one turn after the other, whatever happens in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery.bridge import loops as module
from mr_celery.bridge.loops import Loop
from mr_celery.errors import JobError, LedgerUnavailable, WorkerError
from support.ports import until

PATIENCE = 20.0
"""Seconds after which a test gives up waiting for a thread."""

LONG = 3600.0
"""Seconds that no test waits for: a loop that pauses so long goes on only if it is woken."""


class Script:
    """A step that does what it is told, one entry for each time: raise it, or return it as the pause."""

    def __init__(self, *entries: Exception | float) -> None:
        self._entries = iter(entries)

    def run_once(self) -> float:
        entry = next(self._entries)
        if isinstance(entry, Exception):
            raise entry
        return entry


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance always chooses the longest wait."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="mr_celery.bridge")
    return caplog


def turns(loop: Loop, count: int) -> list[float]:
    return [loop.turn() for _ in range(count)]


ERRORS = [
    WorkerError("GET /jobs -> 503: busy", status=503, retryable=True),
    WorkerError("GET /jobs -> 404: not found", status=404),
    LedgerUnavailable("the ledger is away"),
    JobError("a job is wrong"),
    ZeroDivisionError("boom"),
    OSError("no"),
]


@pytest.mark.usefixtures("longest")
class TestTurn:
    @pytest.mark.parametrize("pause", [0.0, 0.25, 60.0])
    def test_returns_the_pause_of_the_step(self, pause: float) -> None:
        assert Loop("test", Script(pause)).turn() == pause

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_waits_after_any_error(self, error: Exception) -> None:
        assert Loop("test", Script(error)).turn() == 1.0

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_waits_longer_after_each_error_in_a_row(self, error: Exception) -> None:
        assert turns(Loop("test", Script(*[error] * 7)), 7) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]

    def test_errors_of_different_kinds_make_one_row(self) -> None:
        assert turns(Loop("test", Script(ERRORS[0], ERRORS[2], ERRORS[4])), 3) == [1.0, 2.0, 4.0]

    def test_never_waits_longer_than_it_was_told(self) -> None:
        assert turns(Loop("test", Script(*[OSError()] * 4), most_backoff=3.0), 4) == [1.0, 2.0, 3.0, 3.0]

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_a_success_resets_the_wait(self, error: Exception) -> None:
        assert turns(Loop("test", Script(error, error, 5.0, error, error)), 5) == [1.0, 2.0, 5.0, 1.0, 2.0]

    @pytest.mark.parametrize(
        ("retry_after", "waits"),
        [(None, [1.0, 2.0]), (0.0, [1.0, 2.0]), (1.5, [1.5, 2.0]), (20.0, [20.0, 20.0]), (900.0, [900.0, 900.0])],
    )
    def test_waits_as_long_as_the_server_asks_if_that_is_longer(
        self, retry_after: float | None, waits: list[float]
    ) -> None:
        error = WorkerError("GET /jobs -> 429: slow down", status=429, retryable=True, retry_after=retry_after)

        assert turns(Loop("test", Script(error, error)), 2) == waits


class TestLog:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (WorkerError("GET /jobs -> 503: hush", status=503), "inbox: failure 1 in a row: GET /jobs -> 503"),
            (LedgerUnavailable("the ledger is away"), "inbox: failure 1 in a row: the ledger is away"),
        ],
    )
    def test_tells_what_was_expected_in_one_line(
        self, error: Exception, said: str, log: pytest.LogCaptureFixture
    ) -> None:
        Loop("inbox", Script(error)).turn()

        (record,) = log.records
        assert (record.levelno, record.getMessage(), record.exc_info) == (logging.WARNING, said, None)

    def test_tells_less_and_less_often_of_an_outage(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(*[LedgerUnavailable("away")] * 20)), 20)

        assert [record.getMessage() for record in log.records] == [
            f"inbox: failure {count} in a row: away" for count in (1, 2, 4, 8, 16)
        ]

    def test_tells_of_the_next_outage_from_its_first_failure_on(self, log: pytest.LogCaptureFixture) -> None:
        away = LedgerUnavailable("away")
        turns(Loop("inbox", Script(away, away, away, 0.0, away)), 5)

        assert log.messages[-1] == "inbox: failure 1 in a row: away"

    def test_tells_where_the_unexpected_came_from(self, log: pytest.LogCaptureFixture) -> None:
        Loop("inbox", Script(ZeroDivisionError("boom"))).turn()

        (record,) = log.records
        assert record.levelno == logging.ERROR
        assert record.getMessage().startswith("inbox: unexpected error")
        assert record.exc_info is not None
        assert record.exc_info[0].__name__ == "ZeroDivisionError"

    def test_tells_once_that_it_works_again(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(OSError(), 0.0, 0.0)), 3)

        assert [record.getMessage() for record in log.records[1:]] == ["inbox: works again"]

    def test_is_silent_while_all_is_well(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(0.0, 5.0)), 2)

        assert log.records == []


class Watched:
    """A step that counts itself, can be held, and does what ``then`` says."""

    def __init__(self, then: Callable[[int], float] = lambda count: LONG) -> None:
        self._then = then
        self._begun = threading.Semaphore(0)
        self.count = 0
        self.free = threading.Event()
        self.free.set()

    def run_once(self) -> float:
        self.count += 1
        self._begun.release()
        assert self.free.wait(PATIENCE)
        return self._then(self.count)

    def await_begin(self) -> None:
        """Wait until the step was begun once more."""
        assert self._begun.acquire(timeout=PATIENCE), "the step was not done again"


Begin = Callable[..., Loop]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts loops; they end with the test."""
    started: list[tuple[Loop, Any]] = []

    def start(step: Any, **options: Any) -> Loop:
        loop = Loop("test", step, **options)
        started.append((loop, step))
        loop.start()
        return loop

    yield start
    for loop, step in started:
        loop.stop()
        step.free.set()
        assert loop.join(PATIENCE)


class TestThread:
    def test_repeats_at_once_where_there_is_no_pause(self, begin: Begin) -> None:
        step = Watched(lambda count: 0.0 if count < 5 else LONG)
        begin(step)

        for _ in range(5):
            step.await_begin()

    def test_is_named_for_the_loop_and_ends_with_the_process(self, begin: Begin) -> None:
        seen: list[threading.Thread] = []
        step = Watched(lambda count: seen.append(threading.current_thread()) or LONG)  # type: ignore[func-returns-value]
        loop = begin(step)
        step.await_begin()
        loop.stop()
        loop.join(PATIENCE)

        assert [(thread.name, thread.daemon) for thread in seen] == [("modelreins-test", True)]

    def test_wake_ends_the_pause(self, begin: Begin) -> None:
        step = Watched()
        loop = begin(step)
        for _ in range(3):
            step.await_begin()
            loop.wake()

        step.await_begin()
        assert step.count == 4

    def test_wake_during_the_step_is_not_lost(self, begin: Begin) -> None:
        step = Watched()
        step.free.clear()
        loop = begin(step)
        step.await_begin()
        loop.wake()
        step.free.set()

        step.await_begin()

    def test_wakes_during_one_step_make_one_more(self, begin: Begin) -> None:
        step = Watched()
        step.free.clear()
        loop = begin(step)
        step.await_begin()
        for _ in range(5):
            loop.wake()
        step.free.set()
        step.await_begin()
        loop.stop()

        assert loop.join(PATIENCE)
        assert step.count == 2

    def test_what_comes_soon_after_a_step_began_is_done_together(
        self, begin: Begin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rests: list[float] = []
        rested = threading.Event()

        def sleep(seconds: float) -> None:
            rests.append(seconds)
            rested.wait(PATIENCE)

        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        step = Watched()
        loop = begin(step, least_interval=LONG)
        step.await_begin()
        for _ in range(3):
            loop.wake()
        until(lambda: rests)
        loop.wake()
        rested.set()
        step.await_begin()
        assert step.count == 2
        assert LONG - PATIENCE < rests[0] <= LONG

    def test_stop_ends_the_pause_without_another_step(self, begin: Begin) -> None:
        step = Watched()
        loop = begin(step)
        step.await_begin()
        loop.stop()

        assert loop.join(PATIENCE)
        assert step.count == 1

    def test_stop_lets_the_step_end(self, begin: Begin) -> None:
        ended = threading.Event()
        step = Watched(lambda count: ended.set() or 0.0)  # type: ignore[func-returns-value]
        step.free.clear()
        loop = begin(step)
        step.await_begin()
        loop.stop()

        assert not loop.join(0)
        step.free.set()
        assert loop.join(PATIENCE)
        assert ended.is_set()
        assert step.count == 1

    def test_stopped_before_its_start_does_nothing(self) -> None:
        step = Watched()
        loop = Loop("test", step)
        loop.stop()
        loop.start()

        assert loop.join(PATIENCE)
        assert step.count == 0

    def test_that_was_never_started_has_ended(self) -> None:
        assert Loop("test", Watched()).join(0)

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_goes_on_after_an_error(self, begin: Begin, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mr_celery.bridge.loops.backoff", lambda failures, **_: 0.0)

        def fail_at_first(count: int) -> float:
            if count < 4:
                raise error
            return LONG

        step = Watched(fail_at_first)
        begin(step)

        for _ in range(4):
            step.await_begin()

    def test_wake_ends_the_wait_after_an_error(self, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mr_celery.bridge.loops.backoff", lambda failures, **_: LONG)

        def fail(count: int) -> float:
            raise LedgerUnavailable("away")

        step = Watched(fail)
        loop = begin(step)
        step.await_begin()
        loop.wake()

        step.await_begin()

    def test_call_ends_the_pause_but_not_the_wait_after_an_error(
        self, begin: Begin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mr_celery.bridge.loops.backoff", lambda failures, **_: LONG)

        def fail_the_second_time(count: int) -> float:
            if count == 2:
                raise LedgerUnavailable("away")
            return LONG

        step = Watched(fail_the_second_time)
        loop = begin(step)
        step.await_begin()
        loop.call()
        step.await_begin()
        until(lambda: loop.failures, what="it has failed")
        loop.call()
        assert not loop._wake.is_set()
        loop.wake()
        step.await_begin()
