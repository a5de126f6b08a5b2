"""What happens around a handler, from its message to its outcome in the ledger."""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown, WorkerTerminate

from mr_celery import backoff, raise_if_aborted, runner, worker
from mr_celery.current import Watch, current_run
from mr_celery.delivery import Consignment
from mr_celery.delivery.parcel import LEDGER_BLOB_LIMIT
from mr_celery.errors import (
    Escalate,
    JobAborted,
    JobError,
    JobFailed,
    LedgerUnavailable,
    SettingsError,
    WorkerError,
)
from mr_celery.job import Job
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.outcome import Outcome
from mr_celery.result import Artifact, Result, Review
from mr_celery.routing import Declaration
from mr_celery.runner import Message, Runner, running_here
from mr_celery.settings import Settings
from mr_celery.spool import Spool, spool_of
from support.ledgers import HOLDER, Books, fake_books


class FakeDelivery:
    """Notes what it is to deliver."""

    def __init__(self) -> None:
        self.consignments: list[Consignment] = []
        self.fails: Exception | None = None

    def deliver(self, consignment: Consignment) -> WorkerError | None:
        self.consignments.append(consignment)
        if self.fails is not None:
            raise self.fails
        return None


class FakeServer:
    """Takes uploads, or fails as often as the test says."""

    def __init__(self) -> None:
        self.uploads: list[bytes] = []
        self.fails: list[Exception] = []
        self.keys: list[str] = []

    def upload(self, source: Any, *, idempotency_key: str, **fields: Any) -> dict[str, Any]:
        self.keys.append(idempotency_key)
        if self.fails:
            raise self.fails.pop(0)
        self.uploads.append(source if isinstance(source, bytes) else source.read())
        slug = f"slug-{len(self.uploads)}"
        return {"slug": slug, "url": f"/s/{slug}"}


class FakeWorkplace:
    """A workplace whose ledger is inside the test."""

    def __init__(self, ledger: Any, *, delivers: bool = True) -> None:
        self.settings = Settings(lease=30.0)
        self._delivers = delivers
        self.out = FakeDelivery()
        self.server = FakeServer()
        self.book: Any = ledger

    def delivers(self, worker: str) -> bool:
        return self._delivers

    def ledger(self, worker: str) -> Any:
        assert worker == "w"
        return self.book

    def delivery(self, worker: str) -> FakeDelivery:
        assert worker == "w"
        return self.out

    def api(self, worker: str) -> FakeServer:
        assert worker == "w"
        return self.server

    def spool(self, worker: str) -> Spool | None:
        return spool_of(self.settings, worker)


class FailingSometimes:
    """A ledger of which one step fails a number of times before it works."""

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
                raise LedgerUnavailable("the ledger is away")
            return method(*args, **kwargs)

        return failing


class Clock:
    """A time that goes on only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


@pytest.fixture
def workplace(books: Books) -> FakeWorkplace:
    return FakeWorkplace(books.ledger)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waiting costs no time."""
    made = Clock()

    def patiently(step: Callable[[], Any], **options: Any) -> Any:
        return backoff.patiently(step, sleep=made.sleep, clock=made, **options)

    monkeypatch.setattr(runner, "patiently", patiently)
    return made


def run(
    workplace: FakeWorkplace,
    key: RunKey,
    handler: Callable[..., Any],
    declaration: Declaration | None = None,
    *args: Any,
    **kwargs: Any,
) -> str:
    """Run a handler for the job of a message."""
    message = Message("w", key.job_id, key.task_id, key.retries)
    made = Runner(workplace, "celery@test", HOLDER)  # type: ignore[arg-type]
    return made.run(message, handler, declaration or Declaration(), args, kwargs)


# -- what a handler returns ----------------------------------------------------------------------------------


