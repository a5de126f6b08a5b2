"""What the server's lists say of the jobs in flight, and what they do not say."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.reaper import Reaper
from mr_celery.bridge.sync import MISSES, MISSES_IN_EMPTY, InFlightSync
from mr_celery.errors import WorkerError
from mr_celery.outcome import Outcome
from support.ledgers import Books, Desk, make_desk, refusal

POLL = 5.0


class Revoked:
    """Celery's remote control, of which only this is asked."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.fails = False

    def revoke(self, task_id: str, *, terminate: bool) -> None:
        assert terminate
        if self.fails:
            raise OSError("the broker is away")
        self.tasks.append(task_id)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, poll_interval=POLL, lease=30.0)


@pytest.fixture
def books(desk: Desk) -> Books:
    return desk.books


@pytest.fixture
def revoked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Revoked:
    made = Revoked()
    monkeypatch.setattr(type(desk.office.app), "control", made)
    return made


@pytest.fixture
def sync(desk: Desk) -> InFlightSync:
    return InFlightSync(desk.office)


def compare(desk: Desk, sync: InFlightSync, times: int = 1) -> None:
    """Let it be time to compare, and compare."""
    for _ in range(times):
        desk.clock.advance(POLL + 0.1)
        desk.books.redis.delete(desk.books.key("turn:sync"))
        sync.run_once()


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
    desk.server.running[1] = {"id": 1}
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


@pytest.mark.parametrize("status", [None, 200, 429, 500, 503])
def test_without_a_list_nothing_is_settled(desk: Desk, books: Books, sync: InFlightSync, status: int | None) -> None:
    desk.bring("admitted")
    books.make_due("admitted")
    desk.server.faults["jobs"] = [refusal(status)]
    with pytest.raises(WorkerError):
        sync.run_once()
    assert books.state() == "admitted"
    assert not books.is_due("admitted")  # held for a while, then it is asked for again
    desk.server.running[1] = {"id": 1}
    books.make_due("admitted")
    sync.run_once()
    assert books.state() == "sent"


