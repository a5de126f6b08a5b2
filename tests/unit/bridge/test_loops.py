"""The runner of the bridge's loops repeats a step, even if it fails."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mr_celery.bridge import loops as module
from mr_celery.bridge.loops import Idle, InTurn, Loop
from mr_celery.bridge.outages import Outages
from mr_celery.bridge.scheduler import Scheduler
from mr_celery.errors import JobError, LedgerUnavailable, WorkerError
from mr_celery.telemetry.outages import Outage
from support.ports import until

PATIENCE = 20.0
"""Seconds after which a test gives up waiting for a thread."""

LONG = 3600.0
"""Longer than any test, in seconds: a loop with this pause continues only if it is woken."""


class Script:
    """A step with a script: each entry is raised, or returned as the pause."""

    def __init__(self, *entries: BaseException | float) -> None:
        self._entries = iter(entries)

    def run_once(self) -> float:
        entry = next(self._entries)
        if isinstance(entry, BaseException):
            raise entry
        return entry


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without jitter."""
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
    LedgerUnavailable("the ledger is unreachable"),
    JobError("a job is wrong"),
    ZeroDivisionError("boom"),
    OSError("no"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
]


@pytest.mark.usefixtures("longest")
class TestTurn:
    @pytest.mark.parametrize("pause", [0.0, 0.25, 60.0])
    def test_returns_the_pause_of_the_step(self, pause: float) -> None:
        assert Loop("test", Script(pause)).turn() == pause

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_waits_after_any_error(self, error: BaseException) -> None:
        assert Loop("test", Script(error)).turn() == 1.0

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_waits_longer_after_each_error_in_a_row(self, error: BaseException) -> None:
        assert turns(Loop("test", Script(*[error] * 7)), 7) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]

    def test_errors_of_different_kinds_count_together(self) -> None:
        assert turns(Loop("test", Script(ERRORS[0], ERRORS[2], ERRORS[4])), 3) == [1.0, 2.0, 4.0]

    def test_never_waits_longer_than_the_limit(self) -> None:
        assert turns(Loop("test", Script(*[OSError()] * 4), most_backoff=3.0), 4) == [1.0, 2.0, 3.0, 3.0]

    def test_an_idle_step_does_not_reset_the_count(self, log: pytest.LogCaptureFixture) -> None:
        away = ERRORS[0]
        loop = Loop("test", Script(away, Idle(5.0), away, Idle(5.0), away, Idle(5.0), away, 5.0))

        assert turns(loop, 8) == [1.0, 5.0, 2.0, 5.0, 4.0, 5.0, 8.0, 5.0]
        assert [record.getMessage().partition(":")[2].strip()[:11] for record in log.records] == [
            "failure 3 i",
            "works again",
        ]

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_a_success_resets_the_wait(self, error: BaseException) -> None:
        assert turns(Loop("test", Script(error, error, 5.0, error, error)), 5) == [1.0, 2.0, 5.0, 1.0, 2.0]

    @pytest.mark.parametrize(
        ("retry_after", "waits"),
        [
            (None, [1.0, 2.0]),
            (0.0, [1.0, 2.0]),
            (1.5, [1.5, 2.0]),
            (20.0, [20.0, 20.0]),
            (900.0, [module.LONGEST_IMPOSED_PAUSE] * 2),
            (1e12, [module.LONGEST_IMPOSED_PAUSE] * 2),
        ],
    )
    def test_respects_a_longer_retry_after_up_to_a_limit(self, retry_after: float | None, waits: list[float]) -> None:
        error = WorkerError("GET /jobs -> 429: slow down", status=429, retryable=True, retry_after=retry_after)

        assert turns(Loop("test", Script(error, error)), 2) == waits

    def test_the_loops_own_limit_bounds_retry_after(self) -> None:
        error = WorkerError("PUT /presence -> 429: no", status=429, retryable=True, retry_after=1e12)
        assert turns(Loop("test", Script(error, error), most_backoff=5.0, most_retry_after=5.0), 2) == [5.0, 5.0]


