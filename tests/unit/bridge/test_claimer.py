"""Pending jobs become sent tasks: as many as the fleet can run, each once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any
from unittest.mock import MagicMock

import pytest

from mr_celery.bridge import claimer as module
from mr_celery.bridge.candidates import DOUBT_SECONDS
from mr_celery.bridge.claimer import Claimer
from mr_celery.bridge.sync import InFlightSync
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import RunKey
from mr_celery.operations import pause
from support.ledgers import DONE, LATER, Books, Desk, make_desk, refusal
from support.ports import until

POLL = 5.0

Make = Callable[..., Claimer]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Two queues with four slots each."""
    return make_desk(monkeypatch, poll_interval=POLL)


@pytest.fixture
def books(desk: Desk) -> Books:
    return desk.books


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes claimers that see all their claims through before they go on."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 30.0)
    monkeypatch.setattr(module, "GATHER_SECONDS", 30.0)
    made: list[Claimer] = []

    def claimer(desk: Desk, *, side_by_side: int = 1) -> Claimer:
        made.append(Claimer(desk.office, side_by_side=side_by_side))
        return made[-1]

    yield claimer
    for each in made:
        each.close(20)


@pytest.fixture
def claimer(desk: Desk, make: Make) -> Claimer:
    return make(desk)


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("the ledger is away")


def settle(desk: Desk) -> None:
    """The server's lists settle what claims had no clear answer."""
    desk.books.make_due("admitted")
    InFlightSync(desk.office).run_once()


def end(desk: Desk, job_id: int) -> None:
    """A worker runs a job to its end."""
    run = RunKey(job_id, desk.books.record(job_id).task_id)
    desk.books.start(run)
    assert desk.books.ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"


# -- what is claimed ---------------------------------------------------------------------------------------


def test_a_pending_job_is_claimed_and_published_under_its_recorded_id(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(1, priority="high")
    assert claimer.run_once() == 0.0  # there may be more
    assert desk.server.running.keys() == {1}
    assert desk.sender.sent == [(1, books.record().task_id)]
    assert desk.sender.details == [("high", 0)]
    assert books.state() == "sent"


def test_a_job_is_admitted_before_it_is_claimed_and_claimed_before_it_is_published(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(1)
    seen: list[tuple[str, list[int]]] = []
    desk.server.faults["claim"] = [lambda: seen.append((books.state(), desk.sender.jobs))]
    claimer.run_once()
    assert seen == [("admitted", [])]


def test_no_more_is_claimed_than_the_fleet_can_run(desk: Desk, books: Books, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 11))
    claimer.run_once()
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 2, 3, 4]
    assert len(desk.server.pending) == 6
    assert books.load() == 4
    assert claimer.hungry


def test_a_slot_that_becomes_free_is_taken_from_what_is_known_already(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 11))
    claimer.run_once()
    end(desk, 2)
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 2, 3, 4, 5]
    assert desk.server.asked("jobs") == ["pending"]


def test_with_jobs_waiting_the_next_look_is_soon_and_without_it_is_the_poll_interval(
    desk: Desk, claimer: Claimer
) -> None:
    pause = claimer.run_once()
    assert POLL <= pause <= POLL * 1.2
    desk.clock.advance(pause)
    desk.server.dispatch(*range(1, 6))
    assert claimer.run_once() == 0.0
    assert claimer.run_once() <= module.HUNGRY_SECONDS


def test_the_inbox_is_asked_in_the_rhythm_in_which_jobs_come(desk: Desk, claimer: Claimer) -> None:
    """One job per second, while the clock stands still but for the loop's pauses."""
    came: list[float] = []
    waits: list[float] = []
    looks_before = len(desk.server.asked("jobs"))
    first = desk.clock()
    while desk.clock() < first + 120.0:
        while (at := first + 0.4 + len(came)) <= desk.clock():
            came.append(at)
            desk.server.dispatch(len(came))
        pause = claimer.run_once()
        for job_id in desk.sender.jobs[len(waits) :]:
            waits.append(desk.clock() - came[job_id - 1])
            end(desk, job_id)
        desk.clock.advance(pause)
    assert sorted(waits[20:])[50] < 0.15
    assert len(desk.server.asked("jobs")) - looks_before <= 120


