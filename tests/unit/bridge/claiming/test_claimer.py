"""The claimer claims as many pending jobs as the fleet can run, each once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any
from unittest.mock import MagicMock

import pytest

from mr_celery.bridge.claiming.claimer import Claimer
from mr_celery.bridge.limits import CHECK_SECONDS, LONGEST_IMPOSED_PAUSE, SHORTEST_POLL
from mr_celery.bridge.recovery.in_flight_sync import InFlightSync
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.job import Job
from mr_celery.ledger import RunKey
from mr_celery.operations import pause
from mr_celery.telemetry.quantities import duration
from support.ledgers import DONE, LATER, BridgeHarness, LedgerKit, make_harness, refusal
from support.ports import until

POLL = 5.0

Make = Callable[..., Claimer]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    """Two queues with four slots each."""
    return make_harness(monkeypatch, poll_interval=POLL)


@pytest.fixture
def kit(harness: BridgeHarness) -> LedgerKit:
    return harness.kit


@pytest.fixture
def make() -> Iterator[Make]:
    """Creates claimers that wait for all their claims."""
    made: list[Claimer] = []

    def claimer(harness: BridgeHarness, *, side_by_side: int = 1, seconds: float = 30.0) -> Claimer:
        limits = {"gather_seconds": seconds, "batch_seconds": seconds}
        made.append(Claimer(harness.context, side_by_side=side_by_side, **limits))
        return made[-1]

    yield claimer
    for each in made:
        each.close(20)


@pytest.fixture
def claimer(harness: BridgeHarness, make: Make) -> Claimer:
    return make(harness)


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("the ledger is unreachable")


def settle(harness: BridgeHarness) -> None:
    """Settle the unclear claims with the server's lists."""
    harness.kit.make_due("admitted")
    InFlightSync(harness.context).run_once()


def end(harness: BridgeHarness, job_id: int) -> None:
    """Run a job to its end, as a worker does."""
    run = RunKey(job_id, harness.kit.record(job_id).task_id)
    harness.kit.start(run)
    assert harness.kit.ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"


# -- claims --------------------------------------------------------------------------------------------------


def test_a_pending_job_is_claimed_and_published_with_its_recorded_task_id(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1, priority="high")
    assert claimer.run_once() == 0.0  # there may be more
    assert harness.server.running.keys() == {1}
    assert harness.publisher.sent == [(1, kit.record().task_id)]
    assert harness.publisher.details == [("high", 0)]
    assert kit.state() == "sent"


def test_a_job_is_admitted_before_it_is_claimed_and_claimed_before_it_is_published(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1)
    seen: list[tuple[str, list[int]]] = []
    harness.server.faults["claim"] = [lambda: seen.append((kit.state(), harness.publisher.jobs))]
    claimer.run_once()
    assert seen == [("admitted", [])]


def test_claims_stop_at_the_capacity_of_the_fleet(harness: BridgeHarness, kit: LedgerKit, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 11))
    claimer.run_once()
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 2, 3, 4]
    assert len(harness.server.pending) == 6
    assert kit.load() == 4
    assert claimer.wants_slot


def test_a_free_slot_is_filled_from_the_backlog_without_a_poll(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 11))
    claimer.run_once()
    end(harness, 2)
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 2, 3, 4, 5]
    assert harness.server.asked("jobs") == ["pending"]


def test_the_pause_is_short_with_a_backlog_and_the_poll_interval_without(
    harness: BridgeHarness, claimer: Claimer
) -> None:
    pause = claimer.run_once()
    assert POLL <= pause <= POLL * 1.2
    harness.clock.advance(pause)
    harness.server.dispatch(*range(1, 6))
    assert claimer.run_once() == 0.0
    assert claimer.run_once() <= CHECK_SECONDS