def asked_to_wait(seconds: float) -> WorkerError:
    return WorkerError("GET /my-jobs -> 429: no", status=429, retryable=True, retry_after=seconds)


@pytest.mark.usefixtures("longest")
class TestLogOfALongerPause:
    def test_logs_its_length_and_cause_once(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("claim", Script(asked_to_wait(1e12), asked_to_wait(1e12), 0.0)), 3)

        wish = "the server requested a pause of 11574074 d (Retry-After), next try in 1 min"
        assert log.messages[0] == f"claim: failure 1 in a row: GET /my-jobs -> 429; {wish}"

    def test_logs_it_immediately_during_an_outage(self, log: pytest.LogCaptureFixture) -> None:
        busy = WorkerError("GET /my-jobs -> 503: busy", status=503, retryable=True)
        turns(Loop("claim", Script(busy, busy, busy, busy, asked_to_wait(50), asked_to_wait(50))), 6)

        assert log.messages[1:] == [
            "claim: failure 5 in a row: GET /my-jobs -> 429; "
            "the server requested a pause of 50 s (Retry-After), next try in 50 s"
        ]

    def test_logs_it_again_after_a_success(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("claim", Script(*[asked_to_wait(50)] * 3, 0.0, *[asked_to_wait(50)] * 3)), 7)

        assert [text.count("Retry-After") for text in log.messages] == [1, 1, 0, 1, 1]

    def test_does_not_log_a_shorter_retry_after(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("claim", Script(asked_to_wait(0.5), asked_to_wait(0.5), asked_to_wait(0.5))), 3)

        assert log.messages == ["claim: failure 3 in a row: GET /my-jobs -> 429"]
        assert "Retry-After" not in log.text


class TestLog:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (WorkerError("GET /jobs -> 503: hush", status=503), "inbox: failure 3 in a row: GET /jobs -> 503"),
            (LedgerUnavailable("the ledger is unreachable"), "inbox: failure 3 in a row: the ledger is unreachable"),
        ],
    )
    def test_logs_an_expected_error_in_one_line(
        self, error: Exception, said: str, log: pytest.LogCaptureFixture
    ) -> None:
        turns(Loop("inbox", Script(error, error, error)), 3)

        (record,) = log.records
        assert (record.levelno, record.getMessage(), record.exc_info) == (logging.WARNING, said, None)

    def test_does_not_log_a_failure_or_two(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(ERRORS[0], ERRORS[2], 0.0, ERRORS[0], 5.0)), 5)

        assert log.records == []

    def test_logs_an_outage_less_and_less_often(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(*[LedgerUnavailable("away")] * 20)), 20)

        assert [record.getMessage() for record in log.records] == [
            f"inbox: failure {count} in a row: away" for count in (3, 6, 12)
        ]

    def test_logs_the_next_outage_from_its_first_failure(self, log: pytest.LogCaptureFixture) -> None:
        away = LedgerUnavailable("away")
        turns(Loop("inbox", Script(*[away] * 6, 0.0, *[away] * 3)), 10)

        assert log.messages[-1] == "inbox: failure 3 in a row: away"

    def test_logs_the_origin_of_an_unexpected_error(self, log: pytest.LogCaptureFixture) -> None:
        Loop("inbox", Script(ZeroDivisionError("boom"))).turn()

        (record,) = log.records
        assert record.levelno == logging.ERROR
        assert record.getMessage().startswith("inbox: unexpected error")
        assert record.exc_info is not None
        assert record.exc_info[0].__name__ == "ZeroDivisionError"

    def test_logs_once_that_it_works_again(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(OSError(), 0.0, 0.0)), 3)

        assert [record.getMessage().partition(",")[0] for record in log.records[1:]] == ["inbox: works again"]

    def test_is_silent_while_all_is_well(self, log: pytest.LogCaptureFixture) -> None:
        turns(Loop("inbox", Script(0.0, 5.0)), 2)

        assert log.records == []


