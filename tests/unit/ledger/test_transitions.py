"""Every step of the job's life, from every state: allowed or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.job import Job
from mr_celery.ledger import DeliveryKey, Ledger, Missed, Route, RunKey
from mr_celery.ledger.ledger import KEPT_OUTCOME, MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, HOLDER, INSIDE, LATER, NONCE, ROUTE, STATES, Books, admit, fake_books, sent

SLOT_STATES = ("admitted", "claimed", "sent", "running")
OVER = ("closed", "aborted")
EXPIRED = Outcome.failed("the message expired")


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


@pytest.fixture
def ledger(books: Books) -> Ledger:
    return books.ledger


def job(job_id: int = 1, **fields: Any) -> Job:
    return Job({"id": job_id, "prompt": "hello", **fields})


def first_delivery(run: RunKey) -> DeliveryKey:
    """The delivery of a run's outcome by the run itself."""
    return DeliveryKey(run.job_id, run.task_id, 1)


def resend(ledger: Ledger, run: RunKey, *, budget: int | None = 3, wait_seconds: float = 0.0) -> str:
    return ledger.resend(
        run.job_id,
        run.task_id,
        why="not started",
        budget=budget,
        wait_seconds=wait_seconds,
        exhausted=Outcome.failed("never started"),
    )


# -- the picture as a table ------------------------------------------------------------------------------

Step = Callable[[Books, RunKey], object]

STEPS: dict[str, Step] = {
    "drop": lambda books, run: books.ledger.drop(run.job_id),
    "settle_later": lambda books, run: books.ledger.settle_later(run.job_id, LATER),
    "claimed": lambda books, run: books.ledger.claimed(run.job_id),
    "sent": lambda books, run: sent(books.ledger, run.job_id, run.task_id, wait_seconds=LATER),
    "start": lambda books, run: books.start(run, nonce="second").job is not None,
    "retry": lambda books, run: books.retry(run),
    "give_back": lambda books, run: books.give_back(run),
    "finish": lambda books, run: books.ledger.finish(run, DONE, deliver_seconds=LATER),
    "fail": lambda books, run: books.ledger.fail(run.job_id, run.task_id, Outcome.failed("no")),
    "fail unstarted": lambda books, run: books.ledger.fail(run.job_id, run.task_id, EXPIRED, unstarted=True),
    "lose": lambda books, run: books.die(run) != "kept",
    "resend": lambda books, run: resend(books.ledger, run) != "kept",
    "requeue": lambda books, run: books.ledger.requeue(run.job_id, "operator", wait_seconds=LATER),
    "abort": lambda books, run: books.ledger.abort(run.job_id, "operator"),
    "carry": lambda books, run: books.ledger.carry(first_delivery(run), hold_seconds=LATER),
    "delivered_part": lambda books, run: books.ledger.delivered_part(
        first_delivery(run), "review:0", "7", hold_seconds=LATER
    ),
    "undelivered": lambda books, run: books.ledger.undelivered(first_delivery(run), "503", wait_seconds=LATER),
    "replace_outcome": lambda books, run: books.ledger.replace_outcome(first_delivery(run), Outcome.failed("413")),
    "close": lambda books, run: books.ledger.close(run.job_id, run.task_id, "delivered"),
}

LEADS: dict[str, dict[str, str]] = {
    "drop": {"admitted": "unknown"},
    "settle_later": {"admitted": "admitted"},
    "claimed": {"admitted": "claimed"},
    "sent": {"claimed": "sent"},
    "start": {"claimed": "running", "sent": "running"},
    "retry": {"running": "sent"},
    "give_back": {"running": "sent"},
    "finish": {"running": "finished"},
    "fail": {"claimed": "finished", "sent": "finished", "running": "finished"},
    "fail unstarted": {"claimed": "finished", "sent": "finished"},
    "lose": {"running": "claimed"},
    "resend": {"claimed": "claimed", "sent": "claimed"},
    "requeue": {"claimed": "claimed", "sent": "claimed", "running": "claimed"},
    "abort": {"claimed": "aborted", "sent": "aborted", "running": "aborted", "finished": "aborted"},
    "carry": {"finished": "finished"},
    "delivered_part": {"finished": "finished"},
    "undelivered": {"finished": "finished"},
    "replace_outcome": {"finished": "finished"},
    "close": {"finished": "closed"},
}

ANSWERS_WITH_THE_STATE = ("sent", "finish")

OF_A_WHOLE_LIFE = ("drop", "settle_later", "claimed", "requeue", "abort")
"""The steps that are not those of one attempt only."""

CHANGED_THOUGH_REFUSED = {("lose", "finished"): b"carrier"}
"""The field that a refused step takes away: what a run that died was delivering is the courier's."""


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_taken_from_its_states_and_refused_from_all_others(books: Books, step: str, state: str) -> None:
    run = books.bring(state)
    before = books.redis.hgetall(books.key("job:1"))

    answer = STEPS[step](books, run)

    assert books.state() == LEADS[step].get(state, state)
    if state not in LEADS[step]:
        before.pop(CHANGED_THOUGH_REFUSED.get((step, state)), None)
        assert books.redis.hgetall(books.key("job:1")) == before
    if step not in ANSWERS_WITH_THE_STATE:
        assert bool(answer) == (state in LEADS[step])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", STEPS)
def test_a_job_holds_a_slot_from_admitted_to_running(books: Books, step: str, state: str) -> None:
    run = books.bring(state)
    STEPS[step](books, run)
    assert books.load() == (1 if books.state() in SLOT_STATES else 0)


@pytest.mark.parametrize("state", STATES[2:])
@pytest.mark.parametrize("step", [step for step in STEPS if step not in OF_A_WHOLE_LIFE])
def test_a_step_with_another_attempts_task_id_changes_nothing(books: Books, step: str, state: str) -> None:
    books.bring(state)
    before = books.redis.hgetall(books.key("job:1"))
    STEPS[step](books, RunKey(1, "mr-1-7-other"))
    assert books.redis.hgetall(books.key("job:1")) == before


# -- admit -----------------------------------------------------------------------------------------------


def test_an_admitted_job_waits_for_its_claim_to_be_settled(books: Books, ledger: Ledger) -> None:
    now = books.now()
    assert admit(ledger, job(), ROUTE, asked_at=now, settle_seconds=60) == "admitted"
    assert books.state() == "admitted"
    assert books.score("admitted") == pytest.approx(now + 60, abs=5)
    assert books.record().route == ROUTE
    assert books.record().job == job()


def test_the_routes_limits_are_kept_with_the_job(books: Books) -> None:
    route = Route("proj.once", "slow", max_attempts=7, on_lost="fail")
    books.bring("admitted", route=route)
    assert books.record().route == route