def test_after_a_look_that_brought_many_jobs_the_next_comes_when_they_are_used_up(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    desk = make_desk(monkeypatch, poll_interval=POLL, max_inflight=100)
    claimer = make(desk)
    desk.server.dispatch(*range(1, 1 + module.PLENTY))
    assert claimer.run_once() == 0.0
    desk.server.dispatch(101, 102)
    assert claimer.run_once() == 0.0
    assert desk.sender.jobs[-2:] == [101, 102]
    desk.server.dispatch(103)
    pause = claimer.run_once()
    assert pause > 0.0  # the last look brought few: it is not worth another one at once
    assert desk.server.asked("jobs") == ["pending"] * 2
    desk.clock.advance(pause)
    claimer.run_once()
    assert desk.sender.jobs[-1] == 103


def test_an_answer_that_was_much_work_is_used_longer_though_not_for_ever(
    desk: Desk, claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = iter([0.0, 0.2, 1.0, 11.0, 12.0, 12.0])
    monkeypatch.setattr("mr_celery.bridge.claimer.time.thread_time", lambda: next(spent))
    desk.server.dispatch(*range(1, 100))
    claimer.run_once()
    steps = [(9.9, 1), (0.2, 2), (module.MOST_STALE_SECONDS - 0.1, 2), (40.2, 3)]
    for job_id, (seconds, looks) in enumerate(steps, start=1):
        desk.clock.advance(seconds)
        end(desk, job_id)
        claimer.run_once()
        assert len(desk.server.asked("jobs")) == looks


def test_a_full_fleet_waits_for_a_slot_even_if_no_job_is_known_yet(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1, 2, 3, 4)
    desk.server.dispatch(11, 12, 13, 14, capability="slow")
    claimer.run_once()
    assert claimer.run_once() <= module.HUNGRY_SECONDS
    assert claimer.hungry
    desk.server.dispatch(5)
    desk.clock.advance(POLL)
    claimer.run_once()
    end(desk, 1)
    claimer.run_once()
    assert desk.sender.jobs[-1] == 5


def test_jobs_that_wait_for_one_queue_do_not_keep_the_looks_for_another_one_back(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 10))
    claimer.run_once()
    desk.server.dispatch(20, capability="slow")
    desk.clock.advance(claimer.run_once())
    claimer.run_once()
    assert desk.sender.jobs == [1, 2, 3, 4, 20]
    assert desk.clock() < 1000.0 + POLL / 4


def test_what_is_known_of_the_inbox_is_forgotten_after_the_poll_interval(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 6))
    claimer.run_once()
    del desk.server.pending[5]  # another bridge's
    desk.server.dispatch(6)
    desk.clock.advance(POLL + 0.1)
    end(desk, 1)
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 2, 3, 4, 6]


def test_urgent_jobs_are_claimed_first_and_then_in_their_order(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1, priority="low")
    desk.server.dispatch(9, priority="high")
    desk.server.dispatch(3, 2)
    claimer.run_once()
    assert desk.server.asked("claim") == [9, 2, 3, 1]
    assert desk.sender.jobs == [9, 2, 3, 1]


def test_a_full_queue_does_not_keep_the_others_back(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 9))
    desk.server.dispatch(20, 21, capability="slow")
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 2, 3, 4, 20, 21]


def test_a_limit_of_the_whole_counts_all_queues(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    desk = make_desk(monkeypatch, max_inflight=3)
    desk.server.dispatch(1, 2)
    desk.server.dispatch(20, 21, capability="slow")
    claimer = make(desk)
    claimer.run_once()
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 2, 20]


def test_two_bridges_share_the_slots_and_no_job_is_published_twice(desk: Desk, books: Books, make: Make) -> None:
    desk.server.dispatch(*range(1, 11))
    first, second = make(desk, side_by_side=4), make(desk, side_by_side=4)
    for claimer in (first, second, first, second):
        claimer.run_once()
    assert len(desk.sender.jobs) == 4
    assert len(set(desk.sender.jobs)) == 4
    assert books.load() == 4