class TestOutages:
    """Failures that all loops share are logged only by their outage."""

    @pytest.fixture
    def outages(self) -> Outages:
        names = ("the server", "the ledger", "the broker")
        return Outages(*(Outage(name, "Nothing goes on", logging.getLogger("mr_celery.bridge")) for name in names))

    @pytest.mark.parametrize("error", [ERRORS[0], LedgerUnavailable("away")])
    def test_a_loop_is_silent_while_no_request_gets_an_answer(
        self, error: Exception, outages: Outages, log: pytest.LogCaptureFixture
    ) -> None:
        turns(Loop("inbox", Script(*[error] * 9, 0.0), outages=outages), 10)

        assert log.records == []

    def test_a_loop_logs_what_fails_for_it_alone(self, outages: Outages, log: pytest.LogCaptureFixture) -> None:
        loop = Loop("inbox", SimpleNamespace(run_once=lambda: self.fail_alone(outages)), outages=outages)
        turns(loop, 3)
        assert log.messages == ["inbox: failure 3 in a row: GET /jobs -> 404"]
        assert loop.failing is not None
        assert loop.failing[0] == "GET /jobs -> 404"

    @staticmethod
    def fail_alone(outages: Outages) -> float:
        outages.server.works()
        raise WorkerError("GET /jobs -> 404: not found", status=404)


class Watched:
    """A step that counts its runs, can be blocked, and ends with ``then``."""

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
        """Wait for the start of the next step."""
        assert self._begun.acquire(timeout=PATIENCE), "the step was not done again"


class RecordingScheduler(Scheduler):
    """Records the times for which loops are woken, not the times of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[float] = []

    def wake(self, work: Any, at: float, *, after_failure: bool = True) -> None:
        if after_failure:
            self.woken.append(at)
        super().wake(work, at, after_failure=after_failure)


Begin = Callable[..., Loop]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts loops that stop with the test."""
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
    def test_repeats_immediately_without_a_pause(self, begin: Begin) -> None:
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

    def test_a_wake_within_the_least_interval_waits_for_its_end(self) -> None:
        scheduler = RecordingScheduler()
        loop = Loop("test", Script(0.0, 0.0), scheduler=scheduler, least_interval=LONG)
        loop.wake()
        assert scheduler.woken[0] <= time.monotonic()
        before = time.monotonic()
        next_at = loop.run()
        loop.wake()
        assert scheduler.woken[1] == next_at
        assert before + LONG <= next_at <= time.monotonic() + LONG

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

    def test_counts_as_ended_before_it_starts(self) -> None:
        assert Loop("test", Watched()).join(0)

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_continues_after_an_error(self, begin: Begin, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
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

        step, scheduler = Watched(fail_the_second_time), RecordingScheduler()
        loop = begin(step, scheduler=scheduler)
        step.await_begin()
        loop.call()
        step.await_begin()
        until(lambda: loop.failures, what="it has failed")
        assert loop.join(PATIENCE)
        loop.call()
        assert step.count == 2
        loop.wake()
        step.await_begin()


class TestInTurn:
    def test_runs_each_step_and_returns_the_shortest_pause(self) -> None:
        assert InTurn([Script(3.0), Script(1.0), Script(2.0)]).run_once() == 1.0

    def test_an_error_of_one_step_stops_no_other(self) -> None:
        last = Script(1.0)
        with pytest.raises(ZeroDivisionError):
            InTurn([Script(1.0), Script(ZeroDivisionError("boom")), last]).run_once()
        with pytest.raises(StopIteration):
            last.run_once()

    def test_each_step_has_its_turn_while_the_ledger_refuses_one(self) -> None:
        runs: list[str] = []

        def step(name: str, *, refused: bool = False) -> Any:
            def run_once() -> float:
                runs.append(name)
                if refused:
                    raise LedgerUnavailable("no permission")
                return 1.0

            return SimpleNamespace(run_once=run_once)

        steps = InTurn([step("a"), step("b", refused=True), step("c")])
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                steps.run_once()
        assert "".join(runs) == "ab" + "cab" * 2