@pytest.mark.parametrize(
    ("queue_limit", "total_limit", "answer"),
    [(None, None, "admitted"), (2, None, "full"), (3, None, "admitted"), (None, 4, "full"), (None, 5, "admitted")],
)
def test_a_job_is_admitted_while_its_queue_and_the_whole_have_room(
    books: Books, ledger: Ledger, queue_limit: int | None, total_limit: int | None, answer: str
) -> None:
    other = Route("proj.other", "other")
    books.bring("admitted", 11)
    books.bring("running", 12)
    books.bring("claimed", 13, route=other)
    books.bring("sent", 14, route=other)
    books.bring("finished", 15)  # holds no slot
    admission = admit(ledger, job(), ROUTE, asked_at=books.now(), queue_limit=queue_limit, total_limit=total_limit)
    assert admission == answer
    assert books.state() == ("admitted" if answer == "admitted" else "unknown")


def test_a_limit_of_zero_admits_nothing(books: Books, ledger: Ledger) -> None:
    assert admit(ledger, job(), ROUTE, asked_at=books.now(), queue_limit=0) == "full"
    assert admit(ledger, job(), ROUTE, asked_at=books.now(), total_limit=0) == "full"


@pytest.mark.parametrize(
    ("state", "asked_before_the_claim", "asked_after_it"),
    [
        ("admitted", "known", "known"),
        ("claimed", "known", "again"),
        ("sent", "known", "again"),
        ("running", "known", "again"),
        ("finished", "known", "again"),
        ("closed", "known", "admitted"),
        ("aborted", "known", "admitted"),
    ],
)
def test_a_job_that_the_ledger_knows_is_judged_by_when_the_inbox_was_asked(
    books: Books, ledger: Ledger, state: str, asked_before_the_claim: str, asked_after_it: str
) -> None:
    asked_before = books.now()
    books.bring(state)
    before = books.redis.hgetall(books.key("job:1"))
    assert admit(ledger, job(), ROUTE, asked_at=asked_before) == asked_before_the_claim
    assert books.redis.hgetall(books.key("job:1")) == before
    assert admit(ledger, job(), ROUTE, asked_at=books.now() + 0.001) == asked_after_it
    assert books.state() == ("admitted" if asked_after_it == "admitted" else state)


def test_a_job_that_is_claimed_again_is_not_claimed_a_third_time_for_the_same_answer(
    books: Books, ledger: Ledger
) -> None:
    books.bring("running")
    asked_at = books.now()
    assert admit(ledger, job(), ROUTE, asked_at=asked_at) == "again"
    assert admit(ledger, job(), ROUTE, asked_at=asked_at) == "known"


def test_a_job_that_is_claimed_again_is_so_although_there_is_no_slot(books: Books, ledger: Ledger) -> None:
    books.bring("running")
    assert admit(ledger, job(), ROUTE, asked_at=books.now() + 0.001, queue_limit=1, total_limit=1) == "again"


def test_a_new_life_has_nothing_of_the_old_one(books: Books, ledger: Ledger) -> None:
    old = books.bring("closed")
    admit(ledger, job(prompt="new"), ROUTE, asked_at=books.now() + 0.001)
    task_id = ledger.claimed(1)
    record = books.record()
    assert task_id != old.task_id
    assert (record.attempt, record.how, record.deliveries) == (1, "", 0)
    assert record.job is not None
    assert record.job.prompt == "new"
    assert "ended" not in record.times
    assert books.redis.ttl(books.key("job:1")) == -1
    assert books.start(old).refusal == "superseded"


# -- claimed, sent -----------------------------------------------------------------------------------------


def test_a_claimed_job_has_a_task_id_before_anything_is_published(books: Books, ledger: Ledger) -> None:
    books.bring("admitted")
    task_id = ledger.claimed(1, wait_seconds=5)
    assert task_id is not None
    assert task_id.startswith("mr-1-1-")
    record = books.record()
    assert (record.task_id, record.attempt, record.resends, record.retries) == (task_id, 1, 0, 0)


def test_a_claim_is_settled_once(books: Books, ledger: Ledger) -> None:
    books.bring("admitted")
    assert ledger.claimed(1)
    assert ledger.claimed(1) is None
    assert ledger.drop(1) is False


def test_two_jobs_of_different_lives_have_different_task_ids(books: Books) -> None:
    first, second = books.bring("claimed", 1), books.bring("claimed", 2)
    assert first.task_id.split("-")[3] != second.task_id.split("-")[3]


def test_a_claim_to_be_settled_later_is_not_due_until_then(books: Books, ledger: Ledger) -> None:
    books.bring("admitted")
    books.make_due("admitted")
    assert books.is_due("admitted")
    assert ledger.settle_later(1, LATER)
    assert not books.is_due("admitted")


@pytest.mark.parametrize("state", STATES)
def test_sent_answers_the_state_that_the_job_is_in_now(books: Books, ledger: Ledger, state: str) -> None:
    run = books.bring(state)
    expected = {"claimed": "sent", "unknown": ""}.get(state, state)
    assert sent(ledger, 1, run.task_id, wait_seconds=LATER) == expected


def test_a_worker_that_was_faster_than_the_bridge_keeps_its_run(books: Books, ledger: Ledger) -> None:
    run = books.bring("claimed")
    books.start(run)
    lease = books.score("running")
    assert sent(ledger, 1, run.task_id, wait_seconds=LATER) == "running"
    assert books.score("running") == lease


# -- adopt -------------------------------------------------------------------------------------------------


def adopt(books: Books, *, asked_at: float | None = None, **fields: Any) -> str:
    """The server lists job 1 as ours and running: in an answer to a question of just now, or of ``asked_at``."""
    if asked_at is None:
        asked_at = books.now() + 0.001
    return books.ledger.adopt(job(**fields), ROUTE, asked_at=asked_at, wait_seconds=LATER)


def close_and_redeliver(books: Books, times: int) -> None:
    """The server says so many times that it closed job 1, and goes on listing it as running."""
    for _ in range(times):
        assert adopt(books) == "redelivered"
        assert books.close()


@pytest.mark.parametrize("state", ["unknown", "aborted"])
def test_a_job_running_on_the_server_is_adopted_where_the_ledger_has_none_in_flight(books: Books, state: str) -> None:
    books.bring(state)
    assert adopt(books) == "adopted"
    assert books.state() == "claimed"
    assert books.record().attempt == 1
    assert books.load() == 1
    assert not books.is_due("claimed")


@pytest.mark.parametrize("state", STATES[1:6])
def test_a_job_in_flight_is_not_adopted(books: Books, state: str) -> None:
    books.bring(state)
    before = books.redis.hgetall(books.key("job:1"))
    assert adopt(books) == "known"
    assert books.redis.hgetall(books.key("job:1")) == before