def test_a_slot_that_another_bridge_takes_first_leaves_the_job_pending(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(1)

    def fill() -> None:
        for job_id in range(11, 15):
            desk.bring("claimed", job_id)

    desk.server.faults["jobs"] = [fill]
    claimer.run_once()
    assert desk.server.asked("claim") == []
    assert books.state(1) == "unknown"
    assert claimer.hungry


# -- whom it is for ----------------------------------------------------------------------------------------


def test_with_no_worker_online_the_server_is_not_even_asked(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    desk = make_desk(monkeypatch, worker_online=False)
    desk.server.dispatch(1)
    claimer = make(desk)
    assert claimer.run_once() <= module.NO_WORKER_SECONDS
    assert desk.server.calls == []
    desk.announce()
    desk.clock.advance(2.0)
    claimer.run_once()
    assert desk.sender.jobs == [1]


def test_a_job_that_no_worker_of_the_fleet_runs_stays_pending(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    desk = make_desk(monkeypatch, worker_online=False)
    desk.announce(tasks=("tiny.upper",))
    desk.server.dispatch(1, capability="slow")
    desk.server.dispatch(2)
    make(desk).run_once()
    assert desk.server.asked("claim") == [2]


@pytest.mark.parametrize("fields", [{"capability": "unheard.of"}, {"capability": ""}])
def test_a_job_that_no_handler_takes_is_claimed_and_fails_with_the_reason(
    desk: Desk, books: Books, claimer: Claimer, fields: dict[str, Any]
) -> None:
    desk.server.dispatch(1, **fields)
    claimer.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "no handler takes job 1" in outcome.text
    assert books.is_due("finished")
    assert desk.sender.sent == []


def test_jobs_that_no_handler_takes_are_left_to_others_on_request(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    desk = make_desk(monkeypatch, unrouted="leave")
    desk.server.dispatch(1, capability="unheard.of")
    desk.server.dispatch(2)
    make(desk).run_once()
    assert desk.server.asked("claim") == [2]


# -- what the server answers -------------------------------------------------------------------------------


REFUSALS = [None, 400, 404, 409, 410, 429, 500, 503]
"""What may be answered to a claim that the server carried out all the same, or not."""


@pytest.mark.parametrize("status", REFUSALS)
def test_a_claim_that_is_refused_is_neither_dropped_nor_repeated(
    desk: Desk, books: Books, claimer: Claimer, status: int | None
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(status)]
    claimer.run_once()
    assert books.state() == "admitted"
    assert books.load() == 1
    assert desk.office.claims_unclear
    desk.clock.advance(POLL * 10)
    claimer.run_once()
    assert desk.server.asked("claim") == [1]
    assert desk.sender.sent == []


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_claim_that_is_refused_is_settled_by_the_servers_list(
    desk: Desk, books: Books, claimer: Claimer, status: int | None, ours: bool
) -> None:
    desk.server.dispatch(1)

    def somebody_claims() -> None:
        claimed = desk.server.pending.pop(1)
        if ours:
            desk.server.running[1] = claimed
        raise refusal(status)

    desk.server.faults["claim"] = [somebody_claims]
    claimer.run_once()
    settle(desk)
    assert books.state() == ("sent" if ours else "unknown")
    assert books.load() == (1 if ours else 0)
    assert desk.sender.jobs == ([1] if ours else [])
    claimer.run_once()
    assert desk.server.asked("claim") == [1]


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [(None, 2.0), (1.0, 2.0), (10.0, 10.0), (600.0, module.MOST_SETTLE_SECONDS)]
)
def test_an_unclear_claim_is_settled_when_the_server_has_had_time_though_not_for_ever(
    desk: Desk, books: Books, claimer: Claimer, retry_after: float | None, seconds: float
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(503, retry_after=retry_after)]
    now = books.now()
    claimer.run_once()
    score = books.score("admitted")
    assert score is not None
    assert seconds <= score - now < seconds + 1.5


@pytest.mark.parametrize("status", REFUSALS)
def test_a_job_that_is_pending_still_is_not_asked_for_at_once(desk: Desk, claimer: Claimer, status: int | None) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(status)]
    claimer.run_once()
    settle(desk)
    desk.clock.advance(POLL / 2 - 0.1)
    claimer.run_once()
    assert desk.server.asked("claim") == [1]
    desk.clock.advance(POLL)
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 1]
    assert desk.sender.jobs == [1]


def test_a_job_is_not_asked_for_before_the_time_that_the_server_asks_for(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(429, retry_after=600.0)]
    claimer.run_once()
    settle(desk)
    desk.clock.advance(599.0)
    claimer.run_once()
    assert desk.server.asked("claim") == [1]
    desk.clock.advance(1.0 + POLL)
    claimer.run_once()
    assert desk.sender.jobs == [1]


@pytest.mark.parametrize(
    ("status", "pauses"), [(404, [5, 10, 20, 40, 80, 160, 300, 300]), (503, [5, 10, 20, 30, 30, 30, 30, 30])]
)
def test_a_job_that_is_refused_again_is_asked_for_less_often(
    desk: Desk, claimer: Claimer, monkeypatch: pytest.MonkeyPatch, status: int, pauses: list[int]
) -> None:
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(status)] * 50
    times: list[float] = []
    while len(times) < 9:
        before = len(desk.server.asked("claim"))
        claimer.run_once()
        if len(desk.server.asked("claim")) > before:
            times.append(desk.clock())
            settle(desk)
        desk.clock.advance(1.0)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == [pytest.approx(pause, abs=POLL + 1.0) for pause in pauses]


