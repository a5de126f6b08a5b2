"""Celery's task signals report failures outside the handler to the ledger."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, signals
from celery.app import trace as celery_trace
from celery.app.task import Context
from celery.worker import state as worker_state

from mr_celery import modelreins_job
from mr_celery.celery_worker.broker_errors import BrokerErrors
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Route, RunKey
from mr_celery.message import header
from support.celery_worker import APP, SENDER, Consumer, FakeRunner, Request, Running, put
from support.ledgers import LedgerKit


def outcome_text(kit: LedgerKit) -> str:
    record = kit.record()
    assert kit.state() == "finished"
    assert record.outcome is not None
    assert record.outcome.status == "failed"
    return record.outcome.text


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("where", ["an add-on that wraps run", "the application's loader"])
def test_a_task_that_fails_before_its_handler_fails_the_job_with_the_reason(
    app: Celery, runner: FakeRunner, kit: LedgerKit, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no model")

    @modelreins_job
    @app.task(name="t")
    def task(prompt: str) -> str:
        return prompt

    put(app, runner)
    if where == "the application's loader":
        app.loader.on_task_init = fails
    else:
        app.tasks["t"].run = fails
    run = kit.bring("sent", route=Route("t", "celery"))
    request = {**header("w", run.job_id), "id": run.task_id, "retries": 0, "delivery_info": {}}
    celery_trace.build_tracer("t", app.tasks["t"], app=app)(run.task_id, (), {}, request)
    assert runner.messages == []
    assert "the task failed before its code began: ValueError" in outcome_text(kit)
    assert "no model" in outcome_text(kit)
    assert "no model" not in "".join(each.message for each in caplog.records if each.name.startswith("mr_celery"))


def test_a_hard_time_limit_fails_the_job_and_says_so(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    run = kit.bring("running")
    request = Request(run)
    signals.task_received.send(sender=SENDER, request=request)
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=TimeLimitExceeded(5))
    assert outcome_text(kit) == kit.record().reason == "the task's hard time limit of 5 s ended the run"
    assert caplog.messages == [
        f"job=1 attempt=1 task_id={run.task_id} failed: {kit.record().reason}; output: https://server.test/jobs/1"
    ]


def test_a_dead_worker_process_is_known_at_once(kit: LedgerKit) -> None:
    run = kit.bring("running")
    request = Request(run)
    signals.task_received.send(sender=SENDER, request=request)
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=WorkerLostError("signal 9 Job: 7."))
    assert kit.ledger.events(1)[-1].note == "its worker process died: signal 9"
    assert (kit.state(), kit.record().attempt) == ("claimed", 2)
    assert kit.is_due("claimed")


def test_a_dead_process_is_not_taken_for_the_retry_that_it_had_published(kit: LedgerKit) -> None:
    run = kit.bring("running")
    first, retry = Request(run), Request(RunKey(run.job_id, run.task_id, retries=1))
    retry.time_start = None
    for request in (first, retry):
        signals.task_received.send(sender=SENDER, request=request)
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=WorkerLostError("signal 9"))
    assert (kit.state(), kit.record().attempt) == ("claimed", 2)


def test_a_dead_process_takes_no_other_copy_of_its_message_with_it(kit: LedgerKit) -> None:
    run = kit.bring("running")
    overtaken, retry = Request(run), Running(RunKey(run.job_id, run.task_id, retries=1))
    signals.task_received.send(sender=SENDER, request=overtaken)
    kit.start(kit.announce(run), nonce="second")
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=WorkerLostError("signal 9"))
    assert (kit.state(), kit.record().attempt) == ("running", 1)
    assert retry in worker_state.active_requests


def test_a_copy_that_dies_at_the_fence_takes_no_run_of_another_worker_with_it(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    kit.start(run, holder="another worker")
    copy = Request(run)
    signals.task_received.send(sender=SENDER, request=copy)
    signals.task_failure.send(sender=SENDER, task_id=copy.id, exception=WorkerLostError("signal 9"))
    assert (kit.state(), kit.record().attempt) == ("running", 1)


def test_a_time_limit_takes_no_retry_with_it_that_the_run_had_published(kit: LedgerKit) -> None:
    run = kit.bring("running")
    overtaken = Request(run)
    signals.task_received.send(sender=SENDER, request=overtaken)
    kit.start(kit.announce(run), nonce="second")
    signals.task_failure.send(sender=SENDER, task_id=overtaken.id, exception=TimeLimitExceeded(5))
    assert kit.state() == "running"


def test_a_handlers_own_failure_is_recorded_by_the_runner(kit: LedgerKit) -> None:
    run = kit.bring("running")
    request = Request(run)
    signals.task_received.send(sender=SENDER, request=request)
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=ValueError("no"))
    assert kit.state() == "running"


def test_a_handlers_failure_is_not_reported_twice(
    app: Celery, runner: FakeRunner, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    @modelreins_job
    @app.task(name="t")
    def task(prompt: str) -> str:
        raise ValueError(prompt)

    asked: list[Any] = []
    monkeypatch.setattr(kit.ledger, "fail", lambda *args, **options: asked.append(args))
    put(app, runner)
    run = kit.bring("sent")
    request = {**header("w", run.job_id), "id": run.task_id, "retries": 0, "delivery_info": {}}
    celery_trace.build_tracer("t", app.tasks["t"], app=app)(run.task_id, (), {}, request)
    assert asked == []


@pytest.mark.parametrize(
    ("state", "how", "text"),
    [
        ("sent", {"expired": True}, "expired"),
        ("running", {"terminated": True}, "terminated"),
        ("sent", {}, "before it ran"),
    ],
)
def test_a_revoked_task_fails_its_job_and_says_why(kit: LedgerKit, state: str, how: dict[str, bool], text: str) -> None:
    run = kit.bring(state)
    context = Context({"id": run.task_id, "retries": 0, **header("w", 1)})
    signals.task_revoked.send(sender=SENDER, request=context, **{"terminated": False, "expired": False, **how})
    assert text in outcome_text(kit)


def test_a_celery_retry_that_is_revoked_before_it_runs_fails_its_job(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.retry(run)
    context = Context({"id": run.task_id, "retries": 1, **header("w", 1)})
    signals.task_revoked.send(sender=SENDER, request=context, terminated=False, expired=False)
    assert "before it ran" in outcome_text(kit)


@pytest.mark.parametrize("how", [{}, {"expired": True}])
def test_a_copy_that_was_revoked_before_it_ran_takes_no_running_one_with_it(
    kit: LedgerKit, how: dict[str, bool]
) -> None:
    run = kit.bring("running")
    context = Context({"id": run.task_id, "retries": 0, **header("w", 1)})
    signals.task_revoked.send(sender=SENDER, request=context, **{"terminated": False, "expired": False, **how})
    assert kit.state() == "running"


def test_a_task_that_was_revoked_because_of_an_abort_changes_nothing(kit: LedgerKit) -> None:
    run = kit.bring("aborted")
    context = Context({"id": run.task_id, **header("w", 1)})
    signals.task_revoked.send(sender=SENDER, request=context, terminated=True, expired=False)
    assert kit.state() == "aborted"


def test_a_task_that_a_worker_does_not_know_is_sent_again_with_the_reason(kit: LedgerKit) -> None:
    run = kit.bring("sent", route=Route("t", "celery"))
    worker, headers = Consumer("celery@b"), header("w", 1)
    about: dict[str, Any] = {"exc": KeyError("t"), "name": "t", "id": run.task_id}
    for forged in ({}, {"task": None}, {"task": ["t"]}, {"task": "another"}):
        signals.task_unknown.send(sender=worker, message=SimpleNamespace(headers={**headers, **forged}), **about)
    assert kit.state() == "sent"
    signals.task_unknown.send(sender=worker, message=SimpleNamespace(headers={**headers, "task": "t"}), **about)
    assert kit.state() == "claimed"
    assert kit.record().resends == 1
    assert "not registered on the worker celery@b" in kit.record().why


def test_a_message_that_a_worker_cannot_read_is_sent_again_with_the_reason(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    message = SimpleNamespace(headers={**header("w", 1), "id": run.task_id, "task": "proj.upper"})
    worker = Consumer("celery@b")
    signals.task_rejected.send(sender=worker, message=message, exc=ValueError("bad"))
    assert kit.state() == "claimed"
    assert kit.record().why == "the worker celery@b could not read the task's message: ValueError"


def test_a_job_for_a_task_that_is_not_decorated_here_is_sent_again_with_the_reason(kit: LedgerKit) -> None:
    run = kit.bring("sent", route=Route("proj.mail", "celery"))
    dropped: list[Any] = []
    message = SimpleNamespace(headers={**header("w", 1), "id": run.task_id, "task": "proj.mail"})
    consumer = SimpleNamespace(
        app=APP,
        hostname="celery@b",
        on_connection_error_after_connected=lambda error: None,
        connection_errors=(),
        on_decode_error=lambda message, error: dropped.append(message),
    )
    BrokerErrors(consumer)
    consumer.on_decode_error(message, KeyError("application/x-modelreins-job"))
    consumer.on_decode_error(SimpleNamespace(headers=None), ValueError("another one's"))
    assert dropped[0] is message
    assert len(dropped) == 2
    assert kit.state() == "claimed"
    assert "celery@b could not read its message: its task proj.mail is not decorated there" in kit.record().why


def test_signals_of_others_tasks_change_nothing(kit: LedgerKit) -> None:
    run = kit.bring("running")
    request = Request(run, fields={})
    signals.task_received.send(sender=SENDER, request=request)
    signals.task_failure.send(sender=SENDER, task_id=run.task_id, exception=TimeLimitExceeded(5))
    signals.task_revoked.send(sender=SENDER, request=Context({"id": run.task_id}), terminated=True, expired=False)
    message, worker = SimpleNamespace(headers=None), Consumer("celery@b")
    signals.task_unknown.send(sender=worker, message=message, exc=None, name="t", id=run.task_id)
    signals.task_rejected.send(sender=worker, message=message, exc=None)
    assert kit.state() == "running"


def test_a_signal_while_the_ledger_is_away_raises_nothing(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = kit.bring("sent")

    def away(*args: Any) -> bool:
        raise LedgerUnavailable("the ledger is unreachable")

    monkeypatch.setattr(kit.ledger, "fail", away)
    context = Context({"id": run.task_id, **header("w", 1)})
    answers = signals.task_revoked.send(sender=SENDER, request=context, terminated=False, expired=True)
    assert [answer for _, answer in answers if isinstance(answer, Exception)] == []
    assert "cannot record a failed task" in caplog.text
