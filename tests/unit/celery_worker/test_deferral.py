"""Handlers that defer their jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from mr_celery import Artifact, Deferred, Result, modelreins_job, worker
from mr_celery.celery_worker.deferral import UNREFERENCED
from mr_celery.celery_worker.runner import Runner
from mr_celery.completion import Caller, _made
from mr_celery.errors import JobAborted, JobError, LedgerUnavailable, MrCeleryError
from mr_celery.handlers import Declaration
from mr_celery.job import Job
from mr_celery.ledger import AttemptKey, Ledger, RunKey
from mr_celery.ledger.reference import reference
from mr_celery.message import Message
from mr_celery.outcome import Outcome, Upload
from mr_celery.result import Review
from support.ledgers import HOLDER, INSIDE, LedgerKit, fake_kit
from support.worker_clients import FakeClients


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def clients(kit: LedgerKit) -> FakeClients:
    return FakeClients(kit.ledger, delivers=False)


def run(clients: FakeClients, key: RunKey, handler: Any, **declared: Any) -> str:
    message = Message("w", key.job_id, key.task_id, key.retries)
    runner = Runner(clients, "celery@test", HOLDER)  # type: ignore[arg-type]
    return runner.run(message, handler, Declaration(**declared), (), {}).status


def caller(ref: str, monkeypatch: pytest.MonkeyPatch, app: Celery | None = None) -> Caller:
    monkeypatch.setenv("MODELREINS_LEDGER_URL", INSIDE)
    return Caller(ref, app or Celery("elsewhere", set_as_current=False))


@pytest.mark.parametrize("raises", [False, True])
def test_a_deferred_job_waits_and_is_completed_from_elsewhere(
    kit: LedgerKit,
    clients: FakeClients,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raises: bool,
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    refs: list[str] = []

    def handler(job: Job) -> Deferred:
        refs.append(job.ref)
        assert job.ref == refs[0]
        deferred = Deferred(timeout=600, note="order 7")
        if raises:
            raise deferred
        return deferred

    assert run(clients, kit.bring("sent"), handler) == "deferred"
    assert kit.state() == "deferred"
    assert caplog.messages[-1].endswith("deferred, its outcome is expected within 10 min: order 7")
    answer = caller(refs[0], monkeypatch).complete({"made": True})
    assert answer
    assert answer.reason == "accepted"
    assert kit.state() == "finished"
    assert kit.outcome().text == '{"made": true}'
    second = caller(refs[0], monkeypatch).fail("too late")
    assert not second
    assert second.text == "job 1 was completed before"
    assert refs[0] not in caplog.text


@pytest.mark.parametrize("raises", [False, True])
def test_a_reference_that_the_ledger_has_lost_ends_the_job_all_the_same(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    refs: list[str] = []

    def handler(job: Job) -> Deferred:
        refs.append(job.ref)
        kit.redis.hdel(kit.key("job:1"), "secret", "shaped")  # as after a failover
        if raises:
            raise Deferred(timeout=600)
        return Deferred(timeout=600)

    assert run(clients, kit.bring("sent"), handler) == "deferred"
    assert caller(refs[0], monkeypatch).complete("made")
    assert kit.state() == "finished"


def test_a_job_whose_reference_nobody_has_fails(kit: LedgerKit, clients: FakeClients) -> None:
    run(clients, kit.bring("sent"), lambda: Deferred(timeout=60))
    assert kit.outcome().text == UNREFERENCED


def test_attachments_of_the_handler_are_delivered_with_the_outcome(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs: list[str] = []

    def handler(job: Job) -> Deferred:
        art = worker.upload_artifact(b"sketch", content_type="image/png")
        review = worker.submit_review(type="image", title="Sketch", content="…", preview=art["slug"])
        worker.upload_artifact(b"more", content_type="text/plain", review_id=review["id"])
        refs.append(job.ref)
        return Deferred(timeout=60)

    run(clients, kit.bring("sent"), handler)
    own = Review(type="image", title="Picture", content="…")
    picture = Artifact(data=b"picture", content_type="image/png")
    assert caller(refs[0], monkeypatch).complete(Result("made", artifacts=[picture], reviews=[own]))
    outcome = kit.outcome()
    assert [kit.ledger.blob(1, index) for index in range(3)] == [b"sketch", b"more", b"picture"]
    assert [review.title for review in outcome.reviews] == ["Sketch", "Picture"]
    assert outcome.uploads[1].review_of == 0
    assert outcome.text == "made"


@pytest.mark.parametrize("ends", ["deferred", "result", "failure"])
def test_an_outcome_that_comes_before_the_handler_returns_counts(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def handler(job: Job) -> object:
        worker.upload_artifact(b"sketch", content_type="image/png")
        assert caller(job.ref, monkeypatch).complete("early")
        assert not job.aborted
        if ends == "failure":
            raise ValueError("it does not matter any more")
        return Deferred(timeout=60) if ends == "deferred" else "late"

    try:
        run(clients, kit.bring("sent"), handler)
    except ValueError:
        assert ends == "failure"
    outcome = kit.outcome()
    assert outcome.text == "early"
    assert kit.is_due("finished")
    assert [kit.ledger.blob(1, 0)] == ([b"sketch"] if ends == "deferred" else [None])


def deferred(clients: FakeClients, message: Any, **declared: Any) -> str:
    """Run a handler that defers its job. Returns the job's reference."""
    refs: list[str] = []

    def handler(job: Job) -> Deferred:
        refs.append(job.ref)
        return Deferred(timeout=60)

    run(clients, message, handler, **declared)
    return refs[0]