@pytest.mark.parametrize("state", OVER)
def test_a_job_that_ended_since_the_server_was_asked_is_not_adopted(books: Books, state: str) -> None:
    asked_at = books.now()
    books.bring(state)
    assert adopt(books, asked_at=asked_at) == "known"
    assert books.state() == state


def test_a_job_that_the_server_lists_as_running_though_it_was_closed_just_now_is_closed_once_more(books: Books) -> None:
    run = books.bring("running")
    books.ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=LATER)
    books.ledger.delivered_part(books.delivery(), "artifact:0", '{"slug":"a"}', hold_seconds=LATER)
    books.close()
    assert adopt(books, prompt="changed") == "redelivered"
    assert books.state() == "finished"
    assert books.is_due("finished")
    assert books.record().outcome == DONE
    assert books.record().parts == {"artifact:0": '{"slug":"a"}'}  # it is not uploaded again
    assert books.load() == 0
    assert books.redis.ttl(books.key("job:1")) == -1
    assert books.start(run, nonce="late").refusal == "finished"
    assert not books.ledger.carry(first_delivery(run), hold_seconds=LATER)  # nobody delivers it yet
    assert books.collect() == DeliveryKey(1, run.task_id, 2)


def test_a_job_is_closed_once_more_only_so_many_times(books: Books) -> None:
    books.bring("closed")
    close_and_redeliver(books, MOST_REDELIVERIES)
    assert adopt(books) == "known"
    assert books.state() == "closed"


def test_a_job_that_the_server_does_not_close_gets_a_new_life_when_its_outcome_is_not_kept_any_more(
    books: Books,
) -> None:
    old = books.bring("closed")
    close_and_redeliver(books, MOST_REDELIVERIES)
    books.outgrow_kept_outcome()
    assert adopt(books) == "adopted"
    assert books.state() == "claimed"
    assert books.record().outcome is None
    assert books.start(old).refusal == "superseded"


def test_a_new_life_may_be_closed_once_more_as_often_as_the_first_one(books: Books, ledger: Ledger) -> None:
    books.bring("closed")
    close_and_redeliver(books, MOST_REDELIVERIES)
    admit(ledger, job(), ROUTE, asked_at=books.now() + 0.001)
    run = RunKey(1, ledger.claimed(1) or "")
    books.start(run)
    ledger.finish(run, DONE, deliver_seconds=LATER)
    books.close()
    close_and_redeliver(books, MOST_REDELIVERIES)


def test_the_outcome_of_a_closed_job_is_kept_for_a_while(books: Books) -> None:
    books.bring("closed")
    kept = books.redis.pttl(books.key("outcome:1"))
    assert 0.9 * KEPT_OUTCOME * 1000 < kept <= KEPT_OUTCOME * 1000


def test_the_outcome_of_a_job_that_somebody_else_closed_is_not_kept(books: Books) -> None:
    books.bring("finished")
    books.close(how="superseded")
    assert not books.redis.exists(books.key("outcome:1"))
    assert adopt(books) == "adopted"


def test_a_job_that_was_requeued_and_finds_no_slot_is_not_forgotten(books: Books, ledger: Ledger) -> None:
    books.bring("closed")
    before = books.redis.hgetall(books.key("job:1"))
    assert admit(ledger, job(), ROUTE, asked_at=books.now() + 0.001, queue_limit=0) == "full"
    assert books.redis.hgetall(books.key("job:1")) == before
    assert adopt(books) == "redelivered"


def test_an_outcome_is_not_kept_for_a_job_that_was_requeued(books: Books, ledger: Ledger) -> None:
    books.bring("closed")
    assert admit(ledger, job(), ROUTE, asked_at=books.now() + 0.001) == "admitted"
    assert not books.redis.exists(books.key("outcome:1"))
    ledger.drop(1)
    assert adopt(books) == "adopted"
    assert books.state() == "claimed"


# -- start: the fence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent"])
def test_a_start_gives_the_job_and_the_attempt(books: Books, state: str) -> None:
    run = books.bring(state, prompt="paint")
    started = books.start(run, node="celery@a")
    assert started.job is not None
    assert started.job.prompt == "paint"
    assert (started.attempt, started.nonce, started.refusal) == (1, NONCE, "")
    assert books.record().node == "celery@a"


def test_a_second_message_of_the_same_attempt_is_refused(books: Books) -> None:
    run = books.bring("sent")
    assert books.start(run, nonce="first").job is not None
    second = books.start(run, nonce="second")
    assert second.job is None
    assert second.refusal == "running"


def test_a_start_that_is_repeated_because_its_answer_was_lost_gets_the_same_answer(books: Books) -> None:
    run = books.bring("sent")
    assert books.start(run, nonce="first") == books.start(run, nonce="first")


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("unknown", "unknown"), ("finished", "finished"), ("closed", "closed"), ("aborted", "aborted")],
)
def test_a_start_that_is_refused_names_the_state_that_stands_against_it(books: Books, state: str, refusal: str) -> None:
    run = books.bring(state)
    assert books.start(run).refusal == refusal


def test_a_message_of_an_earlier_attempt_is_superseded(books: Books) -> None:
    run = books.bring("running")
    books.die(run)
    assert books.start(run).refusal == "superseded"
    assert books.state() == "claimed"


def test_a_message_of_before_a_celery_retry_is_refused(books: Books) -> None:
    run = books.bring("running")
    books.retry(run)
    assert books.start(run).refusal == "sent"
    assert books.start(RunKey(1, run.task_id, 1)).job is not None


