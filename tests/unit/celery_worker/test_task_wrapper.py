"""The runner wraps tasks of every kind, but not calls without a job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task, signals
from celery.app import trace as celery_trace
from celery.exceptions import Retry
from kombu.compression import compress, decompress

from mr_celery import modelreins_job
from mr_celery.celery_worker.current import RequestedRetry, current_run
from mr_celery.celery_worker.redaction import redact_exceptions
from mr_celery.celery_worker.setup import set_up_worker
from mr_celery.celery_worker.task_wrapper import install, keep_jobs_away
from mr_celery.errors import JobAborted
from mr_celery.handlers import handlers_of
from mr_celery.message import HEADER, Message, NotForThisWorker, encoding_for, header, message_of
from support.celery_worker import MESSAGE, TASK_ID, FakeRunner, declare_plain, put, trace


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
        assert trace(app, "t") == ("SUCCESS", "FROM THE JOB")
        assert runner.messages == [MESSAGE]
        assert runner.given[0][0].capabilities == ("cap",)

    def test_a_message_without_a_job_does_not(self, app: Celery, runner: FakeRunner, kind: str) -> None:
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
        with first.installed, runner.installed:
            put(app, first)
            put(app, runner)
            assert trace(app, "t") == ("SUCCESS", "FROM THE JOB")
        assert (len(first.messages), len(runner.messages)) == (0, 1)


@pytest.fixture
def worker_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's base task handles calls as it does in a worker."""
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
    assert trace(app, "t") == ("SUCCESS", "FROM THE JOB")
    assert app.tasks["t"]("direct") == "DIRECT"
    assert trace(app, "t", request={}, prompt="theirs") == ("SUCCESS", "THEIRS")
    assert runner.messages == [MESSAGE]


def test_an_overridden_call_gets_the_value_of_an_async_handler(app: Celery, runner: FakeRunner) -> None:
    seen: list[Any] = []

    class Base(Task):  # type: ignore[type-arg]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.run(*args, **kwargs))
            return f"<{seen[0]}>"

    class AsyncBase(Task):  # type: ignore[type-arg]
        abstract = True

        async def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(await self.run(*args, **kwargs))
            return f"<<{seen[1]}>>"

    for name, base in (("t", Base), ("u", AsyncBase)):

        @modelreins_job(name)
        @app.task(name=name, base=base)
        async def task(prompt: str) -> str:
            return prompt.upper()

    put(app, runner)
    assert trace(app, "t") == ("SUCCESS", "<FROM THE JOB>")
    assert trace(app, "u") == ("SUCCESS", "<<FROM THE JOB>>")
    assert seen == ["FROM THE JOB"] * 2


Seen = list[tuple[str, Any, Any, Any]]
"""Calls of a task's base class: the method, what it is given besides arguments, and the arguments."""