def deferring(refs: list[str]) -> Callable[[Job], Deferred]:
    """A handler that uploads a sketch, gives out its reference, and defers."""

    def handler(job: Job) -> Deferred:
        worker.upload_artifact(b"sketch", content_type="image/png")
        refs.append(job.ref)
        return Deferred(timeout=60)

    return handler


def test_attachments_that_are_stored_while_an_outcome_is_recorded_belong_to_it(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs: list[str] = []
    message = kit.bring("sent")
    run(clients, message, deferring(refs))
    looks, attached = [0], Ledger.attached

    def then_another_comes(self: Ledger, job_id: int) -> object:
        found, looks[0] = attached(self, job_id), looks[0] + 1
        if looks[0] == 1:
            kit.ledger.attach(message, Outcome("done", "", uploads=(Upload("a/b", "late.txt", 4),)), [b"late"])
        return found

    monkeypatch.setattr(Ledger, "attached", then_another_comes)
    assert caller(refs[0], monkeypatch).complete(Artifact(data=b"picture", content_type="image/png"))
    assert looks == [2]
    assert [kit.ledger.blob(1, index) for index in range(3)] == [b"sketch", b"late", b"picture"]


@pytest.mark.parametrize("step", ["defer", "amend"])
def test_a_time_limit_in_the_middle_of_a_deferral_does_not_undo_it(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    refs: list[str] = []
    whole, calls = getattr(Ledger, step), [0]

    def interrupted(self: Ledger, *args: Any, **kwargs: Any) -> object:
        answer, calls[0] = whole(self, *args, **kwargs), calls[0] + 1
        if calls[0] == 1:
            raise SoftTimeLimitExceeded
        return answer

    def handler(job: Job) -> Deferred:
        deferred = deferring(refs)(job)
        if step == "amend":
            assert caller(job.ref, monkeypatch).complete("early")
        return deferred

    monkeypatch.setattr(Ledger, step, interrupted)
    assert run(clients, kit.bring("sent"), handler) == "deferred"
    assert kit.state() == ("deferred" if step == "defer" else "finished")
    if step == "defer":
        assert caller(refs[0], monkeypatch).complete("x")
    assert kit.ledger.blob(1, 0) == b"sketch"


def test_attachments_wait_for_a_ledger_that_is_away(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    amend, calls = Ledger.amend, [0]

    def away(self: Ledger, *args: Any, **kwargs: Any) -> bool:
        calls[0] += 1
        if calls[0] == 1:
            raise LedgerUnavailable("it restarts")
        return amend(self, *args, **kwargs)

    def handler(job: Job) -> Deferred:
        assert caller(job.ref, monkeypatch).complete("early")
        return deferring([])(job)

    monkeypatch.setattr(Ledger, "amend", away)
    run(clients, kit.bring("sent"), handler)
    assert kit.ledger.blob(1, 0) == b"sketch"
    assert "are lost" not in caplog.text


def test_a_caller_needs_no_settings_about_a_long_worker_name(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = fake_kit(monkeypatch, worker="ü" * 100)
    run_key = kit.bring("running")
    key = kit.ledger.reference(run_key)
    assert key is not None
    ref = reference(kit.ledger.worker_name, key)
    assert len(ref) <= 200
    assert caller(ref, monkeypatch).complete("made")
    assert kit.state() == "finished"
    unheard_of = reference("n" * 200, key)
    assert caller(unheard_of, monkeypatch).complete("made").reason == "unknown"


def test_a_made_up_reference_leaves_nothing_behind(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("asked", set_as_current=False)
    kept = [len(_clients_of_made_up(app, number, monkeypatch)) for number in range(3)]
    assert kept == [kept[0]] * 3
    assert list(kit.redis.keys("*made-up*")) == []


def _clients_of_made_up(app: Celery, number: int, monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    made_up = reference(f"made-up-{number}", AttemptKey(1, 1, "x" * 22))
    assert caller(made_up, monkeypatch, app).complete("x").reason == "unknown"
    return _made[app]._made


def test_result_and_review_of_the_declaration_apply_to_the_outcome(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("declares", set_as_current=False)
    declared: dict[str, Any] = {
        "result": lambda value: f"shaped {value}",
        "review": Review(type="text", title="Look", content="…"),
    }

    @modelreins_job("x", **declared)
    @app.task(name="proj.upper", shared=False)
    def upper(job: Job) -> None: ...

    ref = deferred(clients, kit.bring("sent"), **declared)
    with pytest.raises(MrCeleryError, match=r"proj\.upper declares result= or review=, and this process does not have"):
        caller(ref, monkeypatch).complete("x")
    assert caller(ref, monkeypatch, app).complete("x")
    outcome = kit.outcome()
    assert (outcome.text, [each.title for each in outcome.reviews]) == ("shaped x", ["Look"])


@pytest.mark.parametrize(
    ("end", "status", "text"),
    [
        (lambda call: call.fail("no credit"), "failed", "no credit"),
        (lambda call: call.escalate(ValueError("odd")), "escalated", "odd"),
        (lambda call: call.complete(None), "done", ""),
    ],
)
def test_the_ways_to_end_a_job(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch, clients: FakeClients, end: Any, status: str, text: str
) -> None:
    ref = deferred(clients, kit.bring("sent"))
    assert caller(ref, monkeypatch).extend(600)
    assert kit.score("deferred") == pytest.approx(kit.now() + 600, abs=10)
    assert end(caller(ref, monkeypatch))
    outcome = kit.outcome()
    assert (outcome.status, outcome.text) == (status, text)


def test_the_jobs_secrets_are_masked_in_an_outcome_from_elsewhere(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = deferred(clients, kit.bring("sent", secrets={"key": "sk-123456"}))
    assert caller(ref, monkeypatch).fail("the provider refused sk-123456")
    assert kit.outcome().text == "the provider refused ***"


def test_a_value_that_is_no_result_leaves_the_job_waiting(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = deferred(clients, kit.bring("sent"))
    for value in (object(), Deferred(timeout=60)):
        with pytest.raises(JobError):
            caller(ref, monkeypatch).complete(value)
    assert kit.state() == "deferred"


@pytest.mark.parametrize("ref", ["", "nonsense", "dw.99.1.abcdefghijklmnopqrst-_", None])
def test_a_text_that_is_no_reference_gets_an_answer(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch, ref: Any) -> None:
    for answer in (caller(ref, monkeypatch).complete("x"), caller(ref, monkeypatch).extend(5)):
        assert answer.reason == "unknown"
        assert str(ref or "nothing") not in answer.text


def test_an_aborted_run_has_no_reference(kit: LedgerKit, clients: FakeClients) -> None:
    def handler(job: Job) -> str:
        kit.ledger.abort(1, "by an operator")
        with pytest.raises(JobAborted):
            _ = job.ref
        return "x"

    run(clients, kit.bring("sent"), handler)


def test_a_run_whose_job_the_ledger_has_lost_fails_nothing_without_a_reference(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's reference cannot end it. It is adopted, and runs again."""
    caplog.set_level(logging.INFO, logger="mr_celery")

    def handler(job: Job) -> Deferred:
        kit.redis.delete(kit.key("job:1"))
        return Deferred(timeout=60, note=job.ref)

    with pytest.raises(Ignore, match="lost from the ledger"):
        run(clients, kit.bring("sent"), handler)
    assert not kit.redis.hexists(kit.key("payload:1"), "outcome")
    assert "Traceback" not in caplog.text


def test_a_job_outside_of_a_run_has_no_reference() -> None:
    with pytest.raises(MrCeleryError, match=r"job\.ref exists only while a handler"):
        _ = Job({"id": 1}).ref


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 31 * 86400, True, "60", None])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(JobError, match="is not a number of seconds up to"):
        Deferred(timeout=timeout)


def test_a_note_is_a_text() -> None:
    with pytest.raises(JobError, match="takes a string, not int"):
        Deferred(note=7)  # type: ignore[arg-type]