def test_a_celery_retry_that_comes_before_its_record_takes_over_the_run(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    retried = RunKey(1, run.task_id, 1)
    assert books.start(retried, nonce="second", node="celery@b").job is not None
    assert books.record().retries == 1
    assert not books.retry(run)  # the run that published it comes late
    assert ledger.finish(run, DONE, deliver_seconds=0) == "superseded"
    assert ledger.finish(retried, DONE, deliver_seconds=0) == "finished"


def test_a_run_holds_its_lease_from_its_start(books: Books) -> None:
    run = books.bring("sent")
    now = books.now()
    books.start(run, lease=30)
    assert books.score("running") == pytest.approx(now + 30, abs=5)


# -- hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["sent", "running", "finished"])
def test_a_live_worker_holds_what_it_has(books: Books, state: str) -> None:
    run = books.bring(state)
    books.make_due(state)
    assert books.hold(run) == {}
    assert not books.is_due(state)


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_worker_that_has_a_copy_of_the_message_does_not_hold_the_run_of_another_one(books: Books, state: str) -> None:
    run = books.bring(state)
    books.make_due(state)
    assert books.hold(run, holder="another worker") == {}  # it is told to stop nothing
    assert books.is_due(state)


def test_a_run_that_a_retry_took_over_is_held_by_the_worker_of_the_retry(books: Books) -> None:
    run = books.bring("running")
    retried = RunKey(1, run.task_id, 1)
    books.start(retried, nonce="second", holder="another worker")
    books.make_due("running")
    books.hold(run)
    assert books.is_due("running")
    books.hold(retried, holder="another worker")
    assert not books.is_due("running")


def test_a_message_that_waits_is_held_by_each_worker_that_has_it(books: Books) -> None:
    run = books.bring("sent")
    for holder in ("one worker", "another worker"):
        books.make_due("sent")
        books.hold(run, holder=holder)
        assert not books.is_due("sent")


def test_holding_a_waiting_message_never_shortens_its_time(books: Books) -> None:
    run = books.bring("sent")
    long = books.score("sent")
    books.hold(run, seconds=1)
    assert books.score("sent") == long


def put_off(books: Books) -> None:
    books.ledger.undelivered(books.delivery(), "503", wait_seconds=0)


def replace(books: Books) -> None:
    books.ledger.replace_outcome(books.delivery(), Outcome.failed("413"))


def collect(books: Books) -> None:
    books.collect()
    books.make_due("finished")


@pytest.mark.parametrize("hand_over", [put_off, replace, collect])
def test_an_outcome_that_the_courier_has_is_not_held_by_the_worker(
    books: Books, hand_over: Callable[[Books], None]
) -> None:
    run = books.bring("finished")
    hand_over(books)
    assert books.hold(run) == {}
    assert books.is_due("finished")


@pytest.mark.parametrize(
    ("state", "held"), [("claimed", True), ("sent", True), ("running", False), ("finished", False)]
)
def test_a_message_that_a_worker_has_is_marked_as_held(books: Books, state: str, held: bool) -> None:
    run = books.bring(state)
    assert not books.record().held
    books.hold(run)
    assert books.record().held == held


def test_a_message_of_another_attempt_marks_nothing(books: Books) -> None:
    books.bring("sent")
    books.hold(RunKey(1, "mr-1-7-other"))
    assert not books.record().held


def retry(books: Books, run: RunKey) -> None:
    books.start(run)
    books.retry(run)


def give_back(books: Books, run: RunKey) -> None:
    books.start(run)
    books.give_back(run)


def send_again(books: Books, run: RunKey) -> None:
    resend(books.ledger, run)


def lose_the_run(books: Books, run: RunKey) -> None:
    books.start(run)
    books.die(run)


@pytest.mark.parametrize("new_message", [retry, give_back, send_again, lose_the_run])
def test_nobody_has_told_that_it_has_a_new_message(books: Books, new_message: Callable[[Books, RunKey], None]) -> None:
    run = books.bring("sent")
    books.hold(run)
    new_message(books, run)
    assert not books.record().held


def test_what_is_not_the_workers_any_more_is_reported_with_the_reason(books: Books) -> None:
    live, closed, aborted = books.bring("running", 1), books.bring("closed", 2), books.bring("aborted", 3)
    lost = books.bring("running", 4)
    books.die(lost)
    books.make_due("running")
    assert books.hold(closed, aborted, lost, live, RunKey(5, "mr-5-1-x")) == {
        2: "closed",
        3: "aborted",
        4: "superseded",
        5: "unknown",
    }
    assert not books.is_due("running")


# -- retry -------------------------------------------------------------------------------------------------


def test_a_retry_waits_as_a_sent_message_with_one_more_retry(books: Books) -> None:
    run = books.bring("running")
    now = books.now()
    assert books.retry(run, seconds=120)
    assert books.state() == "sent"
    assert books.record().retries == 1
    assert books.record().attempt == 1
    assert books.score("sent") == pytest.approx(now + 120, abs=5)
    assert not books.retry(run, seconds=120)


def test_a_message_that_was_given_back_to_the_broker_starts_again(books: Books) -> None:
    run = books.bring("running")
    assert books.give_back(run)
    assert (books.state(), books.record().retries) == ("sent", 0)
    assert books.start(run, nonce="second").job is not None
    assert books.start(run, nonce="third").refusal == "running"


@pytest.mark.parametrize("late", [Books.retry, Books.give_back])
def test_a_run_that_gave_its_message_back_takes_nothing_from_the_one_that_has_it_now(
    books: Books, late: Callable[..., bool]
) -> None:
    run = books.bring("running")
    books.give_back(run)
    books.start(run, nonce="second")
    assert not late(books, run, nonce=NONCE)
    assert books.state() == "running"
    assert late(books, run, nonce="second")


# -- finish, fail ------------------------------------------------------------------------------------------


def test_an_outcome_is_recorded_with_its_blobs(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    assert ledger.finish(run, DONE, blobs=[b"\x00one", b"", b"three"], deliver_seconds=LATER) == "finished"
    assert books.record().outcome == DONE
    assert [ledger.blob(1, index) for index in range(4)] == [b"\x00one", b"", b"three", None]


def test_an_outcome_that_its_run_delivers_is_due_for_the_courier_only_later(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    ledger.finish(run, DONE, deliver_seconds=LATER)
    assert not books.is_due("finished")
    assert books.record().deliveries == 1


def test_an_outcome_that_nobody_delivers_is_due_at_once(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    ledger.finish(run, DONE, deliver_seconds=0)
    assert books.is_due("finished")
    assert books.record().deliveries == 0


@pytest.mark.parametrize("state", ["claimed", "sent", "closed", "aborted"])
def test_an_outcome_is_refused_with_the_state_that_stands_against_it(books: Books, ledger: Ledger, state: str) -> None:
    run = books.bring(state)
    assert ledger.finish(run, DONE, deliver_seconds=0) == state


def test_a_finish_that_is_repeated_because_its_answer_was_lost_gets_the_same_answer(
    books: Books, ledger: Ledger
) -> None:
    run = books.bring("running")
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
    assert books.record().deliveries == 1


@pytest.mark.parametrize("hand_over", [put_off, replace, collect])
def test_a_finish_that_is_repeated_when_the_courier_has_the_outcome_says_so(
    books: Books, ledger: Ledger, hand_over: Callable[[Books], None]
) -> None:
    run = books.bring("running")
    ledger.finish(run, DONE, deliver_seconds=LATER)
    hand_over(books)
    before = books.redis.hgetall(books.key("job:1"))
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "carried"
    assert books.redis.hgetall(books.key("job:1")) == before
    assert books.is_due("finished")


def test_a_run_is_not_told_that_its_outcome_is_recorded_when_another_one_is(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    ledger.fail(1, run.task_id, Outcome.failed("hard time limit"))
    assert ledger.finish(run, DONE, deliver_seconds=LATER) != "finished"
    assert books.record().outcome == Outcome.failed("hard time limit")


def test_an_outcome_of_an_unknown_job_is_refused(ledger: Ledger) -> None:
    assert ledger.finish(RunKey(1, "mr-1-1-x"), DONE, deliver_seconds=0) == "unknown"


@pytest.mark.parametrize("state", ["running", "finished", "closed"])
def test_an_outcome_of_an_earlier_attempt_is_superseded(books: Books, ledger: Ledger, state: str) -> None:
    books.bring(state)
    before = books.redis.hgetall(books.key("job:1"))
    late = Outcome("done", "late", ())
    assert ledger.finish(RunKey(1, "mr-1-0-x"), late, blobs=[b"late"], deliver_seconds=0) == "superseded"
    assert books.redis.hgetall(books.key("job:1")) == before


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
def test_an_attempt_that_failed_outside_of_its_handler_is_delivered_at_once(
    books: Books, ledger: Ledger, state: str
) -> None:
    run = books.bring(state)
    assert ledger.fail(1, run.task_id, Outcome.failed("time limit"))
    assert books.is_due("finished")
    assert books.record().outcome == Outcome.failed("time limit")


@pytest.mark.parametrize(("retries", "holder"), [(0, HOLDER), (2, HOLDER), (1, "another worker")])
def test_a_run_that_ended_takes_no_other_one_with_it(books: Books, ledger: Ledger, retries: int, holder: str) -> None:
    run = books.bring("sent")
    books.start(RunKey(1, run.task_id, 1))
    assert not ledger.fail(1, run.task_id, EXPIRED, retries=retries, holder=holder)
    assert books.state() == "running"
    assert ledger.fail(1, run.task_id, EXPIRED, retries=1, holder=HOLDER)


def test_a_message_that_waits_is_failed_by_whichever_worker_refuses_it(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    books.retry(run)
    assert not ledger.fail(1, run.task_id, EXPIRED, unstarted=True, retries=0, holder="another worker")
    assert ledger.fail(1, run.task_id, EXPIRED, unstarted=True, retries=1, holder="another worker")


def test_a_message_that_did_not_start_takes_no_running_copy_with_it(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    assert not ledger.fail(1, run.task_id, EXPIRED, unstarted=True)
    assert books.state() == "running"
    assert ledger.finish(run, DONE, deliver_seconds=0) == "finished"


def test_a_recorded_outcome_is_not_replaced_by_a_later_failure(books: Books, ledger: Ledger) -> None:
    run = books.bring("finished")
    assert not ledger.fail(1, run.task_id, Outcome.failed("late"))
    assert books.record().outcome == DONE


# -- lose --------------------------------------------------------------------------------------------------


def test_a_lost_run_is_sent_again_as_the_next_attempt(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    assert books.die(run) == "again"
    record = books.record()
    assert record.attempt == 2
    assert record.task_id.startswith("mr-1-2-")
    assert record.task_id != run.task_id
    assert books.is_due("claimed")
    assert ledger.finish(run, DONE, deliver_seconds=0) == "superseded"


def test_a_lost_run_begins_its_next_attempt_with_budgets_of_its_own(books: Books, ledger: Ledger) -> None:
    run = books.bring("sent")
    resend(ledger, run)
    books.start(run)
    books.retry(run)
    retried = RunKey(1, run.task_id, 1)
    books.start(retried)
    assert books.die(retried) == "again"
    record = books.record()
    assert (record.resends, record.retries, record.why) == (0, 0, "")


def test_a_job_that_keeps_losing_its_worker_fails_after_max_attempts(books: Books) -> None:
    run = books.bring("running", route=Route("t", "celery", max_attempts=3))
    answers = []
    for _ in range(3):
        answers.append(books.die(run))
        run = RunKey(1, books.record().task_id)
        books.start(run)
    assert answers == ["again", "again", "failed"]
    assert books.record().outcome == FAILED["too_often"]
    assert books.is_due("finished")


def test_a_handler_that_must_not_run_again_fails_at_its_first_loss(books: Books) -> None:
    run = books.bring("running", route=Route("t", "celery", on_lost="fail"))
    assert books.die(run) == "failed"
    assert books.record().outcome == FAILED["must_not"]


def test_the_reaper_loses_only_a_run_whose_lease_has_run_out(books: Books) -> None:
    run = books.bring("running")
    assert books.reap(run) == "kept"
    books.make_due("running")
    books.hold(run)
    assert books.reap(run) == "kept"
    assert books.state() == "running"
    books.make_due("running")
    assert books.reap(run) == "again"


def test_a_lease_that_has_run_out_is_lost_whatever_celery_retry_it_was_of(books: Books) -> None:
    run = books.bring("sent")
    books.start(RunKey(1, run.task_id, 3))
    books.make_due("running")
    assert books.reap(run) == "again"


def test_a_run_is_lost_once(books: Books) -> None:
    run = books.bring("running")
    assert books.die(run) == "again"
    assert books.die(run) == "kept"
    assert books.record().attempt == 2


@pytest.mark.parametrize("retries", [0, 2])
def test_a_process_that_dies_takes_no_other_celery_retry_with_it(books: Books, retries: int) -> None:
    run = books.bring("sent")
    books.start(RunKey(1, run.task_id, 1))
    assert books.die(RunKey(1, run.task_id, retries)) == "kept"
    assert (books.state(), books.record().attempt) == ("running", 1)


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_process_that_dies_takes_no_run_of_another_worker_with_it(books: Books, state: str) -> None:
    run = books.bring(state)
    assert books.die(run, holder="another worker") == "kept"
    assert (books.state(), books.record().attempt) == (state, 1)
    assert not books.is_due(state)


def test_an_outcome_whose_run_died_while_it_delivered_is_the_couriers_at_once(books: Books, ledger: Ledger) -> None:
    run = books.bring("finished")
    bell = ledger.bell(0.01)
    assert next(bell) == ""
    assert books.die(run) == "kept"
    assert books.is_due("finished")
    assert next(bell) == "deliver"
    assert books.record().outcome == DONE
    assert books.hold(run) == {}
    assert books.is_due("finished")


def test_an_outcome_that_waits_for_its_next_delivery_is_not_hurried_by_the_death_of_its_run(
    books: Books, ledger: Ledger
) -> None:
    run = books.bring("finished")
    ledger.undelivered(books.delivery(), "503", wait_seconds=LATER)
    assert books.die(run) == "kept"
    assert not books.is_due("finished")


def test_an_outcome_that_a_courier_delivers_is_not_taken_from_it_by_the_death_of_its_run(books: Books) -> None:
    run = books.bring("finished")
    key = books.collect()
    assert books.die(run) == "kept"
    assert not books.is_due("finished")
    assert books.ledger.carry(key, hold_seconds=LATER)


def test_an_outcome_is_not_taken_from_its_run_by_the_death_of_an_earlier_celery_retry(books: Books) -> None:
    run = books.bring("sent")
    retried = RunKey(1, run.task_id, 1)
    books.start(retried)
    books.ledger.finish(retried, DONE, deliver_seconds=LATER)
    assert books.die(run) == "kept"
    assert not books.is_due("finished")


def test_the_reaper_takes_no_outcome_from_the_run_that_delivers_it(books: Books) -> None:
    run = books.bring("finished")
    assert books.reap(run) == "kept"
    assert not books.is_due("finished")


# -- lost --------------------------------------------------------------------------------------------------


def two_due_runs(books: Books) -> None:
    """Two runs whose lease has run out, and one whose lease has not."""
    for job_id in (1, 2, 3):
        books.bring("running", job_id)
    books.make_due("running", 1, 2)


def test_the_runs_whose_lease_has_run_out_are_lost(books: Books, ledger: Ledger) -> None:
    two_due_runs(books)
    assert sorted(ledger.lost(lease=LATER)) == [1, 2]
    assert sorted(ledger.lost(lease=LATER)) == [1, 2]  # until somebody says so
    assert len(ledger.lost(1, lease=LATER)) == 1


def test_after_a_time_in_which_nobody_looked_runs_get_half_a_lease(books: Books, ledger: Ledger) -> None:
    assert ledger.lost(lease=30) == []
    two_due_runs(books)
    books.age_look(seconds=11)
    assert ledger.lost(lease=30) == []
    for _ in range(3):
        books.age_look(seconds=4)
        assert ledger.lost(lease=30) == []
    books.age_look(seconds=4)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


def test_who_looks_in_the_usual_pace_waits_for_nobody(books: Books, ledger: Ledger) -> None:
    two_due_runs(books)
    for _ in range(20):
        assert sorted(ledger.lost(lease=30)) == [1, 2]
        books.age_look(seconds=9)


def test_the_patience_is_the_same_for_all_bridges_and_for_one_that_has_just_come(books: Books, ledger: Ledger) -> None:
    ledger.lost(lease=30)
    two_due_runs(books)
    books.age_look(seconds=11)
    for _ in range(3):
        assert Ledger(INSIDE, ledger.worker).lost(lease=30) == []
    books.age_look(seconds=15)
    assert ledger.lost(lease=30) == []  # nobody looked for long, once more
    books.age_look(seconds=9)
    Ledger(INSIDE, ledger.worker).lost(lease=30)
    books.age_look(seconds=9)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


def test_the_first_look_of_all_waits_for_nobody(books: Books, ledger: Ledger) -> None:
    two_due_runs(books)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


# -- missed ------------------------------------------------------------------------------------------------


def test_misses_are_counted_in_a_row_and_from_the_first(books: Books, ledger: Ledger) -> None:
    assert ledger.missed([1, 2]) == {1: Missed(1, 0.0), 2: Missed(1, 0.0)}
    books.age_miss(1, seconds=50)
    found = ledger.missed([2, 1])
    assert list(found) == [2, 1]
    assert (found[1].times, found[2].times) == (2, 2)
    assert 50 <= found[1].seconds < 55
    assert found[2].seconds < 5


def test_a_job_that_was_listed_in_between_begins_anew(books: Books, ledger: Ledger) -> None:
    ledger.missed([1, 2])
    books.age_miss(1, seconds=50)
    assert list(ledger.missed([2])) == [2]
    assert ledger.missed([1, 2])[1] == Missed(1, 0.0)
    assert ledger.missed([]) == {}
    assert ledger.missed([2])[2] == Missed(1, 0.0)


def test_all_bridges_count_the_same_misses(books: Books, ledger: Ledger) -> None:
    other = Ledger(INSIDE, ledger.worker)
    assert [each.missed([1])[1].times for each in (ledger, other, ledger, other)] == [1, 2, 3, 4]
    assert Ledger(INSIDE, "another name").missed([1])[1].times == 1


def test_misses_are_forgotten_when_nobody_counts_any_more(books: Books, ledger: Ledger) -> None:
    ledger.missed([1])
    assert 0 < books.redis.ttl(books.key("missed")) <= 3600


# -- resend ------------------------------------------------------------------------------------------------


def test_a_message_that_nobody_started_is_sent_again_under_the_same_id(books: Books, ledger: Ledger) -> None:
    run = books.bring("sent")
    assert resend(ledger, run) == "again"
    record = books.record()
    assert (record.task_id, record.attempt, record.resends, record.why) == (run.task_id, 1, 1, "not started")
    assert books.is_due("claimed")


def test_sending_again_has_a_budget_and_then_the_job_fails(books: Books, ledger: Ledger) -> None:
    run = books.bring("sent")
    assert [resend(ledger, run, budget=3) for _ in range(4)] == ["again", "again", "again", "failed"]
    assert books.record().outcome == Outcome.failed("never started")
    assert books.is_due("finished")


def test_sending_again_without_a_budget_is_not_counted(books: Books, ledger: Ledger) -> None:
    run = books.bring("sent")
    for _ in range(5):
        assert resend(ledger, run, budget=None) == "again"
    assert books.record().resends == 0


def test_a_message_is_sent_again_after_the_time_that_was_asked_for(books: Books, ledger: Ledger) -> None:
    run = books.bring("sent")
    resend(ledger, run, wait_seconds=LATER)
    assert books.state() == "claimed"
    assert not books.is_due("claimed")


# -- abort, close ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "finished"])
def test_an_aborted_job_names_the_task_to_revoke_and_its_outcome_is_refused(
    books: Books, ledger: Ledger, state: str
) -> None:
    run = books.bring(state)
    assert ledger.abort(1, "by an operator") == run.task_id
    assert books.record().why == "by an operator"
    assert ledger.finish(run, DONE, deliver_seconds=0) == "aborted"
    assert books.start(run).refusal == "aborted"


@pytest.mark.parametrize("how", ["delivered", "superseded"])
def test_a_closed_job_says_how(books: Books, how: str) -> None:
    books.bring("finished")
    assert books.close(how=how)
    assert books.record().how == how


@pytest.mark.parametrize("state", OVER)
def test_a_job_that_is_over_leaves_only_a_light_record_that_expires(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    books = fake_books(monkeypatch, history=1000.0)
    run = books.bring("finished")
    books.ledger.delivered_part(books.delivery(), "review:0", "7", hold_seconds=LATER)
    if state == "closed":
        books.close()
        books.outgrow_kept_outcome()
    else:
        books.ledger.abort(1, "operator")
    record = books.record()
    assert books.state() == state
    assert books.ledger.in_flight() == {}
    assert books.load() == 0
    assert (record.job, record.outcome) == (None, None)
    assert books.ledger.blob(1, 0) is None
    assert record.task_id == run.task_id
    assert "ended" in record.times
    assert 990 < books.redis.ttl(books.key("job:1")) <= 1000
    ending = "done" if state == "closed" else "aborted"
    left = {"job:1", "story:1", f"ended:{ending}", "figures"}
    assert set(books.redis.keys(books.key("*"))) == {books.key(name).encode() for name in left}
    for name in left:
        assert 990 < books.redis.ttl(books.key(name)) <= 1000


# -- delivering --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES[1:4])
def test_what_is_due_is_taken_once_until_its_time_is_over(books: Books, ledger: Ledger, state: str) -> None:
    books.bring(state, 1)
    books.bring(state, 2)
    before = books.redis.hgetall(books.key("job:1"))
    assert ledger.take(state, hold_seconds=LATER) == []
    books.make_due(state, 1)
    assert ledger.take(state, hold_seconds=LATER) == [1]
    assert ledger.take(state, hold_seconds=LATER) == []
    books.make_due(state, 1)
    assert ledger.take(state, hold_seconds=LATER) == [1]
    assert books.redis.hgetall(books.key("job:1")) == before


def test_no_more_is_taken_than_was_asked_for(books: Books, ledger: Ledger) -> None:
    for job_id in range(1, 6):
        books.bring("sent", job_id)
    books.make_due("sent")
    first = ledger.take("sent", 3, hold_seconds=LATER)
    second = ledger.take("sent", 3, hold_seconds=LATER)
    assert (len(first), len(second)) == (3, 2)
    assert sorted(first + second) == [1, 2, 3, 4, 5]


def test_an_outcome_that_is_due_is_collected_once_until_its_time_is_over(books: Books, ledger: Ledger) -> None:
    one, two = books.bring("finished", 1), books.bring("finished", 2)
    assert ledger.collect(10, hold_seconds=LATER) == []
    books.make_due("finished", 1)
    assert ledger.collect(10, hold_seconds=LATER) == [DeliveryKey(1, one.task_id, 2)]
    assert ledger.collect(10, hold_seconds=LATER) == []
    books.make_due("finished")
    expected = {DeliveryKey(1, one.task_id, 3), DeliveryKey(2, two.task_id, 2)}
    assert set(ledger.collect(10, hold_seconds=LATER)) == expected


def test_an_outcome_that_nobody_tried_to_deliver_is_collected_as_the_first_delivery(
    books: Books, ledger: Ledger
) -> None:
    ended, expired = books.bring("running", 1), books.bring("sent", 2)
    ledger.finish(ended, DONE, deliver_seconds=0)
    ledger.fail(2, expired.task_id, EXPIRED)
    assert set(ledger.collect(10, hold_seconds=LATER)) == {first_delivery(ended), first_delivery(expired)}


def test_an_outcome_whose_record_is_lost_keeps_no_other_one_from_its_delivery(books: Books, ledger: Ledger) -> None:
    books.bring("finished", 1)
    whole = books.bring("finished", 2)
    books.redis.delete(books.key("job:1"))
    books.make_due("finished")
    assert ledger.collect(10, hold_seconds=LATER) == [DeliveryKey(2, whole.task_id, 2)]


def test_no_more_is_collected_than_was_asked_for(books: Books, ledger: Ledger) -> None:
    for job_id in range(1, 6):
        books.bring("finished", job_id)
    books.make_due("finished")
    first = ledger.collect(3, hold_seconds=LATER)
    second = ledger.collect(3, hold_seconds=LATER)
    assert (len(first), len(second)) == (3, 2)
    assert sorted(key.job_id for key in first + second) == [1, 2, 3, 4, 5]


# -- delivering, by whose turn it is -----------------------------------------------------------------------

DELIVERY_STEPS: dict[str, Callable[[Ledger, DeliveryKey], bool]] = {
    "carry": lambda ledger, key: ledger.carry(key, hold_seconds=LATER),
    "delivered_part": lambda ledger, key: ledger.delivered_part(key, "review:0", "8", hold_seconds=LATER),
    "undelivered": lambda ledger, key: ledger.undelivered(key, "503", wait_seconds=0),
    "replace_outcome": lambda ledger, key: ledger.replace_outcome(key, Outcome.failed("413")),
}


@pytest.mark.parametrize("step", DELIVERY_STEPS)
def test_a_delivery_that_was_overtaken_changes_nothing(books: Books, ledger: Ledger, step: str) -> None:
    run = books.bring("finished")
    second, third = books.collect(), books.collect()
    before = books.redis.hgetall(books.key("job:1"))
    for key in (first_delivery(run), second, DeliveryKey(1, run.task_id, third.number + 1)):
        assert not DELIVERY_STEPS[step](ledger, key)
    assert books.redis.hgetall(books.key("job:1")) == before
    assert not books.is_due("finished")
    assert DELIVERY_STEPS[step](ledger, third)


def lose_its_run(books: Books) -> None:
    books.die(RunKey(1, books.record().task_id))


@pytest.mark.parametrize("step", DELIVERY_STEPS)
@pytest.mark.parametrize("lay_down", [put_off, replace, lose_its_run])
def test_a_delivery_that_was_laid_down_changes_nothing_any_more(
    books: Books, ledger: Ledger, lay_down: Callable[[Books], None], step: str
) -> None:
    run = books.bring("finished")
    lay_down(books)
    before = books.redis.hgetall(books.key("job:1"))
    assert not DELIVERY_STEPS[step](ledger, first_delivery(run))
    assert books.redis.hgetall(books.key("job:1")) == before
    assert books.is_due("finished")


def end_job(books: Books, end: str) -> None:
    if end == "closed":
        books.close()
    else:
        books.ledger.abort(1, "operator")


@pytest.mark.parametrize("step", DELIVERY_STEPS)
@pytest.mark.parametrize("end", OVER)
def test_a_delivery_whose_job_is_over_changes_nothing(books: Books, ledger: Ledger, step: str, end: str) -> None:
    books.bring("finished")
    key = books.collect()
    end_job(books, end)
    before = books.redis.hgetall(books.key("job:1"))
    assert not DELIVERY_STEPS[step](ledger, key)
    assert books.redis.hgetall(books.key("job:1")) == before
    assert books.state() == end


LATE_STEPS: dict[str, Callable[[Ledger, DeliveryKey], bool]] = {
    **DELIVERY_STEPS,
    "close": lambda ledger, key: ledger.close(key.job_id, key.task_id, "delivered"),
}


@pytest.mark.parametrize("step", LATE_STEPS)
@pytest.mark.parametrize("end", OVER)
def test_a_late_delivery_does_not_touch_what_the_job_ended_with_when_it_was_run_anew(
    books: Books, ledger: Ledger, step: str, end: str
) -> None:
    books.bring("finished")
    late = books.delivery()
    end_job(books, end)
    books.bring("finished")
    before = books.redis.hgetall(books.key("job:1"))
    assert books.delivery().number == late.number
    assert not LATE_STEPS[step](ledger, late)
    assert books.redis.hgetall(books.key("job:1")) == before
    assert books.state() == "finished"


def test_who_delivers_keeps_the_job_for_as_long_as_it_says_so(books: Books, ledger: Ledger) -> None:
    books.bring("finished")
    key = books.collect()
    books.make_due("finished")
    now = books.now()
    assert ledger.carry(key, hold_seconds=15)
    assert books.score("finished") == pytest.approx(now + 15, abs=5)


def test_a_delivered_part_is_kept_and_prolongs_the_delivery(books: Books, ledger: Ledger) -> None:
    key = first_delivery(books.bring("finished"))
    books.make_due("finished")
    assert ledger.delivered_part(key, "artifact:0", '{"slug":"a"}', hold_seconds=LATER)
    assert ledger.delivered_part(key, "review:1", "12", hold_seconds=LATER)
    assert not books.is_due("finished")
    assert books.record().parts == {"artifact:0": '{"slug":"a"}', "review:1": "12"}


def test_a_failed_delivery_is_due_again_after_its_pause(books: Books, ledger: Ledger) -> None:
    key = first_delivery(books.bring("finished"))
    assert ledger.undelivered(key, "503", wait_seconds=LATER)
    assert not books.is_due("finished")
    assert ledger.undelivered(books.collect(), "still 503", wait_seconds=0)
    assert books.is_due("finished")
    assert books.record().why == "still 503"


def test_an_outcome_that_replaces_a_refused_one_is_due_at_once(books: Books, ledger: Ledger) -> None:
    key = first_delivery(books.bring("finished"))
    assert ledger.replace_outcome(key, Outcome.failed("413"))
    assert books.record().outcome == Outcome.failed("413")
    assert books.is_due("finished")


# -- reading -----------------------------------------------------------------------------------------------


def test_the_survey_counts_states_and_queues_from_the_sets(books: Books, ledger: Ledger) -> None:
    other = Route("proj.other", "other")
    for job_id, state in enumerate(["admitted", "claimed", "claimed", "sent", "running", "finished", "closed"], 1):
        books.bring(state, job_id, route=other if state == "claimed" else ROUTE)
    survey = ledger.survey(["other", "celery", "none"])
    assert survey.states == {"admitted": 1, "claimed": 2, "sent": 1, "running": 1, "finished": 1}
    assert survey.load == {"other": 2, "celery": 3, "none": 0}
    assert (survey.slots_taken, survey.in_flight) == (5, 6)
    assert ledger.in_flight() == {1: "admitted", 2: "claimed", 3: "claimed", 4: "sent", 5: "running", 6: "finished"}


def test_the_ledgers_of_two_worker_names_know_nothing_of_each_other(books: Books) -> None:
    books.bring("running")
    other = Ledger(INSIDE, "other {name}")
    assert other.in_flight() == {}
    assert other.read(1) is None
    assert admit(other, job(), ROUTE, asked_at=0.0, total_limit=1) == "admitted"


def test_a_record_shows_no_content_of_the_job(books: Books) -> None:
    books.bring("finished", prompt="secret prompt")
    assert "secret" not in repr(books.record())
    assert "DONE" not in repr(books.record())


# -- among bridges -----------------------------------------------------------------------------------------


def test_one_bridge_at_a_time_has_its_turn(books: Books, ledger: Ledger) -> None:
    assert ledger.my_turn("sync", LATER)
    assert not ledger.my_turn("sync", LATER)
    assert ledger.my_turn("other", LATER)
    books.redis.delete(books.key("turn:sync"))
    assert ledger.my_turn("sync", LATER)


def test_a_turn_ends_by_itself(books: Books, ledger: Ledger) -> None:
    ledger.my_turn("sync", 30.0)
    assert 0 < books.redis.pttl(books.key("turn:sync")) <= 30_000


def test_a_ledger_is_new_once_and_again_when_it_was_emptied(books: Books, ledger: Ledger) -> None:
    assert ledger.found()
    assert not ledger.found()
    books.redis.flushall()
    assert ledger.found()


def test_a_ledger_that_nobody_uses_counts_as_new_when_its_history_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    books = fake_books(monkeypatch, history=1000.0)
    books.ledger.found()
    books.redis.expire(books.key("founded"), 10)
    books.ledger.found()
    assert 990 < books.redis.ttl(books.key("founded")) <= 1000


@pytest.mark.parametrize("state", ["admitted", "claimed"])
def test_a_job_that_comes_again_is_off_the_list_of_its_end(books: Books, ledger: Ledger, state: str) -> None:
    books.bring("closed")
    assert [job_id for job_id, _ in ledger.ended("done", 10)] == [1]
    books.bring(state)
    assert ledger.ended("done", 10) == []


@pytest.mark.parametrize("state", ["closed", "admitted", "claimed"])
def test_what_ended_before_the_history_is_on_no_list_tidied_up_or_not(books: Books, ledger: Ledger, state: str) -> None:
    books.bring("closed")
    # A day later its record is gone, and the list was not tidied up.
    books.redis.zincrby(books.key("ended:done"), -86400, 1)
    if state != "closed":
        books.redis.delete(books.key("job:1"), books.key("story:1"))
        books.bring(state)
    assert ledger.ended("done", 10) == []


RINGS: list[tuple[str, str, str]] = [
    ("admitted", "drop", "dropped"),
    ("running", "finish", "finished"),
    ("running", "fail", "deliver"),
    ("sent", "fail", "deliver"),
    ("running", "lose", "claimed"),
    ("running", "abort", "aborted"),
    ("finished", "replace_outcome", "deliver"),
]


@pytest.mark.parametrize(("state", "step", "ring"), RINGS)
def test_the_bell_rings_when_a_slot_becomes_free_or_work_becomes_due(
    books: Books, ledger: Ledger, state: str, step: str, ring: str
) -> None:
    run = books.bring(state)
    bell = ledger.bell(0.01)
    assert next(bell) == ""
    STEPS[step](books, run)
    assert next(bell) == ring
    assert next(bell) == ""


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("claimed", "sent"),
        ("sent", "start"),
        ("running", "retry"),
        ("admitted", "settle_later"),
        ("finished", "close"),
    ],
)
def test_the_bell_is_silent_when_nobody_has_anything_to_do(books: Books, ledger: Ledger, state: str, step: str) -> None:
    run = books.bring(state)
    bell = ledger.bell(0.01)
    assert next(bell) == ""
    STEPS[step](books, run)
    assert next(bell) == ""


def test_an_outcome_that_nobody_delivers_rings_for_the_courier(books: Books, ledger: Ledger) -> None:
    run = books.bring("running")
    bell = ledger.bell(0.01)
    assert next(bell) == ""
    ledger.finish(run, DONE, deliver_seconds=0)
    assert next(bell) == "deliver"
