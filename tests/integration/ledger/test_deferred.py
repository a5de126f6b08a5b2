"""Deferred jobs in the ledger: the reference, the deferral, and the end of the job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mr_celery.job import Job
from mr_celery.ledger import AttemptKey, Deferring, GivenReference, Ledger, Route, RunKey
from mr_celery.outcome import Outcome, ReviewItem, Upload
from support.ledgers import DONE, LATER, NONCE, ROUTE, STATES, LedgerKit, fake_kit

pytestmark = pytest.mark.usefixtures("on_real_redis")

MADE = Outcome("done", "made elsewhere")
ATTACHED = Outcome(
    "done", "", uploads=(Upload("image/png", "a.png", 3),), reviews=(ReviewItem("image", "A", "", promised=10**15),)
)
UNFINISHED = ("claimed", "sent", "running", "deferred")


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def ledger(kit: LedgerKit) -> Ledger:
    return kit.ledger


# -- the reference -----------------------------------------------------------------------------------------


def test_all_runs_of_an_attempt_have_one_key_and_the_next_attempt_has_another(kit: LedgerKit) -> None:
    run = kit.bring("running")
    first = kit.key_of(run)
    assert kit.key_of(run) == first
    kit.retry(run)
    again = replace(run, retries=1)
    kit.start(again, nonce="again")
    assert kit.key_of(again) == first
    kit.die(again)
    second = kit.key_of(kit.start_again())
    assert second.attempt == 2
    assert second.secret != first.secret


def test_an_attempt_that_is_over_has_no_key(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    kit.die(run)
    assert ledger.reference(run) is None
    assert ledger.reference(RunKey(2, "mr-2-1-unknown")) is None


def test_a_secret_is_in_no_repr(kit: LedgerKit) -> None:
    key = kit.key_of(kit.bring("running"))
    assert key.secret not in repr(key)


# -- the deferral ------------------------------------------------------------------------------------------


def test_a_deferred_job_frees_its_slot_and_keeps_its_deadline(kit: LedgerKit) -> None:
    now = kit.now()
    kit.defer(kit.bring("running"), seconds=600, note="order 7")
    assert kit.state() == "deferred"
    assert kit.load() == 0
    record = kit.record()
    assert record.deadline == pytest.approx(now + 600, abs=60)
    assert kit.score("deferred") == record.deadline
    assert record.note == "order 7"
    assert kit.ledger.deferring() == Deferring(frozenset({"proj.upper"}), in_slots=0)
    assert kit.ledger.survey().states["deferred"] == 1
    assert kit.ledger.survey().slots_taken == 0


def test_jobs_in_slots_of_tasks_that_defer_are_counted(kit: LedgerKit) -> None:
    for job_id, state in enumerate(("admitted", "claimed", "sent", "running", "finished", "deferred"), 1):
        kit.bring(state, job_id=job_id)
    assert kit.ledger.deferring().in_slots == 4
    kit.redis.delete(kit.key("deferring"))
    assert kit.ledger.deferring() == Deferring()


def test_a_deferral_is_repeated_with_the_same_answer(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("deferred")
    kit.age(1, "deferred", seconds=10)
    before = kit.redis.hgetall(kit.key("job:1"))
    assert ledger.defer(run, nonce=NONCE, seconds=LATER) == "deferred"
    assert kit.redis.hgetall(kit.key("job:1")) == before


@pytest.mark.parametrize("shaped", [False, True])
def test_a_reference_that_the_ledger_has_lost_is_stored_again(kit: LedgerKit, ledger: Ledger, shaped: bool) -> None:
    """As after a failover: the handler has given out its reference, which can still end the job."""
    run = kit.bring("running")
    key = ledger.reference(run, shaped=shaped)
    assert key is not None
    kit.redis.hdel(kit.key("job:1"), "secret", "shaped")
    given = GivenReference(key.secret, shaped)
    for _ in range(2):
        assert ledger.defer(run, nonce=NONCE, seconds=LATER, given=given) == "deferred"
    assert kit.record().shaped is shaped
    assert kit.complete(key) == "accepted"


def test_a_deferral_without_a_reference_is_refused(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert ledger.defer(run, nonce=NONCE, seconds=LATER) == "unreferenced"
    assert kit.state() == "running"


@pytest.mark.parametrize("state", STATES)
def test_only_the_run_that_holds_the_lease_defers(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    run = kit.bring(state)
    before = kit.redis.hgetall(kit.key("job:1"))
    for other, nonce in ((run, "another run"), (RunKey(1, "mr-1-7-other"), NONCE)):
        assert ledger.defer(other, nonce=nonce, seconds=LATER) == ("unknown" if state == "unknown" else "superseded")
    assert kit.redis.hgetall(kit.key("job:1")) == before


def test_the_message_of_a_deferred_job_does_not_start_again(kit: LedgerKit) -> None:
    run = kit.bring("deferred")
    assert kit.start(run, nonce="second").refusal == "deferred"
    assert kit.renew(run) == {1: "deferred"}


def test_an_unknown_message_does_not_end_a_deferred_job(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("deferred")
    failure = Outcome.failed("hard time limit")
    assert not ledger.fail(1, run.task_id, failure, retries=0, holder="this worker")
    assert not ledger.fail(1, run.task_id, failure, unstarted=True)
    assert kit.die(run) == "kept"
    assert kit.state() == "deferred"


# -- completion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", UNFINISHED)
def test_whoever_has_the_key_ends_the_job_once(kit: LedgerKit, ledger: Ledger, state: str) -> None:
    run = kit.bring(state)
    key = kit.key_of(run)
    assert kit.complete(key, MADE, blobs=[b"blob"]) == "accepted"
    assert kit.complete(key, MADE) == "accepted"  # the same call, repeated
    assert kit.complete(key, DONE, call="another") == "completed"
    assert ledger.extend(key, LATER) == "completed"
    assert kit.state() == "finished"
    assert kit.record().outcome == MADE
    assert ledger.blob(1, 0) == b"blob"
    assert kit.load() == 0
    assert kit.close()
    assert kit.complete(key, MADE) == "accepted"
    assert kit.complete(key, DONE, call="another") == "completed"


@pytest.mark.parametrize("state", ["finished", "closed"])
def test_a_job_that_has_ended_otherwise_is_not_completed(kit: LedgerKit, state: str) -> None:
    run = kit.bring("running")
    key = kit.key_of(run)
    kit.ledger.finish(run, DONE, deliver_seconds=0)
    if state == "closed":
        kit.close()
    assert kit.complete(key, MADE) == "ended"
    assert kit.state() == state


def test_an_aborted_job_is_not_completed(kit: LedgerKit, ledger: Ledger) -> None:
    key = kit.key_of(kit.bring("deferred"))
    assert ledger.abort(1, "by an operator")
    assert kit.complete(key) == "aborted"
    assert ledger.extend(key, LATER) == "aborted"
    assert kit.state() == "aborted"


@pytest.mark.parametrize("wrong", ["secret", "attempt", "job"])
def test_a_wrong_key_permits_nothing(kit: LedgerKit, ledger: Ledger, wrong: str) -> None:
    key = kit.key_of(kit.bring("deferred"))
    changes = {"secret": {"secret": "x" * 22}, "attempt": {"attempt": 2}, "job": {"job_id": 2}}
    other = replace(key, **changes[wrong])  # type: ignore[arg-type]
    assert kit.complete(other) == "unknown"
    assert ledger.extend(other, LATER) == "unknown"
    assert kit.state() == "deferred"


def test_a_key_without_a_secret_permits_nothing(kit: LedgerKit) -> None:
    kit.bring("running")  # its reference was not requested
    for secret in ("", "false", "nil"):
        assert kit.complete(AttemptKey(1, 1, secret)) == "unknown"


def test_the_key_of_a_lost_attempt_is_superseded(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("deferred")
    key = kit.key_of(run)
    kit.make_due("deferred")
    assert kit.reap(run) == "again"
    assert kit.complete(key) == "superseded"
    assert ledger.extend(key, LATER) == "superseded"
    assert kit.state() == "claimed"


# -- the deadline ------------------------------------------------------------------------------------------


def test_a_job_whose_outcome_does_not_come_is_lost(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("deferred")
    assert ledger.lost(lease=LATER) == []
    assert kit.reap(run) == "kept"
    kit.make_due("deferred")
    assert ledger.lost(lease=LATER) == [1]
    assert kit.reap(run) == "again"
    assert kit.state() == "claimed"
    assert kit.load() == 1
    assert kit.record().attempt == 2
    assert kit.record().deadline is None
    assert kit.ledger.stats().count("lost:deadline") == 1


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route("proj.upper", "celery", on_lost="fail"), "must not run again"),
        (Route("proj.upper", "celery", max_attempts=1), "lost too often"),
    ],
)
def test_a_job_that_may_not_run_again_fails_at_its_deadline(kit: LedgerKit, route: Route, text: str) -> None:
    run = kit.bring("deferred", route=route)
    kit.make_due("deferred")
    assert kit.reap(run) == "failed"
    assert kit.outcome().text == text


def test_a_deadline_only_moves_later(kit: LedgerKit, ledger: Ledger) -> None:
    key = kit.key_of(kit.bring("deferred"))
    before = kit.score("deferred")
    for seconds in (0.0, 1.0):
        assert ledger.extend(key, seconds) == "accepted"
        assert kit.score("deferred") == before
    kit.make_due("deferred")
    assert ledger.extend(key, 0.0) == "accepted"
    assert kit.is_due("deferred")
    assert "extended" not in [event.event for event in ledger.events(1)]
    assert ledger.extend(key, 5000) == "accepted"
    assert kit.score("deferred") == pytest.approx(kit.now() + 5000, abs=60)
    assert [event.event for event in ledger.events(1)][-1] == "extended"


def test_a_deadline_can_be_moved_before_the_handler_has_returned(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert ledger.extend(kit.key_of(run), 5000) == "accepted"
    kit.defer(run, seconds=10)
    assert kit.score("deferred") == pytest.approx(kit.now() + 5000, abs=60)


# -- an operator -------------------------------------------------------------------------------------------


def test_an_operator_starts_a_deferred_job_again_in_a_slot(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("deferred")
    assert ledger.requeue(1, run.task_id, "by an operator", wait_seconds=LATER) == "requeued"
    assert kit.state() == "claimed"
    assert kit.is_due("claimed")
    assert kit.load() == 1


# -- an outcome that comes before the handler has returned -------------------------------------------------


def test_an_early_outcome_waits_a_moment_for_the_handler(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert kit.complete(kit.key_of(run), MADE) == "accepted"
    assert not kit.is_due("finished")
    assert ledger.holds(run)  # it may end on its own
    score = kit.score("finished")
    assert kit.renew(run, seconds=3 * LATER) == {}
    assert kit.score("finished") == score
    assert kit.defer(run) == "completed"
    assert ledger.amend(run, nonce=NONCE)
    assert kit.is_due("finished")
    assert ledger.amend(run, nonce=NONCE)  # the first reply was lost
    assert not ledger.amend(run, nonce="another run")
    kit.close()
    assert ledger.amend(run, nonce=NONCE)


def test_attachments_are_added_to_an_early_outcome(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    assert kit.complete(kit.key_of(run), replace(MADE, uploads=ATTACHED.uploads), blobs=[b"one"]) == "accepted"
    both = replace(MADE, uploads=ATTACHED.uploads * 2)
    assert ledger.amend(run, nonce=NONCE, outcome=both, first=1, blobs=[b"two"])
    assert kit.record().outcome == both
    assert [ledger.blob(1, 0), ledger.blob(1, 1)] == [b"one", b"two"]


@pytest.mark.parametrize("taken", [False, True])
def test_nothing_is_added_once_a_courier_delivers(kit: LedgerKit, ledger: Ledger, taken: bool) -> None:
    run = kit.bring("running")
    kit.complete(kit.key_of(run), MADE)
    if taken:
        kit.make_due("finished")
        assert ledger.collect(1, lease=LATER)
    assert ledger.amend(run, nonce=NONCE if taken else "another run", outcome=DONE) is False
    assert kit.record().outcome == MADE


def test_the_result_of_a_handler_comes_too_late_for_a_completed_job(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    kit.complete(kit.key_of(run), MADE)
    assert ledger.finish(run, DONE, deliver_seconds=0) == "completed"
    assert kit.is_due("finished")
    assert kit.record().outcome == MADE
    assert kit.close()
    assert ledger.finish(run, DONE, deliver_seconds=0) == "completed"


def test_a_completed_job_survives_the_death_of_its_handler(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.complete(kit.key_of(run), MADE)
    assert kit.die(run) == "kept"
    assert kit.is_due("finished")
    assert kit.record().outcome == MADE


# -- attachments -------------------------------------------------------------------------------------------


def test_attachments_are_kept_until_the_job_is_completed(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    key = kit.key_of(run)
    assert ledger.attached(1) == []
    assert ledger.attach(run, ATTACHED, [b"one"])
    assert ledger.defer(run, nonce=NONCE, seconds=LATER, attachments=ATTACHED, blobs=[b"two"]) == "deferred"
    assert ledger.attached(1) == [(ATTACHED, [b"one"]), (ATTACHED, [b"two"])]
    for seen in (0, 1, 3):
        assert kit.complete(key, attached=seen) == "changed"
        assert kit.state() == "deferred"
    assert kit.complete(key, attached=2) == "accepted"
    assert kit.complete(key, attached=2) == "accepted"
    assert ledger.attached(1) == []
    assert b"attached:0:0" not in kit.redis.hgetall(kit.key("payload:1"))


def test_attachments_whose_data_is_lost_are_empty(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    key = kit.key_of(run)
    for blob in (b"one", b"two"):
        ledger.attach(run, ATTACHED, [blob])
    kit.redis.hdel(kit.key("payload:1"), "attached:0")
    assert ledger.attached(1) == [(Outcome("done", ""), []), (ATTACHED, [b"two"])]
    assert kit.complete(key, attached=2) == "accepted"


def test_the_next_attempt_has_no_attachments_of_the_one_before(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    ledger.attach(run, ATTACHED, [b"one"])
    kit.die(run)
    assert ledger.attached(1) == []
    assert list(kit.redis.hgetall(kit.key("payload:1"))) == [b"job"]
    assert not ledger.attach(run, ATTACHED, [b"late"])


# -- lost data ---------------------------------------------------------------------------------------------


def test_a_deferred_job_keeps_its_deadline_when_it_is_mended(kit: LedgerKit, ledger: Ledger) -> None:
    kit.defer(kit.bring("running"), seconds=5000)
    kit.redis.zrem(kit.key("deferred"), 1)
    listed = Job({"id": 1, "prompt": "x"})
    assert ledger.adopt(listed, ROUTE, asked_at=kit.now(), wait_seconds=LATER) == "mended"
    assert ledger.mend((), wait_seconds=LATER).in_flight == {1: "deferred"}
    assert kit.score("deferred") == pytest.approx(kit.now() + 5000, abs=60)
    assert kit.load() == 0