def test_a_refused_job_does_not_keep_the_others_back(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1, 2, 3)
    desk.server.faults["claim"] = [refusal(404)]
    claimer.run_once()
    assert desk.sender.jobs == [2, 3]


@pytest.mark.parametrize("status", [None, 500, 503])
def test_an_inbox_that_cannot_be_asked_is_the_loops_to_repeat(desk: Desk, claimer: Claimer, status: int | None) -> None:
    desk.server.dispatch(1)
    desk.server.faults["jobs"] = [refusal(status)]
    with pytest.raises(WorkerError):
        claimer.run_once()
    claimer.run_once()
    assert desk.sender.jobs == [1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_for_the_inbox_is_tried_again_after_a_pause(
    desk: Desk, claimer: Claimer, status: int
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["jobs"] = [refusal(status)]
    claimer.run_once()
    assert desk.office.token_rejected
    assert claimer.run_once() == desk.office.token_pause > 0.0
    assert desk.server.asked("jobs") == ["pending"]
    desk.clock.advance(desk.office.token_pause)
    claimer.run_once()
    assert not desk.office.token_rejected
    assert desk.sender.jobs == [1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_for_a_claim_is_tried_again_after_a_pause_with_what_the_lists_say_of_the_job(
    desk: Desk, books: Books, claimer: Claimer, status: int
) -> None:
    desk.server.dispatch(1, 2)
    desk.server.faults["claim"] = [refusal(status)] * 2
    claimer.run_once()
    assert (books.state(1), books.state(2)) == ("admitted", "admitted")
    assert desk.office.claims_unclear
    calls = len(desk.server.calls)
    assert claimer.run_once() == desk.office.token_pause > 0.0
    assert len(desk.server.calls) == calls
    desk.clock.advance(POLL)
    claimer.run_once()
    assert not desk.office.token_rejected
    settle(desk)
    desk.clock.advance(POLL + 1.0)
    claimer.run_once()
    assert desk.sender.jobs == [1, 2]


def test_a_claim_that_is_carried_out_shows_that_a_refusal_was_a_lapse(desk: Desk, claimer: Claimer) -> None:
    for _ in range(5):
        desk.office.reject_token(refusal(401))
        desk.clock.advance(desk.office.token_pause)
    desk.server.dispatch(1)
    claimer.run_once()
    desk.office.reject_token(refusal(401))
    assert desk.office.token_pause <= 1.0


def test_an_entry_that_was_garbled_waits_for_a_better_answer_and_keeps_no_other_back(
    desk: Desk, claimer: Claimer
) -> None:
    desk.server.dispatch(1, prompt=7)
    desk.server.dispatch(2)
    claimer.run_once()
    assert desk.sender.jobs == [2]
    desk.server.dispatch(1)
    desk.clock.advance(POLL + 0.1)
    claimer.run_once()
    assert desk.sender.jobs == [2, 1]


def test_a_job_that_stays_doubtful_is_claimed_in_the_end(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1, prompt=7)
    claimer.run_once()
    desk.clock.advance(DOUBT_SECONDS)
    claimer.run_once()
    assert desk.sender.jobs == [1]


def test_a_job_in_flight_that_the_server_put_back_is_claimed_again_and_not_sent_again(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.bring("running")
    desk.server.running.clear()
    desk.server.dispatch(1)
    claimer.run_once()
    assert desk.server.asked("claim") == [1]
    assert desk.sender.sent == []
    assert books.state() == "running"


def test_a_claim_that_another_bridge_found_not_to_have_happened_is_made_known(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [lambda: books.ledger.drop(1)]
    claimer.run_once()
    assert books.state() == "claimed"
    assert books.is_due("claimed")
    assert desk.sender.sent == []


def test_a_claim_that_another_bridge_found_to_have_happened_is_published_by_that_one(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [lambda: books.ledger.claimed(1, wait_seconds=LATER)]
    claimer.run_once()
    assert books.state() == "claimed"
    assert not books.is_due("claimed")
    assert desk.sender.sent == []


# -- what else may go wrong --------------------------------------------------------------------------------


def test_without_the_ledger_nothing_is_claimed(desk: Desk, claimer: Claimer, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.dispatch(1)
    with monkeypatch.context() as patch:
        patch.setattr(desk.office.ledger, "admit", away)
        with pytest.raises(LedgerUnavailable):
            claimer.run_once()
    assert desk.server.asked("claim") == []
    assert claimer.hungry
    monkeypatch.setattr(desk.office.ledger, "survey", away)
    with pytest.raises(LedgerUnavailable):
        claimer.run_once()


def test_a_claim_after_which_the_ledger_is_away_is_left_to_be_settled(
    desk: Desk, books: Books, claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.server.dispatch(1)
    with monkeypatch.context() as patch:
        patch.setattr(desk.office.ledger, "claimed", away)
        claimer.run_once()
    assert desk.server.running.keys() == {1}
    assert books.state() == "admitted"


def test_an_unexpected_error_with_one_job_does_not_stop_the_others(
    desk: Desk, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    desk.server.dispatch(1, 2)
    desk.server.faults["claim"] = [RuntimeError("a bug")]
    claimer.run_once()
    assert desk.sender.jobs == [2]
    assert "job=1 claiming interrupted" in caplog.text


def test_a_publish_that_fails_is_left_to_the_reaper(
    desk: Desk, books: Books, claimer: Claimer, caplog: pytest.LogCaptureFixture
) -> None:
    desk.server.dispatch(1, 2)
    desk.sender.fails = [OSError("the broker is away")]
    claimer.run_once()
    assert books.state(1) == "claimed"
    assert books.state(2) == "sent"
    assert desk.server.running.keys() == {1, 2}
    assert "not published, next try soon: OSError" in caplog.text


def test_a_bridge_that_is_stopping_begins_no_claim(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(1)
    desk.office.stopping.set()
    claimer.run_once()
    assert desk.server.asked("claim") == []


def test_a_claim_under_way_is_known_to_the_office_while_it_lasts(desk: Desk, books: Books, claimer: Claimer) -> None:
    desk.server.dispatch(1)
    due: list[bool] = []

    def long_claim() -> None:
        books.make_due("admitted")
        desk.office.hold_claims()
        due.append(books.is_due("admitted"))

    desk.server.faults["claim"] = [long_claim]
    claimer.run_once()
    assert due == [False]


def test_a_claim_that_takes_long_keeps_its_slot_and_does_not_hold_up_the_others(
    desk: Desk, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.0)
    claimer = make(desk, side_by_side=8)
    desk.server.dispatch(*range(1, 11))
    answer = threading.Event()
    desk.server.faults["claim"] = [lambda: answer.wait(20)]
    until(lambda: claimer.run_once() == 0.0 and len(desk.sender.jobs) == 3)
    for _ in range(5):
        assert claimer.run_once() == 0.0
    assert len(desk.server.asked("claim")) == 4
    answer.set()
    until(lambda: claimer.run_once() > 0.0)
    assert sorted(desk.sender.jobs) == [1, 2, 3, 4]
    end(desk, 1)
    until(lambda: claimer.run_once() > 0.0)
    assert sorted(desk.sender.jobs) == [1, 2, 3, 4, 5]


def test_jobs_are_admitted_and_recorded_as_sent_together(
    desk: Desk, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer, ledger = make(desk, side_by_side=4), desk.office.ledger
    admitted, sent = MagicMock(wraps=ledger.admit), MagicMock(wraps=ledger.sent)
    monkeypatch.setattr(ledger, "admit", admitted)
    monkeypatch.setattr(ledger, "sent", sent)
    desk.server.dispatch(1, 2, 3, 4)
    claimer.run_once()
    assert sorted(desk.sender.jobs) == [1, 2, 3, 4]
    assert admitted.call_count == sent.call_count == 1
    assert {desk.books.state(job_id) for job_id in (1, 2, 3, 4)} == {"sent"}


def test_while_more_waits_what_was_sent_is_recorded_a_few_times_a_second(desk: Desk, make: Make) -> None:
    claimer = make(desk, side_by_side=4)
    desk.server.dispatch(1, 2, 3, 4, 5, 6)
    claimer.run_once()
    end(desk, 1)
    claimer.run_once()
    assert sorted(desk.sender.jobs) == [1, 2, 3, 4, 5]
    assert desk.books.state(5) == "claimed"
    desk.clock.advance(module.RECORD_SECONDS)
    claimer.run_once()
    assert desk.books.state(5) == "sent"


def test_what_was_sent_is_recorded_at_once_when_the_claiming_is_paused(desk: Desk, make: Make) -> None:
    claimer = make(desk, side_by_side=4)
    desk.server.dispatch(1, 2, 3, 4, 5, 6)
    claimer.run_once()
    end(desk, 1)
    claimer.run_once()
    pause(desk.office.ledger)
    claimer.run_once()
    assert desk.books.state(5) == "sent"


def test_where_all_slots_are_taken_the_bell_is_waited_for(desk: Desk, make: Make) -> None:
    claimer = make(desk, side_by_side=4)
    desk.server.dispatch(1, 2, 3, 4, 5, 6)
    assert claimer.run_once() == 0.0  # the bell was not listened to before
    assert claimer.run_once() > 0.0
    end(desk, 1)
    assert claimer.run_once() > 0.0
    assert claimer.hungry
    assert sorted(desk.sender.jobs) == [1, 2, 3, 4, 5]


def test_jobs_that_another_bridge_has_take_no_room_from_those_after_them(desk: Desk, make: Make) -> None:
    claimer = make(desk, side_by_side=4)
    for job_id in (1, 2):
        desk.bring("admitted", job_id)
    desk.server.dispatch(1, 2, 3, 4, 5)
    claimer.run_once()
    assert sorted(desk.sender.jobs) == [3, 4]


def test_what_was_sent_when_the_bridge_stops_is_recorded(desk: Desk, make: Make) -> None:
    claimer = make(desk)
    desk.server.dispatch(1)
    answer = threading.Event()
    desk.server.faults["claim"] = [lambda: answer.wait(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_SECONDS", 0.0)
        patch.setattr(module, "GATHER_SECONDS", 0.0)
        claimer.run_once()
    answer.set()
    claimer.close(20)
    assert desk.books.state() == "sent"


def test_a_job_that_is_over_is_claimed_anew_when_it_was_requeued(desk: Desk, books: Books, claimer: Claimer) -> None:
    desk.server.dispatch(1)
    claimer.run_once()
    end(desk, 1)
    books.close()
    first = desk.sender.sent[0][1]
    desk.server.dispatch(1)
    desk.clock.advance(POLL * 2)
    claimer.run_once()
    assert desk.sender.jobs == [1, 1]
    assert desk.sender.sent[1][1] != first


def test_the_log_has_no_content_of_the_job(desk: Desk, claimer: Claimer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    desk.server.dispatch(1, 2, prompt="private prompt")
    desk.server.dispatch(3, capability="unheard.of", prompt="private prompt")
    desk.server.faults["claim"] = [refusal(503), refusal(409)]
    claimer.run_once()
    assert "job=1" in caplog.text
    assert "private" not in caplog.text
    assert "the server's words" not in caplog.text


def test_jobs_that_are_refused_take_no_slots_for_long(desk: Desk, books: Books, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 30), capability="unheard.of")
    for _ in range(8):
        claimer.run_once()
    assert books.ledger.survey().states["finished"] == 29


def test_while_it_is_paused_the_inbox_is_not_asked_and_what_waited_is_forgotten(
    desk: Desk, books: Books, claimer: Claimer
) -> None:
    desk.server.dispatch(*range(1, 21))
    claimer.run_once()
    assert claimer.hungry
    pause(books.ledger)
    asked = len(desk.server.asked("jobs"))
    assert claimer.run_once() > 1.0
    assert not claimer.hungry
    assert len(desk.server.asked("jobs")) == asked


def test_a_pause_after_the_look_into_the_inbox_is_in_time(desk: Desk, books: Books, claimer: Claimer) -> None:
    desk.server.dispatch(1)
    desk.server.faults["jobs"] = [lambda: pause(books.ledger)]
    claimer.run_once()
    assert desk.server.asked("claim") == []


def test_what_is_pending_is_counted_less_what_was_claimed(desk: Desk, claimer: Claimer) -> None:
    desk.server.dispatch(*range(1, 21))
    claimer.run_once()
    assert desk.office.pending == 20 - len(desk.server.running)