def test_the_inbox_is_polled_often_while_jobs_arrive(harness: BridgeHarness, claimer: Claimer) -> None:
    """One job per second; the clock moves only during the loop's pauses."""
    came: list[float] = []
    waits: list[float] = []
    looks_before = len(harness.server.asked("jobs"))
    first = harness.clock()
    while harness.clock() < first + 60.0:
        while (at := first + 0.4 + len(came)) <= harness.clock():
            came.append(at)
            harness.server.dispatch(len(came))
        pause = claimer.run_once()
        for job_id in harness.publisher.jobs[len(waits) :]:
            waits.append(harness.clock() - came[job_id - 1])
            end(harness, job_id)
        harness.clock.advance(pause)
    assert len(waits) > 50
    assert max(waits[10:]) <= SHORTEST_POLL + 0.01
    assert len(harness.server.asked("jobs")) - looks_before <= 4 * 60


def test_a_poll_with_many_new_jobs_is_followed_by_another_one(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    harness = make_harness(monkeypatch, poll_interval=POLL, max_inflight=100)
    claimer = make(harness)
    harness.server.dispatch(*range(1, 1 + 16))
    assert claimer.run_once() == 0.0
    harness.server.dispatch(101, 102)
    assert claimer.run_once() == 0.0
    assert harness.publisher.jobs[-2:] == [101, 102]
    harness.server.dispatch(103)
    pause = claimer.run_once()
    assert pause > 0.0  # the last poll returned too few jobs for another one at once
    assert harness.server.asked("jobs") == ["pending"] * 2
    harness.clock.advance(pause)
    claimer.run_once()
    assert harness.publisher.jobs[-1] == 103


def test_an_expensive_list_is_used_longer_up_to_a_limit(
    harness: BridgeHarness, claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = iter([0.0, 0.2, 1.0, 11.0, 12.0, 12.0])
    monkeypatch.setattr("mr_celery.bridge.claiming.inbox.time.thread_time", lambda: next(spent))
    harness.server.dispatch(*range(1, 100))
    claimer.run_once()
    steps = [(9.9, 1), (0.2, 2), (LONGEST_IMPOSED_PAUSE - 0.1, 2), (40.2, 3)]
    for job_id, (seconds, looks) in enumerate(steps, start=1):
        harness.clock.advance(seconds)
        end(harness, job_id)
        claimer.run_once()
        assert len(harness.server.asked("jobs")) == looks


def test_a_full_fleet_waits_for_a_slot_before_it_polls(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(1, 2, 3, 4)
    harness.server.dispatch(11, 12, 13, 14, capability="slow")
    claimer.run_once()
    assert claimer.run_once() <= CHECK_SECONDS
    assert claimer.wants_slot
    harness.server.dispatch(5)
    harness.clock.advance(POLL)
    claimer.run_once()
    end(harness, 1)
    claimer.run_once()
    assert harness.publisher.jobs[-1] == 5


def test_jobs_for_a_full_queue_do_not_delay_polls_for_another(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 10))
    claimer.run_once()
    harness.server.dispatch(20, capability="slow")
    harness.clock.advance(claimer.run_once())
    claimer.run_once()
    assert harness.publisher.jobs == [1, 2, 3, 4, 20]
    assert harness.clock() < 1000.0 + POLL / 4


def test_the_backlog_expires_after_the_poll_interval(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 6))
    claimer.run_once()
    del harness.server.pending[5]  # claimed by another bridge
    harness.server.dispatch(6)
    harness.clock.advance(POLL + 0.1)
    end(harness, 1)
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 2, 3, 4, 6]


def test_jobs_are_claimed_by_priority_and_then_by_id(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(1, priority="low")
    harness.server.dispatch(9, priority="high")
    harness.server.dispatch(3, 2)
    claimer.run_once()
    assert harness.server.asked("claim") == [9, 2, 3, 1]
    assert harness.publisher.jobs == [9, 2, 3, 1]


def test_a_full_queue_does_not_delay_the_others(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 9))
    harness.server.dispatch(20, 21, capability="slow")
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 2, 3, 4, 20, 21]


