"""Every step of the job's life, from every state: allowed or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.job import Job
from mr_celery.ledger import IN_FLIGHT, DeliveryKey, Ledger, Missed, Route, RunKey
from mr_celery.ledger.scripts import PAGE
from mr_celery.ledger.transitions import KEPT_OUTCOME, MOST_REDELIVERIES, Transitions
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, HOLDER, INSIDE, LATER, NONCE, ROUTE, STATES, LedgerKit, admit, fake_kit, sent

pytestmark = pytest.mark.usefixtures("on_real_redis")

SLOT_STATES = ("admitted", "claimed", "sent", "running")
OVER = ("closed", "aborted")
EXPIRED = Outcome.failed("the message expired")


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def ledger(kit: LedgerKit) -> Ledger:
    return kit.ledger


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


def unpublished(ledger: Ledger, run: RunKey, *, why: str = "NO_ROUTE", tries: int = 3, seconds: float = 0.0) -> str:
    return ledger.unpublished(
        run.job_id,
        run.task_id,
        why=why,
        tries=tries,
        seconds=seconds,
        most_wait_seconds=5.0,
        exhausted=Outcome.failed("never published"),
    )


def postpone(ledger: Ledger, run: RunKey, *, nonce: str = NONCE, times: int = 2) -> str:
    return ledger.postpone(run, nonce=nonce, why="a database is unreachable", times=times, wait_seconds=10.0)


def requeue(ledger: Ledger, run: RunKey, *, force: bool = False) -> str:
    return ledger.requeue(run.job_id, run.task_id, "operator", wait_seconds=LATER, force=force)


# -- the picture as a table ------------------------------------------------------------------------------

Step = Callable[[LedgerKit, RunKey], object]

STEPS: dict[str, Step] = {
    "drop": lambda kit, run: kit.ledger.drop(run.job_id),
    "settle_later": lambda kit, run: kit.ledger.settle_later(run.job_id, LATER),
    "claimed": lambda kit, run: kit.ledger.claimed(run.job_id),
    "sent": lambda kit, run: sent(kit.ledger, run.job_id, run.task_id, wait_seconds=LATER),
    "start": lambda kit, run: kit.start(run, nonce="second").job is not None,
    "announce_retry": lambda kit, run: kit.ledger.announce_retry(run, 1, nonce=NONCE),
    "retry": lambda kit, run: kit.retry(run),
    "give_back": lambda kit, run: kit.give_back(run),
    "postpone": lambda kit, run: postpone(kit.ledger, run) != "kept",
    "finish": lambda kit, run: kit.ledger.finish(run, DONE, deliver_seconds=LATER),
    "fail": lambda kit, run: kit.ledger.fail(run.job_id, run.task_id, Outcome.failed("no")),
    "fail unstarted": lambda kit, run: kit.ledger.fail(run.job_id, run.task_id, EXPIRED, unstarted=True),
    "lose": lambda kit, run: kit.die(run) != "kept",
    "resend": lambda kit, run: resend(kit.ledger, run) != "kept",
    "unpublished": lambda kit, run: unpublished(kit.ledger, run) != "kept",
    "reroute": lambda kit, run: kit.ledger.reroute(run.job_id, run.task_id, "celery"),
    "requeue": lambda kit, run: requeue(kit.ledger, run) != "kept",
    "abort": lambda kit, run: kit.ledger.abort(run.job_id, "operator"),
    "renew_delivery": lambda kit, run: kit.ledger.renew_delivery(first_delivery(run), lease=LATER),
    "delivered_part": lambda kit, run: kit.ledger.delivered_part(first_delivery(run), "review:0", "7", lease=LATER),
    "undelivered": lambda kit, run: kit.ledger.undelivered(first_delivery(run), "503", wait_seconds=LATER),
    "replace_outcome": lambda kit, run: kit.ledger.replace_outcome(first_delivery(run), Outcome.failed("413")),
    "close": lambda kit, run: kit.ledger.close(run.job_id, run.task_id, "delivered"),
}

LEADS: dict[str, dict[str, str]] = {
    "drop": {"admitted": "unknown"},
    "settle_later": {"admitted": "admitted"},
    "claimed": {"admitted": "claimed"},
    "sent": {"claimed": "sent"},
    "start": {"claimed": "running", "sent": "running"},
    "announce_retry": {"running": "running"},
    "retry": {"running": "sent"},
    "give_back": {"running": "sent"},
    "postpone": {"running": "claimed"},
    "finish": {"running": "finished"},
    "fail": {"claimed": "finished", "sent": "finished", "running": "finished", "deferred": "finished"},
    "fail unstarted": {"claimed": "finished", "sent": "finished"},
    "lose": {"running": "claimed"},
    "resend": {"claimed": "claimed", "sent": "claimed"},
    "unpublished": {"claimed": "claimed"},
    "reroute": {"claimed": "claimed"},
    "requeue": {"claimed": "claimed", "sent": "claimed", "running": "claimed", "deferred": "claimed"},
    "abort": dict.fromkeys(("claimed", "sent", "running", "deferred", "finished"), "aborted"),
    "renew_delivery": {"finished": "finished"},
    "delivered_part": {"finished": "finished"},
    "undelivered": {"finished": "finished"},
    "replace_outcome": {"finished": "finished"},
    "close": {"finished": "closed"},
}

ANSWERS_WITH_THE_STATE = ("sent", "finish")

OF_A_WHOLE_LIFE = ("drop", "settle_later", "claimed", "abort")
"""Steps that are not limited to one attempt."""

CHANGED_THOUGH_REFUSED = {("lose", "finished"): b"deliverer"}
"""The field that a refused step removes: a courier takes over the delivery of a run that died."""


NOT_OF_ONE_JOB_IN_ANY_STATE = {"survey", "admit", "adopt", "renew", "collect"} | {
    "reference",
    "defer",
    "attach",
    "complete",
    "extend",
    "amend",
}  # the last six: test_deferred.py
"""The methods that have tests of their own instead of a place in the table."""


def test_each_transition_is_in_the_table() -> None:
    methods = {name for name in vars(Transitions) if not name.startswith("_")}
    assert methods - NOT_OF_ONE_JOB_IN_ANY_STATE == {step.split()[0] for step in STEPS}
    assert LEADS.keys() == STEPS.keys()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_taken_from_its_states_and_refused_from_all_others(kit: LedgerKit, step: str, state: str) -> None:
    run = kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))

    answer = STEPS[step](kit, run)

    after = LEADS[step].get(state, state)
    assert kit.state() == after
    assert kit.load() == (1 if after in SLOT_STATES else 0)
    if state not in LEADS[step]:
        before.pop(CHANGED_THOUGH_REFUSED.get((step, state)), None)
        assert kit.redis.hgetall(kit.key("job:1")) == before
    if step not in ANSWERS_WITH_THE_STATE:
        assert bool(answer) == (state in LEADS[step])


@pytest.mark.parametrize("state", STATES[2:])
@pytest.mark.parametrize("step", [step for step in STEPS if step not in OF_A_WHOLE_LIFE])
def test_a_step_with_another_attempts_task_id_changes_nothing(kit: LedgerKit, step: str, state: str) -> None:
    kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    STEPS[step](kit, RunKey(1, "mr-1-7-other"))
    assert kit.redis.hgetall(kit.key("job:1")) == before


# -- admit -----------------------------------------------------------------------------------------------


def test_an_admitted_job_waits_for_its_claim_to_be_settled(kit: LedgerKit, ledger: Ledger) -> None:
    now = kit.now()
    assert admit(ledger, job(), ROUTE, asked_at=now, settle_seconds=60) == "admitted"
    assert kit.state() == "admitted"
    assert kit.score("admitted") == pytest.approx(now + 60, abs=5)
    assert kit.record().route == ROUTE
    assert kit.record().job == job()


def test_the_route_is_stored_with_the_job(kit: LedgerKit) -> None:
    route = Route("proj.once", "slow", max_attempts=7, on_lost="fail")
    kit.bring("admitted", route=route)
    assert kit.record().route == route


@pytest.mark.parametrize(
    ("queue_limit", "total_limit", "answer"),
    [(None, None, "admitted"), (2, None, "full"), (3, None, "admitted"), (None, 4, "full"), (None, 5, "admitted")],
)
def test_a_job_is_admitted_while_its_queue_and_the_total_have_slots(
    kit: LedgerKit, ledger: Ledger, queue_limit: int | None, total_limit: int | None, answer: str
) -> None:
    other = Route("proj.other", "other")
    kit.bring("admitted", 11)
    kit.bring("running", 12)
    kit.bring("claimed", 13, route=other)
    kit.bring("sent", 14, route=other)
    kit.bring("finished", 15)  # holds no slot
    admission = admit(ledger, job(), ROUTE, asked_at=kit.now(), queue_limit=queue_limit, total_limit=total_limit)
    assert admission == answer
    assert kit.state() == ("admitted" if answer == "admitted" else "unknown")


def test_a_limit_of_zero_admits_nothing(kit: LedgerKit, ledger: Ledger) -> None:
    assert admit(ledger, job(), ROUTE, asked_at=kit.now(), queue_limit=0) == "full"
    assert admit(ledger, job(), ROUTE, asked_at=kit.now(), total_limit=0) == "full"


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
def test_admitting_a_known_job_depends_on_when_the_inbox_was_asked(
    kit: LedgerKit, ledger: Ledger, state: str, asked_before_the_claim: str, asked_after_it: str
) -> None:
    asked_before = kit.now()
    kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert admit(ledger, job(), ROUTE, asked_at=asked_before) == asked_before_the_claim
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert admit(ledger, job(), ROUTE, asked_at=kit.now() + 0.001) == asked_after_it
    assert kit.state() == ("admitted" if asked_after_it == "admitted" else state)


def test_a_job_is_claimed_again_once_for_each_inbox_answer(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("running")
    asked_at = kit.now()
    assert admit(ledger, job(), ROUTE, asked_at=asked_at) == "again"
    assert admit(ledger, job(), ROUTE, asked_at=asked_at) == "known"


def test_a_job_is_claimed_again_without_a_free_slot(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("running")
    assert admit(ledger, job(), ROUTE, asked_at=kit.now() + 0.001, queue_limit=1, total_limit=1) == "again"


def test_a_new_life_has_nothing_of_the_old_one(kit: LedgerKit, ledger: Ledger) -> None:
    old = kit.bring("closed")
    admit(ledger, job(prompt="new"), ROUTE, asked_at=kit.now() + 0.001)
    task_id = ledger.claimed(1)
    record = kit.record()
    assert task_id != old.task_id
    assert (record.attempt, record.how, record.deliveries) == (1, "", 0)
    assert record.job is not None
    assert record.job.prompt == "new"
    assert "ended" not in record.times
    assert kit.redis.ttl(kit.key("job:1")) == -1
    assert kit.start(old).refusal == "superseded"


# -- claimed, sent -----------------------------------------------------------------------------------------


def test_a_claimed_job_has_a_task_id_before_anything_is_published(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("admitted")
    task_id = ledger.claimed(1, wait_seconds=5)
    assert task_id is not None
    assert task_id.startswith("mr-1-1-")
    record = kit.record()
    assert (record.task_id, record.attempt, record.resends, record.retries) == (task_id, 1, 0, 0)


def test_a_claim_is_settled_once(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("admitted")
    assert ledger.claimed(1)
    assert ledger.claimed(1) is None
    assert ledger.drop(1) is False


def test_two_jobs_of_different_lives_have_different_task_ids(kit: LedgerKit) -> None:
    first, second = kit.bring("claimed", 1), kit.bring("claimed", 2)
    assert first.task_id.split("-")[3] != second.task_id.split("-")[3]


def test_a_claim_to_be_settled_later_is_not_due_until_then(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("admitted")
    kit.make_due("admitted")
    assert kit.is_due("admitted")
    assert ledger.settle_later(1, LATER)
    assert not kit.is_due("admitted")


@pytest.mark.parametrize("state", STATES)
def test_sent_returns_the_current_state(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    run = kit.bring(state)
    expected = {"claimed": "sent", "unknown": ""}.get(state, state)
    assert sent(ledger, 1, run.task_id, wait_seconds=LATER) == expected


def test_a_worker_that_was_faster_than_the_bridge_keeps_its_run(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    kit.start(run)
    lease = kit.score("running")
    assert sent(ledger, 1, run.task_id, wait_seconds=LATER) == "running"
    assert kit.score("running") == lease


# -- adopt -------------------------------------------------------------------------------------------------


def adopt(kit: LedgerKit, *, asked_at: float | None = None, **fields: Any) -> str:
    """Adopt job 1, from a list that was requested now, or at ``asked_at``."""
    if asked_at is None:
        asked_at = kit.now() + 0.001
    return kit.ledger.adopt(job(**fields), ROUTE, asked_at=asked_at, wait_seconds=LATER)


def close_and_redeliver(kit: LedgerKit, times: int) -> None:
    """Let the server accept the close of job 1 this many times, and still list it as running."""
    for _ in range(times):
        assert adopt(kit) == "redelivered"
        assert kit.close()


@pytest.mark.parametrize("state", ["unknown", "aborted"])
def test_a_job_running_on_the_server_is_adopted_if_not_in_flight_here(kit: LedgerKit, state: str) -> None:
    kit.bring(state)
    assert adopt(kit) == "adopted"
    assert kit.state() == "claimed"
    assert kit.record().attempt == 1
    assert kit.load() == 1
    assert not kit.is_due("claimed")


@pytest.mark.parametrize("state", STATES[1:7])
def test_a_job_in_flight_is_not_adopted(kit: LedgerKit, state: str) -> None:
    kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert adopt(kit) == "known"
    assert kit.redis.hgetall(kit.key("job:1")) == before


@pytest.mark.parametrize("state", OVER)
def test_a_job_that_ended_since_the_server_was_asked_is_not_adopted(kit: LedgerKit, state: str) -> None:
    asked_at = kit.now()
    kit.bring(state)
    assert adopt(kit, asked_at=asked_at) == "known"
    assert kit.state() == state


def test_a_recently_closed_job_that_the_server_lists_as_running_is_closed_again(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.ledger.finish(run, DONE, blobs=[b"blob"], deliver_seconds=LATER)
    kit.ledger.delivered_part(kit.delivery(), "artifact:0", '{"slug":"a"}', lease=LATER)
    kit.close()
    assert adopt(kit, prompt="changed") == "redelivered"
    assert kit.state() == "finished"
    assert kit.is_due("finished")
    assert kit.record().outcome == DONE
    assert kit.record().parts == {"artifact:0": '{"slug":"a"}'}  # it is not uploaded again
    assert kit.load() == 0
    assert kit.redis.ttl(kit.key("job:1")) == -1
    assert kit.start(run, nonce="late").refusal == "finished"
    assert not kit.ledger.renew_delivery(first_delivery(run), lease=LATER)  # no delivery has begun yet
    assert kit.collect() == DeliveryKey(1, run.task_id, 2)


def test_the_number_of_redeliveries_is_limited(kit: LedgerKit) -> None:
    kit.bring("closed")
    close_and_redeliver(kit, MOST_REDELIVERIES)
    assert adopt(kit) == "known"
    assert kit.state() == "closed"


def test_a_job_that_the_server_does_not_close_runs_again_after_its_outcome_expired(
    kit: LedgerKit,
) -> None:
    old = kit.bring("closed")
    close_and_redeliver(kit, MOST_REDELIVERIES)
    kit.outgrow_kept_outcome()
    assert adopt(kit) == "adopted"
    assert kit.state() == "claimed"
    assert kit.record().outcome is None
    assert kit.start(old).refusal == "superseded"


def test_a_new_life_has_its_own_count_of_redeliveries(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("closed")
    close_and_redeliver(kit, MOST_REDELIVERIES)
    admit(ledger, job(), ROUTE, asked_at=kit.now() + 0.001)
    run = RunKey(1, ledger.claimed(1) or "")
    kit.start(run)
    ledger.finish(run, DONE, deliver_seconds=LATER)
    kit.close()
    close_and_redeliver(kit, MOST_REDELIVERIES)


def test_the_outcome_of_a_closed_job_is_kept_for_a_while(kit: LedgerKit) -> None:
    kit.bring("closed")
    kept = kit.redis.pttl(kit.key("outcome:1"))
    assert 0.9 * KEPT_OUTCOME * 1000 < kept <= KEPT_OUTCOME * 1000


def test_the_outcome_of_a_superseded_job_is_not_kept(kit: LedgerKit) -> None:
    kit.bring("finished")
    kit.close(how="superseded")
    assert not kit.redis.exists(kit.key("outcome:1"))
    assert adopt(kit) == "adopted"


def test_a_job_that_was_requeued_and_finds_no_slot_is_not_forgotten(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("closed")
    before = kit.redis.hgetall(kit.key("job:1"))
    assert admit(ledger, job(), ROUTE, asked_at=kit.now() + 0.001, queue_limit=0) == "full"
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert adopt(kit) == "redelivered"


def test_an_outcome_is_not_kept_for_a_job_that_was_requeued(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("closed")
    assert admit(ledger, job(), ROUTE, asked_at=kit.now() + 0.001) == "admitted"
    assert not kit.redis.exists(kit.key("outcome:1"))
    ledger.drop(1)
    assert adopt(kit) == "adopted"
    assert kit.state() == "claimed"


# -- start: the fence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent"])
def test_a_start_returns_the_job_and_the_attempt(kit: LedgerKit, state: str) -> None:
    run = kit.bring(state, prompt="paint")
    started = kit.start(run, node="celery@a")
    assert started.job is not None
    assert started.job.prompt == "paint"
    assert (started.attempt, started.nonce, started.refusal) == (1, NONCE, "")
    assert kit.record().node == "celery@a"


def test_a_second_message_of_the_same_attempt_is_refused(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    assert kit.start(run, nonce="first").job is not None
    second = kit.start(run, nonce="second")
    assert second.job is None
    assert second.refusal == "running"


def test_a_repeated_start_gets_the_same_answer(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    assert kit.start(run, nonce="first") == kit.start(run, nonce="first")


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("unknown", "unknown"), ("finished", "finished"), ("closed", "closed"), ("aborted", "aborted")],
)
def test_a_refused_start_names_the_state(kit: LedgerKit, state: str, refusal: str) -> None:
    run = kit.bring(state)
    assert kit.start(run).refusal == refusal


def test_a_message_of_an_earlier_attempt_is_superseded(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.die(run)
    assert kit.start(run).refusal == "superseded"
    assert kit.state() == "claimed"


def test_a_message_older_than_a_celery_retry_is_refused(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.retry(run)
    assert kit.start(run).refusal == "sent"
    assert kit.start(RunKey(1, run.task_id, 1)).job is not None


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
@pytest.mark.parametrize("retries", [1, 2, 10**9, 2**63 - 1])
def test_a_message_with_more_retries_than_the_record_is_refused(kit: LedgerKit, state: str, retries: int) -> None:
    run = kit.bring(state)
    assert kit.start(dataclasses.replace(run, retries=retries), nonce="second").refusal == "unrecorded"
    assert kit.state() == state


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "deferred", "finished", "closed", "aborted"])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_message_for_another_task_is_refused(kit: LedgerKit, state: str, retries: int) -> None:
    run = kit.bring(state)
    if state == "running" and retries:
        kit.announce(run)
    before = kit.redis.hgetall(kit.key("job:1"))
    forged = dataclasses.replace(run, retries=retries)
    assert kit.start(forged, nonce="second", task_name="proj.other").job is None
    assert kit.redis.hgetall(kit.key("job:1")) == before


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "deferred"])
def test_reports_of_a_message_for_another_task_change_nothing(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    run = kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    other: dict[str, Any] = {"task_name": "proj.other"}
    for unstarted in (True, False):
        assert not ledger.fail(1, run.task_id, EXPIRED, unstarted=unstarted, retries=0, holder=HOLDER, **other)
    assert ledger.lose(1, run.task_id, retries=0, holder=HOLDER, why="died", **FAILED, **other) == "kept"
    again = {"budget": 0, "wait_seconds": 0.0, "exhausted": EXPIRED}
    assert ledger.resend(1, run.task_id, why="unknown task", **again, **other) == "kept"  # type: ignore[arg-type]
    assert kit.redis.hgetall(kit.key("job:1")) == before


def test_only_the_announced_retry_takes_over_and_only_once(kit: LedgerKit) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    assert kit.start(dataclasses.replace(run, retries=2), nonce="forged").refusal == "unrecorded"
    assert kit.start(retried, nonce="second", task_name="proj.other").refusal == "unrecorded"
    assert kit.start(retried, nonce="second").job is not None
    assert kit.start(retried, nonce="copy").refusal == "running"
    assert kit.start(run, nonce="old").refusal == "running"
    assert not kit.ledger.announce_retry(run, 2, nonce=NONCE), "the first run has lost the job"


def test_an_announced_retry_of_a_lost_attempt_does_not_start(kit: LedgerKit) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    kit.die(run)
    assert kit.start(retried).refusal == "superseded"
    again = kit.start_again()
    assert kit.start(dataclasses.replace(again, retries=1), nonce="forged").refusal == "unrecorded"


def test_a_retry_whose_announcement_the_ledger_has_lost_is_sent_again(kit: LedgerKit) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    kit.redis.hdel(kit.key("job:1"), "next_retries")
    assert kit.start(retried, nonce="second").refusal == "unrecorded"
    assert kit.retry(run)
    assert resend(kit.ledger, run) == "again"
    assert kit.record().retries == 1
    assert kit.start(retried, nonce="second").job is not None


def test_a_celery_retry_that_starts_before_it_is_recorded_takes_over_the_run(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    assert kit.start(retried, nonce="second", node="celery@b").job is not None
    assert kit.record().retries == 1
    assert not kit.retry(run)  # the run that published it comes late
    assert ledger.finish(run, DONE, deliver_seconds=0) == "superseded"
    assert ledger.finish(retried, DONE, deliver_seconds=0) == "finished"


def test_a_run_has_a_lease_from_its_start(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    now = kit.now()
    kit.start(run, lease=30)
    assert kit.score("running") == pytest.approx(now + 30, abs=5)


# -- renewal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["sent", "running", "finished"])
def test_a_live_worker_renews_its_messages(kit: LedgerKit, state: str) -> None:
    run = kit.bring(state)
    kit.make_due(state)
    assert kit.renew(run) == {}
    assert not kit.is_due(state)


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_worker_with_a_copy_of_the_message_does_not_renew_the_run_of_another_worker(
    kit: LedgerKit, state: str
) -> None:
    run = kit.bring(state)
    kit.make_due(state)
    assert kit.renew(run, holder="another worker") == {}  # nothing is to be stopped
    assert kit.is_due(state)


def test_a_run_that_a_retry_took_over_is_renewed_by_the_worker_of_the_retry(kit: LedgerKit) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    kit.start(retried, nonce="second", holder="another worker")
    kit.make_due("running")
    kit.renew(run)
    assert kit.is_due("running")
    kit.renew(retried, holder="another worker")
    assert not kit.is_due("running")


def test_a_waiting_message_is_renewed_by_each_worker_that_has_it(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    for holder in ("one worker", "another worker"):
        kit.make_due("sent")
        kit.renew(run, holder=holder)
        assert not kit.is_due("sent")


def test_renewing_a_waiting_message_never_shortens_its_time(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    long = kit.score("sent")
    kit.renew(run, seconds=1)
    assert kit.score("sent") == long


def put_off(kit: LedgerKit) -> None:
    kit.ledger.undelivered(kit.delivery(), "503", wait_seconds=0)


def replace(kit: LedgerKit) -> None:
    kit.ledger.replace_outcome(kit.delivery(), Outcome.failed("413"))


def collect(kit: LedgerKit) -> None:
    kit.collect()
    kit.make_due("finished")


@pytest.mark.parametrize("hand_over", [put_off, replace, collect])
def test_an_outcome_that_the_courier_has_is_not_renewed_by_the_worker(
    kit: LedgerKit, hand_over: Callable[[LedgerKit], None]
) -> None:
    run = kit.bring("finished")
    hand_over(kit)
    assert kit.renew(run) == {}
    assert kit.is_due("finished")


@pytest.mark.parametrize(
    ("state", "received"), [("claimed", True), ("sent", True), ("running", False), ("finished", False)]
)
def test_a_message_that_a_worker_has_is_marked_as_received(kit: LedgerKit, state: str, received: bool) -> None:
    run = kit.bring(state)
    assert not kit.record().received
    kit.renew(run)
    assert kit.record().received == received


def test_a_message_of_another_attempt_marks_nothing(kit: LedgerKit) -> None:
    kit.bring("sent")
    kit.renew(RunKey(1, "mr-1-7-other"))
    assert not kit.record().received


def retry(kit: LedgerKit, run: RunKey) -> None:
    kit.start(run)
    kit.retry(run)


def give_back(kit: LedgerKit, run: RunKey) -> None:
    kit.start(run)
    kit.give_back(run)


def send_again(kit: LedgerKit, run: RunKey) -> None:
    resend(kit.ledger, run)


def lose_the_run(kit: LedgerKit, run: RunKey) -> None:
    kit.start(run)
    kit.die(run)


@pytest.mark.parametrize("new_message", [retry, give_back, send_again, lose_the_run])
def test_new_message_is_not_marked_as_received(
    kit: LedgerKit, new_message: Callable[[LedgerKit, RunKey], None]
) -> None:
    run = kit.bring("sent")
    kit.renew(run)
    new_message(kit, run)
    assert not kit.record().received


def test_jobs_that_the_worker_has_lost_are_returned_with_the_reason(kit: LedgerKit) -> None:
    live, closed, aborted = kit.bring("running", 1), kit.bring("closed", 2), kit.bring("aborted", 3)
    lost = kit.bring("running", 4)
    kit.die(lost)
    kit.make_due("running")
    assert kit.renew(closed, aborted, lost, live, RunKey(5, "mr-5-1-x")) == {
        2: "closed",
        3: "aborted",
        4: "superseded",
        5: "unknown",
    }
    assert not kit.is_due("running")


# -- retry -------------------------------------------------------------------------------------------------


def test_a_retry_is_a_sent_message_with_one_more_celery_retry(kit: LedgerKit) -> None:
    run = kit.bring("running")
    now = kit.now()
    assert kit.retry(run, seconds=120)
    assert kit.state() == "sent"
    assert kit.record().retries == 1
    assert kit.record().attempt == 1
    assert kit.score("sent") == pytest.approx(now + 120, abs=5)
    assert not kit.retry(run, seconds=120)


def test_a_message_returned_to_the_broker_starts_again(kit: LedgerKit) -> None:
    run = kit.bring("running")
    assert kit.give_back(run)
    assert (kit.state(), kit.record().retries) == ("sent", 0)
    assert kit.start(run, nonce="second").job is not None
    assert kit.start(run, nonce="third").refusal == "running"


@pytest.mark.parametrize("late", [LedgerKit.retry, LedgerKit.give_back])
def test_a_run_that_returned_its_message_does_not_disturb_the_next_run(
    kit: LedgerKit, late: Callable[..., bool]
) -> None:
    run = kit.bring("running")
    kit.give_back(run)
    kit.start(run, nonce="second")
    assert not late(kit, run, nonce=NONCE)
    assert kit.state() == "running"
    assert late(kit, run, nonce="second")


# -- postpone ----------------------------------------------------------------------------------------------


def test_an_attempt_is_postponed_for_ever_longer_and_not_too_often(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    for number, wait in enumerate((10, 20), 1):
        now = kit.now()
        assert postpone(ledger, run, nonce=NONCE if number == 1 else run.task_id) == "again"
        assert (kit.state(), kit.record().attempt, kit.record().why) == ("claimed", 1, "a database is unreachable")
        assert kit.score("claimed") == pytest.approx(now + wait, abs=5)
        assert postpone(ledger, run) == "kept"  # repeated, because the reply was lost
        assert kit.start_again() == run
    assert postpone(ledger, run, nonce=run.task_id) == "spent"
    assert kit.state() == "running"
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"


def test_a_run_that_has_lost_its_lease_postpones_nothing(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert postpone(ledger, run) == "again"
    kit.start_again()
    assert postpone(ledger, run) == "kept"
    assert kit.state() == "running"


def test_a_retry_that_only_its_handler_can_make_is_not_postponed(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert ledger.retry(run, nonce=NONCE, wait_seconds=0, own=True)
    again = RunKey(run.job_id, run.task_id, 1)
    assert kit.start(again, nonce="second").job is not None
    assert postpone(ledger, again, nonce="second") == "spent"


def test_the_next_attempt_may_be_postponed_as_often_as_the_first(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert postpone(ledger, run, times=1) == "again"
    assert kit.die(kit.start_again()) == "again"
    again = kit.start_again()
    assert postpone(ledger, again, nonce=again.task_id, times=1) == "again"


# -- finish, fail ------------------------------------------------------------------------------------------


def test_an_outcome_is_recorded_with_its_blobs(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert ledger.finish(run, DONE, blobs=[b"\x00one", b"", b"three"], deliver_seconds=LATER) == "finished"
    assert kit.record().outcome == DONE
    assert [ledger.blob(1, index) for index in range(4)] == [b"\x00one", b"", b"three", None]


def test_an_outcome_that_its_run_delivers_is_due_later(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    ledger.finish(run, DONE, deliver_seconds=LATER)
    assert not kit.is_due("finished")
    assert kit.record().deliveries == 1


def test_an_outcome_without_a_delivery_is_due_at_once(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    ledger.finish(run, DONE, deliver_seconds=0)
    assert kit.is_due("finished")
    assert kit.record().deliveries == 0


@pytest.mark.parametrize("state", ["claimed", "sent", "closed", "aborted"])
def test_a_refused_outcome_names_the_state(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    run = kit.bring(state)
    assert ledger.finish(run, DONE, deliver_seconds=0) == state


def test_a_repeated_finish_gets_the_same_answer(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
    assert kit.record().deliveries == 1


@pytest.mark.parametrize("hand_over", [put_off, replace, collect])
def test_a_repeated_finish_reports_that_a_courier_has_the_outcome(
    kit: LedgerKit, ledger: Ledger, hand_over: Callable[[LedgerKit], None]
) -> None:
    run = kit.bring("running")
    ledger.finish(run, DONE, deliver_seconds=LATER)
    hand_over(kit)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert ledger.finish(run, DONE, deliver_seconds=LATER) == "taken_over"
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert kit.is_due("finished")


def test_a_run_is_superseded_if_another_outcome_is_recorded(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    ledger.fail(1, run.task_id, Outcome.failed("hard time limit"))
    assert ledger.finish(run, DONE, deliver_seconds=LATER) != "finished"
    assert kit.record().outcome == Outcome.failed("hard time limit")


def test_an_outcome_of_an_unknown_job_waits_for_the_servers_list(kit: LedgerKit, ledger: Ledger) -> None:
    assert ledger.finish(RunKey(1, "mr-1-1-x"), DONE, deliver_seconds=0) == "kept"
    assert kit.state() == "unknown"
    assert 0 < kit.redis.ttl(kit.key("payload:1")) <= 86400


@pytest.mark.parametrize("state", ["running", "finished", "closed"])
def test_an_outcome_of_an_earlier_attempt_is_superseded(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    late = Outcome("done", "late", ())
    assert ledger.finish(RunKey(1, "mr-1-0-x"), late, blobs=[b"late"], deliver_seconds=0) == "superseded"
    assert kit.redis.hgetall(kit.key("job:1")) == before


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
def test_an_attempt_that_failed_outside_of_its_handler_is_delivered_at_once(
    kit: LedgerKit, ledger: Ledger, state: str
) -> None:
    run = kit.bring(state)
    assert ledger.fail(1, run.task_id, Outcome.failed("time limit"))
    assert kit.is_due("finished")
    assert kit.record().outcome == Outcome.failed("time limit")


@pytest.mark.parametrize(("retries", "holder"), [(0, HOLDER), (2, HOLDER), (1, "another worker")])
def test_a_failed_run_does_not_end_another_run(kit: LedgerKit, ledger: Ledger, retries: int, holder: str) -> None:
    run = kit.bring("running")
    kit.start(kit.announce(run))
    assert not ledger.fail(1, run.task_id, EXPIRED, retries=retries, holder=holder)
    assert kit.state() == "running"
    assert ledger.fail(1, run.task_id, EXPIRED, retries=1, holder=HOLDER)


def test_a_waiting_message_is_failed_by_any_worker_that_refuses_it(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    kit.retry(run)
    assert not ledger.fail(1, run.task_id, EXPIRED, unstarted=True, retries=0, holder="another worker")
    assert ledger.fail(1, run.task_id, EXPIRED, unstarted=True, retries=1, holder="another worker")


def test_a_message_that_did_not_start_does_not_end_a_running_copy(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert not ledger.fail(1, run.task_id, EXPIRED, unstarted=True)
    assert kit.state() == "running"
    assert ledger.finish(run, DONE, deliver_seconds=0) == "finished"


def test_a_recorded_outcome_is_not_replaced_by_a_later_failure(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("finished")
    assert not ledger.fail(1, run.task_id, Outcome.failed("late"))
    assert kit.record().outcome == DONE


# -- what operators see of a job ---------------------------------------------------------------------------

LOST_TWICE = Route("proj.upper", "celery", max_attempts=2)


@pytest.mark.parametrize(
    ("state", "step", "reason"),
    [
        (
            "running",
            lambda kit, run: kit.ledger.finish(run, Outcome.failed("…", reason="ValueError"), deliver_seconds=0),
            "ValueError",
        ),
        (
            "sent",
            lambda kit, run: kit.ledger.fail(1, run.task_id, Outcome.failed("…", reason="it expired")),
            "it expired",
        ),
        ("running", lambda kit, run: [kit.die(run), kit.die(kit.start_again())], "lost 2 times: it died"),
        ("sent", lambda kit, run: resend(kit.ledger, run, budget=0), "no worker started it: "),
        ("claimed", lambda kit, run: unpublished(kit.ledger, run, tries=1, seconds=0), "its message was refused: "),
        (
            "finished",
            lambda kit, run: kit.ledger.replace_outcome(
                first_delivery(run), Outcome.failed("…", reason="not delivered: POST /s -> 413")
            ),
            "not delivered: POST /s -> 413",
        ),
    ],
    ids=["its exception", "outside of its handler", "lost", "never started", "never published", "not deliverable"],
)
def test_the_reason_of_a_failure_is_kept_as_long_as_the_record(
    kit: LedgerKit, state: str, step: Step, reason: str
) -> None:
    run = kit.bring(state, route=LOST_TWICE, capability="image.generate", tags=["a"])
    step(kit, run)
    assert kit.record().reason.startswith(reason)
    assert (kit.record().status, kit.state()) == ("failed", "finished")
    assert kit.close()
    assert kit.record().reason.startswith(reason)
    assert kit.record().capability == "image.generate"
    assert kit.redis.ttl(kit.key("job:1")) > 86000


@pytest.mark.parametrize(
    "text", ["x" * 5000, "é" * 5000, "\U0001f600" * 5000, "a\ud800" * 900, "\x1b[31m\n\u202e" * 90]
)
def test_reasons_and_capabilities_are_short_and_printable(kit: LedgerKit, ledger: Ledger, text: str) -> None:
    run = kit.bring("running", capability=text)
    ledger.fail(1, run.task_id, Outcome.failed("…", reason=text))
    record = kit.record()
    for kept in (record.reason, record.capability, ledger.events(1)[-1].note.removeprefix("failed: ")):
        assert kept
        assert len(kept.encode()) <= 200
        assert kept.isprintable()
        assert "\ufffd" not in kept


def test_a_success_after_a_lost_run_has_no_reason(kit: LedgerKit, ledger: Ledger) -> None:
    kit.die(kit.bring("running"))
    ledger.finish(kit.start_again(), DONE, deliver_seconds=0)
    assert kit.record().reason == ""
    assert ledger.events(1)[-1].note == "done"


def test_an_adopted_job_has_its_capability(kit: LedgerKit, ledger: Ledger) -> None:
    job = Job({"id": 1, "capabilities": ["a.b", {"name": "c.d"}]})
    ledger.adopt(job, ROUTE, asked_at=kit.now(), wait_seconds=0)
    assert kit.record().capability == "a.b, c.d"


# -- lose --------------------------------------------------------------------------------------------------


def test_a_lost_run_is_sent_again_as_the_next_attempt(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert kit.die(run) == "again"
    record = kit.record()
    assert record.attempt == 2
    assert record.task_id.startswith("mr-1-2-")
    assert record.task_id != run.task_id
    assert kit.is_due("claimed")
    assert ledger.finish(run, DONE, deliver_seconds=0) == "superseded"


def test_the_next_attempt_has_its_own_budgets(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    resend(ledger, run)
    kit.start(run)
    kit.retry(run)
    retried = RunKey(1, run.task_id, 1)
    kit.start(retried)
    assert kit.die(retried) == "again"
    record = kit.record()
    assert (record.resends, record.retries, record.why) == (0, 0, "")


def test_a_job_that_keeps_losing_its_worker_fails_after_max_attempts(kit: LedgerKit) -> None:
    run = kit.bring("running", route=Route("t", "celery", max_attempts=3))
    answers = []
    for _ in range(3):
        answers.append(kit.die(run))
        run = RunKey(1, kit.record().task_id)
        kit.start(run)
    assert answers == ["again", "again", "failed"]
    assert kit.record().outcome == FAILED["too_often"]
    assert kit.is_due("finished")


def test_a_handler_that_must_not_run_again_fails_at_its_first_loss(kit: LedgerKit) -> None:
    run = kit.bring("running", route=Route("t", "celery", on_lost="fail"))
    assert kit.die(run) == "failed"
    assert kit.record().outcome == FAILED["must_not"]


def test_a_run_is_lost_only_after_its_lease_expired(kit: LedgerKit) -> None:
    run = kit.bring("running")
    assert kit.reap(run) == "kept"
    kit.make_due("running")
    kit.renew(run)
    assert kit.reap(run) == "kept"
    assert kit.state() == "running"
    kit.make_due("running")
    assert kit.reap(run) == "again"


def test_an_expired_lease_is_lost_in_any_celery_retry(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.start(kit.announce(run))
    kit.make_due("running")
    assert kit.reap(run) == "again"


def test_a_run_is_lost_once(kit: LedgerKit) -> None:
    run = kit.bring("running")
    assert kit.die(run) == "again"
    assert kit.die(run) == "kept"
    assert kit.record().attempt == 2


@pytest.mark.parametrize("retries", [0, 2])
def test_a_dead_process_does_not_end_another_celery_retry(kit: LedgerKit, retries: int) -> None:
    run = kit.bring("running")
    kit.start(kit.announce(run))
    assert kit.die(RunKey(1, run.task_id, retries)) == "kept"
    assert (kit.state(), kit.record().attempt) == ("running", 1)


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_dead_process_does_not_end_the_run_of_another_worker(kit: LedgerKit, state: str) -> None:
    run = kit.bring(state)
    assert kit.die(run, holder="another worker") == "kept"
    assert (kit.state(), kit.record().attempt) == (state, 1)
    assert not kit.is_due(state)


def test_an_outcome_is_due_at_once_if_its_run_died_while_delivering(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("finished")
    notifications = ledger.listen(0.01)
    assert next(notifications) == []
    assert kit.die(run) == "kept"
    assert kit.is_due("finished")
    assert next(notifications) == [("w", "deliver")]
    assert kit.record().outcome == DONE
    assert kit.renew(run) == {}
    assert kit.is_due("finished")


def test_the_death_of_a_run_does_not_advance_the_next_delivery(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("finished")
    ledger.undelivered(kit.delivery(), "503", wait_seconds=LATER)
    assert kit.die(run) == "kept"
    assert not kit.is_due("finished")


def test_the_death_of_a_run_does_not_end_a_couriers_delivery(kit: LedgerKit) -> None:
    run = kit.bring("finished")
    key = kit.collect()
    assert kit.die(run) == "kept"
    assert not kit.is_due("finished")
    assert kit.ledger.renew_delivery(key, lease=LATER)


def test_the_death_of_an_earlier_celery_retry_does_not_end_the_runs_delivery(kit: LedgerKit) -> None:
    run = kit.bring("running")
    retried = kit.announce(run)
    kit.start(retried)
    kit.ledger.finish(retried, DONE, deliver_seconds=LATER)
    assert kit.die(run) == "kept"
    assert not kit.is_due("finished")


def test_the_reaper_does_not_end_a_runs_delivery(kit: LedgerKit) -> None:
    run = kit.bring("finished")
    assert kit.reap(run) == "kept"
    assert not kit.is_due("finished")


# -- lost --------------------------------------------------------------------------------------------------


def two_due_runs(kit: LedgerKit) -> None:
    """Two runs with an expired lease, and one with a valid lease."""
    for job_id in (1, 2, 3):
        kit.bring("running", job_id)
    kit.make_due("running", 1, 2)


def test_runs_with_an_expired_lease_are_lost(kit: LedgerKit, ledger: Ledger) -> None:
    two_due_runs(kit)
    assert sorted(ledger.lost(lease=LATER)) == [1, 2]
    assert sorted(ledger.lost(lease=LATER)) == [1, 2]  # until they are reported
    assert len(ledger.lost(1, lease=LATER)) == 1


def test_after_a_gap_in_the_checks_runs_get_half_a_lease(kit: LedgerKit, ledger: Ledger) -> None:
    assert ledger.lost(lease=30) == []
    two_due_runs(kit)
    kit.age_look(seconds=11)
    assert ledger.lost(lease=30) == []
    for _ in range(3):
        kit.age_look(seconds=4)
        assert ledger.lost(lease=30) == []
    kit.age_look(seconds=4)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


def test_checks_at_the_usual_interval_have_no_grace_period(kit: LedgerKit, ledger: Ledger) -> None:
    two_due_runs(kit)
    for _ in range(20):
        assert sorted(ledger.lost(lease=30)) == [1, 2]
        kit.age_look(seconds=9)


def test_the_grace_period_is_shared_by_all_bridges(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.lost(lease=30)
    two_due_runs(kit)
    kit.age_look(seconds=11)
    for _ in range(3):
        assert Ledger(INSIDE, ledger.worker_name).lost(lease=30) == []
    kit.age_look(seconds=15)
    assert ledger.lost(lease=30) == []  # again, the last search was long ago
    kit.age_look(seconds=9)
    Ledger(INSIDE, ledger.worker_name).lost(lease=30)
    kit.age_look(seconds=9)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


def set_clock_back(kit: LedgerKit, seconds: float) -> None:
    """Move the times at which something is due, as if Redis' clock had been set back by these seconds."""
    for key in kit.redis.scan_iter(match=kit.key("*"), _type="zset"):
        for member, score in kit.redis.zrange(key, 0, -1, withscores=True):
            kit.redis.zadd(key, {member: score + seconds})
    for field, value in kit.redis.hgetall(kit.key("looked")).items():
        kit.redis.hset(kit.key("looked"), field, float(value) + seconds)