def with_noting_base(app: Celery, seen: Seen) -> None:
    """The tasks ``t`` and ``u`` share a base class that records its calls, and returns values in brackets."""

    class Base(Task):  # type: ignore[type-arg]
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("before_start", task_id, args, kwargs))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(("__call__", None, args, kwargs))
            return f"<{super().__call__(*args, **kwargs)}>"

        def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
            seen.append(("apply_async", options["retries"], args, kwargs))
            return super().apply_async(args, {**kwargs, "page": 2}, *more, **options)

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("on_retry", exc, args, kwargs))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("on_success", retval, args, kwargs))

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("on_failure", type(exc), args, kwargs))

        def after_return(self, status: Any, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            assert self.request.kwargs in ({}, {"prompt": "theirs"})  # backends store the arguments of the request
            seen.append(("after_return", status, args, kwargs))

    for name in ("t", "u"):

        @modelreins_job(name)
        @app.task(name=name, base=Base, bind=True)
        def task(self: Task[Any, Any], prompt: str, page: int = 1) -> str:
            if prompt == "fail":
                raise ValueError(prompt)
            if prompt == "retry":
                raise self.retry(countdown=1)
            return f"{prompt.upper()} {page}"


@pytest.mark.usefixtures("worker_calls")
class TestABaseClassSeesAJobAsAPlainCall:
    def test_that_returns(self, app: Celery, runner: FakeRunner) -> None:
        seen: Seen = []
        with_noting_base(app, seen)
        put(app, runner)
        for name in ("t", "u"):
            assert trace(app, name) == ("SUCCESS", "<FROM THE JOB 1>")
            of_job, seen[:] = list(seen), []
            assert trace(app, name, request={}, prompt="theirs") == ("SUCCESS", "<THEIRS 1>")
            replaced = [(each[0], str(each[1]).replace("THEIRS", "FROM THE JOB")) for each in seen]
            assert [(each[0], str(each[1])) for each in of_job] == replaced
            assert [each[0] for each in seen] == ["before_start", "__call__", "on_success", "after_return"]
            assert all(each[2:] == ((), {"prompt": "from the job"}) for each in of_job), of_job
            assert all(each[2:] == ((), {"prompt": "theirs"}) for each in seen), seen
            seen.clear()

    def test_that_raises(self, app: Celery, runner: FakeRunner) -> None:
        seen: Seen = []
        with_noting_base(app, seen)
        runner.fields = {"prompt": "fail"}
        put(app, runner)
        assert trace(app, "t")[0] == "FAILURE"
        assert [each[0] for each in seen] == ["before_start", "__call__", "on_failure", "after_return"]
        assert all(each[2:] == ((), {"prompt": "fail"}) for each in seen), seen

    def test_that_retries(self, app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]) -> None:
        """The message contains only the additions of the base class."""
        seen: Seen = []
        with_noting_base(app, seen)
        runner.fields = {"prompt": "retry"}
        put(app, runner)
        assert trace(app, "t")[0] == "RETRY"
        assert [each[0] for each in seen] == ["before_start", "__call__", "apply_async", "on_retry"]
        assert all(each[2:] == ((), {"prompt": "retry"}) for each in seen), seen
        ((headers, (args, kwargs, _)),) = published
        assert (list(args), kwargs) == ([], {"page": 2})
        assert "retry" not in headers["argsrepr"] + headers["kwargsrepr"]

    def test_whose_before_start_raises(self, app: Celery, runner: FakeRunner) -> None:
        class Base(Task):  # type: ignore[type-arg]
            abstract = True

            def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
                raise LookupError(kwargs["prompt"])

        @modelreins_job("cap")
        @app.task(name="t", base=Base)
        def task(prompt: str) -> None:
            raise AssertionError("it must not be called")

        put(app, runner)
        state, error = trace(app, "t")
        assert (state, str(error.exception)) == ("FAILURE", "from the job")
        assert runner.messages == [MESSAGE]

    def test_and_is_restored(self, app: Celery) -> None:
        seen: Seen = []
        with_noting_base(app, seen)
        task = app.tasks["t"]
        before = type(task).__call__, dict(vars(task))
        with FakeRunner().installed as undo:
            undo.enter_context(install(app, FakeRunner()))  # type: ignore[arg-type]
            assert type(task).__call__ is not before[0]
        assert (type(task).__call__, dict(vars(task))) == before


