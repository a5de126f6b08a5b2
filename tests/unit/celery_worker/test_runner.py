"""The run of a handler, from its message to its outcome in the ledger."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import billiard.common
import gevent
import pytest
from billiard.common import _shutdown_cleanup
from celery import Celery, signals
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from greenlet import GreenletExit
from kombu.exceptions import EncodeError, OperationalError

from mr_celery import backoff, raise_if_aborted, worker
from mr_celery.celery_compat import intercept_messages
from mr_celery.celery_worker import function_retries, handing_over, publishing, retries, runner
from mr_celery.celery_worker import signals as worker_signals
from mr_celery.celery_worker.current import AbortCheck, RequestedRetry, current_run, running_here
from mr_celery.celery_worker.function_retries import FunctionRetries
from mr_celery.celery_worker.handler_errors import HandlerStopped
from mr_celery.celery_worker.runner import Runner
from mr_celery.delivery.giving_up import Bound
from mr_celery.delivery.packing import LEDGER_BLOB_LIMIT
from mr_celery.delivery.server_routes import ServerRoutes
from mr_celery.errors import (
    Escalate,
    JobAborted,
    JobError,
    LedgerUnavailable,
    SettingsError,
    WorkerError,
)
from mr_celery.handlers import Declaration
from mr_celery.job import Job
from mr_celery.ledger import DeliveryKey, MemberKey, RunKey
from mr_celery.message import Message
from mr_celery.outcome import Outcome
from mr_celery.result import Artifact, JobFailed, Result, Review
from mr_celery.settings import Settings
from support.clock import Clock
from support.ledgers import HOLDER, NONCE, ROUTE, LedgerKit, fake_kit, sent
from support.worker_clients import FakeClients


class FailingSometimes:
    """A ledger in which one step fails a number of times before it works."""

    def __init__(self, ledger: Any, step: str, times: int) -> None:
        self._ledger = ledger
        self._step = step
        self.left = times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)
        if name != self._step:
            return method

        def failing(*args: Any, **kwargs: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise LedgerUnavailable("the ledger is unreachable")
            return method(*args, **kwargs)

        return failing


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def clients(kit: LedgerKit) -> FakeClients:
    return FakeClients(kit.ledger)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waiting costs no time."""
    made = Clock(0.0)

    for module in (runner, retries, publishing):
        monkeypatch.setattr(module, "retry_until", partial(backoff.retry_until, sleep=made.sleep, clock=made))
    return made


def run(
    clients: FakeClients,
    key: RunKey,
    handler: Callable[..., Any],
    declaration: Declaration | None = None,
    *args: Any,
    **kwargs: Any,
) -> str:
    """Run a handler for the job of a message."""
    message = Message("w", key.job_id, key.task_id, key.retries)
    made = Runner(clients, "celery@test", HOLDER)  # type: ignore[arg-type]
    return made.run(message, handler, declaration or Declaration(), args, kwargs).status