def test_a_handlers_text_becomes_the_outcome_and_is_delivered_from_here(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent", prompt="hello")
    shown = run(workplace, key, lambda prompt: prompt.upper())
    assert shown == "ModelReins job 1: done"
    assert books.state() == "finished"
    assert books.record().outcome == Outcome("done", "HELLO")
    (consignment,) = workplace.out.consignments
    assert (consignment.key, consignment.outcome.text) == (DeliveryKey(1, key.task_id, 1), "HELLO")
    assert not books.is_due("finished")


def test_the_handler_gets_the_job_the_fields_and_the_run(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent", prompt="hello", model="m")
    seen: dict[str, Any] = {}

    def handler(job: Job, model: str, *, prompt: str, other: str = "default") -> None:
        here = current_run()
        assert here is not None
        seen.update(
            job=job, model=model, prompt=prompt, other=other, attempt=here.attempt, server=here.api and here.api()
        )
        seen["here"] = running_here(key.task_id), running_here("mr-1-2-other")

    run(workplace, key, handler)
    assert seen.pop("job")["prompt"] == "hello"
    assert seen == {
        "model": "m",
        "prompt": "hello",
        "other": "default",
        "attempt": 1,
        "server": workplace.server,
        "here": (True, False),
    }
    assert current_run() is None


def test_the_job_is_running_while_its_handler_runs(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    states: list[str] = []
    run(workplace, key, lambda job: states.append(books.state()))
    assert states == ["running"]
    assert books.record().node == "celery@test"


def test_the_worker_in_which_a_handler_runs_holds_its_job(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    due: list[list[int]] = []

    def handler(job: Job) -> None:
        for holder in ("another worker", HOLDER):
            books.make_due("running")
            books.hold(key, holder=holder)
            due.append(books.ledger.due("running"))

    run(workplace, key, handler)
    assert due == [[1], []]


def test_arguments_that_the_message_has_go_before_the_jobs_fields(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent", prompt="hello", model="m")
    run(workplace, key, lambda first, prompt, model: f"{first} {prompt} {model}", None, "given", model="mine")
    assert workplace.out.consignments[0].outcome.text == "given hello mine"


def test_the_declaration_makes_arguments_and_result(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent", prompt="hello")
    declaration = Declaration(
        arguments=lambda job: {"text": job.prompt[::-1]},
        result=lambda value: f"<{value}>",
        review=lambda job, value: Review("text", f"job {job.id}", value),
    )
    run(workplace, key, lambda text: text, declaration)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.text == "<olleh>"
    assert [(review.type, review.title, review.content) for review in outcome.reviews] == [("text", "job 1", "<olleh>")]


def test_the_bytes_of_artifacts_wait_in_the_ledger(books: Books, workplace: FakeWorkplace, tmp_path: Path) -> None:
    file = tmp_path / "b.txt"
    file.write_bytes(b"two")
    key = books.bring("sent")
    artifacts = [Artifact(data=b"one", filename="a.txt"), Artifact(path=file)]
    run(workplace, key, lambda job: Result("made", artifacts=artifacts))
    consignment = workplace.out.consignments[0]
    assert [books.ledger.blob(1, 0), books.ledger.blob(1, 1)] == [b"one", b"two"]
    assert consignment.blobs == [b"one", b"two"]
    assert [upload.filename for upload in consignment.outcome.uploads] == ["a.txt", "b.txt"]


def test_where_the_bridge_delivers_the_outcome_is_due_for_it_at_once(books: Books) -> None:
    workplace = FakeWorkplace(books.ledger, delivers=False)
    key = books.bring("sent")
    run(workplace, key, lambda job: "text")
    assert books.is_due("finished")
    assert workplace.out.consignments == []


# -- what a handler raises ---------------------------------------------------------------------------------


def test_an_exception_fails_the_job_with_the_traceback_from_the_handler_on(
    books: Books, workplace: FakeWorkplace
) -> None:
    key = books.bring("sent")

    def inner() -> None:
        raise ValueError("cannot do it")

    def handler(job: Job) -> None:
        inner()

    with pytest.raises(ValueError, match="cannot do it"):
        run(workplace, key, handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    lines = outcome.text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in handler")
    assert lines[-1] == "ValueError: cannot do it"
    assert "runner.py" not in outcome.text.replace("test_runner.py", "")
    assert workplace.out.consignments[0].outcome == outcome


def test_on_error_is_called_with_the_job_and_the_exception(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    error = ValueError("no")
    calls: list[tuple[int, BaseException]] = []

    def handler(job: Job) -> None:
        raise error

    declaration = Declaration(on_error=lambda job, exception: calls.append((job.id, exception)))
    with pytest.raises(ValueError, match="no"):
        run(workplace, key, handler, declaration)
    assert calls == [(1, error)]


def test_on_errors_own_error_changes_nothing(
    books: Books, workplace: FakeWorkplace, caplog: pytest.LogCaptureFixture
) -> None:
    key = books.bring("sent")

    def on_error(job: Job, exception: BaseException) -> None:
        raise KeyError("broken hook")

    def handler(job: Job) -> None:
        raise ValueError("the handler's own")

    with pytest.raises(ValueError, match="the handler's own"):
        run(workplace, key, handler, Declaration(on_error=on_error))
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.text.endswith("ValueError: the handler's own")
    assert "on_error= raised" in caplog.text


def test_an_escalation_is_an_outcome_and_no_error(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        raise Escalate("a human has to decide")

    declaration = Declaration(on_error=lambda job, exception: calls.append(exception))
    assert run(workplace, key, handler, declaration) == "ModelReins job 1: escalated"
    assert books.record().outcome == Outcome("escalated", "a human has to decide")
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
    books: Books, workplace: FakeWorkplace, when: Any, at_least: float, at_most: float
) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Retry("again", when=when)

    with pytest.raises(Retry):
        run(workplace, key, handler)
    assert books.state() == "sent"
    assert books.record().retries == 1
    score = books.score("sent")
    assert score is not None
    assert at_least < score - books.now() < at_most
    assert workplace.out.consignments == []


def test_the_message_of_a_retry_runs_the_same_attempt(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Retry("again")

    with pytest.raises(Retry):
        run(workplace, key, handler)
    run(workplace, RunKey(1, key.task_id, 1), lambda job: "now")
    assert books.record().outcome == Outcome("done", "now")
    assert books.record().attempt == 1


def test_a_rejected_task_fails_the_job(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Reject("not me", requeue=False)

    with pytest.raises(Reject):
        run(workplace, key, handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "rejected" in outcome.text


def test_a_requeued_task_may_start_again_from_the_broker(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Reject("later", requeue=True)

    with pytest.raises(Reject):
        run(workplace, key, handler)
    assert books.state() == "sent"
    assert workplace.out.consignments == []
    run(workplace, key, lambda job: "second time")  # the broker gives the same message again
    assert books.record().outcome == Outcome("done", "second time")


def test_an_ignored_task_fails_the_job_with_the_reason(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Ignore

    with pytest.raises(Ignore):
        run(workplace, key, handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "Ignore" in outcome.text


def test_system_exit_fails_the_job_and_does_not_end_the_worker(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"SystemExit\(3\)"):
        run(workplace, key, handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "SystemExit(3)" in outcome.text


@pytest.mark.parametrize("going", [WorkerShutdown, WorkerTerminate])
def test_a_worker_that_is_going_leaves_the_job_to_its_lease(
    books: Books, workplace: FakeWorkplace, going: type[BaseException]
) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise going(0)

    with pytest.raises(going):
        run(workplace, key, handler)
    assert books.state() == "running"


# -- what cannot become an outcome -------------------------------------------------------------------------


def test_a_required_parameter_that_the_job_lacks_fails_it_by_name(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    called: list[object] = []

    def handler(prompt: str, customer: str) -> None:
        called.append(customer)

    with pytest.raises(JobError, match="'customer'"):
        run(workplace, key, handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "'customer'" in outcome.text
    assert "Traceback" not in outcome.text
    assert called == []


def test_a_result_that_is_no_json_fails_the_job(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")
    with pytest.raises(JobError, match="returned object"):
        run(workplace, key, lambda job: object())
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "returned object" in outcome.text


def test_a_file_that_is_gone_before_it_is_read_fails_the_job(
    books: Books, workplace: FakeWorkplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"one")
    key = books.bring("sent")
    pack = runner.pack

    def pack_and_lose(*args: Any, **kwargs: Any) -> Any:
        parcel = pack(*args, **kwargs)
        file.unlink()
        return parcel

    monkeypatch.setattr(runner, "pack", pack_and_lose)
    run(workplace, key, lambda job: Artifact(path=file))
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert "a.txt" in outcome.text


# -- large artifacts ---------------------------------------------------------------------------------------

LARGE = b"x" * (LEDGER_BLOB_LIMIT + 1)


def test_what_the_ledger_cannot_hold_is_uploaded_before_the_outcome_is_recorded(
    books: Books, workplace: FakeWorkplace, tmp_path: Path
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(LARGE)
    key = books.bring("sent")
    made = [Artifact(data=LARGE, filename="a.bin"), Artifact(data=b"small", filename="b"), Artifact(path=file)]
    run(workplace, key, lambda job: Result("made", artifacts=made))
    outcome = books.record().outcome
    assert outcome is not None
    assert [upload.slug for upload in outcome.uploads] == ["slug-1", None, "slug-2"]
    assert workplace.server.uploads == [LARGE, LARGE]
    assert [books.ledger.blob(1, index) for index in range(3)] == [b"", b"small", b""]


def test_what_the_ledger_cannot_hold_waits_in_the_spool_where_there_is_one(
    books: Books, workplace: FakeWorkplace, tmp_path: Path
) -> None:
    workplace.settings = Settings(spool_url=str(tmp_path))
    run(workplace, books.bring("sent"), lambda job: Artifact(data=LARGE))
    outcome = books.record().outcome
    assert outcome is not None
    spool = workplace.spool("w")
    assert spool is not None
    assert [entry.file for entry in spool.entries()] == [outcome.uploads[0].spooled]
    assert workplace.server.uploads == []


def test_an_artifact_that_cannot_be_stored_fails_the_job_and_celerys_task(
    books: Books, workplace: FakeWorkplace
) -> None:
    workplace.server.fails = [WorkerError("POST /artifacts/upload -> 413: too large", status=413)]
    errors: list[BaseException] = []
    declaration = Declaration(on_error=lambda job, error: errors.append(error))
    with pytest.raises(JobError, match="too large"):
        run(workplace, books.bring("sent"), lambda job: Artifact(data=LARGE, filename="a.mp4"), declaration)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert outcome.text.endswith("made a.mp4")
    assert len(errors) == 1


def test_a_large_artifact_on_a_worker_without_a_way_to_the_server_fails_with_what_to_do(books: Books) -> None:
    workplace = FakeWorkplace(books.ledger, delivers=False)
    with pytest.raises(JobError, match="set MODELREINS_SPOOL_URL"):
        run(workplace, books.bring("sent"), lambda job: Artifact(data=LARGE))
    assert books.is_due("finished")


def test_a_spool_that_needs_what_is_not_installed_loses_no_outcome(books: Books, workplace: FakeWorkplace) -> None:
    workplace.settings = Settings(spool_url="unheard-of://spool")
    run(workplace, books.bring("sent"), lambda job: "text")
    assert books.record().outcome == Outcome("done", "text")
    with pytest.raises(SettingsError, match="unheard-of"):
        run(workplace, books.bring("sent", 2), lambda job: Artifact(data=LARGE))
    outcome = books.record(2).outcome
    assert outcome is not None
    assert outcome.status == "failed"


def test_an_abort_while_artifacts_are_stored_leaves_no_trace(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> Artifact:
        books.ledger.abort(1, "operator")
        return Artifact(data=LARGE)

    with pytest.raises(Ignore):
        run(workplace, key, handler)
    assert books.state() == "aborted"
    assert workplace.server.uploads == []


# -- what was attached -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [ValueError("no"), Escalate("look"), JobFailed("no")], ids=str)
def test_what_was_attached_before_the_job_failed_is_delivered(books: Books, ends: Exception) -> None:
    workplace = FakeWorkplace(books.ledger, delivers=False)

    def handler(job: Job) -> None:
        worker.upload_artifact(b"half", "text/plain")
        worker.submit_review("text", "t", "c")
        raise ends

    with suppress(ValueError, JobFailed):
        run(workplace, books.bring("sent"), handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert [upload.size for upload in outcome.uploads] == [4]
    assert [review.title for review in outcome.reviews] == ["t"]


def test_what_is_uploaded_at_once_has_a_key_of_its_own_in_each_run(books: Books, workplace: FakeWorkplace) -> None:
    def handler(job: Job) -> str:
        return " ".join(worker.upload_artifact(data, "text/plain")["slug"] for data in (b"one", b"two"))

    run(workplace, books.bring("sent", 1), handler)
    run(workplace, books.bring("sent", 2), handler)
    assert books.record().outcome == Outcome("done", "slug-1 slug-2")
    assert len(set(workplace.server.keys)) == 4


def test_what_could_not_be_uploaded_at_once_is_tried_again_under_the_same_key(
    books: Books, workplace: FakeWorkplace
) -> None:
    workplace.server.fails = [WorkerError("POST /artifacts/upload -> 503", status=503, retryable=True)]
    run(workplace, books.bring("sent"), lambda job: worker.upload_artifact(b"one", "text/plain")["slug"])
    outcome = books.record().outcome
    assert outcome is not None
    (upload,) = outcome.uploads
    assert [upload.key] == workplace.server.keys
    assert upload.promised == outcome.text


def test_what_the_server_refuses_at_once_is_the_handlers_to_deal_with(books: Books, workplace: FakeWorkplace) -> None:
    workplace.server.fails = [WorkerError("POST /artifacts/upload -> 413: too large", status=413)]

    def handler(job: Job) -> str:
        with pytest.raises(WorkerError, match="413"):
            worker.upload_artifact(b"one", "text/plain")
        return "without a picture"

    run(workplace, books.bring("sent"), handler)
    assert books.record().outcome == Outcome("done", "without a picture")


def test_a_failure_in_the_handlers_own_words_brings_its_log(books: Books, workplace: FakeWorkplace) -> None:
    def handler(job: Job) -> None:
        raise JobFailed("the build failed", artifacts=[Artifact(data=b"log", filename="build.log")])

    with pytest.raises(JobFailed):
        run(workplace, books.bring("sent"), handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert (outcome.status, outcome.text) == ("failed", "the build failed")
    assert [upload.filename for upload in outcome.uploads] == ["build.log"]


@pytest.mark.parametrize("given", [None, "build.log", [b"log"], Artifact(data=b"log")], ids=repr)
def test_a_failure_with_something_else_than_artifacts_says_so_and_fails_all_the_same(
    books: Books, workplace: FakeWorkplace, given: Any
) -> None:
    def handler(job: Job) -> None:
        raise JobFailed("the build failed", artifacts=given)

    with pytest.raises(JobFailed):
        run(workplace, books.bring("sent"), handler)
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.text == "the build failed\n\nJobFailed(artifacts=…) takes a list of Artifact objects"


def test_a_longer_output_than_allowed_is_cut_and_kept_whole(books: Books, workplace: FakeWorkplace) -> None:
    workplace.settings = Settings(result_limit=1024)
    run(workplace, books.bring("sent"), lambda job: "x" * 5000)
    outcome = books.record().outcome
    assert outcome is not None
    assert len(outcome.text.encode()) == 1024
    assert outcome.uploads[0].filename == "result.txt"
    assert books.ledger.blob(1, 0) == b"x" * 5000


# -- the fence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["unknown", "running", "finished", "closed", "aborted"])
def test_a_message_that_is_not_to_be_run_does_not_reach_the_handler(
    books: Books, workplace: FakeWorkplace, state: str
) -> None:
    key = books.bring(state)
    called: list[object] = []
    with pytest.raises(Ignore, match=f"job 1 is {state}"):
        run(workplace, key, called.append)
    assert called == []
    assert books.state() == state


class Frozen:
    """A ledger whose worker is frozen for a minute, just after a start was recorded.

    Args:
        ledger: the ledger.
        monkeypatch: sets the runner's clock.
        meanwhile: what happens in that minute.
    """

    def __init__(self, ledger: Any, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
        self._ledger = ledger
        self._now = 0.0
        self._meanwhile = meanwhile
        monkeypatch.setattr("mr_celery.runner.time.monotonic", lambda: self._now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        started = self._ledger.start(*args, **kwargs)
        self._now += 60.0
        self._meanwhile()
        return started


def test_a_run_that_was_lost_before_its_handler_began_does_not_begin(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = books.bring("sent")
    called: list[object] = []
    with pytest.raises(Ignore, match="lost before its handler began"):
        run(FakeWorkplace(Frozen(books.ledger, monkeypatch, lambda: books.die(key))), key, called.append)
    assert called == []
    assert books.state() == "claimed"


def test_a_run_that_was_frozen_and_has_its_job_still_begins(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    key = books.bring("sent")
    run(FakeWorkplace(Frozen(books.ledger, monkeypatch, lambda: None)), key, lambda: "made it")
    assert books.record().outcome == Outcome("done", "made it")


@pytest.mark.parametrize("end", ["abort", "lose"])
def test_the_outcome_of_a_run_that_lost_its_lease_is_dropped(
    books: Books, workplace: FakeWorkplace, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> str:
        if end == "abort":
            books.ledger.abort(1, "operator")
        else:
            books.die(key)
        return "too late"

    run(workplace, key, handler)
    assert books.state() == {"abort": "aborted", "lose": "claimed"}[end]
    assert books.record().outcome is None
    assert workplace.out.consignments == []
    assert "outcome dropped" in caplog.text


def test_an_outcome_beside_another_one_that_is_recorded_is_not_delivered(
    books: Books, workplace: FakeWorkplace
) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> str:
        books.ledger.fail(1, key.task_id, Outcome.failed("hard time limit"))
        return "too late"

    run(workplace, key, handler)
    assert books.record().outcome == Outcome.failed("hard time limit")
    assert workplace.out.consignments == []


# -- aborts ------------------------------------------------------------------------------------------------


def take_away(books: Books, key: RunKey, how: str) -> None:
    """End a run's hold of its job."""
    if how == "aborted":
        books.ledger.abort(key.job_id, "operator")
    elif how == "lost":
        books.die(key)
    elif how == "failed":
        books.ledger.fail(key.job_id, key.task_id, Outcome.failed("over"))
    elif how == "retried":
        assert books.start(RunKey(key.job_id, key.task_id, 1), nonce="retry").job is not None
    elif how == "unknown":
        books.redis.flushall()


@pytest.mark.parametrize(
    ("how", "held"),
    [("aborted", False), ("lost", False), ("failed", False), ("retried", False), ("unknown", True), ("not", True)],
)
def test_a_run_holds_its_job_until_the_ledger_says_otherwise(books: Books, how: str, held: bool) -> None:
    key = books.bring("running")
    take_away(books, key, how)
    assert books.ledger.holds(key) is held


@pytest.mark.parametrize("state", ["admitted", "claimed", "sent", "finished", "closed", "aborted"])
def test_what_does_not_run_is_held_by_no_run(books: Books, state: str) -> None:
    key = books.bring(state)
    assert not books.ledger.holds(key)


@pytest.mark.parametrize("asks", ["job", "module"])
@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_a_handler_that_asks_stops_and_leaves_no_trace(
    books: Books, workplace: FakeWorkplace, caplog: pytest.LogCaptureFixture, how: str, asks: str
) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    key = books.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        take_away(books, key, how)
        if asks == "job":
            assert job.aborted
            job.raise_if_aborted()
        raise_if_aborted()
        calls.append("went on")

    with pytest.raises(Ignore, match="job 1 was aborted on the server, or given to another worker") as caught:
        run(workplace, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    assert type(caught.value) is Ignore
    assert calls == []
    assert books.state() == {"aborted": "aborted", "lost": "claimed"}[how]
    assert workplace.out.consignments == []
    assert [each.levelname for each in caplog.records if "stopped" in each.message] == ["INFO"]


def test_a_handler_that_asks_goes_on_while_the_job_is_its_own(books: Books, workplace: FakeWorkplace) -> None:
    key = books.bring("sent")

    def handler(job: Job) -> str:
        for _ in range(1000):
            job.raise_if_aborted()
            raise_if_aborted()
        return f"aborted: {job.aborted}"

    run(workplace, key, handler)
    assert books.record().outcome == Outcome("done", "aborted: False")


def test_an_abort_that_the_handler_has_not_got_is_an_error_like_any_other(
    books: Books, workplace: FakeWorkplace
) -> None:
    key = books.bring("sent")
    calls: list[BaseException] = []

    def handler(job: Job) -> None:
        raise JobAborted("I think so")

    with pytest.raises(JobAborted, match="I think so"):
        run(workplace, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    outcome = books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert outcome.text.endswith("JobAborted: I think so")
    assert len(calls) == 1


def test_asking_outside_of_a_handler_does_nothing() -> None:
    raise_if_aborted()


def test_a_handler_may_ask_while_the_ledger_is_away(books: Books) -> None:
    key = books.bring("sent")
    workplace = FakeWorkplace(FailingSometimes(books.ledger, "holds", times=1_000_000))
    run(workplace, key, lambda job: str(job.aborted))
    assert books.record().outcome == Outcome("done", "False")


class TestWatch:
    """What a run knows of whether its job is still its own."""

    def test_asks_once_a_second_however_often_it_is_asked(self) -> None:
        clock = Clock()
        asked: list[float] = []

        def holds() -> bool:
            asked.append(clock.now)
            return True

        watch = Watch(holds, clock=clock)
        for _ in range(100):
            assert not watch.aborted()
            clock.sleep(0.125)
        assert asked == [float(second) for second in range(13)]

    def test_an_abort_is_seen_after_a_second_and_for_ever(self) -> None:
        clock, answers = Clock(), [True, False, True]
        watch = Watch(lambda: answers.pop(0), clock=clock)
        assert not watch.aborted()
        assert not watch.aborted()
        clock.sleep(1)
        assert watch.aborted()
        clock.sleep(60)
        assert watch.aborted()
        assert answers == [True]

    def test_the_last_known_answer_stands_while_the_ledger_is_away(self) -> None:
        clock, away = Clock(), [False, True, False]

        def holds() -> bool:
            if away.pop(0):
                raise LedgerUnavailable("away")
            return bool(away)

        watch = Watch(holds, clock=clock)
        seen = []
        for _ in range(3):
            seen.append(watch.aborted())
            clock.sleep(1)
        assert seen == [False, False, True]

    def test_a_ledger_that_does_not_answer_in_time_costs_a_tenth_of_the_time(self) -> None:
        clock = Clock()

        def hangs() -> bool:
            clock.sleep(5)
            raise LedgerUnavailable("timed out")

        watch = Watch(hangs, clock=clock)
        for _ in range(1000):
            watch.aborted()
            clock.now += 0.1
        assert len(clock.slept) <= 2


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_pool_process_that_is_being_ended_records_nothing(
    books: Books, workplace: FakeWorkplace, signal_number: int
) -> None:
    key = books.bring("sent")
    calls: list[object] = []

    def handler(job: Job) -> None:
        raise SystemExit(signal_number - 256)  # as billiard's signal handler does, wherever the handler is

    with pytest.raises(SystemExit):
        run(workplace, key, handler, Declaration(on_error=lambda job, exception: calls.append(exception)))
    assert books.state() == "running"
    assert calls == []


# -- away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [WorkerError("503"), LedgerUnavailable("away"), RuntimeError("a bug")])
def test_an_outcome_that_cannot_be_delivered_waits_for_the_courier(
    books: Books, workplace: FakeWorkplace, error: Exception
) -> None:
    workplace.out.fails = error
    key = books.bring("sent")
    assert run(workplace, key, lambda job: "text") == "ModelReins job 1: done"
    assert books.state() == "finished"
    assert books.record().outcome == Outcome("done", "text")
    books.make_due("finished")
    assert books.ledger.take("finished", hold_seconds=1) == [1]


@pytest.mark.parametrize("step", ["start", "finish"])
def test_a_ledger_that_comes_back_in_time_is_waited_for(books: Books, clock: Clock, step: str) -> None:
    ledger = FailingSometimes(books.ledger, step, times=4)
    workplace = FakeWorkplace(ledger)
    key = books.bring("sent")
    calls: list[Job] = []
    run(workplace, key, lambda job: calls.append(job))
    assert len(calls) == 1
    assert len(clock.slept) == 4
    assert books.state() == "finished"
    assert len(workplace.out.consignments) == 1


class DeafAtFirst:
    """A ledger that takes an outcome, and whose answer to that is lost once, while something else happens."""

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
def test_an_outcome_whose_answer_was_lost_is_delivered_from_here(books: Books) -> None:
    workplace = FakeWorkplace(DeafAtFirst(books.ledger, lambda: None))
    run(workplace, books.bring("sent"), lambda job: "text")
    assert [each.outcome.text for each in workplace.out.consignments] == ["text"]


@pytest.mark.usefixtures("clock")
def test_an_outcome_that_a_courier_took_meanwhile_is_left_to_it(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mr_celery")
    workplace = FakeWorkplace(DeafAtFirst(books.ledger, books.collect))
    run(workplace, books.bring("sent"), lambda job: "text")
    assert workplace.out.consignments == []
    assert books.record().outcome == Outcome("done", "text")
    assert "left to the courier" in caplog.text
    assert "dropped" not in caplog.text


def test_a_celery_retry_waits_for_the_ledger_too(books: Books, clock: Clock) -> None:
    workplace = FakeWorkplace(FailingSometimes(books.ledger, "retry", times=4))
    key = books.bring("sent")

    def handler(job: Job) -> None:
        raise Retry("again")

    with pytest.raises(Retry):
        run(workplace, key, handler)
    assert books.record().retries == 1


def test_a_message_is_left_to_the_reaper_while_the_ledger_stays_away(books: Books, clock: Clock) -> None:
    workplace = FakeWorkplace(FailingSometimes(books.ledger, "start", times=1_000_000))
    key = books.bring("sent")
    called: list[object] = []
    with pytest.raises(Ignore):
        run(workplace, key, called.append)
    assert called == []
    assert 0 < clock.now <= runner.START_PATIENCE
    assert books.state() == "sent"


def test_an_outcome_is_kept_for_long_and_then_the_job_is_left_to_its_lease(books: Books, clock: Clock) -> None:
    workplace = FakeWorkplace(FailingSometimes(books.ledger, "finish", times=1_000_000))
    key = books.bring("sent")
    run(workplace, key, lambda job: "text")
    assert runner.FINISH_PATIENCE - 10 < clock.now <= runner.FINISH_PATIENCE
    assert books.state() == "running"
    assert workplace.out.consignments == []


# -- what is not told --------------------------------------------------------------------------------------


def test_neither_the_log_nor_celerys_result_tells_of_the_jobs_content(
    books: Books, workplace: FakeWorkplace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mr_celery")
    key = books.bring("sent", prompt="private prompt")
    shown = run(workplace, key, lambda prompt: {"answer": prompt})
    assert "private" not in shown
    assert "private" not in caplog.text
    assert "job=1" in caplog.text
    assert json.loads(workplace.out.consignments[0].outcome.text) == {"answer": "private prompt"}