def test_hooks_and_signals_see_the_handlers_value_and_celery_shows_the_status(
    app: Celery, runner: FakeRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log, the event (by the representation that the pool process returns) and the backend have no result."""
    values: list[Any] = []
    stored: list[Any] = []

    def note(sender: Any = None, result: Any = None, retval: Any = None, **_: Any) -> None:
        values.append(retval if result is None else result)

    @modelreins_job("cap")
    @app.task(name="t")
    def task(prompt: str) -> dict[str, str]:
        return {"answer": prompt}

    put(app, runner)
    monkeypatch.setattr(app.backend, "mark_as_done", lambda task_id, result, *_, **__: stored.append(result))
    for signal in (signals.task_success, signals.task_postrun):
        signal.connect(note, weak=False)
    try:
        with redact_exceptions([app.tasks["t"]]), caplog.at_level("INFO"):
            fields = {**header("w", 7), "id": TASK_ID, "retries": 0, "delivery_info": {}, "ignore_result": False}
            traced = celery_trace.build_tracer("t", app.tasks["t"], app=app)(TASK_ID, (), {}, fields)
    finally:
        for signal in (signals.task_success, signals.task_postrun):
            signal.disconnect(note)
    assert values == [{"answer": "from the job"}] * 2
    assert stored == ["done"]
    assert traced.retstr == "'done'"
    assert "from the job" not in caplog.text
    assert "succeeded" in caplog.text


def test_the_wrapped_task_still_looks_like_itself(app: Celery, runner: FakeRunner) -> None:
    declare_plain(app)
    put(app, runner)
    assert app.tasks["t"].run.__name__ == "task"
    with pytest.raises(TypeError):
        app.tasks["t"].delay()  # Celery's check of the arguments


# -- inside a handler ----------------------------------------------------------------------------------------


def test_a_handler_that_calls_its_own_task_is_not_run_as_a_job_again(app: Celery, runner: FakeRunner) -> None:
    @modelreins_job
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str) -> str:
        return prompt if prompt == "inner" else self.run("inner") + self("inner")

    put(app, runner)
    assert trace(app, "t") == ("SUCCESS", "innerinner")
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
    assert trace(app, "t") == ("SUCCESS", "CALLEDRUN")
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
    """The task ``t`` takes jobs, and raises a Celery retry."""

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


def test_a_celery_retry_keeps_the_publish_options_of_its_job_only(
    app: Celery, runner: FakeRunner, published: list[tuple[dict[str, Any], Any]]
) -> None:
    retrying(app, args=(), kwargs={"prompt": "of its own"})
    put(app, runner)
    put(app, runner)
    forgotten = {**header("w", 7), "ignore_result": False}  # as Celery up to 5.6 does
    assert trace(app, "t", request=forgotten)[0] == "RETRY"
    assert trace(app, "t", "another one's", request={"ignore_result": False})[0] == "RETRY"
    (job, _), (other, _) = published
    assert (job["argsrepr"], job["kwargsrepr"], job["ignore_result"]) == ("(ModelReins job 7)", "{}", True)
    assert not other["ignore_result"]
    assert "of its own" in other["argsrepr"] + other["kwargsrepr"]


def test_a_celery_retry_brings_the_job_even_if_an_add_on_replaced_the_headers(
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
        raise JobAborted("the handler must stop")

    put(app, runner)
    assert trace(app, "t")[0] == "IGNORED"
    assert published == []


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"countdown": 20}, False),
        ({"eta": dt.datetime(2030, 1, 1)}, False),
        ({"kwargs": {"prompt": "mine"}}, True),
        ({"queue": "other"}, True),
        ({"priority": 3}, True),
    ],
    ids=str,
)
@pytest.mark.usefixtures("published")
def test_a_run_knows_the_retry_that_its_handler_requested(
    app: Celery, runner: FakeRunner, options: dict[str, Any], own: bool
) -> None:
    found: list[RequestedRetry] = []

    @modelreins_job
    @app.task(name="t", bind=True)
    def task(self: Task[Any, Any], prompt: str) -> str:
        with suppress(Retry):
            self.retry(**options)
        here = current_run()
        assert here is not None
        found.extend(here.retries)
        return prompt

    put(app, runner)
    assert trace(app, "t")[0] == "SUCCESS"
    (retry,) = found
    assert retry.own is own
    assert retry.signature.options["retries"] == 1
    assert retry.signature.options["compression"] == encoding_for("t")
    assert retry.signature.options.get("countdown") == options.get("countdown", None if "eta" in options else 180)


# -- workers that take no jobs -------------------------------------------------------------------------------


def test_a_worker_that_takes_no_jobs_calls_no_handler_for_one(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    @modelreins_job
    @app.task(name="t", typing=False)
    def task(prompt: str = "everybody") -> None:
        calls.append(prompt)

    keep_jobs_away(app, "MODELREINS_LEDGER_URL is not set")
    assert trace(app, "t")[0] == "IGNORED"
    assert calls == []
    assert "job=7" in caplog.text
    assert "not run: MODELREINS_LEDGER_URL is not set" in caplog.text
    with pytest.raises(NotForThisWorker, match="MODELREINS_LEDGER_URL is not set"):
        decompress(*compress("[]", encoding_for("t")))
    assert trace(app, "t", "another one's", request={})[0] == "SUCCESS"
    assert calls == ["another one's"]


def test_a_worker_without_a_ledger_is_set_up_to_take_none(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MODELREINS_LEDGER_URL", raising=False)
    declare_plain(app)
    set_up_worker(SimpleNamespace(app=app, hostname="celery@a", quiet=False, loglevel="INFO", logfile=None))
    assert "takes no ModelReins jobs: modelreins_ledger_url is not set" in caplog.text
    assert trace(app, "t")[0] == "IGNORED"


def test_what_was_installed_can_be_undone(app: Celery, runner: FakeRunner) -> None:
    declare_plain(app)
    task = app.tasks["t"]
    before = (task.run, task.__header__, task.signature_from_request)
    message = compress("[]", encoding_for("t"))
    with install(app, runner):  # type: ignore[arg-type]
        assert decompress(*message) == b"[]"
        assert trace(app, "t") == ("SUCCESS", "FROM THE JOB")
    assert (task.run, task.__header__, task.signature_from_request) == before
    with pytest.raises(NotForThisWorker):
        decompress(*message)


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
    assert trace(app, "t", *args, request=request, **kwargs) == ("SUCCESS", "from the job 2")
    assert runner.messages[1].retries == 1
    assert runner.given[1][2] == {"page": 2}


# -- where the job is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        header("w", 7),
        {"headers": header("w", 7)},
        {**header("w", 7), "headers": None},
        {HEADER: None, "headers": header("w", 7)},
        {**header("w", 7), "headers": {}},
    ],
)
def test_the_job_is_read_from_both_places_of_a_message(
    app: Celery, runner: FakeRunner, request_: dict[str, Any]
) -> None:
    declare_plain(app)
    put(app, runner)
    trace(app, "t", request=request_)
    assert runner.messages == [MESSAGE]


# -- which tasks ---------------------------------------------------------------------------------------------


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
    assert [handler.declaration.capabilities for handler in handlers_of(app)] == [("cap",)]
    assert trace(app, "plain", "x") == ("SUCCESS", "X")
    assert runner.messages == []