def test_a_settled_claim_whose_publish_fails_is_left_to_the_reaper(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.bring("admitted")
    desk.server.running[1] = {"id": 1}
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
    desk.server.running[1] = {"id": 1, "prompt": "hello", "capability": "text.upper", "priority": "low"}
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
    desk.server.running[1] = {"id": 1, "capability": "text.upper", "assigned_to": assigned_to}
    sync.run_once()
    assert books.state() == state


def test_a_job_that_ended_while_the_server_was_asked_is_not_adopted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    run = desk.bring("finished")
    asked: list[str] = []

    def end_in_between() -> None:
        asked.append(run.task_id)
        books.ledger.close(1, "delivered")

    desk.server.faults["jobs"] = [end_in_between]
    sync.run_once()
    assert asked
    assert books.state() == "closed"


def test_an_adopted_job_that_no_handler_takes_fails_with_the_reason(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.server.running[1] = {"id": 1, "capability": "unheard.of"}
    sync.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "no handler takes job 1" in outcome.text
    assert books.is_due("finished")


def test_an_entry_that_is_no_job_does_not_keep_the_others_from_being_adopted(
    desk: Desk, books: Books, sync: InFlightSync
) -> None:
    desk.server.running[-1] = {"id": -1}
    desk.server.running[1] = {"id": 1, "capability": "text.upper"}
    sync.run_once()
    assert books.state() == "claimed"


# -- aborted -----------------------------------------------------------------------------------------------


def two_jobs(desk: Desk, sync: InFlightSync, state: str = "running") -> str:
    """Two jobs in flight that the server has shown; then it lists only the second. Returns the first's task id."""
    run = desk.bring(state, 1)
    desk.bring("running", 2)
    compare(desk, sync)
    del desk.server.running[1]
    return run.task_id


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
def test_a_job_that_is_listed_nowhere_twice_in_a_row_was_aborted(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, state: str
) -> None:
    task_id = two_jobs(desk, sync, state)
    compare(desk, sync, MISSES - 1)
    assert books.state(1) == state
    assert revoked.tasks == []
    compare(desk, sync)
    assert books.state(1) == "aborted"
    assert revoked.tasks == [task_id]
    assert books.state(2) == "running"


def test_a_job_that_is_listed_again_was_not_aborted(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    two_jobs(desk, sync)
    for _ in range(3):
        compare(desk, sync)
        desk.server.running[1] = {"id": 1}
        compare(desk, sync)
        del desk.server.running[1]
    assert books.state(1) == "running"


def test_a_job_that_is_pending_again_was_not_aborted(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    two_jobs(desk, sync)
    desk.server.dispatch(1)
    compare(desk, sync, 6)
    assert books.state(1) == "running"
    assert revoked.tasks == []


def test_lists_that_are_empty_are_believed_later(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    two_jobs(desk, sync)
    desk.server.running.clear()
    compare(desk, sync, MISSES_IN_EMPTY - 1)
    assert [books.state(1), books.state(2)] == ["running", "running"]
    compare(desk, sync)
    assert [books.state(1), books.state(2)] == ["aborted", "aborted"]
    assert len(revoked.tasks) == 2


def test_a_server_whose_list_has_never_shown_a_job_of_ours_is_not_believed(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    desk.bring("running")
    desk.server.running.clear()
    desk.server.running[99] = {"id": 99, "assigned_to": "somebody-else"}
    compare(desk, sync, 10)
    assert books.state() == "running"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("status", [None, 200, 404, 500, 503])
def test_a_list_that_failed_or_was_none_is_never_read_as_an_abort(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, which: int, status: int | None
) -> None:
    two_jobs(desk, sync)
    for _ in range(6):
        desk.server.faults["jobs"] = [None] * which + [refusal(status)]
        with pytest.raises(WorkerError):
            compare(desk, sync)
    assert books.state(1) == "running"
    assert revoked.tasks == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_never_read_as_an_abort(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, status: int
) -> None:
    two_jobs(desk, sync)
    desk.server.faults["jobs"] = [refusal(status)]
    compare(desk, sync)
    assert desk.office.token_rejected.is_set()
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
        ({"id": 1, "status": "running"}, "running"),
        ({"id": 1, "status": "pending"}, "running"),
        ({"id": 1, "status": "paused"}, "running"),
        ({"id": 1, "status": 7}, "aborted"),
        ({}, "aborted"),
    ],
)
def test_where_the_server_tells_of_single_jobs_that_decides(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, known: dict[str, Any] | None, state: str
) -> None:
    two_jobs(desk, sync)
    if known is not None:
        desk.server.known[1] = known
    compare(desk, sync, MISSES)
    assert books.state(1) == state


def test_an_outcome_whose_close_may_just_have_been_done_is_not_aborted(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    two_jobs(desk, sync, "finished")
    compare(desk, sync, 6)
    assert books.state(1) == "finished"


def test_an_outcome_that_nobody_has_begun_to_deliver_is_not_delivered_after_an_abort(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked
) -> None:
    run = desk.bring("running", 1)
    books.ledger.fail(1, run.task_id, Outcome.failed("time limit"))
    desk.bring("running", 2)
    compare(desk, sync)
    del desk.server.running[1]
    compare(desk, sync, MISSES)
    assert books.state(1) == "aborted"


def test_an_abort_counts_although_its_task_cannot_be_revoked(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, caplog: pytest.LogCaptureFixture
) -> None:
    two_jobs(desk, sync)
    revoked.fails = True
    compare(desk, sync, MISSES)
    assert books.state(1) == "aborted"
    assert "not revoked" in caplog.text


def test_a_job_of_which_the_server_cannot_tell_does_not_keep_others_from_being_aborted(
    desk: Desk, books: Books, sync: InFlightSync, revoked: Revoked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in (1, 2, 3, 4):
        desk.bring("running", job_id)
    compare(desk, sync)
    for job_id in (1, 2, 3):
        del desk.server.running[job_id]
    tell = desk.server.job

    def tell_of_others(job_id: int) -> dict[str, Any] | None:
        if job_id == 2:
            raise refusal(500)
        return tell(job_id)

    monkeypatch.setattr(desk.server, "job", tell_of_others)
    for _ in range(MISSES * 3):
        try:
            compare(desk, sync)
        except WorkerError:
            continue
    assert [books.state(job_id) for job_id in (1, 2, 3, 4)] == ["aborted", "running", "aborted", "running"]
