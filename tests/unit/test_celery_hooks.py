"""The runner around tasks of every kind and around no call but that of a job's message; and what signals tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, Task, _state, shared_task, signals
from celery.app import trace as celery_trace
from celery.app.task import Context
from celery.worker import state as worker_state
from celery.worker.control import Panel

from mr_celery import celery_hooks, modelreins_job
from mr_celery.attachments import Attachments
from mr_celery.celery_hooks import (
    HEADER,
    JobKeeper,
    announce_abort,
    handlers,
    header,
    install,
    load_registry,
    message_of,
)
from mr_celery.current import Run, running
from mr_celery.errors import JobAborted, LedgerUnavailable, RoutingError
from mr_celery.job import Job
from mr_celery.ledger import RunKey
from mr_celery.routing import Declaration, decorator
from mr_celery.runner import Message
from mr_celery.settings import Settings
from support.ledgers import HOLDER, Books, fake_books

TASK_ID = "mr-7-1-x"
MESSAGE = Message("w", 7, TASK_ID)


class FakeRunner:
    """Notes what it is to run, and calls the handler as the runner does."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.given: list[tuple[Declaration, tuple[Any, ...], dict[str, Any]]] = []

    def run(
        self,
        message: Message,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str:
        self.messages.append(message)
        self.given.append((declaration, args, dict(kwargs)))
        job = Job({"id": message.job_id})
        run = Run(message.task_id, job, 1, worker="w", url="", api=None, keys=iter(()), attachments=Attachments())
        with running(run):
            return f"ran: {handler(*args, **{'prompt': 'from the job', **kwargs})}"


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test declares is declared, for this package and for Celery."""
    monkeypatch.setattr(decorator, "_declared", [])
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


def put(app: Celery, runner: FakeRunner) -> list[str]:
    """Install the runner; the names of the handlers."""
    return sorted(handler.name for handler in install(app, runner))  # type: ignore[arg-type]


def trace(
    app: Celery, name: str, *args: Any, request: Mapping[str, Any] | None = None, **kwargs: Any
) -> tuple[Any, Any]:
    """What a worker does with a message: the state and the value. It brings job 7, or what ``request`` says."""
    task = app.tasks[name]
    fields = header("w", 7) if request is None else request
    fields = {"id": TASK_ID, "retries": 0, "delivery_info": {}, "ignore_result": True, **fields}
    answer = celery_trace.build_tracer(name, task, app=app)(TASK_ID, args, kwargs, fields)
    return answer.info.state if answer.info else "SUCCESS", answer.retval


# -- tasks of every kind -----------------------------------------------------------------------------------


def declare_plain(app: Celery) -> None:
    @modelreins_job("cap")
    @app.task(name="t")
    def task(prompt: str) -> str:
        return prompt.upper()


def declare_not_lazy(app: Celery) -> None:
    @modelreins_job("cap")
    @app.task(name="t", lazy=False)
    def task(prompt: str) -> str:
        return prompt.upper()


def declare_shared(app: Celery) -> None:
    app.set_current()

    @modelreins_job("cap")
    @shared_task(name="t")
    def task(prompt: str) -> str:
        return prompt.upper()


def declare_bound(app: Celery) -> None:
    @modelreins_job("cap")
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str) -> str:
        assert self.name == "t"
        return prompt.upper()


def declare_class(app: Celery) -> None:
    @modelreins_job("cap")
    class Upper(app.Task):  # type: ignore[name-defined,misc]
        name = "t"

        def run(self, prompt: str) -> str:
            assert self.name == "t"
            return prompt.upper()

    app.register_task(Upper())


def declare_class_with_call(app: Celery, call: Callable[..., Any]) -> None:
    @modelreins_job("cap")
    class Upper(app.Task):  # type: ignore[name-defined,misc]
        name = "t"
        __call__ = call

        def run(self, prompt: str) -> str:
            return prompt.upper()

    app.register_task(Upper())


def declare_with_base(app: Celery) -> None:
    class Base(Task):  # type: ignore[type-arg]
        abstract = True

    @modelreins_job("cap")
    @app.task(name="t", base=Base)
    def task(prompt: str) -> str:
        return prompt.upper()


def declare_autoretry(app: Celery) -> None:
    @modelreins_job("cap")
    @app.task(name="t", autoretry_for=(KeyError,))
    def task(prompt: str) -> str:
        return prompt.upper()


KINDS = {
    "plain": declare_plain,
    "not lazy": declare_not_lazy,
    "shared": declare_shared,
    "bound": declare_bound,
    "class": declare_class,
    "with a base": declare_with_base,
    "autoretry_for": declare_autoretry,
}


@pytest.fixture
def current_app_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may make its application the current one."""
    monkeypatch.setattr(_state._tls, "current_app", _state._tls.current_app)


@pytest.mark.usefixtures("current_app_restored")
@pytest.mark.parametrize("kind", KINDS)
class TestTasksOfEveryKind:
    def test_a_jobs_message_goes_through_the_runner(self, app: Celery, runner: FakeRunner, kind: str) -> None:
        KINDS[kind](app)
        assert put(app, runner) == ["t"]
        assert trace(app, "t") == ("SUCCESS", "ran: FROM THE JOB")
        assert runner.messages == [MESSAGE]
        assert runner.given[0][0].capability == "cap"

    def test_a_message_of_others_does_not(self, app: Celery, runner: FakeRunner, kind: str) -> None:
        KINDS[kind](app)
        put(app, runner)
        assert trace(app, "t", "theirs", request={}) == ("SUCCESS", "THEIRS")
        assert trace(app, "t", prompt="theirs", request={}) == ("SUCCESS", "THEIRS")
        assert runner.messages == []

    def test_a_direct_call_does_not(self, app: Celery, runner: FakeRunner, kind: str) -> None:
        KINDS[kind](app)
        put(app, runner)
        task = app.tasks["t"]
        assert task("direct") == "DIRECT"
        assert task.run("direct") == "DIRECT"
        assert task.apply(("eager",)).get() == "EAGER"
        assert runner.messages == []

    def test_installing_twice_wraps_once_and_the_last_runner_counts(
        self, app: Celery, runner: FakeRunner, kind: str
    ) -> None:
        KINDS[kind](app)
        first = FakeRunner()
        put(app, first)
        put(app, runner)
        assert trace(app, "t") == ("SUCCESS", "ran: FROM THE JOB")
        assert (len(first.messages), len(runner.messages)) == (0, 1)


@pytest.fixture
def worker_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's base task takes calls as it does in a worker."""
    monkeypatch.setattr(Task, "__call__", Task.__call__)
    monkeypatch.setattr(Task, "_stackprotected", False, raising=False)
    celery_trace._install_stack_protection()


@pytest.mark.usefixtures("worker_calls")
@pytest.mark.parametrize(
    "call",
    [
        lambda self, *args, **kwargs: Task.__call__(self, *args, **kwargs),
        lambda self, *args, **kwargs: self.run(*args, **kwargs),
    ],
    ids=["calls its base's", "calls its run"],
)
def test_a_task_with_a_call_of_its_own_takes_jobs(app: Celery, runner: FakeRunner, call: Callable[..., Any]) -> None:
    declare_class_with_call(app, call)
    put(app, runner)
    assert trace(app, "t") == ("SUCCESS", "ran: FROM THE JOB")
    assert app.tasks["t"]("direct") == "DIRECT"
    assert trace(app, "t", request={}, prompt="theirs") == ("SUCCESS", "THEIRS")
    assert runner.messages == [MESSAGE]


def test_the_wrapped_task_still_looks_like_itself(app: Celery, runner: FakeRunner) -> None:
    declare_plain(app)
    put(app, runner)
    assert app.tasks["t"].run.__name__ == "task"
    with pytest.raises(TypeError):
        app.tasks["t"].delay()  # Celery's check of the arguments


# -- inside of a handler -----------------------------------------------------------------------------------


def test_a_handler_that_calls_its_own_task_is_not_run_as_a_job_again(app: Celery, runner: FakeRunner) -> None:
    @modelreins_job
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str) -> str:
        return prompt if prompt == "inner" else self.run("inner") + self("inner")

    put(app, runner)
    assert trace(app, "t") == ("SUCCESS", "ran: innerinner")
    assert runner.messages == [MESSAGE]