def test_the_total_limit_counts_all_queues(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    harness = make_harness(monkeypatch, max_inflight=3)
    harness.server.dispatch(1, 2)
    harness.server.dispatch(20, 21, capability="slow")
    claimer = make(harness)
    claimer.run_once()
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 2, 20]


def test_no_more_jobs_are_claimed_than_may_be_deferred(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    """Waiting and running jobs count like deferred ones if their task defers. Jobs of other tasks do not."""
    harness = make_harness(monkeypatch, max_deferred=3)
    harness.bring("deferred", 1)
    harness.server.dispatch(*range(2, 8))
    harness.server.dispatch(20, 21, capability="slow")
    claimer = make(harness)
    for _ in range(5):
        claimer.run_once()
    assert harness.server.asked("claim") == [2, 3, 20, 21]
    assert [(each.reason, each.text) for each in harness.context.waiting.now] == [
        (
            "deferred",
            "4 jobs wait for tiny.upper: the limit of 3 deferred jobs is reached (modelreins_max_deferred); "
            "running jobs that may defer count too",
        )
    ]
    end(harness, 2)
    for _ in range(5):
        claimer.run_once()
    assert harness.server.asked("claim") == [2, 3, 20, 21, 4]


def test_two_bridges_share_the_slots_and_publish_each_job_once(
    harness: BridgeHarness, kit: LedgerKit, make: Make
) -> None:
    harness.server.dispatch(*range(1, 11))
    first, second = make(harness, side_by_side=4), make(harness, side_by_side=4)
    for claimer in (first, second, first, second):
        claimer.run_once()
    assert len(harness.publisher.jobs) == 4
    assert len(set(harness.publisher.jobs)) == 4
    assert kit.load() == 4


def test_a_job_stays_pending_if_another_bridge_takes_its_slot(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1)

    def fill() -> None:
        for job_id in range(11, 15):
            harness.bring("claimed", job_id)

    harness.server.faults["jobs"] = [fill]
    claimer.run_once()
    assert harness.server.asked("claim") == []
    assert kit.state(1) == "unknown"
    assert claimer.wants_slot


# -- which jobs ----------------------------------------------------------------------------------------------


def test_pending_jobs_are_only_counted_while_no_worker_is_online(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    harness = make_harness(monkeypatch, worker_online=False)
    harness.server.dispatch(1)
    claimer = make(harness)
    assert claimer.run_once() <= 2.0
    harness.clock.advance(2.0)
    claimer.run_once()
    assert harness.server.calls == [("jobs", "pending")]
    assert harness.context.pending == 1
    (waiting,) = harness.context.waiting.now
    assert waiting.text == "1 job waits: no worker is online"
    harness.announce()
    harness.clock.advance(2.0)
    claimer.run_once()
    assert harness.publisher.jobs == [1]


def test_a_worker_with_another_task_gets_the_jobs_that_wait_for_it_without_a_poll_interval(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    harness = make_harness(monkeypatch, worker_online=False, poll_interval=POLL)
    claimer = make(harness)
    harness.server.dispatch(1)

    def claim_after_a_look() -> list[Any]:
        claimer.run_once()
        harness.clock.advance(CHECK_SECONDS + 0.1)
        return harness.server.asked("claim")

    harness.announce("celery@a", tasks=("tiny.slow",))
    assert claim_after_a_look() == []
    harness.announce("celery@b", tasks=("tiny.slow",))
    assert claim_after_a_look() == []
    assert harness.server.asked("jobs") == ["pending"], "the second one runs nothing new"
    harness.announce("celery@c")
    assert claim_after_a_look() == [1]


def test_a_job_that_no_worker_runs_stays_pending(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    harness = make_harness(monkeypatch, worker_online=False)
    harness.announce(tasks=("tiny.upper",))
    harness.server.dispatch(1, capability="slow")
    harness.server.dispatch(2)
    make(harness).run_once()
    assert harness.server.asked("claim") == [2]


@pytest.mark.parametrize("fields", [{"capability": "unheard.of"}, {"capability": ""}])
def test_a_job_that_no_handler_takes_is_claimed_and_fails_with_the_reason(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, fields: dict[str, Any]
) -> None:
    harness.server.dispatch(1, **fields)
    claimer.run_once()
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "no handler takes job 1" in outcome.text
    assert kit.is_due("finished")
    assert harness.publisher.sent == []


def test_jobs_that_no_handler_takes_stay_pending_with_unrouted_leave(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    harness = make_harness(monkeypatch, unrouted="leave")
    harness.server.dispatch(1, capability="unheard.of")
    harness.server.dispatch(2)
    make(harness).run_once()
    assert harness.server.asked("claim") == [2]


@pytest.mark.parametrize("unrouted", ["fail", "leave"])
@pytest.mark.parametrize("error", [sqlite3.OperationalError, ValueError, SystemExit])
def test_a_job_for_which_match_raises_is_claimed_once_it_no_longer_does(
    monkeypatch: pytest.MonkeyPatch,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    unrouted: str,
    error: type[BaseException],
) -> None:
    raises = [error("not for the log")]

    def match(job: Job) -> bool:
        if raises:
            raise raises[0]
        return True

    harness = make_harness(monkeypatch, poll_interval=POLL, match=match, unrouted=unrouted)
    harness.server.dispatch(1)
    harness.server.dispatch(2, capability="slow")
    claimer = make(harness)
    for _ in range(30):
        claimer.run_once()
        harness.clock.advance(POLL)
    assert harness.server.asked("claim") == [2]
    where = f"in match ({__file__}:{match.__code__.co_firstlineno + 2})"
    text = f"1 job waits for tiny.upper: match= raised {error.__name__}, {where}"
    (waiting,) = harness.context.waiting.now
    assert (waiting.reason, waiting.text) == ("match", text)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2  # after 5 s, and a minute later
    assert all(each.startswith(f"{text} (for ") for each in warnings)
    assert "not for the log" not in caplog.text
    raises.clear()
    claimer.run_once()
    assert harness.server.asked("claim") == [2, 1]
    assert harness.context.waiting.now == ()


def test_jobs_for_which_match_raises_are_counted_while_no_worker_is_online(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    def match(job: Job) -> bool:
        raise OSError

    harness = make_harness(monkeypatch, worker_online=False, match=match)
    harness.server.dispatch(1)
    harness.server.dispatch(2, capability="slow")
    make(harness).run_once()
    assert [each.reason for each in harness.context.waiting.now] == ["no_worker", "match"]


# -- responses of the server ---------------------------------------------------------------------------------


REFUSALS = [None, 400, 404, 409, 410, 429, 500, 503]
"""Answers to a claim that leave open whether the server carried it out."""


@pytest.mark.parametrize("status", REFUSALS)
def test_a_claim_that_is_refused_is_neither_dropped_nor_repeated(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, status: int | None
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(status)]
    claimer.run_once()
    assert kit.state() == "admitted"
    assert kit.load() == 1
    assert harness.clock() < harness.context.claims_unclear_until
    harness.clock.advance(POLL * 10)
    claimer.run_once()
    assert harness.server.asked("claim") == [1]
    assert harness.publisher.sent == []


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_claim_that_is_refused_is_settled_by_the_servers_list(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, status: int | None, ours: bool
) -> None:
    harness.server.dispatch(1)

    def somebody_claims() -> None:
        claimed = harness.server.pending.pop(1)
        if ours:
            harness.server.running[1] = claimed
        raise refusal(status)

    harness.server.faults["claim"] = [somebody_claims]
    claimer.run_once()
    settle(harness)
    assert kit.state() == ("sent" if ours else "unknown")
    assert kit.load() == (1 if ours else 0)
    assert harness.publisher.jobs == ([1] if ours else [])
    claimer.run_once()
    assert harness.server.asked("claim") == [1]


@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 2.0), (1.0, 2.0), (10.0, 10.0), (600.0, 15.0)])
def test_an_unclear_claim_is_settled_after_retry_after_up_to_a_limit(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, retry_after: float | None, seconds: float
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(503, retry_after=retry_after)]
    now = kit.now()
    claimer.run_once()
    score = kit.score("admitted")
    assert score is not None
    assert seconds <= score - now < seconds + 1.5


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refused_job_that_stays_pending_is_claimed_again_later(
    harness: BridgeHarness, claimer: Claimer, status: int | None
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(status)]
    claimer.run_once()
    settle(harness)
    harness.clock.advance(POLL / 2 - 0.1)
    claimer.run_once()
    assert harness.server.asked("claim") == [1]
    harness.clock.advance(POLL)
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 1]
    assert harness.publisher.jobs == [1]


@pytest.mark.parametrize(("asked", "pause"), [(45.0, 45.0), (600.0, 60.0), (1e12, 60.0)])
def test_retry_after_delays_the_next_claim_of_a_job_up_to_a_limit(
    harness: BridgeHarness, claimer: Claimer, asked: float, pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(429, retry_after=asked)]
    claimer.run_once()
    settle(harness)
    harness.clock.advance(pause - 1.0)
    claimer.run_once()
    assert harness.server.asked("claim") == [1]
    harness.clock.advance(1.0 + POLL)
    claimer.run_once()
    assert harness.publisher.jobs == [1]
    assert (
        f"the server requested a pause of {duration(asked)} (Retry-After), next try in {duration(pause)}" in caplog.text
    )


@pytest.mark.parametrize(
    ("status", "pauses"), [(404, [5, 10, 20, 40, 80, 160, 300, 300]), (503, [5, 10, 20, 30, 30, 30, 30, 30])]
)
def test_claims_of_a_job_that_keeps_being_refused_back_off(
    harness: BridgeHarness, claimer: Claimer, monkeypatch: pytest.MonkeyPatch, status: int, pauses: list[int]
) -> None:
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(status)] * 50
    times: list[float] = []
    while len(times) < 9:
        before = len(harness.server.asked("claim"))
        claimer.run_once()
        if len(harness.server.asked("claim")) > before:
            times.append(harness.clock())
            settle(harness)
        harness.clock.advance(POLL / 2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == [pytest.approx(pause, abs=POLL + 1.0) for pause in pauses]


def test_a_refused_job_does_not_delay_the_others(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(1, 2, 3)
    harness.server.faults["claim"] = [refusal(404)]
    claimer.run_once()
    assert harness.publisher.jobs == [2, 3]


@pytest.mark.parametrize("status", [None, 500, 503])
def test_a_failed_poll_is_raised_for_the_loop(harness: BridgeHarness, claimer: Claimer, status: int | None) -> None:
    harness.server.dispatch(1)
    harness.server.faults["jobs"] = [refusal(status)]
    with pytest.raises(WorkerError):
        claimer.run_once()
    claimer.run_once()
    assert harness.publisher.jobs == [1]


@pytest.mark.parametrize("status", [401, 403])
def test_after_a_poll_with_a_refused_token_claiming_pauses(
    harness: BridgeHarness, claimer: Claimer, status: int
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["jobs"] = [refusal(status)]
    claimer.run_once()
    assert harness.context.token.rejected
    assert claimer.run_once() == harness.context.token.pause > 0.0
    assert harness.server.asked("jobs") == ["pending"]
    harness.clock.advance(harness.context.token.pause)
    claimer.run_once()
    assert not harness.context.token.rejected
    assert harness.publisher.jobs == [1]


@pytest.mark.parametrize("status", [401, 403])
def test_after_a_claim_with_a_refused_token_claiming_pauses_and_the_lists_decide(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, status: int
) -> None:
    harness.server.dispatch(1, 2)
    harness.server.faults["claim"] = [refusal(status)] * 2
    claimer.run_once()
    assert (kit.state(1), kit.state(2)) == ("admitted", "admitted")
    assert harness.clock() < harness.context.claims_unclear_until
    calls = len(harness.server.calls)
    assert claimer.run_once() == harness.context.token.pause > 0.0
    assert len(harness.server.calls) == calls
    harness.clock.advance(POLL)
    claimer.run_once()
    assert not harness.context.token.rejected
    settle(harness)
    harness.clock.advance(POLL + 1.0)
    claimer.run_once()
    assert harness.publisher.jobs == [1, 2]


def test_a_successful_claim_resets_the_count_of_token_refusals(harness: BridgeHarness, claimer: Claimer) -> None:
    for _ in range(5):
        harness.context.token.reject(refusal(401))
        harness.clock.advance(harness.context.token.pause)
    harness.server.dispatch(1)
    claimer.run_once()
    harness.context.token.reject(refusal(401))
    assert harness.context.token.pause <= 1.0


def test_a_malformed_entry_is_skipped(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(1, prompt=7)
    harness.server.dispatch(2)
    for _ in range(3):
        harness.clock.advance(3600.0)
        claimer.run_once()
    assert harness.publisher.jobs == [2]
    assert set(harness.server.left_out) == {"its prompt is int"}
    harness.server.dispatch(1)
    harness.clock.advance(2 * POLL)
    claimer.run_once()
    assert harness.publisher.jobs == [2, 1]


def test_jobs_of_a_truncated_list_are_claimed(
    harness: BridgeHarness, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    harness.server.dispatch(1, 2)
    harness.server.cut.add("pending")
    claimer.run_once()
    assert harness.publisher.jobs == [1, 2]
    assert harness.context.pending == 0
    assert "GET /my-jobs -> network; claiming continues with the 2 jobs read before it" in caplog.text


def test_repeatedly_truncated_lists_are_logged_ever_more_rarely(
    harness: BridgeHarness, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    harness.server.dispatch(1)
    for _ in range(7):
        harness.server.cut.add("pending")
        harness.clock.advance(2 * POLL)
        claimer.run_once()
    told = [record.getMessage() for record in caplog.records if "read before" in record.getMessage()]
    assert [text.partition(";")[0].partition("network")[2] for text in told] == [
        "",
        " (2 times in a row)",
        " (4 times in a row)",
    ]


def test_a_requeued_job_in_flight_is_claimed_again_but_not_sent_again(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.bring("running")
    harness.server.running.clear()
    harness.server.dispatch(1)
    claimer.run_once()
    assert harness.server.asked("claim") == [1]
    assert harness.publisher.sent == []
    assert kit.state() == "running"


def test_a_slow_claim_that_another_bridge_has_dropped_is_adopted(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [lambda: kit.ledger.drop(1)]
    claimer.run_once()
    assert kit.state() == "claimed"
    assert kit.is_due("claimed")
    assert harness.publisher.sent == []


def test_a_slow_claim_that_another_bridge_has_settled_is_left_to_it(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [lambda: kit.ledger.claimed(1, wait_seconds=LATER)]
    claimer.run_once()
    assert kit.state() == "claimed"
    assert not kit.is_due("claimed")
    assert harness.publisher.sent == []


# -- other failures ------------------------------------------------------------------------------------------


def test_without_the_ledger_nothing_is_claimed(
    harness: BridgeHarness, claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.server.dispatch(1)
    with monkeypatch.context() as patch:
        patch.setattr(harness.context.ledger, "admit", away)
        with pytest.raises(LedgerUnavailable):
            claimer.run_once()
    assert harness.server.asked("claim") == []
    assert claimer.wants_slot
    assert harness.context.waiting.now == ()  # it does not wait for a slot
    monkeypatch.setattr(harness.context.ledger, "survey", away)
    with pytest.raises(LedgerUnavailable):
        claimer.run_once()


def test_a_claim_that_cannot_be_recorded_is_settled_later(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.server.dispatch(1)
    with monkeypatch.context() as patch:
        patch.setattr(harness.context.ledger, "claimed", away)
        claimer.run_once()
    assert harness.server.running.keys() == {1}
    assert kit.state() == "admitted"


def test_an_unexpected_error_with_one_job_does_not_stop_the_others(
    harness: BridgeHarness, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    harness.server.dispatch(1, 2)
    harness.server.faults["claim"] = [RuntimeError("a bug")]
    claimer.run_once()
    assert harness.publisher.jobs == [2]
    assert "job=1 claiming interrupted" in caplog.text


def test_a_publish_that_fails_is_left_to_the_reaper(harness: BridgeHarness, kit: LedgerKit, claimer: Claimer) -> None:
    harness.server.dispatch(1, 2)
    harness.publisher.fails = [OSError("the broker is unreachable")]
    claimer.run_once()
    assert kit.state(1) == "claimed"
    assert kit.state(2) == "sent"
    assert harness.server.running.keys() == {1, 2}


def test_a_stopping_bridge_starts_no_claim(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(1)
    harness.context.stopping.set()
    claimer.run_once()
    assert harness.server.asked("claim") == []


def test_a_claim_in_progress_is_renewed(harness: BridgeHarness, kit: LedgerKit, claimer: Claimer) -> None:
    harness.server.dispatch(1)
    due: list[bool] = []

    def long_claim() -> None:
        kit.make_due("admitted")
        harness.context.renewer.run_once()
        due.append(kit.is_due("admitted"))

    harness.server.faults["claim"] = [long_claim]
    claimer.run_once()
    assert due == [False]


def test_a_slow_claim_keeps_its_slot_and_does_not_delay_the_others(
    harness: BridgeHarness, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer = make(harness, side_by_side=8, seconds=0.0)
    harness.server.dispatch(*range(1, 11))
    answer = threading.Event()
    harness.server.faults["claim"] = [lambda: answer.wait(20)]
    until(lambda: claimer.run_once() == 0.0 and len(harness.publisher.jobs) == 3)
    for _ in range(5):
        assert claimer.run_once() == 0.0
    assert len(harness.server.asked("claim")) == 4
    answer.set()
    until(lambda: claimer.run_once() > 0.0)
    assert sorted(harness.publisher.jobs) == [1, 2, 3, 4]
    end(harness, 1)
    until(lambda: claimer.run_once() > 0.0)
    assert sorted(harness.publisher.jobs) == [1, 2, 3, 4, 5]


def test_jobs_are_admitted_and_recorded_as_sent_together(
    harness: BridgeHarness, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer, ledger = make(harness, side_by_side=4), harness.context.ledger
    admitted, sent = MagicMock(wraps=ledger.admit), MagicMock(wraps=ledger.sent)
    monkeypatch.setattr(ledger, "admit", admitted)
    monkeypatch.setattr(ledger, "sent", sent)
    harness.server.dispatch(1, 2, 3, 4)
    claimer.run_once()
    assert sorted(harness.publisher.jobs) == [1, 2, 3, 4]
    assert admitted.call_count == sent.call_count == 1
    assert {harness.kit.state(job_id) for job_id in (1, 2, 3, 4)} == {"sent"}


def test_with_a_backlog_sent_jobs_are_recorded_in_batches(harness: BridgeHarness, make: Make) -> None:
    claimer = make(harness, side_by_side=4, seconds=5.0)
    harness.server.dispatch(1, 2, 3, 4, 5, 6)
    claimer.run_once()
    end(harness, 1)
    claimer.run_once()
    assert sorted(harness.publisher.jobs) == [1, 2, 3, 4, 5]
    assert harness.kit.state(5) == "claimed"
    harness.clock.advance(5.0)
    claimer.run_once()
    assert harness.kit.state(5) == "sent"


def test_sent_jobs_are_recorded_immediately_when_claiming_is_paused(harness: BridgeHarness, make: Make) -> None:
    claimer = make(harness, side_by_side=4)
    harness.server.dispatch(1, 2, 3, 4, 5, 6)
    claimer.run_once()
    end(harness, 1)
    claimer.run_once()
    pause(harness.context.ledger)
    claimer.run_once()
    assert harness.kit.state(5) == "sent"


def test_with_all_slots_taken_the_claimer_waits_for_a_notification(harness: BridgeHarness, make: Make) -> None:
    claimer = make(harness, side_by_side=4)
    harness.server.dispatch(1, 2, 3, 4, 5, 6)
    assert claimer.run_once() == 0.0  # it has only now started to listen for notifications
    assert claimer.run_once() > 0.0
    end(harness, 1)
    assert claimer.run_once() > 0.0
    assert claimer.wants_slot
    assert sorted(harness.publisher.jobs) == [1, 2, 3, 4, 5]


def test_jobs_of_another_bridge_do_not_take_slots_twice(harness: BridgeHarness, make: Make) -> None:
    claimer = make(harness, side_by_side=4)
    for job_id in (1, 2):
        harness.bring("admitted", job_id)
    harness.server.dispatch(1, 2, 3, 4, 5)
    claimer.run_once()
    assert sorted(harness.publisher.jobs) == [3, 4]


def test_sent_jobs_are_recorded_when_the_bridge_stops(harness: BridgeHarness, make: Make) -> None:
    claimer = make(harness, seconds=0.0)
    harness.server.dispatch(1)
    answer = threading.Event()
    harness.server.faults["claim"] = [lambda: answer.wait(20)]
    claimer.run_once()
    answer.set()
    claimer.close(20)
    assert harness.kit.state() == "sent"


def test_a_closed_job_is_claimed_again_after_it_was_requeued(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(1)
    claimer.run_once()
    end(harness, 1)
    kit.close()
    first = harness.publisher.sent[0][1]
    harness.server.dispatch(1)
    harness.clock.advance(POLL * 2)
    claimer.run_once()
    assert harness.publisher.jobs == [1, 1]
    assert harness.publisher.sent[1][1] != first


def test_the_log_contains_no_fields_of_the_job(
    harness: BridgeHarness, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    harness.server.dispatch(1, 2, prompt="private prompt")
    harness.server.dispatch(3, capability="unheard.of", prompt="private prompt")
    harness.server.faults["claim"] = [refusal(503), refusal(409)]
    claimer.run_once()
    assert "job=1" in caplog.text
    assert "private" not in caplog.text
    assert "the server's words" not in caplog.text


def test_jobs_without_a_handler_free_their_slots_immediately(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(*range(1, 30), capability="unheard.of")
    for _ in range(8):
        claimer.run_once()
    assert kit.ledger.survey().states["finished"] == 29


def test_while_paused_the_inbox_is_not_polled_and_the_backlog_is_cleared(
    harness: BridgeHarness, kit: LedgerKit, claimer: Claimer
) -> None:
    harness.server.dispatch(*range(1, 21))
    claimer.run_once()
    assert claimer.wants_slot
    pause(kit.ledger)
    asked = len(harness.server.asked("jobs"))
    assert claimer.run_once() > 1.0
    assert not claimer.wants_slot
    assert len(harness.server.asked("jobs")) == asked


def test_a_pause_during_the_poll_prevents_the_claims(harness: BridgeHarness, kit: LedgerKit, claimer: Claimer) -> None:
    harness.server.dispatch(1)
    harness.server.faults["jobs"] = [lambda: pause(kit.ledger)]
    claimer.run_once()
    assert harness.server.asked("claim") == []


def test_claimed_jobs_are_subtracted_from_the_pending_count(harness: BridgeHarness, claimer: Claimer) -> None:
    harness.server.dispatch(*range(1, 21))
    claimer.run_once()
    assert harness.context.pending == 20 - len(harness.server.running)
