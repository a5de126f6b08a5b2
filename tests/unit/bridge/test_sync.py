"""What the server's lists say of the jobs in flight, and what they do not say."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from mr_celery.bridge.candidates import DOUBT_SECONDS
from mr_celery.bridge.office import UNCLEAR_SECONDS
from mr_celery.bridge.reaper import Reaper
from mr_celery.bridge.sync import FEW, MISSES, SILENT_SECONDS, InFlightSync
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger.ledger import MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from support.ledgers import DONE, Books, Desk, listed, make_desk, refusal

POLL = 5.0


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, poll_interval=POLL, lease=30.0)


@pytest.fixture
def books(desk: Desk) -> Books:
    return desk.books


@pytest.fixture
def sync(desk: Desk) -> InFlightSync:
    return InFlightSync(desk.office)


LONG = int(DOUBT_SECONDS / POLL) + 1
"""How many comparisons take longer than torn lists are doubted."""


def compare(desk: Desk, sync: InFlightSync, times: int = 1) -> None:
    """Let it be time to compare, and compare."""
    for _ in range(times):
        desk.clock.advance(POLL + 0.1)
        desk.books.redis.delete(desk.books.key("turn:sync"))
        sync.run_once()


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("away")


# -- when the server is asked ------------------------------------------------------------------------------


def test_with_nothing_in_flight_the_server_is_asked_once(desk: Desk, sync: InFlightSync) -> None:
    compare(desk, sync, 5)
    assert desk.server.asked("jobs") == ["running"]


def test_with_jobs_in_flight_it_is_asked_in_the_pace_of_the_inbox(desk: Desk, sync: InFlightSync) -> None:
    desk.bring("running")
    sync.run_once()
    for _ in range(10):
        desk.clock.advance(POLL / 10 - 0.01)
        sync.run_once()
    assert desk.server.asked("jobs") == ["running"]
    compare(desk, sync)
    assert desk.server.asked("jobs") == ["running"] * 2


@pytest.mark.parametrize(("work", "seconds"), [(0.2, 10.0), (10.0, 30.0)])
def test_comparisons_that_are_much_work_are_made_less_often(
    desk: Desk, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch, work: float, seconds: float
) -> None:
    spent = count(0.0, work)
    monkeypatch.setattr("mr_celery.bridge.sync.time.thread_time", lambda: next(spent))
    desk.bring("running")
    compare(desk, sync, 2)  # after the first one it is known
    asked = len(desk.server.asked("jobs"))
    for step, more in [(seconds - 0.1, 0), (0.2, 1)]:
        desk.books.redis.delete(desk.books.key("turn:sync"))
        desk.clock.advance(step)
        sync.run_once()
        assert len(desk.server.asked("jobs")) == asked + more


def test_the_inbox_is_asked_too_where_a_job_in_flight_is_not_listed_as_running(desk: Desk, sync: InFlightSync) -> None:
    desk.bring("running")
    desk.server.running.clear()
    compare(desk, sync)
    assert desk.server.asked("jobs") == ["running", "pending"]


def test_of_several_bridges_one_asks(desk: Desk, sync: InFlightSync) -> None:
    other = InFlightSync(desk.office)
    desk.bring("running")
    sync.run_once()
    other.run_once()
    before = len(desk.server.calls)
    desk.clock.advance(POLL + 0.1)
    desk.books.redis.delete(desk.books.key("turn:sync"))
    sync.run_once()
    other.run_once()
    assert len(desk.server.calls) == before + 1


def test_after_the_last_job_it_is_asked_once_more(desk: Desk, sync: InFlightSync) -> None:
    desk.bring("running")
    compare(desk, sync)
    desk.books.ledger.abort(1, "operator")
    del desk.server.running[1]
    compare(desk, sync, 5)
    assert desk.server.asked("jobs") == ["running"] * 2


def test_a_job_that_is_running_all_the_same_after_the_last_one_is_found(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("running")
    compare(desk, sync)
    books.ledger.abort(1, "operator")
    desk.server.running[2] = listed(2)
    compare(desk, sync)
    assert books.state(2) == "claimed"


@pytest.mark.parametrize("status", [None, 401, 500])
def test_a_last_comparison_that_the_server_did_not_answer_is_repeated(
    desk: Desk, books: Books, sync: InFlightSync, status: int | None
) -> None:
    desk.server.running[1] = listed(1)
    desk.server.faults["jobs"] = [refusal(status)]
    with suppress(WorkerError):
        compare(desk, sync)
    assert books.state() == "unknown"
    desk.clock.advance(desk.office.token_pause)
    desk.office.accept_token()
    compare(desk, sync)
    assert books.state() == "claimed"


@pytest.mark.parametrize("step", ["survey", "in_flight", "adopt"])
def test_a_last_comparison_that_the_ledger_did_not_take_is_repeated(
    desk: Desk, books: Books, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    desk.server.running[1] = listed(1)
    with monkeypatch.context() as patch:
        patch.setattr(books.ledger, step, away)
        with pytest.raises(LedgerUnavailable):
            compare(desk, sync)
    compare(desk, sync)
    assert books.state() == "claimed"


def test_a_last_list_of_which_a_part_is_lost_is_asked_for_again(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.server.torn.add("running")
    compare(desk, sync)
    desk.server.torn.clear()
    desk.server.running[1] = listed(1)
    compare(desk, sync)
    assert books.state() == "claimed"


def test_while_a_claim_without_a_clear_answer_may_come_to_light_it_is_asked(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    compare(desk, sync)
    desk.office.claim_unclear()
    compare(desk, sync, 3)
    desk.server.running[1] = listed(1)  # the server carries the claim out at last
    compare(desk, sync)
    assert books.state() == "claimed"


def test_when_no_claim_can_come_to_light_any_more_it_is_not_asked(desk: Desk, sync: InFlightSync) -> None:
    desk.office.claim_unclear()
    desk.clock.advance(UNCLEAR_SECONDS)
    compare(desk, sync, 5)
    assert desk.server.asked("jobs") == ["running"]


def test_a_ledger_that_was_emptied_is_filled_again_from_the_servers_list(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("running")
    compare(desk, sync)
    books.redis.flushall()
    compare(desk, sync)
    assert books.state() == "claimed"


# -- claims to settle --------------------------------------------------------------------------------------


def test_an_unclear_claim_that_the_server_lists_as_running_is_published(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("admitted", priority="high")
    desk.server.running[1] = listed(1)
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == "sent"
    assert desk.sender.sent == [(1, books.record().task_id)]
    assert desk.sender.details == [("high", 0)]


@pytest.mark.parametrize("pending", [True, False])
def test_an_unclear_claim_that_is_not_listed_as_running_had_not_happened(
    desk: Desk, books: Books, sync: InFlightSync, pending: bool
) -> None:
    desk.bring("admitted")
    if pending:
        desk.server.dispatch(1)
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == "unknown"
    assert books.load() == 0
    assert desk.sender.sent == []


def test_a_claim_under_way_is_not_settled(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.bring("admitted")
    compare(desk, sync)
    assert books.state() == "admitted"


@pytest.mark.parametrize(
    ("listed_as", "state"), [("running", "sent"), ("pending", "unknown"), ("ended", "admitted"), ("", "admitted")]
)
def test_a_list_of_which_a_part_is_lost_settles_what_is_listed(
    desk: Desk, books: Books, sync: InFlightSync, listed_as: str, state: str
) -> None:
    desk.bring("admitted")
    desk.server.torn |= {"running", "pending"}
    if listed_as:
        getattr(desk.server, listed_as)[1] = listed(1)
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == state
    assert not books.is_due("admitted")


def test_a_claim_that_lists_which_stay_torn_do_not_show_is_given_up_in_the_end(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("admitted")
    desk.server.torn.add("running")
    compare(desk, sync, times=LONG)
    books.make_due("admitted")
    compare(desk, sync)
    assert books.state() == "unknown"


@pytest.mark.parametrize("status", [None, 200, 429, 500, 503])
def test_without_a_list_nothing_is_settled(desk: Desk, books: Books, sync: InFlightSync, status: int | None) -> None:
    desk.bring("admitted")
    books.make_due("admitted")
    desk.server.faults["jobs"] = [refusal(status)]
    with pytest.raises(WorkerError):
        sync.run_once()
    assert books.state() == "admitted"
    assert not books.is_due("admitted")  # held for a while, then it is asked for again
    desk.server.running[1] = listed(1)
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == "sent"


def test_a_settled_claim_whose_publish_fails_is_left_to_the_reaper(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("admitted")
    desk.server.running[1] = listed(1)
    desk.sender.fails = [OSError("the broker is away")]
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == "claimed"
    books.make_due("claimed")
    Reaper(desk.office).run_once()
    assert desk.sender.jobs == [1]


# -- adoption ----------------------------------------------------------------------------------------------


def test_a_job_that_the_ledger_has_lost_is_adopted_and_sent_after_a_lease(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.server.running[1] = listed(1, priority="low")
    now = books.now()
    sync.run_once()
    assert books.state() == "claimed"
    score = books.score("claimed")
    assert score is not None
    assert 29 < score - now < 32
    assert desk.sender.sent == []
    books.make_due("claimed")
    Reaper(desk.office).run_once()
    assert desk.sender.jobs == [1]
    assert desk.sender.details == [("low", 0)]


@pytest.mark.parametrize(("assigned_to", "state"), [("w", "claimed"), ("", "claimed"), ("somebody-else", "unknown")])
def test_only_jobs_of_our_own_name_are_adopted(
    desk: Desk, books: Books, sync: InFlightSync, assigned_to: str, state: str
) -> None:
    desk.server.running[1] = listed(1, assigned_to=assigned_to)
    sync.run_once()
    assert books.state() == state


def test_a_job_that_ended_while_the_server_was_asked_is_not_adopted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    run = desk.bring("finished")
    asked: list[str] = []

    def end_in_between() -> None:
        asked.append(run.task_id)
        books.close()

    desk.server.faults["jobs"] = [end_in_between]
    sync.run_once()
    assert asked
    assert books.state() == "closed"


def test_an_adopted_job_that_no_handler_takes_fails_with_the_reason(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.server.running[1] = listed(1, capability="unheard.of")
    sync.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "no handler takes job 1" in outcome.text
    assert books.is_due("finished")


def test_an_entry_that_is_no_job_does_not_keep_the_others_from_being_adopted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.server.running[-1] = listed(-1)
    desk.server.running[1] = listed(1)
    sync.run_once()
    assert books.state() == "claimed"


def test_an_entry_that_was_garbled_waits_for_a_better_answer(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.server.running[1] = listed(1, prompt=None)
    compare(desk, sync, 3)
    assert books.state() == "unknown"
    desk.server.running[1] = listed(1)
    compare(desk, sync)
    assert books.state() == "claimed"


def test_an_entry_that_stays_doubtful_is_adopted_in_the_end(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.server.running[1] = listed(1, prompt=None)
    compare(desk, sync)
    desk.clock.advance(DOUBT_SECONDS)
    compare(desk, sync)
    assert books.state() == "claimed"


def closed_but_listed(desk: Desk, *, outcome: Outcome = DONE) -> None:
    """The server says that job 1 is closed, and goes on listing it as running."""
    run = desk.bring("running")
    desk.books.ledger.finish(run, outcome, deliver_seconds=30)
    desk.books.close()


def test_a_job_that_the_server_lists_as_running_though_it_took_the_close_is_closed_once_more(
    desk: Desk, books: Books, sync: InFlightSync, caplog: pytest.LogCaptureFixture
) -> None:
    closed_but_listed(desk)
    sync.run_once()
    assert books.state() == "finished"
    assert books.is_due("finished")
    assert books.record().outcome == DONE
    assert desk.sender.sent == []
    assert "job=1 closed once more" in caplog.text


def test_a_job_that_the_server_never_closes_is_looked_at_until_it_gets_a_new_life(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    closed_but_listed(desk)
    for _ in range(MOST_REDELIVERIES):
        compare(desk, sync)
        assert books.close()
    compare(desk, sync, 3)
    assert books.state() == "closed"
    books.outgrow_kept_outcome()
    compare(desk, sync)
    assert books.state() == "claimed"


# -- aborted -----------------------------------------------------------------------------------------------


def two_jobs(desk: Desk, sync: InFlightSync, state: str = "running") -> str:
    """Two jobs in flight that the server has shown; then it lists only the second. Returns the first's task id."""
    run = desk.bring(state, 1)
    desk.bring("running", 2)
    compare(desk, sync)
    del desk.server.running[1]
    return run.task_id