def test_a_handler_that_calls_another_handlers_task_calls_a_function(app: Celery, runner: FakeRunner) -> None:
    @modelreins_job("other")
    @app.task(name="other")
    def other(prompt: str) -> str:
        return prompt.upper()

    @modelreins_job
    @app.task(name="t")
    def task(prompt: str) -> str:
        return str(other("called")) + other.run("run")

    put(app, runner)
    assert trace(app, "t") == ("SUCCESS", "ran: CALLEDRUN")
    assert runner.messages == [MESSAGE]


@pytest.fixture
def published() -> Iterator[list[tuple[dict[str, Any], Any]]]:
    """The headers and the body of each message that is published."""
    found: list[tuple[dict[str, Any], Any]] = []

    def note(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
        found.append((dict(headers or {}), body))

    signals.before_task_publish.connect(note, weak=False)
    yield found
    signals.before_task_publish.disconnect(note)


def retrying(app: Celery, **options: Any) -> None:
    """The task ``t`` takes jobs, and asks Celery for a retry."""

    @modelreins_job
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str) -> str:
        raise self.retry(countdown=1, **options)


def test_a_celery_retry_brings_the_same_job_with_one_more_retry(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    retrying(app)
    put(app, runner)
    assert trace(app, "t")[0] == "RETRY"
    headers, _ = published[0]
    assert message_of(headers, headers["id"], headers["retries"]) == Message("w", 7, TASK_ID, 1)


def test_a_celery_retry_keeps_how_its_job_was_published_and_others_are_as_ever(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    retrying(app, kwargs={"prompt": "of its own"})
    put(app, runner)
    put(app, runner)
    forgotten = {**header("w", 7), "ignore_result": False}  # as Celery up to 5.6 does
    assert trace(app, "t", request=forgotten)[0] == "RETRY"
    assert trace(app, "t", "another one's", request={"ignore_result": False})[0] == "RETRY"
    (job, _), (other, _) = published
    assert (job["argsrepr"], job["kwargsrepr"], job["ignore_result"]) == ("(ModelReins job 7)", "{}", True)
    assert not other["ignore_result"]
    assert "of its own" in other["argsrepr"] + other["kwargsrepr"]


def test_a_celery_retry_brings_the_job_although_an_add_on_has_put_its_headers_in_the_place_of_all(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    retrying(app)
    put(app, runner)
    assert trace(app, "t", request={**header("w", 7), "headers": {"sentry-trace": "theirs"}})[0] == "RETRY"
    headers, _ = published[0]
    assert message_of(headers, headers["id"], headers["retries"]) == Message("w", 7, TASK_ID, 1)
    assert headers["sentry-trace"] == "theirs"


def test_autoretry_for_brings_the_same_job_with_one_more_retry(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    @modelreins_job
    @app.task(name="t", autoretry_for=(KeyError,), retry_kwargs={"countdown": 1, "max_retries": 2})
    def task(prompt: str) -> str:
        raise KeyError(prompt)

    put(app, runner)
    assert trace(app, "t")[0] == "RETRY"
    headers, _ = published[0]
    assert message_of(headers, headers["id"], headers["retries"]) == Message("w", 7, TASK_ID, 1)


def test_autoretry_for_everything_lets_an_abort_through(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    @modelreins_job
    @app.task(name="t", autoretry_for=(Exception,))
    def task(prompt: str) -> str:
        raise JobAborted("the handler is to stop")

    put(app, runner)
    assert trace(app, "t")[0] == "IGNORED"
    assert published == []


def test_what_a_handler_gives_to_a_retry_reaches_the_next_run(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    @modelreins_job
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str, page: int = 1) -> str:
        if page == 1:
            raise self.retry(kwargs={"page": 2}, countdown=1)
        return f"{prompt} {page}"

    put(app, runner)
    trace(app, "t")
    headers, (args, kwargs, _) = published[0]
    request = {HEADER: headers[HEADER], "retries": headers["retries"]}
    assert trace(app, "t", *args, request=request, **kwargs) == ("SUCCESS", "ran: from the job 2")
    assert runner.messages[1].retries == 1
    assert runner.given[1][2] == {"page": 2}


# -- where the job is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        header("w", 7),
        {"headers": header("w", 7)},
        {**header("w", 7), "headers": None},
        {HEADER: None, "headers": header("w", 7)},
        {**header("w", 7), "headers": {}},
        {HEADER: {"worker": "w", "job": "7"}},
    ],
)
def test_the_job_is_read_from_both_places_of_a_message(
    app: Celery, runner: FakeRunner, request_: dict[str, Any]
) -> None:
    declare_plain(app)
    put(app, runner)
    trace(app, "t", request=request_)
    assert runner.messages == [MESSAGE]


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {HEADER: None},
        {HEADER: "7"},
        {HEADER: []},
        {HEADER: {}},
        {HEADER: {"worker": "w"}},
        {HEADER: {"job": 7}},
        {HEADER: {"worker": "w", "job": None}},
        {HEADER: {"worker": "w", "job": "seven"}},
        {"other": {"worker": "w", "job": 7}},
    ],
)
def test_headers_that_name_no_job_bring_none(headers: Any) -> None:
    assert message_of(headers, TASK_ID) is None


def test_the_number_of_retries_is_part_of_the_message() -> None:
    assert message_of(header("w", 7), TASK_ID, 2) == Message("w", 7, TASK_ID, 2)
    assert message_of(header("w", 7), TASK_ID, None) == MESSAGE
    assert Message("w", 7, TASK_ID, 2).key == RunKey(7, TASK_ID, 2)


# -- which tasks -------------------------------------------------------------------------------------------


def test_only_decorated_tasks_of_this_application_are_handlers(app: Celery, runner: FakeRunner) -> None:
    @app.task(name="plain")
    def plain(prompt: str) -> str:
        return prompt.upper()

    other = Celery("other", broker="memory://", set_as_current=False)

    @modelreins_job("elsewhere")
    @other.task(name="elsewhere")
    def elsewhere(prompt: str) -> str:
        return "elsewhere"

    declare_plain(app)
    assert put(app, runner) == ["t"]
    assert [handler.declaration.capability for handler in handlers(app)] == ["cap"]
    assert trace(app, "plain", "x") == ("SUCCESS", "X")
    assert runner.messages == []


def test_declaring_a_task_does_not_finalize_the_application(app: Celery) -> None:
    declare_plain(app)
    assert not app.finalized
    assert [handler.name for handler in handlers(app)] == ["t"]
    assert app.finalized


def test_a_decorated_task_class_that_is_not_registered_is_no_handler(app: Celery) -> None:
    @modelreins_job("cap")
    class Unregistered(app.Task):  # type: ignore[name-defined,misc]
        name = "t"

        def run(self, prompt: str) -> str:
            return prompt

    assert handlers(app) == []


def test_the_registry_is_made_after_the_task_modules_are_imported(app: Celery) -> None:
    app.loader.import_default_modules = lambda: declare_plain(app)  # type: ignore[method-assign]
    assert load_registry(app).offered == ["cap"]


def test_handlers_that_contradict_each_other_are_refused(app: Celery) -> None:
    declare_plain(app)

    @modelreins_job("cap")
    @app.task(name="twin")
    def twin(prompt: str) -> str:
        return prompt

    with pytest.raises(RoutingError, match=r"(t and twin|twin and t) both take cap"):
        load_registry(app)


# -- what Celery's signals tell ----------------------------------------------------------------------------


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    """The ledger of the worker name that this worker process works for."""
    made = fake_books(monkeypatch)
    workplace = SimpleNamespace(ledger=lambda worker: {"w": made.ledger}[worker], settings=Settings(lease=30.0))
    monkeypatch.setattr(celery_hooks, "_workplace", workplace)
    monkeypatch.setattr(celery_hooks, "received", celery_hooks._Received())
    monkeypatch.setattr(celery_hooks, "_HOLDER", HOLDER)
    return made


class Request:
    """A task message as a Celery worker keeps it."""

    def __init__(self, run: RunKey, fields: Mapping[str, Any] | None = None) -> None:
        self.id = run.task_id
        self.time_start: float | None = 1.0  # when Celery began it
        self.request_dict = {"retries": run.retries, **(header("w", run.job_id) if fields is None else fields)}


class Consumer:
    """Whoever tells of a message that no task took."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname


def outcome_text(books: Books) -> str:
    record = books.record()
    assert books.state() == "finished"
    assert record.outcome is not None
    assert record.outcome.status == "failed"
    return record.outcome.text


def test_a_hard_time_limit_fails_the_job_and_says_so(books: Books) -> None:
    run = books.bring("running")
    request = Request(run)
    signals.task_received.send(sender=None, request=request)
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=TimeLimitExceeded(5))
    assert "hard time limit" in outcome_text(books)


def test_a_dead_worker_process_is_known_at_once(books: Books) -> None:
    run = books.bring("running")
    request = Request(run)
    signals.task_received.send(sender=None, request=request)
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=WorkerLostError("signal 9"))
    assert (books.state(), books.record().attempt) == ("claimed", 2)
    assert books.is_due("claimed")


def test_a_dead_process_is_not_taken_for_the_retry_that_it_had_published(books: Books) -> None:
    run = books.bring("running")
    first, retry = Request(run), Request(RunKey(run.job_id, run.task_id, retries=1))
    retry.time_start = None
    for request in (first, retry):
        signals.task_received.send(sender=None, request=request)
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=WorkerLostError("signal 9"))
    assert (books.state(), books.record().attempt) == ("claimed", 2)


def test_a_dead_process_takes_no_other_copy_of_its_message_with_it(books: Books) -> None:
    run = books.bring("running")
    overtaken, retry = Request(run), Running(RunKey(run.job_id, run.task_id, retries=1))
    signals.task_received.send(sender=None, request=overtaken)
    books.start(RunKey(run.job_id, run.task_id, retries=1), nonce="second")
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=WorkerLostError("signal 9"))
    assert (books.state(), books.record().attempt) == ("running", 1)
    assert retry in worker_state.active_requests


def test_a_copy_that_dies_at_the_fence_takes_no_run_of_another_worker_with_it(books: Books) -> None:
    run = books.bring("sent")
    books.start(run, holder="another worker")
    copy = Request(run)
    signals.task_received.send(sender=None, request=copy)
    signals.task_failure.send(sender=None, task_id=copy.id, exception=WorkerLostError("signal 9"))
    assert (books.state(), books.record().attempt) == ("running", 1)


def test_a_time_limit_takes_no_retry_with_it_that_the_run_had_published(books: Books) -> None:
    run = books.bring("running")
    overtaken = Request(run)
    signals.task_received.send(sender=None, request=overtaken)
    books.start(RunKey(run.job_id, run.task_id, retries=1), nonce="second")
    signals.task_failure.send(sender=None, task_id=overtaken.id, exception=TimeLimitExceeded(5))
    assert books.state() == "running"


def test_a_handlers_own_failure_is_the_runners_to_record(books: Books) -> None:
    run = books.bring("running")
    request = Request(run)
    signals.task_received.send(sender=None, request=request)
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=ValueError("no"))
    assert books.state() == "running"


@pytest.mark.parametrize(
    ("state", "how", "text"),
    [
        ("sent", {"expired": True}, "expired"),
        ("running", {"terminated": True}, "terminated"),
        ("sent", {}, "before it ran"),
    ],
)
def test_a_revoked_task_fails_its_job_and_says_why(books: Books, state: str, how: dict[str, bool], text: str) -> None:
    run = books.bring(state)
    context = Context({"id": run.task_id, "retries": 0, **header("w", 1)})
    signals.task_revoked.send(sender=None, request=context, **{"terminated": False, "expired": False, **how})
    assert text in outcome_text(books)


def test_a_celery_retry_that_is_revoked_before_it_runs_fails_its_job(books: Books) -> None:
    run = books.bring("running")
    books.retry(run)
    context = Context({"id": run.task_id, "retries": 1, **header("w", 1)})
    signals.task_revoked.send(sender=None, request=context, terminated=False, expired=False)
    assert "before it ran" in outcome_text(books)


@pytest.mark.parametrize("how", [{}, {"expired": True}])
def test_a_copy_that_was_revoked_before_it_ran_takes_no_running_one_with_it(books: Books, how: dict[str, bool]) -> None:
    run = books.bring("running")
    context = Context({"id": run.task_id, "retries": 0, **header("w", 1)})
    signals.task_revoked.send(sender=None, request=context, **{"terminated": False, "expired": False, **how})
    assert books.state() == "running"


def test_a_task_that_was_revoked_because_of_an_abort_changes_nothing(books: Books) -> None:
    run = books.bring("aborted")
    context = Context({"id": run.task_id, **header("w", 1)})
    signals.task_revoked.send(sender=None, request=context, terminated=True, expired=False)
    assert books.state() == "aborted"


def test_a_task_that_a_worker_does_not_know_is_sent_again_with_the_reason(books: Books) -> None:
    run = books.bring("sent")
    message = SimpleNamespace(headers=header("w", 1))
    worker = Consumer("celery@b")
    signals.task_unknown.send(sender=worker, message=message, exc=KeyError("t"), name="t", id=run.task_id)
    assert books.state() == "claimed"
    assert books.record().resends == 1
    assert "not registered on the worker celery@b" in books.record().why


def test_a_message_that_a_worker_cannot_read_is_sent_again_with_the_reason(books: Books) -> None:
    run = books.bring("sent")
    message = SimpleNamespace(headers={**header("w", 1), "id": run.task_id})
    worker = Consumer("celery@b")
    signals.task_rejected.send(sender=worker, message=message, exc=ValueError("bad"))
    assert books.state() == "claimed"
    assert "celery@b could not read the task's message: ValueError: bad" in books.record().why


def test_signals_of_others_tasks_change_nothing(books: Books) -> None:
    run = books.bring("running")
    request = Request(run, fields={})
    signals.task_received.send(sender=None, request=request)
    signals.task_failure.send(sender=None, task_id=run.task_id, exception=TimeLimitExceeded(5))
    signals.task_revoked.send(sender=None, request=Context({"id": run.task_id}), terminated=True, expired=False)
    message, worker = SimpleNamespace(headers=None), Consumer("celery@b")
    signals.task_unknown.send(sender=worker, message=message, exc=None, name="t", id=run.task_id)
    signals.task_rejected.send(sender=worker, message=message, exc=None)
    assert books.state() == "running"


def test_a_signal_while_the_ledger_is_away_raises_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = books.bring("sent")

    def away(*args: Any) -> bool:
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(books.ledger, "fail", away)
    context = Context({"id": run.task_id, **header("w", 1)})
    answers = signals.task_revoked.send(sender=None, request=context, terminated=False, expired=True)
    assert [answer for _, answer in answers if isinstance(answer, Exception)] == []
    assert "cannot record a revoked task" in caplog.text


# -- runs that have lost their job -------------------------------------------------------------------------


class Pool:
    """A pool that can interrupt what it runs, or cannot."""

    def __init__(self, *, interrupts: bool = True) -> None:
        self.interrupts = interrupts
        self.interrupted: list[Request] = []
        self.tried = 0

    def terminate_job(self, request: Request) -> None:
        self.tried += 1
        if not self.interrupts:
            raise NotImplementedError
        self.interrupted.append(request)


class Running(Request):
    """A request that a worker's pool has begun to run."""

    def __init__(self, run: RunKey, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(run, fields)
        signals.task_received.send(sender=None, request=self)
        worker_state.active_requests.add(self)

    def terminate(self, pool: Pool) -> None:
        pool.terminate_job(self)


class Keeper:
    """A worker's keeper of jobs, over a pool of the tests'."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.parent = SimpleNamespace(pool=pool, pool_cls=Pool)
        self.step = JobKeeper(self.parent)

    def tick(self) -> list[Request]:
        """Renew the leases; what has been interrupted up to now."""
        self.step._hold_all()
        return self.pool.interrupted

    def told(self, *task_ids: str) -> list[Request]:
        """Get the command that tells of aborts; what has been interrupted up to now."""
        state = SimpleNamespace(consumer=SimpleNamespace(controller=self.parent))
        assert Panel.data["modelreins_abort"](state, task_ids=list(task_ids)) == {"ok": "looked"}
        return self.pool.interrupted


@pytest.fixture
def keeper(books: Books, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(worker_state, "active_requests", WeakSet())
    return Keeper(Pool())


def lose(books: Books, run: RunKey) -> RunKey:
    """Let another worker have a run's job. Returns the new run."""
    assert books.die(run) == "again"
    again = RunKey(run.job_id, books.record(run.job_id).task_id)
    assert books.start(again, nonce="again").job is not None
    return again


def test_a_run_whose_job_was_aborted_is_interrupted_once(
    books: Books, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    run, other = books.bring("running", 7), books.bring("running", 8)
    request, bystander = Running(run), Running(other)
    assert keeper.tick() == []
    books.ledger.abort(7, "operator")
    assert keeper.tick() == [request]
    assert keeper.tick() == [request]
    assert keeper.told(run.task_id, other.task_id) == [request]
    assert [each.message for each in caplog.records if "interrupted" in each.message] == [
        f"job=7 attempt=1 task={run.task_id} interrupted: it was aborted"
    ]
    assert bystander not in keeper.pool.interrupted


def test_a_run_whose_job_another_worker_has_is_interrupted(
    books: Books, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    run = books.bring("running", 7)
    request = Running(run)
    lose(books, run)
    assert keeper.tick() == [request]
    assert "interrupted: it was given to another worker" in caplog.text


@pytest.mark.parametrize("new_first", [False, True])
def test_the_new_run_of_a_job_beside_its_lost_one_is_left_alone(books: Books, keeper: Keeper, new_first: bool) -> None:
    lost = books.bring("running", 7)
    other = Running(books.bring("running", 8))
    new = lose(books, lost)
    requests = {run: Running(run) for run in ((new, lost) if new_first else (lost, new))}
    assert keeper.tick() == [requests[lost]]
    books.ledger.abort(7, "operator")
    assert keeper.tick() == [requests[lost], requests[new]]
    assert other not in keeper.pool.interrupted


def test_each_copy_of_a_message_that_runs_is_interrupted(books: Books, keeper: Keeper) -> None:
    run = books.bring("running", 7)
    first, second = Running(run), Running(run)
    books.ledger.abort(7, "operator")
    assert len(keeper.tick()) == 2
    assert set(keeper.tick()) == {first, second}


def test_a_worker_renews_the_leases_of_what_it_runs_itself(books: Books, keeper: Keeper) -> None:
    mine, elsewhere = books.bring("sent", 7), books.bring("sent", 8)
    books.start(mine)
    books.start(elsewhere, holder="another worker")
    requests = {Running(mine), Running(elsewhere)}
    books.make_due("running")
    assert requests.isdisjoint(keeper.tick())
    assert books.ledger.due("running") == [8]


def test_what_has_not_started_is_left_to_the_fence(books: Books, keeper: Keeper) -> None:
    run = books.bring("sent", 7)
    request = Request(run)
    signals.task_received.send(sender=None, request=request)
    books.ledger.abort(7, "operator")
    assert keeper.tick() == []
    assert keeper.told(run.task_id) == []
    assert books.start(run).refusal == "aborted"


@pytest.mark.parametrize("state", ["finished", "closed", "unknown"])
def test_a_run_that_ends_or_whose_ledger_was_lost_goes_on(books: Books, keeper: Keeper, state: str) -> None:
    run = books.bring("running" if state == "unknown" else state, 7)
    request = Running(run)
    if state == "unknown":
        books.redis.flushall()
    assert keeper.tick() == []
    assert keeper.told(request.id) == []


def test_a_pool_that_cannot_interrupt_says_so_once(
    books: Books, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mr_celery")
    keeper.pool.interrupts = False
    run = books.bring("running", 7)
    request = Running(run)
    books.ledger.abort(7, "operator")
    for _ in range(3):
        assert keeper.tick() == []
    assert keeper.pool.tried == 1
    said = [(each.levelname, each.message) for each in caplog.records if "job=7" in each.message]
    assert len(said) == 1
    assert said[0][0] == "INFO"
    assert "has to ask job.aborted" in said[0][1]
    assert request.id == run.task_id


def test_an_interruption_that_fails_does_not_hold_up_others(
    books: Books, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, request = Running(books.bring("running", 7)), Running(books.bring("running", 8))

    def fails(pool: Pool) -> None:
        raise OSError("the result backend is away")

    monkeypatch.setattr(broken, "terminate", fails)
    books.ledger.abort(7, "operator")
    books.ledger.abort(8, "operator")
    assert keeper.tick() == [request]
    assert "cannot interrupt a run" in caplog.text


def test_the_command_is_checked_with_the_ledger(books: Books, keeper: Keeper) -> None:
    run, other = books.bring("running", 7), books.bring("running", 8)
    request, bystander = Running(run), Running(other)
    assert keeper.told(run.task_id, other.task_id, "mr-9-1-elsewhere") == []
    books.ledger.abort(7, "operator")
    books.ledger.abort(8, "operator")
    assert keeper.told(run.task_id) == [request]
    assert keeper.told(other.task_id) == [request, bystander]


def test_the_command_does_no_harm_while_the_ledger_is_away(
    books: Books, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = Running(books.bring("running", 7))

    def away(*args: Any, **kwargs: Any) -> dict[int, str]:
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(books.ledger, "hold", away)
    assert keeper.told(request.id) == []
    assert "cannot hold leases" in caplog.text


def test_the_command_does_nothing_on_a_worker_without_jobs() -> None:
    state = SimpleNamespace(consumer=SimpleNamespace(controller=SimpleNamespace()))
    assert Panel.data["modelreins_abort"](state, task_ids=["mr-7-1-x"]) == {"ok": "looked"}


@pytest.mark.parametrize(("nodes", "destination"), [((), None), (("celery@a",), ["celery@a"])])
def test_an_abort_is_announced_to_all_workers_or_some(
    app: Celery, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...], destination: list[str] | None
) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(app.control, "broadcast", lambda command, **options: sent.append((command, options)))
    announce_abort(app, ("mr-7-1-x", "mr-8-1-y"), nodes=nodes)
    arguments = {"task_ids": ["mr-7-1-x", "mr-8-1-y"]}
    assert sent == [("modelreins_abort", {"arguments": arguments, "destination": destination, "connection": None})]