# -- what a handler returns ----------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], str]:
    def handler() -> str:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "level", "line"),
    [
        (lambda: "text", "INFO", "done after 0 ms"),
        (
            raising(Escalate("secret")),
            "INFO",
            "escalated after 0 ms: Escalate; output: https://server.test/jobs/1",
        ),
        (raising(JobFailed("secret")), "WARNING", "failed after 0 ms: JobFailed; output: https://server.test/jobs/1"),
        (raising(ValueError("secret")), "WARNING", "failed after 0 ms: ValueError; output: https://server.test/jobs/1"),
        (
            lambda: Result("secret", status="failed"),
            "WARNING",
            "failed after 0 ms: its handler returned Result(status='failed'); output: https://server.test/jobs/1",
        ),
        (
            lambda missing: "text",
            "WARNING",
            "failed after 0 ms: JobError: no field 'missing'; output: https://server.test/jobs/1",
        ),
        (
            lambda: {"secret": object()},
            "WARNING",
            "failed after 0 ms: JobError: the handler returned dict; output: https://server.test/jobs/1",
        ),
        (
            lambda: Result("secret", status="secret"),  # type: ignore[arg-type]
            "WARNING",
            "failed after 0 ms: JobError: the status of its Result is unknown; output: https://server.test/jobs/1",
        ),
    ],
)
def test_the_end_of_a_run_is_one_line(
    kit: LedgerKit,
    clients: FakeClients,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    handler: Callable[..., Any],
    level: str,
    line: str,
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    monkeypatch.setattr("mr_celery.celery_worker.runner.time", SimpleNamespace(monotonic=lambda: 0.0))
    with suppress(ValueError, JobFailed, JobError):
        run(clients, kit.bring("sent"), handler)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage().endswith(line)
    assert "secret" not in caplog.text


def test_outputs_are_logged_if_the_settings_ask_for_it(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    clients.settings = replace(clients.settings, url="http://localhost:8000", show_output=True)
    run(clients, kit.bring("sent"), lambda: "x" * (runner.MOST_LOGGED + 3))
    assert caplog.messages[-1].endswith(f"output:\n    {'x' * runner.MOST_LOGGED}\n    … and 3 more characters")
    clients.settings = replace(clients.settings, url="https://modelreins.test")
    run(clients, kit.bring("sent", 2), lambda: "secret")
    assert "secret" not in caplog.text


def test_a_handlers_text_becomes_the_outcome_and_is_delivered_from_here(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent", prompt="hello")
    shown = run(clients, key, lambda prompt: prompt.upper())
    assert shown == "done"
    assert kit.state() == "finished"
    assert kit.record().outcome == Outcome("done", "HELLO")
    (delivery_request,) = clients.out.delivery_requests
    assert (delivery_request.key, delivery_request.outcome.text) == (DeliveryKey(1, key.task_id, 1), "HELLO")
    assert not kit.is_due("finished")


def test_with_fields_a_job_fills_no_other_parameter(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent", prompt="hello", account="mine")

    def handler(prompt: str, account: str = "ours") -> str:
        return f"{account}: {prompt}"

    run(clients, key, handler, Declaration(fields=("prompt",)))
    assert clients.out.delivery_requests[0].outcome.text == "ours: hello"


def test_the_handler_gets_the_job_the_fields_and_the_run(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent", prompt="hello", model="m")
    seen: dict[str, Any] = {}

    def handler(job: Job, model: str, *, prompt: str, other: str = "default") -> None:
        here = current_run()
        assert here is not None
        seen.update(
            job=job, model=model, prompt=prompt, other=other, attempt=here.attempt, server=here.api and here.api()
        )
        seen["here"] = running_here(key.task_id), running_here("mr-1-2-other")

    run(clients, key, handler)
    assert seen.pop("job")["prompt"] == "hello"
    assert seen == {
        "model": "m",
        "prompt": "hello",
        "other": "default",
        "attempt": 1,
        "server": clients.server,
        "here": (True, False),
    }
    assert current_run() is None


def unloadable(kit: LedgerKit) -> RunKey:
    """A job that was stored by a Python with different limits."""
    key = kit.bring("sent")
    kit.redis.hset(kit.key("payload:1"), "job", '{"id": 1, "input": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return key


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
@pytest.mark.parametrize("changes", [{"retries": 1}, {"task_name": "proj.other"}], ids=str)
def test_a_message_that_is_not_the_recorded_one_does_not_run(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture, state: str, changes: dict[str, Any]
) -> None:
    key, ran = kit.bring(state), list[str]()
    message = replace(Message("w", key.job_id, key.task_id, key.retries, task_name=ROUTE.task_name), **changes)
    made = Runner(clients, "celery@test", HOLDER)  # type: ignore[arg-type]
    with pytest.raises(Ignore):
        made.run(message, ran.append, Declaration(), (), {})
    assert (ran, kit.state()) == ([], state)
    assert caplog.text.count(f"not run: {runner.UNRECORDED}") == 1


def test_messages_of_invented_worker_names_are_dropped_with_few_lines(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_invented", count(1))
    monkeypatch.setattr(clients, "ledger", lambda name: kit.ledger)
    made = Runner(clients, "celery@test", HOLDER)  # type: ignore[arg-type]
    for number in range(1_000):
        with pytest.raises(Ignore):
            made.run(Message(f"invented {number}", 7, "mr-7-1-ab"), str, Declaration(), (), {})
    assert len(caplog.messages) == 10
    assert "worker name invented 0 is not configured here (1 message)" in caplog.messages[0]
    assert "worker name invented 511 is not configured here (512 messages)" in caplog.messages[-1]


def test_a_run_announces_its_retry_before_the_message_is_published(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    retried = replace(key, retries=1)

    def handler() -> str:
        here = current_run()
        assert here is not None
        assert here.announce_retry is not None
        assert kit.start(retried, nonce="early").refusal == "unrecorded"
        signals.before_task_publish.send(sender="t", headers={"id": "another", "retries": 1})
        assert kit.start(retried, nonce="early").refusal == "unrecorded"
        signals.before_task_publish.send(sender="t", headers={"id": key.task_id, "retries": 1})
        assert kit.start(retried, nonce="retry").job is not None
        return "too late"

    worker_signals.connect()
    run(clients, key, handler)
    assert (kit.state(), kit.record().retries) == ("running", 1)


def test_a_retry_that_cannot_be_announced_is_published_all_the_same(
    kit: LedgerKit, clients: FakeClients, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failing = FailingSometimes(kit.ledger, "announce_retry", 10**6)
    key = kit.bring("running")
    message = Message("w", key.job_id, key.task_id)
    retries.announce_retry(failing, message, NONCE, 1)  # type: ignore[arg-type]
    assert clock.now > publishing.PUBLISH_SECONDS / 2
    assert "its retry could not be announced: the ledger is unreachable" in caplog.text


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_cannot_be_loaded_fails_at_once_with_the_reason(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture, retries: int
) -> None:
    key = replace(unloadable(kit), retries=retries)
    kit.redis.hset(kit.key("job:1"), "retries", retries)
    ran: list[str] = []
    with pytest.raises(Ignore):
        run(clients, key, ran.append)
    why = "the job cannot be loaded here: it is nested too deeply for this Python"
    assert (kit.state(), kit.record().outcome) == ("finished", Outcome.failed(why, reason=why))
    assert kit.is_due("finished")
    assert ran == []
    assert f"failed: {why}" in caplog.text


def test_recording_such_a_failure_is_retried(kit: LedgerKit, clients: FakeClients) -> None:
    key = unloadable(kit)
    clients.book = FailingSometimes(kit.ledger, "fail", 3)
    with pytest.raises(Ignore):
        run(clients, key, lambda prompt: prompt)
    assert kit.state() == "finished"


def test_the_job_is_running_while_its_handler_runs(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    states: list[str] = []
    run(clients, key, lambda job: states.append(kit.state()))
    assert states == ["running"]
    assert kit.record().node == "celery@test"


def test_the_worker_in_which_a_handler_runs_holds_its_job(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    due: list[list[int]] = []

    def handler(job: Job) -> None:
        for holder in ("another worker", HOLDER):
            kit.make_due("running")
            kit.renew(key, holder=holder)
            due.append(kit.ledger.due("running"))

    run(clients, key, handler)
    assert due == [[1], []]


def test_arguments_of_the_message_override_the_jobs_fields(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent", prompt="hello", model="m")
    run(clients, key, lambda first, prompt, model: f"{first} {prompt} {model}", None, "given", model="mine")
    assert clients.out.delivery_requests[0].outcome.text == "given hello mine"


def test_the_declaration_makes_arguments_and_result(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent", prompt="hello")
    declaration = Declaration(
        arguments=lambda job: {"text": job.prompt[::-1]},
        result=lambda value: f"<{value}>",
        review=lambda job, value: Review("text", f"job {job.id}", value),
    )
    run(clients, key, lambda text: text, declaration)
    outcome = kit.outcome()
    assert outcome.text == "<olleh>"
    assert [(review.type, review.title, review.content) for review in outcome.reviews] == [("text", "job 1", "<olleh>")]


def test_the_bytes_of_artifacts_wait_in_the_ledger(kit: LedgerKit, clients: FakeClients, tmp_path: Path) -> None:
    file = tmp_path / "b.txt"
    file.write_bytes(b"two")
    key = kit.bring("sent")
    artifacts = [Artifact(data=b"one", filename="a.txt"), Artifact(path=file)]
    run(clients, key, lambda job: Result("made", artifacts=artifacts))
    delivery_request = clients.out.delivery_requests[0]
    assert [kit.ledger.blob(1, 0), kit.ledger.blob(1, 1)] == [b"one", b"two"]
    assert delivery_request.blobs == [b"one", b"two"]
    assert [upload.filename for upload in delivery_request.outcome.uploads] == ["a.txt", "b.txt"]


def test_a_run_waits_for_its_delivery_as_long_as_its_size_needs(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(clients, kit.bring("sent"), lambda prompt: prompt.upper())
    assert not clients.out.is_over()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + clients.out.delivery_requests[0].usual_seconds + 1)
    assert clients.out.is_over()


def test_where_the_bridge_delivers_the_outcome_is_due_for_it_at_once(kit: LedgerKit) -> None:
    clients = FakeClients(kit.ledger, delivers=False)
    key = kit.bring("sent")
    run(clients, key, lambda job: "text")
    assert kit.is_due("finished")
    assert clients.out.delivery_requests == []


# -- what a handler raises ---------------------------------------------------------------------------------


def test_an_exception_fails_the_job_with_the_traceback_from_the_handler_on(
    kit: LedgerKit, clients: FakeClients
) -> None:
    key = kit.bring("sent")

    def inner() -> None:
        raise ValueError("cannot do it")

    def handler(job: Job) -> None:
        inner()

    with pytest.raises(ValueError, match="cannot do it"):
        run(clients, key, handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    lines = outcome.text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in handler")
    assert lines[-1] == "ValueError: cannot do it"
    assert "runner.py" not in outcome.text.replace("test_runner.py", "")
    assert clients.out.delivery_requests[0].outcome == outcome


def test_on_error_is_called_with_the_job_and_the_exception(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    error = ValueError("no")
    calls: list[tuple[int, BaseException]] = []

    def handler(job: Job) -> None:
        raise error

    declaration = Declaration(on_error=lambda job, exception: calls.append((job.id, exception)))
    with pytest.raises(ValueError, match="no"):
        run(clients, key, handler, declaration)
    assert calls == [(1, error)]


def test_an_exception_in_on_error_changes_nothing(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    key = kit.bring("sent")

    def on_error(job: Job, exception: BaseException) -> None:
        raise KeyError("broken hook")

    def handler(job: Job) -> None:
        raise ValueError("the handler's own")

    with pytest.raises(ValueError, match="the handler's own"):
        run(clients, key, handler, Declaration(on_error=on_error))
    outcome = kit.outcome()
    assert outcome.text.endswith("ValueError: the handler's own")
    assert "on_error= raised" in caplog.text


def test_an_escalation_is_an_outcome_and_no_error(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        raise Escalate("a human has to decide")

    declaration = Declaration(on_error=lambda job, exception: calls.append(exception))
    assert run(clients, key, handler, declaration) == "escalated"
    assert kit.record().outcome == Outcome("escalated", "a human has to decide", reason="Escalate")
    assert calls == []


@pytest.mark.parametrize(
    ("when", "at_least", "at_most"),
    [
        (None, 29, 31),
        (100, 129, 131),
        (-5, 29, 31),
        (dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=1), 86000, 86431),
        (dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1), 29, 31),
    ],
)
def test_a_celery_retry_waits_for_its_time_and_one_lease(
    kit: LedgerKit, clients: FakeClients, when: Any, at_least: float, at_most: float
) -> None:
    key = kit.bring("sent")

    handler = asking(Retry("again", when=when))

    with pytest.raises(Retry):
        run(clients, key, handler)
    assert kit.state() == "sent"
    assert kit.record().retries == 1
    score = kit.score("sent")
    assert score is not None
    assert at_least < score - kit.now() < at_most
    assert clients.out.delivery_requests == []


def test_a_retry_that_was_not_requested_fails_the_job(kit: LedgerKit, clients: FakeClients) -> None:
    """The retry's message was not published, so nothing would run the job again."""

    def handler(job: Job) -> None:
        raise Retry("again", when=1)

    with pytest.raises(Retry):
        run(clients, kit.bring("sent"), handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "use self.retry()" in outcome.text


class Unreadable(Exception):
    """An exception whose attributes raise another one when read."""

    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


class Classless(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit

    @__class__.setter
    def __class__(self, kind: Any) -> None: ...


@pytest.mark.parametrize("kind", [Unreadable, Classless])
def test_an_exception_whose_attributes_raise_ends_its_job_once(
    kit: LedgerKit, clients: FakeClients, kind: type[Exception]
) -> None:
    def handler(job: Job) -> None:
        raise kind("boom")

    with pytest.raises(HandlerStopped):
        run(clients, kit.bring("sent"), handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert outcome.text.endswith(f"the handler raised {kind.__name__}, whose attributes cannot be read")
    assert "in handler" in outcome.text


def test_the_message_of_a_retry_runs_the_same_attempt(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    handler = asking(Retry("again"))

    with pytest.raises(Retry):
        run(clients, key, handler)
    run(clients, RunKey(1, key.task_id, 1), lambda job: "now")
    assert kit.record().outcome == Outcome("done", "now")
    assert kit.record().attempt == 1


def test_a_rejected_task_fails_the_job(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> None:
        raise Reject("not me", requeue=False)

    with pytest.raises(Reject):
        run(clients, key, handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "rejected" in outcome.text


def test_a_requeued_task_may_start_again_from_the_broker(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> None:
        raise Reject("later", requeue=True)

    with pytest.raises(Reject):
        run(clients, key, handler)
    assert kit.state() == "sent"
    assert clients.out.delivery_requests == []
    run(clients, key, lambda job: "second time")  # the broker redelivers the message
    assert kit.record().outcome == Outcome("done", "second time")


def test_an_ignored_task_fails_the_job_with_the_reason(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> None:
        raise Ignore

    with pytest.raises(Ignore):
        run(clients, key, handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "Ignore" in outcome.text


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(-241), "SystemExit: -241"),
        (KeyboardInterrupt("own"), "KeyboardInterrupt: own"),
        (asyncio.CancelledError("stop"), "CancelledError: stop"),
        (GeneratorExit(), "GeneratorExit"),
        (GreenletExit(), "GreenletExit"),
        (gevent.Timeout(3), "Timeout: 3 seconds"),
        (WorkerShutdown(0), "WorkerShutdown"),
        (WorkerTerminate(1), "WorkerTerminate"),
        (MemoryError("none left"), "MemoryError: none left"),
        (Unprintable(), "Unprintable"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exceptions_that_celery_ignores_fail_the_job_and_its_task(
    kit: LedgerKit, clients: FakeClients, error: BaseException, text: str
) -> None:
    key = kit.bring("sent")
    seen: list[BaseException] = []

    def handler(job: Job) -> None:
        raise error

    with pytest.raises(HandlerStopped, match=type(error).__name__) as raised:
        run(clients, key, handler, Declaration(on_error=lambda job, exception: seen.append(exception)))
    assert raised.value.__cause__ is error
    assert seen == [error]
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert text in outcome.text


def as_of(module: str, function: Any) -> Any:
    """A function as if it were defined in that module."""
    return FunctionType(function.__code__, {"__name__": module}, closure=function.__closure__)


@pytest.mark.parametrize("going", [WorkerShutdown, WorkerTerminate, NotImplementedError])
def test_a_worker_that_shuts_down_leaves_the_job_to_its_lease(
    kit: LedgerKit, clients: FakeClients, going: type[BaseException]
) -> None:
    """Under solo, Celery's signal handler raises in the job's handler, even its error that it cannot interrupt."""
    key = kit.bring("sent")

    def raises() -> None:
        raise going(0)

    with pytest.raises(going):
        run(clients, key, lambda job: as_of("celery.apps.worker", raises)())
    assert kit.state() == "running"


def test_an_outcome_that_cannot_be_recorded_becomes_a_failure_with_the_reason(
    kit: LedgerKit, clients: FakeClients
) -> None:
    key = kit.bring("sent")
    clients._delivers = False

    def handler(job: Job) -> str:
        worker.submit_review(type="page", title=object(), content="c")  # type: ignore[arg-type]
        return "done"

    run(clients, key, handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "could not be recorded" in outcome.text
    assert "done" in outcome.text


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), GreenletExit(), KeyboardInterrupt()], ids=repr)
def test_what_interrupts_the_recording_does_so_once(kit: LedgerKit, clients: FakeClients, error: BaseException) -> None:
    key = kit.bring("sent")
    finish, left = kit.ledger.finish, [error]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return finish(*args, **kwargs)

    kit.ledger.finish = interrupted  # type: ignore[method-assign]
    run(clients, key, lambda job: "text")
    assert kit.record().outcome == Outcome("done", "text")


def test_a_job_that_cannot_be_loaded_fails_at_once(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    start = kit.ledger.start

    def unloadable(*args: Any, **kwargs: Any) -> Any:
        start(*args, **kwargs)
        raise RecursionError("nested too deeply")

    kit.ledger.start = unloadable  # type: ignore[method-assign]
    with pytest.raises(RecursionError):
        run(clients, key, lambda job: "text")
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "could not load the job" in outcome.text
    assert "nested too deeply" in outcome.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("cannot draw a cat"), "ValueError"),
        (JobFailed("no cats here"), "JobFailed"),
        (Escalate("a cat?"), "Escalate"),
        (Ignore("a cat"), "Ignore"),
        (SystemExit("a cat"), "SystemExit"),
    ],
)
def test_the_reason_of_a_failure_is_the_class_of_the_exception_without_its_message(
    kit: LedgerKit, clients: FakeClients, error: BaseException, reason: str
) -> None:
    def draw(prompt: str) -> str:
        raise error

    with suppress(Exception):
        run(clients, kit.bring("sent"), draw)
    assert kit.record().reason == reason
    assert not [event for event in kit.ledger.events(1) if "cat" in event.note]


def test_a_job_without_a_required_field_has_that_as_its_reason(kit: LedgerKit, clients: FakeClients) -> None:
    with pytest.raises(JobError):
        run(clients, kit.bring("sent"), lambda subject: subject)
    assert kit.record().reason == "JobError: no field 'subject'"


def test_a_span_that_raises_costs_no_outcome(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def breaks(*args: Any) -> Iterator[Any]:
        yield SimpleNamespace(set=lambda attributes: None, fail=lambda error: None)
        raise OSError("the exporter is unreachable")

    monkeypatch.setattr(runner.tracing, "run", breaks)
    run(clients, kit.bring("sent"), lambda job: "text")
    assert kit.record().outcome == Outcome("done", "text")


def test_a_run_that_cannot_be_traced_is_logged(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def breaks(*args: Any) -> Iterator[Any]:
        raise OSError("the exporter is unreachable")
        yield

    monkeypatch.setattr(runner.tracing, "run", breaks)
    with pytest.raises(OSError, match="exporter"):
        run(clients, kit.bring("sent"), lambda job: "text")
    assert kit.outcome().status == "failed"


def test_a_greenlet_that_is_killed_for_an_abort_fails_nothing(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> None:
        assert not job.aborted  # this result is cached for a second
        kit.ledger.abort(1, "operator")
        raise GreenletExit

    with pytest.raises(Ignore):
        run(clients, key, handler, Declaration(on_error=lambda job, exception: pytest.fail("it is no failure")))
    assert kit.state() == "aborted"


@pytest.mark.parametrize("limit", [3, None])
def test_gevents_hard_time_limit_is_reported_by_the_pool(
    kit: LedgerKit, clients: FakeClients, limit: float | None
) -> None:
    key = kit.bring("sent")
    message = Message("w", key.job_id, key.task_id, key.retries, hard_limit=limit)
    made = Runner(clients, "celery@test", HOLDER)  # type: ignore[arg-type]

    def handler(job: Job) -> None:
        raise gevent.Timeout(3)

    with pytest.raises(gevent.Timeout if limit else HandlerStopped):
        made.run(message, handler, Declaration(), (), {})
    assert kit.state() == ("running" if limit else "finished")


# -- a retry that the broker does not accept -----------------------------------------------------------------


class Signature:
    """The message of a Celery retry, with a broker that is unreachable a number of times."""

    def __init__(self, away: int, error: Exception, **options: Any) -> None:
        self.options = options
        self.published = 0
        self._away = away
        self._error = error

    def apply_async(self) -> None:
        if self._away > 0:
            self._away -= 1
            raise self._error
        self.published += 1


def asking(retry: Retry) -> Callable[..., Any]:
    """A handler whose retry the broker has accepted."""

    def handler(job: Job) -> None:
        here = current_run()
        assert here is not None
        here.retries.append(RequestedRetry(Signature(0, OSError()), own=False))
        raise retry

    return handler


def retrying(signature: Signature, *, own: bool) -> Callable[..., Any]:
    """A handler whose retry the broker does not accept, as ``Task.retry`` reports it."""

    def handler(job: Job) -> None:
        here = current_run()
        assert here is not None
        here.retries.append(RequestedRetry(signature, own=own))
        try:
            signature.apply_async()
        except Exception as error:
            raise Reject(error, requeue=False) from None

    return handler


@pytest.mark.parametrize("error", [OperationalError("away"), ConnectionError(), RuntimeError()], ids=repr)
def test_a_retry_that_the_broker_does_not_take_is_left_to_the_bridge(
    kit: LedgerKit, clients: FakeClients, error: Exception
) -> None:
    key = kit.bring("sent")
    with pytest.raises(Retry):
        run(clients, key, retrying(Signature(1, error, countdown=20.0), own=False))
    record = kit.record()
    assert (record.state, record.attempt, record.retries, record.resends) == ("claimed", 1, 1, 0)
    assert not kit.is_due("claimed")
    assert kit.redis.zscore(kit.key("claimed"), "1") - record.times["claimed"] == pytest.approx(20)
    assert kit.start(RunKey(1, key.task_id, 1), nonce="again").job is not None, "the broker may have it all the same"


@pytest.mark.usefixtures("clock")
def test_a_retry_with_arguments_of_its_own_is_published_when_the_broker_is_back(
    kit: LedgerKit, clients: FakeClients
) -> None:
    signature = Signature(5, OperationalError("away"), countdown=1)
    with pytest.raises(Retry):
        run(clients, kit.bring("sent"), retrying(signature, own=True))
    assert signature.published == 1
    assert (kit.state(), kit.record().retries) == ("sent", 1)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("error", [EncodeError("no JSON"), OperationalError("away")], ids=repr)
def test_a_retry_that_can_never_be_published_fails_its_job(
    kit: LedgerKit, clients: FakeClients, error: Exception
) -> None:
    with pytest.raises(type(error)):
        run(clients, kit.bring("sent"), retrying(Signature(10**6, error), own=True))
    outcome = kit.outcome()
    assert f"could not be published: {error}" in outcome.text


def test_a_handlers_own_rejection_is_a_failure(kit: LedgerKit, clients: FakeClients) -> None:
    def handler(job: Job) -> None:
        raise Reject("not mine", requeue=False)

    with pytest.raises(Reject):
        run(clients, kit.bring("sent"), handler)
    assert kit.outcome().text == "the handler rejected its task: not mine"


# -- invalid results ---------------------------------------------------------------------------------------


def test_a_required_parameter_that_the_job_lacks_fails_it_by_name(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    called: list[object] = []

    def handler(prompt: str, customer: str) -> None:
        called.append(customer)

    with pytest.raises(JobError, match="'customer'"):
        run(clients, key, handler)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "'customer'" in outcome.text
    assert "Traceback" not in outcome.text
    assert called == []


def test_a_result_that_is_not_json_fails_the_job(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    with pytest.raises(JobError, match="returned object"):
        run(clients, key, lambda job: object())
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "returned object" in outcome.text


def test_a_file_that_is_gone_before_it_is_read_fails_the_job(
    kit: LedgerKit, clients: FakeClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"one")
    key = kit.bring("sent")
    pack = runner.pack

    def pack_and_lose(*args: Any, **kwargs: Any) -> Any:
        packed = pack(*args, **kwargs)
        file.unlink()
        return packed

    monkeypatch.setattr(runner, "pack", pack_and_lose)
    run(clients, key, lambda job: Artifact(path=file))
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "a.txt" in outcome.text


# -- large artifacts ---------------------------------------------------------------------------------------

LARGE = b"x" * (LEDGER_BLOB_LIMIT + 1)


def test_a_large_artifact_is_uploaded_before_the_outcome_is_recorded(
    kit: LedgerKit, clients: FakeClients, tmp_path: Path
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(LARGE)
    key = kit.bring("sent")
    made = [Artifact(data=LARGE, filename="a.bin"), Artifact(data=b"small", filename="b"), Artifact(path=file)]
    run(clients, key, lambda job: Result("made", artifacts=made))
    outcome = kit.outcome()
    assert [upload.slug for upload in outcome.uploads] == ["slug-1", None, "slug-2"]
    assert clients.server.uploads == [LARGE, LARGE]
    assert [kit.ledger.blob(1, index) for index in range(3)] == [b"", b"small", b""]


def test_a_large_artifact_waits_in_the_spool_if_there_is_one(
    kit: LedgerKit, clients: FakeClients, tmp_path: Path
) -> None:
    clients.settings = Settings(spool_url=str(tmp_path))
    run(clients, kit.bring("sent"), lambda job: Artifact(data=LARGE))
    outcome = kit.outcome()
    spool = clients.spool("w")
    assert spool is not None
    assert [entry.file for entry in spool.entries()] == [outcome.uploads[0].spooled]
    assert clients.server.uploads == []


def test_an_artifact_that_cannot_be_stored_fails_the_job_and_celerys_task(kit: LedgerKit, clients: FakeClients) -> None:
    clients.server.fails = [WorkerError("POST /artifacts/upload -> 413: too large", status=413)]
    errors: list[BaseException] = []
    declaration = Declaration(on_error=lambda job, error: errors.append(error))
    with pytest.raises(JobError, match="too large"):
        run(clients, kit.bring("sent"), lambda job: Artifact(data=LARGE, filename="a.mp4"), declaration)
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert outcome.text.endswith("made a.mp4")
    assert len(errors) == 1


def test_a_large_artifact_on_a_worker_without_a_way_to_the_server_fails_with_what_to_do(kit: LedgerKit) -> None:
    clients = FakeClients(kit.ledger, delivers=False)
    with pytest.raises(JobError, match="set MODELREINS_SPOOL_URL"):
        run(clients, kit.bring("sent"), lambda job: Artifact(data=LARGE))
    assert kit.is_due("finished")


def test_a_spool_with_a_missing_package_loses_no_outcome(kit: LedgerKit, clients: FakeClients) -> None:
    clients.settings = Settings(spool_url="unheard-of://spool")
    run(clients, kit.bring("sent"), lambda job: "text")
    assert kit.record().outcome == Outcome("done", "text")
    with pytest.raises(SettingsError, match="unheard-of"):
        run(clients, kit.bring("sent", 2), lambda job: Artifact(data=LARGE))
    assert kit.outcome(2).status == "failed"


def test_an_abort_while_artifacts_are_stored_leaves_no_trace(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> Artifact:
        kit.ledger.abort(1, "operator")
        return Artifact(data=LARGE)

    with pytest.raises(Ignore):
        run(clients, key, handler)
    assert kit.state() == "aborted"
    assert clients.server.uploads == []


# -- attachments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [ValueError("no"), Escalate("look"), JobFailed("no")], ids=str)
def test_uploads_attached_before_a_failure_are_delivered(kit: LedgerKit, ends: Exception) -> None:
    clients = FakeClients(kit.ledger, delivers=False)

    def handler(job: Job) -> None:
        worker.upload_artifact(b"half", "text/plain")
        worker.submit_review("text", "t", "c")
        raise ends

    with suppress(ValueError, JobFailed):
        run(clients, kit.bring("sent"), handler)
    outcome = kit.outcome()
    assert [upload.size for upload in outcome.uploads] == [4]
    assert [review.title for review in outcome.reviews] == ["t"]


def test_an_early_upload_has_a_different_key_in_each_run(kit: LedgerKit, clients: FakeClients) -> None:
    def handler(job: Job) -> str:
        return " ".join(worker.upload_artifact(data, "text/plain")["slug"] for data in (b"one", b"two"))

    run(clients, kit.bring("sent", 1), handler)
    run(clients, kit.bring("sent", 2), handler)
    assert kit.record().outcome == Outcome("done", "slug-1 slug-2")
    assert len(set(clients.server.keys)) == 4


def test_an_early_upload_that_failed_is_repeated_with_the_same_key(kit: LedgerKit, clients: FakeClients) -> None:
    clients.server.fails = [WorkerError("POST /artifacts/upload -> 503", status=503, retryable=True)]
    run(clients, kit.bring("sent"), lambda job: worker.upload_artifact(b"one", "text/plain")["slug"])
    outcome = kit.outcome()
    (upload,) = outcome.uploads
    assert [upload.key] == clients.server.keys
    assert upload.promised == outcome.text


def test_a_refused_early_upload_raises_in_the_handler(kit: LedgerKit, clients: FakeClients) -> None:
    clients.server.fails = [WorkerError("POST /artifacts/upload -> 413: too large", status=413)]

    def handler(job: Job) -> str:
        with pytest.raises(WorkerError, match="413"):
            worker.upload_artifact(b"one", "text/plain")
        return "without a picture"

    run(clients, kit.bring("sent"), handler)
    assert kit.record().outcome == Outcome("done", "without a picture")


NO_ROUTE = WorkerError("POST /artifacts/upload -> 404: Not Found", status=404)
NEEDS = (
    r"404: Not Found \(the server does not support artifacts and reviews, "
    r"which need ModelReins server 4\.6\.0 or later\)"
)


def upload_and_file(job: Job) -> str:
    slug = worker.upload_artifact(b"one", "text/plain", filename="a.txt")["slug"]
    worker.submit_review("text", "T", "c")
    return f"uploaded {slug}"


def test_an_early_upload_that_gets_a_404_is_delivered_with_the_result(kit: LedgerKit, clients: FakeClients) -> None:
    clients.server.fails = [NO_ROUTE, NO_ROUTE]
    run(clients, kit.bring("sent"), upload_and_file)
    outcome = kit.outcome()
    assert [upload.filename for upload in outcome.uploads] == ["a.txt"]
    assert [review.title for review in outcome.reviews] == ["T"]


@pytest.mark.parametrize("route", ["upload", "review"])
def test_a_server_known_to_lack_the_route_raises_in_the_handler(
    kit: LedgerKit, clients: FakeClients, route: str
) -> None:
    clients.routes = ServerRoutes(clients.server, kit.ledger, bound=Bound(1, 0.0))  # type: ignore[arg-type]
    clients.server.fails = [NO_ROUTE]

    def handler(job: Job) -> str:
        with pytest.raises(WorkerError, match=NEEDS) as raised:
            worker.upload_artifact(b"x", "x/y") if route == "upload" else worker.submit_review("t", "T", "c")
        assert raised.value.status == 404
        return "without"

    run(clients, kit.bring("sent"), handler)
    assert kit.record().outcome == Outcome("done", "without")


def test_with_without_artifacts_close_the_handler_continues(kit: LedgerKit, clients: FakeClients) -> None:
    clients.routes = ServerRoutes(clients.server, kit.ledger, without="close", bound=Bound(1, 0.0))  # type: ignore[arg-type]
    clients.server.fails = [NO_ROUTE, NO_ROUTE]
    run(clients, kit.bring("sent"), upload_and_file)
    outcome = kit.outcome()
    assert (len(outcome.uploads), len(outcome.reviews)) == (1, 1)


def test_a_404_for_a_review_that_the_handler_named_raises_in_the_handler(kit: LedgerKit, clients: FakeClients) -> None:
    clients.server.fails = [NO_ROUTE]

    def handler(job: Job) -> str:
        with pytest.raises(WorkerError, match=r"404: Not Found$"):
            worker.upload_artifact(b"x", "x/y", review_id=99)
        return "without"

    run(clients, kit.bring("sent"), handler)
    assert not kit.redis.exists(kit.key("routes"))


def test_a_successful_early_upload_is_recorded_for_later_404s(kit: LedgerKit, clients: FakeClients) -> None:
    run(clients, kit.bring("sent"), upload_and_file)
    later = ServerRoutes(clients.server, kit.ledger, bound=Bound(1, 0.0))  # type: ignore[arg-type]
    for route in ("upload", "review"):
        error = WorkerError("POST /x -> 404", status=404)
        error.route = route
        assert not later.missing(error)


def test_a_failure_in_the_handlers_own_words_brings_its_log(kit: LedgerKit, clients: FakeClients) -> None:
    def handler(job: Job) -> None:
        raise JobFailed("the build failed", artifacts=[Artifact(data=b"log", filename="build.log")])

    with pytest.raises(JobFailed):
        run(clients, kit.bring("sent"), handler)
    outcome = kit.outcome()
    assert (outcome.status, outcome.text) == ("failed", "the build failed")
    assert [upload.filename for upload in outcome.uploads] == ["build.log"]


@pytest.mark.parametrize("given", [None, "build.log", [b"log"], Artifact(data=b"log")], ids=repr)
def test_a_failure_with_invalid_artifacts_still_fails_the_job_and_names_them(
    kit: LedgerKit, clients: FakeClients, given: Any
) -> None:
    def handler(job: Job) -> None:
        raise JobFailed("the build failed", artifacts=given)

    with pytest.raises(JobFailed):
        run(clients, kit.bring("sent"), handler)
    assert kit.outcome().text == "the build failed\n\nJobFailed(artifacts=…) takes a list of Artifact objects"


def test_a_longer_output_than_allowed_is_cut_and_kept_whole(kit: LedgerKit, clients: FakeClients) -> None:
    clients.settings = Settings(result_limit=1024)
    run(clients, kit.bring("sent"), lambda job: "x" * 5000)
    outcome = kit.outcome()
    assert len(outcome.text.encode()) == 1024
    assert outcome.uploads[0].filename == "result.txt"
    assert kit.ledger.blob(1, 0) == b"x" * 5000


# -- the fence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["unknown", "running", "finished", "closed", "aborted"])
def test_a_message_that_is_not_to_be_run_does_not_reach_the_handler(
    kit: LedgerKit, clients: FakeClients, state: str
) -> None:
    key = kit.bring(state)
    called: list[object] = []
    with pytest.raises(Ignore, match=f"job 1 is {state}"):
        run(clients, key, called.append)
    assert called == []
    assert kit.state() == state


def test_a_job_that_the_ledger_does_not_know_is_a_warning(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    """It may not be the bridge's ledger; then each message that this worker receives is lost."""
    with pytest.raises(Ignore):
        run(clients, RunKey(1, "mr-1-1-x"), lambda job: "text")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "not run: the ledger does not know the job" in line
    assert "MODELREINS_LEDGER_URL" in line


class Frozen:
    """A ledger whose worker is frozen for a minute, just after a start was recorded.

    Args:
        ledger: the ledger.
        monkeypatch: sets the runner's clock.
        meanwhile: a function to call during that minute.
    """

    def __init__(self, ledger: Any, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
        self._ledger = ledger
        self._now = 0.0
        self._meanwhile = meanwhile
        monkeypatch.setattr("mr_celery.celery_worker.runner.time.monotonic", lambda: self._now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        started = self._ledger.start(*args, **kwargs)
        self._now += 60.0
        self._meanwhile()
        return started


def test_a_run_that_was_lost_before_its_handler_began_does_not_begin(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kit.bring("sent")
    called: list[object] = []
    with pytest.raises(Ignore, match="lost before its handler began"):
        run(FakeClients(Frozen(kit.ledger, monkeypatch, lambda: kit.die(key))), key, called.append)
    assert called == []
    assert kit.state() == "claimed"


def test_a_run_that_was_frozen_and_has_its_job_still_begins(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    key = kit.bring("sent")
    run(FakeClients(Frozen(kit.ledger, monkeypatch, lambda: None)), key, lambda: "made it")
    assert kit.record().outcome == Outcome("done", "made it")


@pytest.mark.parametrize("end", ["abort", "lose"])
def test_the_outcome_of_a_run_that_lost_its_lease_is_dropped(
    kit: LedgerKit, clients: FakeClients, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> str:
        if end == "abort":
            kit.ledger.abort(1, "operator")
        else:
            kit.die(key)
        return "too late"

    run(clients, key, handler)
    assert kit.state() == {"abort": "aborted", "lose": "claimed"}[end]
    assert kit.record().outcome is None
    assert clients.out.delivery_requests == []
    assert "outcome dropped" in caplog.text


def test_an_outcome_beside_another_one_that_is_recorded_is_not_delivered(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> str:
        kit.ledger.fail(1, key.task_id, Outcome.failed("hard time limit"))
        return "too late"

    run(clients, key, handler)
    assert kit.record().outcome == Outcome.failed("hard time limit")
    assert clients.out.delivery_requests == []


# -- aborts ------------------------------------------------------------------------------------------------


def take_away(kit: LedgerKit, key: RunKey, how: str) -> None:
    """Take a job away from its run."""
    if how == "aborted":
        kit.ledger.abort(key.job_id, "operator")
    elif how == "lost":
        kit.die(key)
    elif how == "failed":
        kit.ledger.fail(key.job_id, key.task_id, Outcome.failed("over"))
    elif how == "retried":
        assert kit.start(kit.announce(key), nonce="retry").job is not None
    elif how == "unknown":
        kit.redis.flushall()


@pytest.mark.parametrize(
    ("how", "held"),
    [("aborted", False), ("lost", False), ("failed", False), ("retried", False), ("unknown", True), ("not", True)],
)
def test_a_run_holds_its_job_until_the_ledger_says_otherwise(kit: LedgerKit, how: str, held: bool) -> None:
    key = kit.bring("running")
    take_away(kit, key, how)
    assert kit.ledger.holds(key) is held


@pytest.mark.parametrize("state", ["admitted", "claimed", "sent", "finished", "closed", "aborted"])
def test_a_job_that_does_not_run_is_held_by_no_run(kit: LedgerKit, state: str) -> None:
    key = kit.bring(state)
    assert not kit.ledger.holds(key)


@pytest.mark.parametrize("asks", ["job", "module"])
@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_a_handler_that_checks_stops_and_leaves_no_trace(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture, how: str, asks: str
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    key = kit.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        take_away(kit, key, how)
        if asks == "job":
            assert job.aborted
            job.raise_if_aborted()
        raise_if_aborted()
        calls.append("went on")

    with pytest.raises(Ignore, match="job 1 was aborted on the server or given to another worker") as caught:
        run(clients, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    assert type(caught.value) is Ignore
    assert calls == []
    assert kit.state() == {"aborted": "aborted", "lost": "claimed"}[how]
    assert clients.out.delivery_requests == []
    assert [each.levelname for each in caplog.records if "stopped" in each.message] == ["INFO"]


def test_a_handler_that_checks_continues_while_its_run_has_the_job(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")

    def handler(job: Job) -> str:
        for _ in range(1000):
            job.raise_if_aborted()
            raise_if_aborted()
        return f"aborted: {job.aborted}"

    run(clients, key, handler)
    assert kit.record().outcome == Outcome("done", "aborted: False")


def test_an_abort_that_the_handler_has_not_got_is_an_error_like_any_other(kit: LedgerKit, clients: FakeClients) -> None:
    key = kit.bring("sent")
    calls: list[BaseException] = []

    def handler(job: Job) -> None:
        raise JobAborted("I think so")

    with pytest.raises(JobAborted, match="I think so"):
        run(clients, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert outcome.text.endswith("JobAborted: I think so")
    assert len(calls) == 1


def test_checking_outside_of_a_handler_does_nothing() -> None:
    raise_if_aborted()


def test_a_handler_may_check_while_the_ledger_is_unreachable(kit: LedgerKit) -> None:
    key = kit.bring("sent")
    clients = FakeClients(FailingSometimes(kit.ledger, "holds", times=1_000_000))
    run(clients, key, lambda job: str(job.aborted))
    assert kit.record().outcome == Outcome("done", "False")


class TestAbortCheck:
    """A run's check of whether its job is still its own."""

    def test_queries_the_ledger_at_most_once_a_second(self) -> None:
        clock = Clock(0.0)
        asked: list[float] = []

        def holds() -> bool:
            asked.append(clock.now)
            return True

        check = AbortCheck(holds, clock=clock)
        for _ in range(100):
            assert not check.aborted()
            clock.sleep(0.125)
        assert asked == [float(second) for second in range(13)]

    def test_an_abort_is_seen_after_a_second_and_for_ever(self) -> None:
        clock, answers = Clock(0.0), [True, False, True]
        check = AbortCheck(lambda: answers.pop(0), clock=clock)
        assert not check.aborted()
        assert not check.aborted()
        clock.sleep(1)
        assert check.aborted()
        clock.sleep(60)
        assert check.aborted()
        assert answers == [True]

    def test_the_last_known_answer_stands_while_the_ledger_is_away(self) -> None:
        clock, away = Clock(0.0), [False, True, False]

        def holds() -> bool:
            if away.pop(0):
                raise LedgerUnavailable("away")
            return bool(away)

        check = AbortCheck(holds, clock=clock)
        seen = []
        for _ in range(3):
            seen.append(check.aborted())
            clock.sleep(1)
        assert seen == [False, False, True]

    def test_a_ledger_that_does_not_answer_in_time_costs_a_tenth_of_the_time(self) -> None:
        clock = Clock(0.0)

        def hangs() -> bool:
            clock.sleep(5)
            raise LedgerUnavailable("timed out")

        check = AbortCheck(hangs, clock=clock)
        for _ in range(1000):
            check.aborted()
            clock.now += 0.1
        assert len(clock.slept) <= 2


@pytest.mark.parametrize("tidying_up", [[], [None]], ids=["quietly", "with an error"])
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_pool_process_that_is_being_ended_records_nothing(
    kit: LedgerKit,
    clients: FakeClients,
    monkeypatch: pytest.MonkeyPatch,
    signal_number: int,
    tidying_up: list[Any],
) -> None:
    monkeypatch.setattr(billiard.common, "_should_have_exited", [False])
    monkeypatch.setattr(billiard.common, "maybe_setsignal", lambda *_: None)
    key = kit.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        try:
            _shutdown_cleanup(signal_number, None)
        finally:
            "".join(tidying_up)  # clean-up may fail on closed resources

    with pytest.raises(TypeError if tidying_up else SystemExit):
        run(clients, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    assert kit.state() == "running"
    assert calls == []


# -- unreachable server or ledger --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [WorkerError("503"), LedgerUnavailable("away"), RuntimeError("a bug")])
def test_an_outcome_that_cannot_be_delivered_waits_for_the_courier(
    kit: LedgerKit, clients: FakeClients, error: Exception
) -> None:
    clients.out.fails = error
    key = kit.bring("sent")
    assert run(clients, key, lambda job: "text") == "done"
    assert kit.state() == "finished"
    assert kit.record().outcome == Outcome("done", "text")
    kit.make_due("finished")
    assert kit.ledger.take("finished", lease=1) == [1]


@pytest.mark.parametrize("step", ["start", "finish"])
def test_a_ledger_that_comes_back_in_time_is_waited_for(kit: LedgerKit, clock: Clock, step: str) -> None:
    ledger = FailingSometimes(kit.ledger, step, times=4)
    clients = FakeClients(ledger)
    key = kit.bring("sent")
    calls: list[Job] = []
    run(clients, key, lambda job: calls.append(job))
    assert len(calls) == 1
    assert len(clock.slept) == 4
    assert kit.state() == "finished"
    assert len(clients.out.delivery_requests) == 1


class DeafAtFirst:
    """A ledger that records an outcome, but whose reply is lost once, while something else happens."""

    def __init__(self, ledger: Any, meanwhile: Callable[[], object]) -> None:
        self._ledger = ledger
        self._meanwhile: list[Callable[[], object]] = [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._ledger.finish(*args, **kwargs)
        if self._meanwhile:
            self._meanwhile.pop()()
            raise LedgerUnavailable("the answer was lost")
        return answer


@pytest.mark.usefixtures("clock")
def test_an_outcome_whose_answer_was_lost_is_delivered_from_here(kit: LedgerKit) -> None:
    clients = FakeClients(DeafAtFirst(kit.ledger, lambda: None))
    run(clients, kit.bring("sent"), lambda job: "text")
    assert [each.outcome.text for each in clients.out.delivery_requests] == ["text"]


@pytest.mark.usefixtures("clock")
def test_an_outcome_that_a_courier_has_taken_is_left_to_it(kit: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    clients = FakeClients(DeafAtFirst(kit.ledger, kit.collect))
    run(clients, kit.bring("sent"), lambda job: "text")
    assert clients.out.delivery_requests == []
    assert kit.record().outcome == Outcome("done", "text")
    assert "left to the bridge for delivery" in caplog.text
    assert "dropped" not in caplog.text


def test_a_celery_retry_waits_for_the_ledger_too(kit: LedgerKit, clock: Clock) -> None:
    clients = FakeClients(FailingSometimes(kit.ledger, "retry", times=4))
    key = kit.bring("sent")

    handler = asking(Retry("again"))

    with pytest.raises(Retry):
        run(clients, key, handler)
    assert kit.record().retries == 1


def test_a_message_is_left_to_the_reaper_while_the_ledger_stays_away(kit: LedgerKit, clock: Clock) -> None:
    clients = FakeClients(FailingSometimes(kit.ledger, "start", times=1_000_000))
    key = kit.bring("sent")
    called: list[object] = []
    with pytest.raises(Ignore):
        run(clients, key, called.append)
    assert called == []
    assert 0 < clock.now <= runner.START_RETRY_SECONDS
    assert kit.state() == "sent"


class Unconfirmed(FailingSometimes):
    """A ledger that records each step, with one step that no replica ever confirms."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        def unconfirmed(*args: Any, **kwargs: Any) -> Any:
            method(*args, **kwargs)
            raise LedgerUnavailable("0 of 1 replicas")

        return unconfirmed if name == self._step else method


@pytest.mark.usefixtures("clock")
def test_a_start_that_no_replica_confirms_costs_no_attempt(kit: LedgerKit) -> None:
    key = kit.bring("sent")
    called: list[object] = []
    with pytest.raises(Ignore):
        run(FakeClients(Unconfirmed(kit.ledger, "start", times=0)), key, called.append)
    assert called == []
    assert (kit.state(), kit.record().attempt, kit.record().task_id) == ("claimed", 1, key.task_id)


def test_an_outcome_is_kept_for_long_and_then_the_job_is_left_to_its_lease(kit: LedgerKit, clock: Clock) -> None:
    clients = FakeClients(FailingSometimes(kit.ledger, "finish", times=1_000_000))
    key = kit.bring("sent")
    run(clients, key, lambda job: "text")
    assert runner.FINISH_RETRY_SECONDS - 10 < clock.now <= runner.FINISH_RETRY_SECONDS
    assert kit.state() == "running"
    assert clients.out.delivery_requests == []


def test_an_outcome_that_waits_for_the_ledger_is_logged_once(
    kit: LedgerKit, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The slot stays occupied in the meantime, perhaps for an hour."""
    clients = FakeClients(FailingSometimes(kit.ledger, "finish", times=20))
    run(clients, kit.bring("sent"), lambda job: "text")
    assert kit.state() == "finished"
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "its outcome cannot be recorded yet, it is kept and tried again" in told[0]


# -- redaction ---------------------------------------------------------------------------------------------


def test_neither_the_log_nor_celerys_result_has_content_of_the_job(
    kit: LedgerKit, clients: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mr_celery")
    key = kit.bring("sent", prompt="private prompt")
    shown = run(clients, key, lambda prompt: {"answer": prompt})
    assert "private" not in shown
    assert "private" not in caplog.text
    assert "job=1" in caplog.text
    assert json.loads(clients.out.delivery_requests[0].outcome.text) == {"answer": "private prompt"}


# -- functions of the application around the handler ---------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the repeated calls, which advances only during sleeps."""
    clock = Clock(0.0)
    monkeypatch.setattr(function_retries, "time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    return clock


class Function:
    """A function that raises the given errors, one at each call, and then returns a value.

    Args:
        value: the value.
        errors: the errors; with ``always``, the last one is raised forever.
    """

    def __init__(self, value: Any, *errors: BaseException, always: bool = False) -> None:
        self.calls = 0
        self._value = value
        self._errors = list(errors)
        self._always = always

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self._errors:
            raise self._errors[0] if self._always and len(self._errors) == 1 else self._errors.pop(0)
        return self._value


AWAY = sqlite3.OperationalError("away for a moment")
MADE = {"arguments": {"prompt": "made"}, "result": "made", "review": Review("text", "title", "made")}


@pytest.mark.parametrize("name", MADE)
def test_a_function_around_the_handler_is_called_again_in_a_moment(
    kit: LedgerKit, clients: FakeClients, patient: Clock, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    key, function, handler = kit.bring("sent"), Function(MADE[name], AWAY, AWAY, OSError()), Function("did")
    assert run(clients, key, lambda prompt: handler(), Declaration(**{name: function})) == "done"
    assert (function.calls, handler.calls) == (4, 1)
    assert len(patient.slept) == 3
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"job=1 attempt=1 task_id={key.task_id} {name}= raised OperationalError; it is called again"]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("error", [KeyError("source"), JobFailed("no"), SystemExit(), Exception("no customer")])
def test_an_error_about_the_job_fails_it_at_once(
    kit: LedgerKit, clients: FakeClients, patient: Clock, name: str, error: BaseException
) -> None:
    key, function, handler = kit.bring("sent"), Function(None, error), Function("did")
    with pytest.raises((type(error), HandlerStopped)):
        run(clients, key, lambda prompt: handler(), Declaration(**{name: function}))
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert (function.calls, handler.calls, patient.slept) == (1, int(name != "arguments"), [])


@pytest.mark.parametrize("name", ["result", "review"])
def test_the_handler_does_not_run_again_because_of_its_result(
    kit: LedgerKit, clients: FakeClients, patient: Clock, name: str
) -> None:
    key, function, handler = kit.bring("sent"), Function(None, AWAY, always=True), Function("did")
    with pytest.raises(sqlite3.OperationalError):
        run(clients, key, lambda prompt: handler(), Declaration(**{name: function}))
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert outcome.text.endswith("sqlite3.OperationalError: away for a moment")
    assert handler.calls == 1
    assert 5 < patient.now <= FunctionRetries.seconds


def test_without_its_arguments_an_attempt_is_given_back_a_few_times_and_then_fails(
    kit: LedgerKit, clients: FakeClients, patient: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    key, handler = kit.bring("sent"), Function("did")
    on_error: list[BaseException] = []
    declaration = Declaration(
        arguments=Function(None, AWAY, always=True), on_error=lambda job, error: on_error.append(error)
    )
    for number in range(FunctionRetries.times):
        now = kit.now()
        with pytest.raises(Ignore):
            run(clients, key, lambda prompt: handler(), declaration)
        assert (kit.state(), kit.record().attempt) == ("claimed", 1)
        assert kit.record().why == "arguments= raised OperationalError"
        assert kit.score("claimed") == pytest.approx(now + FunctionRetries.wait_seconds * 2**number, abs=5)
        assert patient.now <= FunctionRetries.seconds * (number + 1)
        sent(kit.ledger, 1, key.task_id)
    assert on_error == []
    with pytest.raises(sqlite3.OperationalError):
        run(clients, key, lambda prompt: handler(), declaration)
    outcome = kit.outcome()
    assert (outcome.status, outcome.reason, on_error) == ("failed", "OperationalError", [AWAY])
    assert outcome.text.endswith("sqlite3.OperationalError: away for a moment")
    assert handler.calls == 0
    given_back = [record.message for record in caplog.records if "sent again later" in record.message]
    assert len(given_back) == FunctionRetries.times
    assert "away for a moment" not in caplog.text


def test_an_attempt_that_was_given_back_runs_once_its_arguments_are_there(
    kit: LedgerKit, clients: FakeClients, patient: Clock
) -> None:
    key, arguments = kit.bring("sent"), Function({"prompt": "made"}, AWAY, always=True)
    with pytest.raises(Ignore):
        run(clients, key, str.upper, Declaration(arguments=arguments))
    works = Declaration(arguments=Function({"prompt": "made"}))
    assert run(clients, key, lambda prompt: prompt.upper(), works) == "done"
    assert clients.out.delivery_requests[0].outcome.text == "MADE"


def test_a_job_that_is_aborted_meanwhile_is_not_waited_for(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, arguments = Clock(0.0), Function(None, AWAY, always=True)
    monkeypatch.setattr(AbortCheck, "aborted", lambda self: kit.state() == "aborted")

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        kit.ledger.abort(1, "operator")

    monkeypatch.setattr(function_retries, "time", SimpleNamespace(monotonic=clock, sleep=sleep))
    with pytest.raises(Ignore):
        run(clients, kit.bring("sent"), str.upper, Declaration(arguments=arguments))
    assert (kit.state(), arguments.calls) == ("aborted", 1)


FUNCTIONS = ("arguments", "result", "review", "on_error")
NONSENSE: tuple[Any, ...] = (None, 7, "text", b"bytes", [object()], object(), {1: 2}, Exception("returned"))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_nonsense_ends_the_job_once(
    kit: LedgerKit, clients: FakeClients, patient: Clock, name: str, value: Any
) -> None:
    def handler(prompt: str) -> str:
        if name == "on_error":
            raise ValueError
        return "did"

    key, function = kit.bring("sent"), Function(value)
    with suppress(Exception):
        run(clients, key, handler, Declaration(**{name: function}))
    assert (kit.state(), function.calls, patient.slept) == ("finished", 1, [])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("error", [AWAY, ValueError(), SystemExit(), KeyboardInterrupt(), asyncio.CancelledError()])
def test_whatever_is_raised_the_job_goes_on_or_ends(
    kit: LedgerKit, clients: FakeClients, patient: Clock, name: str, error: BaseException
) -> None:
    def handler(prompt: str) -> str:
        if name == "on_error":
            raise ValueError
        return "did"

    function = Function(None, error, always=True)
    with suppress(Exception):
        run(clients, kit.bring("sent"), handler, Declaration(**{name: function}))
    assert kit.state() == ("claimed" if (name, error) == ("arguments", AWAY) else "finished")


# -- a job that is handed over to a workflow -----------------------------------------------------------------


def test_an_abort_while_a_workflow_is_published_stops_its_members(
    kit: LedgerKit, clients: FakeClients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    app = Celery("aborted", broker="memory://", set_as_current=False)

    @app.task(name="aborted.member", shared=False)
    def member(text: str) -> str:
        return text

    published: list[str] = []

    def publish(app: Celery, message: Any) -> None:
        published.append(message.headers["id"])
        assert kit.ledger.abort(1, "by an operator")

    monkeypatch.setattr(handing_over, "publish_collected", publish)
    key = kit.bring("sent")
    with ExitStack() as undo:
        intercept_messages(app, undo)
        made = Runner(clients, "celery@test", HOLDER, app=app)  # type: ignore[arg-type]
        returned = made.run(Message("w", 1, key.task_id), lambda: member.s("x"), Declaration(), (), {})
    assert returned.status == "handed over"
    assert (kit.state(), len(published)) == ("aborted", 1)
    assert "handed over" not in caplog.text
    started = kit.ledger.start_member(
        MemberKey(1, key.task_id, published[0]), "aborted.member", node="n", holder=HOLDER, lease=30, nonce="n"
    )
    assert (started.job, started.refusal) == (None, "aborted")