@pytest.mark.parametrize(("state", "told"), [("claimed", ""), ("sent", ""), ("running", "celery@test")])
def test_a_job_that_is_listed_nowhere_twice_in_a_row_was_aborted(
    desk: Desk, books: Books, sync: InFlightSync, state: str, told: str
) -> None:
    task_id = two_jobs(desk, sync, state)
    compare(desk, sync, MISSES - 1)
    assert books.state(1) == state
    assert desk.sender.announced == []
    compare(desk, sync)
    assert books.state(1) == "aborted"
    assert desk.sender.announced == [(task_id, told)]
    assert books.state(2) == "running"


def test_a_job_that_is_listed_again_was_not_aborted(desk: Desk, books: Books, sync: InFlightSync) -> None:
    two_jobs(desk, sync)
    for _ in range(3):
        compare(desk, sync)
        desk.server.running[1] = listed(1)
        compare(desk, sync)
        del desk.server.running[1]
    assert books.state(1) == "running"


def test_a_job_that_is_pending_again_was_not_aborted(desk: Desk, books: Books, sync: InFlightSync) -> None:
    two_jobs(desk, sync)
    desk.server.dispatch(1)
    compare(desk, sync, 6)
    assert books.state(1) == "running"
    assert desk.sender.announced == []


def test_a_job_that_may_not_be_claimed_yet_is_not_missed(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.bring("running", 2)
    desk.bring("admitted", 1)
    compare(desk, sync, MISSES + 1)
    assert books.state(1) == "admitted"
    assert desk.server.asked("jobs") == ["running"] * (MISSES + 1)


def test_lists_that_are_empty_are_believed_after_a_while(desk: Desk, books: Books, sync: InFlightSync) -> None:
    two_jobs(desk, sync)
    desk.server.running.clear()
    compare(desk, sync, MISSES + 3)
    assert [books.state(1), books.state(2)] == ["running", "running"]
    for job_id in (1, 2):
        books.age_miss(job_id, seconds=SILENT_SECONDS)
    compare(desk, sync)
    assert [books.state(1), books.state(2)] == ["aborted", "aborted"]
    assert len(desk.sender.announced) == 2


def test_a_job_that_the_server_has_never_shown_is_not_believed_to_be_aborted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("running", 1)
    desk.bring("running", 2)
    del desk.server.running[1]
    compare(desk, sync, MISSES + 3)
    books.age_miss(1, seconds=SILENT_SECONDS * 10)
    compare(desk, sync)
    assert [books.state(1), books.state(2)] == ["running", "running"]


@pytest.mark.parametrize("told_by", ["list", "job"])
def test_an_abort_of_which_the_server_tells_counts_though_it_has_never_shown_the_job(
    desk: Desk, books: Books, sync: InFlightSync, told_by: str
) -> None:
    run = desk.bring("running")
    desk.server.abort(1)
    if told_by == "job":
        desk.server.ended.clear()
        desk.server.known[1] = {"id": 1, "status": "failed"}
    compare(desk, sync, MISSES - 1)
    assert books.state() == "running"
    compare(desk, sync)
    assert books.state() == "aborted"
    assert desk.sender.announced == [(run.task_id, "celery@test")]


def test_the_bridges_count_together(desk: Desk, books: Books, sync: InFlightSync) -> None:
    desk.bring("running")
    desk.server.abort(1)
    other = InFlightSync(desk.office)
    compare(desk, sync, MISSES - 1)
    compare(desk, other)
    assert books.state() == "aborted"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("status", [None, 200, 404, 500, 503])
def test_a_list_that_failed_or_was_none_is_never_read_as_an_abort(
    desk: Desk, books: Books, sync: InFlightSync, which: int, status: int | None
) -> None:
    two_jobs(desk, sync)
    for _ in range(6):
        desk.server.faults["jobs"] = [None] * which + [refusal(status)]
        with pytest.raises(WorkerError):
            compare(desk, sync)
    assert books.state(1) == "running"
    assert desk.sender.announced == []


@pytest.mark.parametrize("torn", ["running", "pending"])
def test_a_list_of_which_a_part_is_lost_is_never_read_as_an_abort(
    desk: Desk, books: Books, sync: InFlightSync, torn: str
) -> None:
    two_jobs(desk, sync)
    desk.server.torn.add(torn)
    compare(desk, sync, MISSES + 3)
    assert books.state(1) == "running"
    desk.server.torn.clear()
    compare(desk, sync, MISSES - 1)
    assert books.state(1) == "running"
    compare(desk, sync)
    assert books.state(1) == "aborted"


@pytest.mark.parametrize("torn", ["running", "pending"])
def test_lists_that_stay_torn_are_believed_in_the_end(desk: Desk, books: Books, sync: InFlightSync, torn: str) -> None:
    two_jobs(desk, sync)
    desk.server.torn.add(torn)
    compare(desk, sync, times=LONG + MISSES)
    assert books.state(1) == "aborted"


def test_what_another_bridge_saw_between_two_torn_lists_is_not_forgotten(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    other = InFlightSync(desk.office)
    desk.bring("running", 2)
    desk.server.torn.add("running")
    compare(desk, other)
    desk.server.torn.clear()
    compare(desk, sync, times=LONG)  # whole ones
    desk.server.torn.add("running")
    desk.bring("admitted", 1)
    books.make_due("admitted")
    compare(desk, other)
    assert books.state(1) == "admitted"


def test_a_claim_that_a_whole_list_of_running_jobs_lacks_is_given_up_though_the_inbox_is_torn(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("running", 2)
    desk.server.running.clear()  # one that is unlisted, so that the inbox is asked for
    desk.bring("admitted", 1)
    books.make_due("admitted")
    desk.server.torn.add("pending")
    compare(desk, sync)
    assert books.state(1) == "unknown"


def test_a_list_that_is_torn_now_and_then_is_not_believed(desk: Desk, books: Books, sync: InFlightSync) -> None:
    two_jobs(desk, sync)
    desk.server.running[1] = listed(1)
    desk.server.torn.add("running")
    compare(desk, sync)
    desk.clock.advance(DOUBT_SECONDS)
    desk.server.torn.clear()
    compare(desk, sync)
    desk.server.torn.add("running")
    del desk.server.running[1]
    compare(desk, sync, MISSES + 3)
    assert books.state(1) == "running"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_never_read_as_an_abort(desk: Desk, books: Books, sync: InFlightSync, status: int) -> None:
    two_jobs(desk, sync)
    desk.server.faults["jobs"] = [refusal(status)]
    compare(desk, sync)
    assert desk.office.token_rejected
    calls = len(desk.server.calls)
    compare(desk, sync, 6)
    assert len(desk.server.calls) == calls
    assert books.state(1) == "running"


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (None, "aborted"),
        ({"id": 1, "status": "failed"}, "aborted"),
        ({"id": 1, "status": "done"}, "aborted"),
        ({"id": 1, "status": "escalated"}, "aborted"),
        ({"id": 1, "status": "running"}, "running"),
        ({"id": 1, "status": "pending"}, "running"),
        ({"id": 1, "status": "paused"}, "running"),  # a state that we do not know is no end
        ({"id": 1, "status": 7}, "aborted"),  # what is no status tells nothing
        ({}, "aborted"),
    ],
)
def test_where_the_server_tells_of_single_jobs_that_decides(
    desk: Desk, books: Books, sync: InFlightSync, known: dict[str, Any] | None, state: str
) -> None:
    two_jobs(desk, sync)
    if known is not None:
        desk.server.known[1] = known
    compare(desk, sync, MISSES + 3)
    assert books.state(1) == state


def test_an_outcome_whose_close_may_just_have_been_done_is_not_aborted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    two_jobs(desk, sync, "finished")
    compare(desk, sync, 6)
    assert books.state(1) == "finished"


def test_an_outcome_that_nobody_has_begun_to_deliver_is_not_delivered_after_an_abort(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    run = desk.bring("running", 1)
    books.ledger.fail(1, run.task_id, Outcome.failed("time limit"))
    desk.bring("running", 2)
    compare(desk, sync)
    del desk.server.running[1]
    compare(desk, sync, MISSES)
    assert books.state(1) == "aborted"


def test_an_abort_counts_although_no_worker_can_be_told_of_it(
    desk: Desk, books: Books, sync: InFlightSync, caplog: pytest.LogCaptureFixture
) -> None:
    two_jobs(desk, sync)
    desk.sender.deaf = True
    compare(desk, sync, MISSES)
    assert books.state(1) == "aborted"
    assert "abort not announced: OSError" in caplog.text


def some_vanished(desk: Desk, sync: InFlightSync, count: int) -> list[int]:
    """Jobs in flight that the server has shown, of which ``count`` are not listed any more. Returns those."""
    for job_id in range(1, count + 2):
        desk.bring("running", job_id)
    compare(desk, sync)
    for job_id in range(1, count + 1):
        del desk.server.running[job_id]
    return list(range(1, count + 1))


def test_a_job_of_which_the_server_cannot_tell_does_not_keep_others_from_being_aborted(
    desk: Desk, books: Books, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_vanished(desk, sync, 3)
    tell = desk.server.job

    def tell_of_others(job_id: int) -> dict[str, Any] | None:
        if job_id == 2:
            raise refusal(500)
        return tell(job_id)

    monkeypatch.setattr(desk.server, "job", tell_of_others)
    compare(desk, sync, MISSES)
    assert [books.state(job_id) for job_id in (1, 2, 3, 4)] == ["aborted", "running", "aborted", "running"]


def test_many_aborts_at_once_are_read_from_one_list(desk: Desk, books: Books, sync: InFlightSync) -> None:
    vanished = some_vanished(desk, sync, FEW * 3)
    desk.server.abort(*vanished)
    compare(desk, sync, MISSES)
    assert [books.state(job_id) for job_id in vanished] == ["aborted"] * len(vanished)
    assert desk.server.asked("job") == []
    assert desk.server.asked("jobs")[-3:] == ["running", "pending", "failed"]


def test_of_many_jobs_that_are_missing_a_few_are_asked_for_at_a_time(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    vanished = some_vanished(desk, sync, FEW * 2)
    left: list[int] = []
    for _ in range(MISSES + 2):
        before = len(desk.server.asked("job"))
        compare(desk, sync)
        assert len(desk.server.asked("job")) - before <= FEW
        left.append(sum(books.state(job_id) == "running" for job_id in vanished))
    assert left == [FEW * 2] * (MISSES - 1) + [FEW, 0, 0]


@pytest.mark.parametrize(("status", "aborted"), [(None, False), (503, False), (400, True), (404, True)])
def test_a_server_that_does_not_list_failed_jobs_is_asked_for_each(
    desk: Desk, books: Books, sync: InFlightSync, status: int | None, aborted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished = some_vanished(desk, sync, FEW + 1)
    give = desk.server.jobs

    def give_lists(of: str) -> Any:
        if of in ("failed", "done", "escalated"):
            raise refusal(status)
        return give(of)

    monkeypatch.setattr(desk.server, "jobs", give_lists)
    compare(desk, sync, MISSES + 1)
    assert [books.state(job_id) == "aborted" for job_id in vanished] == [aborted] * len(vanished)