def test_a_clock_that_is_set_back_leaves_no_job_waiting_for_the_former_time(kit: LedgerKit, ledger: Ledger) -> None:
    """What was due within a lease still is, and the workers have time to renew their leases."""
    lease, back = 3000.0, 50000.0
    assert ledger.lost(lease=lease) == []
    for job_id, state in enumerate(IN_FLIGHT, 1):
        kit.bring(state, job_id)
        kit.redis.zadd(kit.key(state), {job_id: kit.now() + 2000})
    set_clock_back(kit, back)
    assert ledger.lost(lease=lease) == []
    for job_id, state in enumerate(IN_FLIGHT, 1):
        due_in = kit.redis.zscore(kit.key(state), job_id) - kit.now()
        assert 1000 < due_in < lease, state
    record = kit.redis.hget(kit.key("job:5"), "deadline")
    assert float(record) == kit.redis.zscore(kit.key("deferred"), 5)
    grace_until = float(kit.redis.hget(kit.key("looked"), "grace_until"))
    assert 0 < grace_until - kit.now() <= lease / 2
    kit.redis.hset(kit.key("looked"), "grace_until", 0)
    kit.redis.zadd(kit.key("running"), {4: 1})
    assert ledger.lost(lease=lease) == [4]


def test_a_workflow_is_checked_though_the_clock_was_set_back(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("running")
    kit.redis.zadd(kit.key("unfinished:1"), {"member": kit.now() + 2000})
    assert ledger.lost(lease=3000) == []
    set_clock_back(kit, 50000)
    assert ledger.lost(lease=3000) == []
    assert kit.redis.zscore(kit.key("unfinished:1"), "member") < kit.now() + 3000


def test_a_clock_that_is_set_back_a_little_changes_nothing(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("running")
    assert ledger.lost(lease=30) == []
    kit.redis.hincrbyfloat(kit.key("looked"), "at", 5)
    kit.redis.zadd(kit.key("running"), {1: kit.now() + 40})
    due = kit.redis.zscore(kit.key("running"), 1)
    assert ledger.lost(lease=30) == []
    assert kit.redis.zscore(kit.key("running"), 1) == due


def test_the_first_check_has_no_grace_period(kit: LedgerKit, ledger: Ledger) -> None:
    two_due_runs(kit)
    assert sorted(ledger.lost(lease=30)) == [1, 2]


# -- missed ------------------------------------------------------------------------------------------------


def test_misses_are_counted_in_a_row_and_from_the_first(kit: LedgerKit, ledger: Ledger) -> None:
    assert ledger.missed([1, 2]) == {1: Missed(1, 0.0), 2: Missed(1, 0.0)}
    kit.age_miss(1, seconds=50)
    found = ledger.missed([2, 1])
    assert list(found) == [2, 1]
    assert (found[1].times, found[2].times) == (2, 2)
    assert 50 <= found[1].seconds < 55
    assert found[2].seconds < 5


def test_a_listed_job_resets_its_count_of_misses(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.missed([1, 2])
    kit.age_miss(1, seconds=50)
    assert list(ledger.missed([2])) == [2]
    assert ledger.missed([1, 2])[1] == Missed(1, 0.0)
    assert ledger.missed([]) == {}
    assert ledger.missed([2])[2] == Missed(1, 0.0)


def test_misses_are_shared_by_all_bridges(kit: LedgerKit, ledger: Ledger) -> None:
    other = Ledger(INSIDE, ledger.worker_name)
    assert [each.missed([1])[1].times for each in (ledger, other, ledger, other)] == [1, 2, 3, 4]
    assert Ledger(INSIDE, "another name").missed([1])[1].times == 1


def test_misses_expire(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.missed([1])
    assert 0 < kit.redis.ttl(kit.key("missed")) <= 3600


# -- unpublished and rerouted ------------------------------------------------------------------------------


def test_a_refused_message_is_tried_again_and_then_fails_its_job(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    assert [unpublished(ledger, run, why=why) for why in ("a", "a", "b")] == ["new", "again", "failed"]
    outcome = kit.outcome()
    assert outcome.text == "never published"
    assert kit.is_due("finished")
    assert kit.load() == 0


def test_a_new_reason_is_reported_as_new(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    answers = [unpublished(ledger, run, why=why, tries=9) for why in ("a", "a", "b", "b", "a")]
    assert answers == ["new", "again", "new", "again", "new"]


def test_a_refused_message_does_not_fail_before_its_time(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    assert "failed" not in [unpublished(ledger, run, seconds=60.0) for _ in range(9)]
    kit.age_refusals(61.0)
    assert unpublished(ledger, run, seconds=60.0) == "failed"


def test_the_waits_between_refusals_grow_to_a_limit(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    pauses = []
    for _ in range(4):
        unpublished(ledger, run, tries=9)
        pauses.append(round(kit.redis.zscore(kit.key("claimed"), 1) - kit.now()))
    assert pauses == [2, 4, 5, 5]


def test_a_sent_message_resets_the_count_of_refusals(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    assert [unpublished(ledger, run), unpublished(ledger, run)] == ["new", "again"]
    sent(ledger, run.job_id, run.task_id, wait_seconds=LATER)
    resend(ledger, run)
    assert [unpublished(ledger, run) for _ in range(3)] == ["new", "again", "failed"]


def test_a_slot_moves_with_the_message_to_another_queue(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    assert ledger.reroute(run.job_id, run.task_id, "other")
    assert (kit.load(), kit.load("other")) == (0, 1)
    assert kit.record().route.queue == "other"
    ledger.fail(run.job_id, run.task_id, Outcome.failed("no"))
    assert kit.load("other") == 0


# -- resend ------------------------------------------------------------------------------------------------


def test_an_unstarted_message_is_sent_again_under_the_same_id(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    assert resend(ledger, run) == "again"
    record = kit.record()
    assert (record.task_id, record.attempt, record.resends, record.why) == (run.task_id, 1, 1, "not started")
    assert kit.is_due("claimed")


def test_a_job_fails_after_its_budget_of_resends(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    assert [resend(ledger, run, budget=3) for _ in range(4)] == ["again", "again", "again", "failed"]
    assert kit.record().outcome == Outcome.failed("never started")
    assert kit.is_due("finished")


def test_a_resend_without_a_budget_does_not_count(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    for _ in range(5):
        assert resend(ledger, run, budget=None) == "again"
    assert kit.record().resends == 0


def test_a_message_is_sent_again_after_the_given_time(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    resend(ledger, run, wait_seconds=LATER)
    assert kit.state() == "claimed"
    assert not kit.is_due("claimed")


# -- abort, close ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "finished"])
def test_an_abort_returns_the_task_to_revoke_and_later_outcomes_are_refused(
    kit: LedgerKit, ledger: Ledger, state: str
) -> None:
    run = kit.bring(state)
    assert ledger.abort(1, "by an operator") == run.task_id
    assert kit.record().why == "by an operator"
    assert ledger.finish(run, DONE, deliver_seconds=0) == "aborted"
    assert kit.start(run).refusal == "aborted"


@pytest.mark.parametrize("how", ["delivered", "superseded"])
def test_a_closed_job_records_its_ending(kit: LedgerKit, how: str) -> None:
    kit.bring("finished")
    assert kit.close(how=how)
    assert kit.record().how == how


@pytest.mark.parametrize("state", OVER)
def test_an_ended_job_leaves_a_small_record_that_expires(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    kit = fake_kit(monkeypatch, history=1000.0)
    run = kit.bring("finished")
    kit.ledger.delivered_part(kit.delivery(), "review:0", "7", lease=LATER)
    if state == "closed":
        kit.close()
        kit.outgrow_kept_outcome()
    else:
        kit.ledger.abort(1, "operator")
    record = kit.record()
    assert kit.state() == state
    assert kit.ledger.in_flight() == {}
    assert kit.load() == 0
    assert (record.job, record.outcome) == (None, None)
    assert kit.ledger.blob(1, 0) is None
    assert record.task_id == run.task_id
    assert "ended" in record.times
    assert 990 < kit.redis.ttl(kit.key("job:1")) <= 1000
    ending = "done" if state == "closed" else "aborted"
    left = {"job:1", "events:1", f"ended:{ending}", "stats"}
    assert set(kit.redis.keys(kit.key("*"))) == {kit.key(name).encode() for name in (*left, "reached")}
    for name in left:
        assert 990 < kit.redis.ttl(kit.key(name)) <= 1010, "the sets and the stats live up to 10 s longer"


# -- delivering --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES[1:4])
def test_a_due_job_is_taken_once_in_its_time(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    kit.bring(state, 1)
    kit.bring(state, 2)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert ledger.take(state, lease=LATER) == []
    kit.make_due(state, 1)
    assert ledger.take(state, lease=LATER) == [1]
    assert ledger.take(state, lease=LATER) == []
    kit.make_due(state, 1)
    assert ledger.take(state, lease=LATER) == [1]
    assert kit.redis.hgetall(kit.key("job:1")) == before


def test_taking_respects_the_limit(kit: LedgerKit, ledger: Ledger) -> None:
    for job_id in range(1, 6):
        kit.bring("sent", job_id)
    kit.make_due("sent")
    first = ledger.take("sent", 3, lease=LATER)
    second = ledger.take("sent", 3, lease=LATER)
    assert (len(first), len(second)) == (3, 2)
    assert sorted(first + second) == [1, 2, 3, 4, 5]


def test_a_due_outcome_is_collected_once_in_its_time(kit: LedgerKit, ledger: Ledger) -> None:
    one, two = kit.bring("finished", 1), kit.bring("finished", 2)
    assert ledger.collect(10, lease=LATER) == []
    kit.make_due("finished", 1)
    assert ledger.collect(10, lease=LATER) == [DeliveryKey(1, one.task_id, 2)]
    assert ledger.collect(10, lease=LATER) == []
    kit.make_due("finished")
    expected = {DeliveryKey(1, one.task_id, 3), DeliveryKey(2, two.task_id, 2)}
    assert set(ledger.collect(10, lease=LATER)) == expected


def test_an_untried_outcome_is_collected_as_the_first_delivery(kit: LedgerKit, ledger: Ledger) -> None:
    ended, expired = kit.bring("running", 1), kit.bring("sent", 2)
    ledger.finish(ended, DONE, deliver_seconds=0)
    ledger.fail(2, expired.task_id, EXPIRED)
    assert set(ledger.collect(10, lease=LATER)) == {first_delivery(ended), first_delivery(expired)}


def test_an_outcome_without_a_record_does_not_block_others(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("finished", 1)
    whole = kit.bring("finished", 2)
    kit.redis.delete(kit.key("job:1"))
    kit.make_due("finished")
    assert ledger.collect(10, lease=LATER) == [DeliveryKey(2, whole.task_id, 2)]


def test_collecting_respects_the_limit(kit: LedgerKit, ledger: Ledger) -> None:
    for job_id in range(1, 6):
        kit.bring("finished", job_id)
    kit.make_due("finished")
    first = ledger.collect(3, lease=LATER)
    second = ledger.collect(3, lease=LATER)
    assert (len(first), len(second)) == (3, 2)
    assert sorted(key.job_id for key in first + second) == [1, 2, 3, 4, 5]


# -- the fencing of deliveries -----------------------------------------------------------------------------

DELIVERY_STEPS: dict[str, Callable[[Ledger, DeliveryKey], bool]] = {
    "renew_delivery": lambda ledger, key: ledger.renew_delivery(key, lease=LATER),
    "delivered_part": lambda ledger, key: ledger.delivered_part(key, "review:0", "8", lease=LATER),
    "undelivered": lambda ledger, key: ledger.undelivered(key, "503", wait_seconds=0),
    "replace_outcome": lambda ledger, key: ledger.replace_outcome(key, Outcome.failed("413")),
}


@pytest.mark.parametrize("step", DELIVERY_STEPS)
def test_a_delivery_that_was_overtaken_changes_nothing(kit: LedgerKit, ledger: Ledger, step: str) -> None:
    run = kit.bring("finished")
    second, third = kit.collect(), kit.collect()
    before = kit.redis.hgetall(kit.key("job:1"))
    for key in (first_delivery(run), second, DeliveryKey(1, run.task_id, third.number + 1)):
        assert not DELIVERY_STEPS[step](ledger, key)
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert not kit.is_due("finished")
    assert DELIVERY_STEPS[step](ledger, third)


def lose_its_run(kit: LedgerKit) -> None:
    kit.die(RunKey(1, kit.record().task_id))


@pytest.mark.parametrize("step", DELIVERY_STEPS)
@pytest.mark.parametrize("lay_down", [put_off, replace, lose_its_run])
def test_a_delivery_that_ended_changes_nothing(
    kit: LedgerKit, ledger: Ledger, lay_down: Callable[[LedgerKit], None], step: str
) -> None:
    run = kit.bring("finished")
    lay_down(kit)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert not DELIVERY_STEPS[step](ledger, first_delivery(run))
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert kit.is_due("finished")


def end_job(kit: LedgerKit, end: str) -> None:
    if end == "closed":
        kit.close()
    else:
        kit.ledger.abort(1, "operator")


@pytest.mark.parametrize("step", DELIVERY_STEPS)
@pytest.mark.parametrize("end", OVER)
def test_a_delivery_whose_job_is_over_changes_nothing(kit: LedgerKit, ledger: Ledger, step: str, end: str) -> None:
    kit.bring("finished")
    key = kit.collect()
    end_job(kit, end)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert not DELIVERY_STEPS[step](ledger, key)
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert kit.state() == end


LATE_STEPS: dict[str, Callable[[Ledger, DeliveryKey], bool]] = {
    **DELIVERY_STEPS,
    "close": lambda ledger, key: ledger.close(key.job_id, key.task_id, "delivered"),
}


@pytest.mark.parametrize("step", LATE_STEPS)
@pytest.mark.parametrize("end", OVER)
def test_a_late_delivery_does_not_change_the_outcome_of_a_new_run(
    kit: LedgerKit, ledger: Ledger, step: str, end: str
) -> None:
    kit.bring("finished")
    late = kit.delivery()
    end_job(kit, end)
    kit.bring("finished")
    before = kit.redis.hgetall(kit.key("job:1"))
    assert kit.delivery().number == late.number
    assert not LATE_STEPS[step](ledger, late)
    assert kit.redis.hgetall(kit.key("job:1")) == before
    assert kit.state() == "finished"


def test_a_delivery_keeps_its_job_while_it_renews_it(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("finished")
    key = kit.collect()
    kit.make_due("finished")
    now = kit.now()
    assert ledger.renew_delivery(key, lease=15)
    assert kit.score("finished") == pytest.approx(now + 15, abs=5)


def test_a_delivered_part_is_recorded_and_renews_the_delivery(kit: LedgerKit, ledger: Ledger) -> None:
    key = first_delivery(kit.bring("finished"))
    kit.make_due("finished")
    assert ledger.delivered_part(key, "artifact:0", '{"slug":"a"}', lease=LATER)
    assert ledger.delivered_part(key, "review:1", "12", lease=LATER)
    assert not kit.is_due("finished")
    assert kit.record().parts == {"artifact:0": '{"slug":"a"}', "review:1": "12"}


def test_a_failed_delivery_is_due_again_after_its_wait(kit: LedgerKit, ledger: Ledger) -> None:
    key = first_delivery(kit.bring("finished"))
    assert ledger.undelivered(key, "503", wait_seconds=LATER)
    assert not kit.is_due("finished")
    assert ledger.undelivered(kit.collect(), "still 503", wait_seconds=0)
    assert kit.is_due("finished")
    assert kit.record().why == "still 503"


def test_an_outcome_that_replaces_a_refused_one_is_due_at_once(kit: LedgerKit, ledger: Ledger) -> None:
    key = first_delivery(kit.bring("finished"))
    assert ledger.replace_outcome(key, Outcome.failed("413"))
    assert kit.record().outcome == Outcome.failed("413")
    assert kit.is_due("finished")


# -- reading -----------------------------------------------------------------------------------------------


def test_the_survey_counts_states_and_queues_from_the_sets(kit: LedgerKit, ledger: Ledger) -> None:
    other = Route("proj.other", "other")
    for job_id, state in enumerate(["admitted", "claimed", "claimed", "sent", "running", "finished", "closed"], 1):
        kit.bring(state, job_id, route=other if state == "claimed" else ROUTE)
    survey = ledger.survey(["other", "celery", "none"])
    assert survey.states == {"admitted": 1, "claimed": 2, "sent": 1, "running": 1, "deferred": 0, "finished": 1}
    assert survey.load == {"other": 2, "celery": 3, "none": 0}
    assert (survey.slots_taken, survey.in_flight) == (5, 6)
    assert ledger.in_flight() == {1: "admitted", 2: "claimed", 3: "claimed", 4: "sent", 5: "running", 6: "finished"}


def test_the_ledgers_of_two_worker_names_are_separate(kit: LedgerKit) -> None:
    kit.bring("running")
    other = Ledger(INSIDE, "other {name}")
    assert other.in_flight() == {}
    assert other.read(1) is None
    assert admit(other, job(), ROUTE, asked_at=0.0, total_limit=1) == "admitted"


def test_a_record_shows_no_content_of_the_job(kit: LedgerKit) -> None:
    kit.bring("finished", prompt="secret prompt")
    assert "secret" not in repr(kit.record())
    assert "DONE" not in repr(kit.record())


# -- among bridges -----------------------------------------------------------------------------------------


def test_one_bridge_at_a_time_has_its_turn(kit: LedgerKit, ledger: Ledger) -> None:
    assert ledger.my_turn("sync", LATER)
    assert not ledger.my_turn("sync", LATER)
    assert ledger.my_turn("other", LATER)
    kit.redis.delete(kit.key("turn:sync"))
    assert ledger.my_turn("sync", LATER)


def test_a_turn_expires(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.my_turn("sync", 30.0)
    assert 0 < kit.redis.pttl(kit.key("turn:sync")) <= 30_000


def test_a_ledger_is_new_once_and_again_after_it_was_emptied(kit: LedgerKit, ledger: Ledger) -> None:
    assert ledger.mark_in_use()
    assert not ledger.mark_in_use()
    kit.redis.flushall()
    assert ledger.mark_in_use()


def test_an_unused_ledger_counts_as_new_after_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = fake_kit(monkeypatch, history=1000.0)
    kit.ledger.mark_in_use()
    kit.redis.expire(kit.key("founded"), 10)
    kit.ledger.mark_in_use()
    assert 990 < kit.redis.ttl(kit.key("founded")) <= 1000


def ended(ledger: Ledger) -> list[tuple[int, float]]:
    """The jobs that ended as done until now."""
    return list(ledger.ended("done", oldest=0.0, newest=ledger.survey().now))


@pytest.mark.parametrize("state", ["admitted", "claimed"])
def test_a_job_that_comes_again_is_removed_from_the_ended_jobs(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    kit.bring("closed")
    assert [job_id for job_id, _ in ended(ledger)] == [1]
    kit.bring(state)
    assert ended(ledger) == []


@pytest.mark.parametrize("state", ["closed", "admitted", "claimed"])
def test_jobs_older_than_the_history_are_not_listed_as_ended(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    kit.bring("closed")
    # A day later its record is gone, and the list was not tidied up.
    kit.redis.zincrby(kit.key("ended:done"), -86400, 1)
    if state != "closed":
        kit.redis.delete(kit.key("job:1"), kit.key("events:1"))
        kit.bring(state)
    assert ended(ledger) == []


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
def test_a_free_slot_or_due_work_is_notified(kit: LedgerKit, ledger: Ledger, state: str, step: str, ring: str) -> None:
    run = kit.bring(state)
    notifications = ledger.listen(0.01)
    assert next(notifications) == []
    STEPS[step](kit, run)
    assert next(notifications) == [("w", ring)]
    assert next(notifications) == []


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("claimed", "sent"),
        ("sent", "start"),
        ("running", "retry"),
        ("running", "postpone"),
        ("admitted", "settle_later"),
        ("finished", "close"),
    ],
)
def test_steps_without_a_reaction_are_not_notified(kit: LedgerKit, ledger: Ledger, state: str, step: str) -> None:
    run = kit.bring(state)
    notifications = ledger.listen(0.01)
    assert next(notifications) == []
    STEPS[step](kit, run)
    assert next(notifications) == []


def test_an_outcome_without_a_delivery_is_notified(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    notifications = ledger.listen(0.01)
    assert next(notifications) == []
    ledger.finish(run, DONE, deliver_seconds=0)
    assert next(notifications) == [("w", "deliver")]


# -- the progress of queues ------------------------------------------------------------------------------------


def overtaken(kit: LedgerKit) -> dict[int, bool]:
    """The due messages, and whether messages sent 100 seconds later have started."""
    kit.make_due("sent")
    found = kit.ledger.unstarted(lease=LATER, overtaken_seconds=100, silent_seconds=1e6)
    return {each.job_id: each.overtaken for each in found}


def sent_earlier(kit: LedgerKit, job_id: int, seconds: float) -> None:
    kit.bring("sent", job_id)
    kit.age(job_id, "sent", seconds=seconds)


def test_a_message_is_overtaken_by_the_start_of_a_much_later_one(kit: LedgerKit) -> None:
    sent_earlier(kit, 1, 200)
    sent_earlier(kit, 2, 50)
    later = kit.bring("sent", 3)
    assert overtaken(kit) == {1: False, 2: False, 3: False}
    kit.start(later)
    assert overtaken(kit) == {1: True, 2: False}


def test_a_message_started_in_order_overtakes_nothing(kit: LedgerKit) -> None:
    sent_earlier(kit, 1, 500)
    sent_earlier(kit, 2, 300)
    first = RunKey(1, kit.record(1).task_id)
    kit.start(first)
    assert overtaken(kit) == {2: False}


def test_another_queue_overtakes_nothing(kit: LedgerKit) -> None:
    sent_earlier(kit, 1, 200)
    kit.start(kit.bring("sent", 2, route=Route("proj.upper", "another")))
    assert overtaken(kit) == {1: False}


def test_a_start_before_sent_is_recorded_overtakes_too(kit: LedgerKit) -> None:
    sent_earlier(kit, 1, 200)
    kit.start(kit.bring("claimed", 2))
    assert overtaken(kit) == {1: True}


def send_again(kit: LedgerKit, run: RunKey) -> None:
    resend(kit.ledger, run, budget=None)
    kit.ledger.sent({run.job_id: run.task_id}, wait_seconds=LATER)


def give_back(kit: LedgerKit, run: RunKey) -> None:
    kit.start(run)
    kit.redis.delete(kit.key("reached"))
    kit.give_back(run)


@pytest.mark.parametrize("step", [send_again, give_back])
def test_a_resent_or_returned_message_does_not_count_as_progress(
    kit: LedgerKit, step: Callable[[LedgerKit, RunKey], None]
) -> None:
    sent_earlier(kit, 1, 200)
    run = kit.bring("sent", 2)
    step(kit, run)
    kit.redis.hset(kit.key("reached"), "celery:at", f"{kit.now():.6f}")
    kit.start(run, nonce="once more")
    assert overtaken(kit) == {1: False}


def test_the_progress_of_a_queue_never_goes_back_and_expires_after_a_day(kit: LedgerKit) -> None:
    sent_earlier(kit, 1, 200)
    kit.start(kit.bring("sent", 2))
    sent_earlier(kit, 3, 150)
    kit.redis.hset(kit.key("reached"), "celery:at", "0")
    kit.start(RunKey(3, kit.record(3).task_id))
    assert overtaken(kit) == {1: True}
    assert 86390 < kit.redis.ttl(kit.key("reached")) <= 86400


def test_a_taken_message_is_not_taken_again(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    kit.renew(run)
    kit.make_due("sent")
    (found,) = kit.ledger.unstarted(lease=LATER, overtaken_seconds=100, silent_seconds=LATER)
    assert (found.job_id, found.task_id, found.task_name, found.queue) == (1, run.task_id, "proj.upper", "celery")
    assert (found.why, found.received) == ("", True)
    assert 0 <= found.seconds < 20
    assert kit.ledger.unstarted(lease=LATER, overtaken_seconds=100, silent_seconds=LATER) == []
    assert kit.state() == "sent"


def test_more_messages_than_a_page_are_renewed(kit: LedgerKit) -> None:
    runs = [kit.bring("sent", job_id) for job_id in range(1, PAGE + 11)]
    kit.make_due("sent")
    assert kit.renew(*runs, RunKey(9999, "mr-9999-1-x")) == {9999: "unknown"}
    assert kit.ledger.due("sent") == []


@pytest.mark.parametrize(
    ("own", "options", "answer", "task"),
    [
        (False, {}, "again", "the same"),
        (True, {}, "again", "a new attempt"),
        (True, {"max_attempts": 1}, "failed", "the same"),
        (True, {"on_lost": "fail"}, "failed", "the same"),
    ],
)
def test_a_lost_retry_that_only_its_handler_can_make_is_a_new_attempt(
    kit: LedgerKit, own: bool, options: dict[str, Any], answer: str, task: str
) -> None:
    """Sent again without the retry's own arguments, it would continue with others, and end with a wrong result."""
    run = kit.bring("running", route=Route("proj.upper", "celery", **options))
    assert kit.ledger.retry(run, nonce=NONCE, wait_seconds=0, own=own)
    told = kit.ledger.resend(
        1, run.task_id, why="lost", budget=3, wait_seconds=0, exhausted=Outcome.failed("never started")
    )
    record = kit.record()
    assert told == answer
    assert (record.attempt, record.retries) == ((2, 0) if task == "a new attempt" else (1, 1))
    assert (record.task_id == run.task_id) is (task == "the same")


# -- requeue: an operator ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "deferred"])
def test_a_job_that_may_be_running_and_must_not_run_twice_is_requeued_only_by_force(kit: LedgerKit, state: str) -> None:
    run = kit.bring(state, route=dataclasses.replace(ROUTE, on_lost="fail"))
    waits = state in ("claimed", "sent")
    assert requeue(kit.ledger, run) == ("requeued" if waits else "refused")
    assert kit.state() == ("claimed" if waits else state)
    assert requeue(kit.ledger, run, force=True) == "requeued"
    assert kit.state() == "claimed"


def test_a_requeue_whose_answer_was_lost_is_repeated_without_another_attempt(kit: LedgerKit) -> None:
    run = kit.bring("running")
    assert [requeue(kit.ledger, run) for _ in range(3)] == ["requeued"] * 3
    record = kit.record()
    assert (record.attempt, record.route.max_attempts) == (2, ROUTE.max_attempts + 1)
    assert requeue(kit.ledger, kit.run()) == "requeued"
    assert requeue(kit.ledger, run) == "kept"
