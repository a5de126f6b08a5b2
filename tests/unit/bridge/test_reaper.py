"""What is stuck is found, and sent again or ended."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.bridge.candidates import refused_route
from mr_celery.bridge.office import Office
from mr_celery.bridge.reaper import QUEUED_PATIENCE, QUEUED_SILENCE, Reaper
from mr_celery.bridge.watch import REST
from mr_celery.ledger import Route, RunKey
from mr_celery.texts import RESEND_BUDGET
from support.ledgers import Books, Desk, make_desk

LEASE = 30.0


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, lease=LEASE)


@pytest.fixture
def books(desk: Desk) -> Books:
    return desk.books


@pytest.fixture
def office(desk: Desk) -> Office:
    return desk.office


@pytest.fixture
def reaper(office: Office) -> Reaper:
    return Reaper(office)


# -- lost runs ---------------------------------------------------------------------------------------------


def test_a_run_whose_lease_has_run_out_is_sent_again_as_the_next_attempt(
    desk: Desk, books: Books, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    run = desk.bring("running", priority="high")
    books.make_due("running")
    reaper.run_once()
    record = books.record()
    assert (books.state(), record.attempt) == ("sent", 2)
    assert record.task_id != run.task_id
    assert desk.sender.sent == [(1, record.task_id)]
    assert desk.sender.details == [("high", 0)]
    assert "no sign of life from celery@test" in caplog.text


def test_a_run_that_holds_its_lease_is_left_alone(desk: Desk, books: Books, reaper: Reaper) -> None:
    desk.bring("running")
    reaper.run_once()
    assert books.state() == "running"
    assert desk.sender.sent == []


def test_a_lease_that_is_renewed_at_the_last_moment_is_kept(
    desk: Desk, books: Books, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = desk.bring("running")
    books.make_due("running")
    read = books.ledger.read

    def read_and_renew(job_id: int) -> object:
        record = read(job_id)
        books.hold(run, seconds=LEASE)
        return record

    monkeypatch.setattr(books.ledger, "read", read_and_renew)
    reaper.run_once()
    assert books.state() == "running"


def test_a_lost_run_that_must_not_be_repeated_fails(desk: Desk, books: Books, reaper: Reaper) -> None:
    books.bring("running", route=Route("tiny.upper", "celery", on_lost="fail"))
    books.make_due("running")
    reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "on_lost='fail'" in outcome.text
    assert books.is_due("finished")
    assert desk.sender.sent == []


def test_a_job_that_keeps_killing_its_worker_fails_and_says_so(desk: Desk, books: Books, reaper: Reaper) -> None:
    desk.bring("sent")
    for _ in range(3):
        books.start(RunKey(1, books.record().task_id))
        books.make_due("running")
        reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert books.state() == "finished"
    assert "max_attempts" in outcome.text
    assert "attempt 3" in outcome.text
    assert len(desk.sender.sent) == 2


def test_after_a_time_without_the_ledger_runs_get_time_to_renew_their_leases(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    reaper.run_once()
    desk.bring("running")
    books.make_due("running")
    books.age_look(seconds=LEASE)
    for _ in range(2):
        reaper.run_once()
        books.age_look(seconds=LEASE / 4 - 0.1)
    reaper.run_once()
    assert books.state() == "running"
    books.age_look(seconds=1.0)
    reaper.run_once()
    assert books.state() == "sent"
    assert books.record().attempt == 2


def test_in_its_usual_pace_nobody_gets_more_time(desk: Desk, books: Books, reaper: Reaper) -> None:
    desk.bring("running")
    for _ in range(20):
        reaper.run_once()
        books.age_look(seconds=LEASE / 3 - 0.5)
    books.make_due("running")
    reaper.run_once()
    assert books.record().attempt == 2


def test_of_two_reapers_one_sends_the_job_again(desk: Desk, books: Books, office: Office) -> None:
    desk.bring("running")
    books.make_due("running")
    first, second = Reaper(office), Reaper(office)
    first.run_once()
    second.run_once()
    assert len(desk.sender.sent) == 1
    assert books.record().attempt == 2


# -- messages that nobody started --------------------------------------------------------------------------


def test_a_message_that_is_gone_from_its_queue_is_sent_again_under_the_same_id(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    run = desk.bring("sent")
    books.make_due("sent")
    reaper.run_once()
    assert desk.sender.sent == [(1, run.task_id)]
    assert books.state() == "sent"
    assert (books.record().attempt, books.record().resends) == (1, 1)
    assert not books.is_due("sent")


def test_a_message_that_is_gone_again_and_again_fails_with_what_to_look_at(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    desk.bring("sent")
    for _ in range(RESEND_BUDGET + 1):
        assert books.state() == "sent"
        books.make_due("sent")
        reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert books.state() == "finished"
    assert "no worker started the job" in outcome.text
    assert "celery" in outcome.text
    assert len(desk.sender.sent) == RESEND_BUDGET


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("age", [LEASE, QUEUED_SILENCE * 100])
def test_a_message_that_waits_its_turn_is_not_sent_again_however_long_that_takes(
    desk: Desk, books: Books, reaper: Reaper, length: int | None, age: float
) -> None:
    desk.bring("sent")
    desk.sender.length = length
    books.age(1, "sent", seconds=age)
    books.reach(sent=books.record().times["sent"] + QUEUED_PATIENCE - 1)
    books.make_due("sent")
    reaper.run_once()
    assert desk.sender.sent == []
    assert books.state() == "sent"
    assert not books.is_due("sent")


def test_messages_that_are_overtaken_are_sent_again_each_time_after_twice_as_long(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    desk.bring("sent")
    desk.sender.length = 3
    for times in (1, 2, 4, 8, 16, 32, 32):
        for overtaken in (False, True):
            later = QUEUED_PATIENCE * times + (1 if overtaken else -1)
            books.reach(sent=books.record().times["sent"] + later)
            sent = len(desk.sender.sent)
            books.make_due("sent")
            reaper.run_once()
            assert len(desk.sender.sent) == sent + overtaken
    assert (books.state(), books.record().resends) == ("sent", 0)


def test_what_is_started_in_one_queue_overtakes_nothing_in_another(desk: Desk, books: Books, reaper: Reaper) -> None:
    desk.bring("sent", task="tiny.slow")
    desk.sender.length = 3
    books.reach("celery", sent=books.now() + QUEUED_PATIENCE + 1)
    books.make_due("sent")
    reaper.run_once()
    assert desk.sender.sent == []


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("ever", [True, False])
def test_where_nothing_of_the_queue_is_started_a_message_is_sent_again_for_its_age(
    desk: Desk, books: Books, reaper: Reaper, length: int | None, ever: bool
) -> None:
    desk.bring("sent")
    desk.sender.length = length
    if ever:
        books.reach(sent=0.0, seconds=QUEUED_SILENCE + 1)
    for age, expected in ((QUEUED_SILENCE - 1, 0), (QUEUED_SILENCE + 1, 1), (QUEUED_SILENCE + 1, 1)):
        books.age(1, "sent", seconds=age)
        books.make_due("sent")
        reaper.run_once()
        assert len(desk.sender.sent) == expected
        books.age(1, "sent", seconds=-age)


def test_very_many_messages_that_wait_cost_few_steps_and_no_copies(
    desk: Desk, books: Books, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in range(1, 251):
        desk.bring("sent", job_id)
    desk.sender.length = 250
    books.make_due("sent")
    steps: list[str] = []
    run = books.ledger._redis.run

    def count(*names: str, **rest: Any) -> Any:
        steps.append(names[-1])
        return run(*names, **rest)

    monkeypatch.setattr(books.ledger._redis, "run", count)
    reaper.run_once()
    assert steps == ["lost", "unstarted", "unstarted", "take"]
    assert (desk.sender.sent, desk.sender.counted) == ([], ["celery"])


def test_a_look_at_more_messages_than_it_takes_goes_on_at_once(
    desk: Desk, books: Books, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_celery.bridge.reaper.PAGE", 2)
    monkeypatch.setattr("mr_celery.bridge.reaper.MOST_PAGES", 2)
    desk.sender.length = 5
    for job_id in range(1, 6):
        desk.bring("sent", job_id)
    books.make_due("sent")
    assert reaper.run_once() == 0.0
    assert reaper.run_once() == REST
    assert books.ledger.due("sent") == []


@pytest.mark.parametrize("length", [0, 3, None])
def test_a_message_whose_worker_fell_silent_is_sent_again_at_once_and_without_a_limit(
    desk: Desk, books: Books, reaper: Reaper, length: int | None
) -> None:
    run = desk.bring("sent")
    desk.sender.length = length
    for _ in range(RESEND_BUDGET + 2):
        books.hold(run, seconds=LEASE)
        books.make_due("sent")
        reaper.run_once()
    assert desk.sender.sent == [(1, run.task_id)] * (RESEND_BUDGET + 2)
    assert (books.state(), books.record().attempt, books.record().resends) == ("sent", 1, 0)
    assert "fell silent" in books.record().why


def test_a_message_that_is_gone_after_its_worker_fell_silent_is_counted(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    run = desk.bring("sent")
    books.hold(run, seconds=LEASE)
    for _ in range(3):
        books.make_due("sent")
        reaper.run_once()
    assert books.record().resends == 2


def test_a_retry_that_waits_behind_others_is_not_taken_for_held(desk: Desk, books: Books, reaper: Reaper) -> None:
    run = desk.bring("sent")
    books.hold(run, seconds=LEASE)
    books.start(run)
    books.retry(run, seconds=LEASE)
    desk.sender.length = 3
    books.make_due("sent")
    reaper.run_once()
    assert desk.sender.sent == []


def test_the_broker_is_asked_once_for_each_queue_in_a_pass(desk: Desk, books: Books, reaper: Reaper) -> None:
    for job_id in (1, 2, 3):
        desk.bring("sent", job_id)
    for job_id in (4, 5):
        desk.bring("sent", job_id, task="tiny.slow")
    desk.sender.length = 7
    for _ in range(2):
        books.make_due("sent")
        reaper.run_once()
    assert sorted(desk.sender.counted) == ["celery", "celery", "slow", "slow"]


def test_the_broker_is_not_asked_where_no_message_is_missing(desk: Desk, reaper: Reaper) -> None:
    desk.bring("sent")
    reaper.run_once()
    assert desk.sender.counted == []


def test_the_reason_that_a_worker_gave_is_the_one_that_the_job_fails_with(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    run = desk.bring("sent")
    books.redis.hset(books.key("job:1"), mapping={"why": "the task is not registered", "resends": RESEND_BUDGET})
    books.make_due("sent")
    reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert "the task is not registered" in outcome.text
    assert books.record().task_id == run.task_id


# -- not published -----------------------------------------------------------------------------------------


def test_a_job_whose_bridge_died_before_publishing_is_published(desk: Desk, books: Books, reaper: Reaper) -> None:
    run = desk.bring("claimed", priority="low")
    books.make_due("claimed")
    reaper.run_once()
    assert desk.sender.sent == [(1, run.task_id)]
    assert desk.sender.details == [("low", 0)]
    assert books.state() == "sent"


def test_a_job_that_another_bridge_is_about_to_publish_is_left_to_it(desk: Desk, books: Books, reaper: Reaper) -> None:
    desk.bring("claimed")
    reaper.run_once()
    assert desk.sender.sent == []


def test_a_celery_retry_that_is_sent_again_keeps_its_number(desk: Desk, books: Books, reaper: Reaper) -> None:
    run = desk.bring("running")
    books.retry(run, seconds=LEASE)
    books.make_due("sent")
    reaper.run_once()
    assert desk.sender.sent == [(1, run.task_id)]
    assert desk.sender.details == [("normal", 1)]
    assert books.start(RunKey(1, run.task_id, 1)).job is not None


def test_a_publish_that_fails_is_repeated_later_with_the_same_id(
    desk: Desk, books: Books, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    run = desk.bring("claimed")
    desk.sender.fails = [OSError("the broker is away")]
    books.make_due("claimed")
    reaper.run_once()
    assert books.state() == "claimed"
    assert not books.is_due("claimed")
    assert "the broker is away" in caplog.text
    books.make_due("claimed")
    reaper.run_once()
    assert desk.sender.sent == [(1, run.task_id)]


def three_unsent(desk: Desk, *fails: Exception) -> None:
    """Three jobs that are to be sent, by a broker that fails so."""
    for job_id in (1, 2, 3):
        desk.bring("claimed", job_id)
    desk.sender.fails = list(fails)
    desk.books.make_due("claimed")


def test_after_a_publish_that_failed_the_broker_is_left_alone_until_the_next_time(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    three_unsent(desk, OSError("the broker is away"))
    reaper.run_once()
    assert desk.sender.sent == []
    assert [books.state(job_id) for job_id in (1, 2, 3)] == ["claimed"] * 3
    books.make_due("claimed")
    reaper.run_once()
    assert sorted(desk.sender.jobs) == [1, 2, 3]


def test_a_broker_that_is_away_keeps_no_lost_run_from_being_found(desk: Desk, books: Books, reaper: Reaper) -> None:
    three_unsent(desk, *[OSError("the broker is away")] * 2)
    desk.bring("running", 4)
    for attempt in (2, 3):
        books.make_due("claimed")
        books.make_due("running", 4)
        reaper.run_once()
        assert books.record(4).attempt == attempt
        books.start(RunKey(4, books.record(4).task_id))
    assert desk.sender.sent == []


def test_jobs_are_sent_in_no_certain_order(
    desk: Desk, books: Books, reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_celery.bridge.reaper.random.shuffle", lambda job_ids: job_ids.reverse())
    three_unsent(desk)
    reaper.run_once()
    assert desk.sender.jobs == [3, 2, 1]


def test_a_job_whose_handler_is_not_declared_any_more_fails_and_names_it(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    books.bring("claimed", route=Route("tiny.removed", "celery"))
    books.make_due("claimed")
    reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "tiny.removed" in outcome.text
    assert desk.sender.sent == []


# -- what is wrong with one job ----------------------------------------------------------------------------


def test_a_record_that_cannot_be_read_does_not_keep_the_others_waiting(
    desk: Desk, books: Books, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    desk.bring("claimed", 1)
    desk.bring("claimed", 2)
    books.redis.hset(books.key("payload:1"), "job", "no JSON")
    books.make_due("claimed")
    reaper.run_once()
    assert books.state(2) == "sent"
    assert "job=1 could not be looked after" in caplog.text


def test_a_job_that_no_handler_takes_says_so_although_its_bridge_died_first(
    desk: Desk, books: Books, reaper: Reaper
) -> None:
    books.bring("claimed", route=refused_route())
    books.make_due("claimed")
    reaper.run_once()
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.text == "no handler of this worker takes the job"
