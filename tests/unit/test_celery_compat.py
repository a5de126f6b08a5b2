"""The undocumented names of Celery and billiard, checked against the installed versions."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, Task, _state, current_app, signals
from celery.app import trace as celery_trace
from celery.app.trace import build_tracer
from celery.worker import state
from celery.worker.request import Request

from mr_celery import celery_compat


@pytest.fixture
def app() -> Celery:
    return Celery("compat", broker="memory://", backend="cache+memory://", set_as_current=False)


def nothing() -> None:
    """A task's function."""


@pytest.fixture
def request_(app: Celery) -> Any:
    @app.task(name="t", shared=False)
    def task() -> None: ...

    headers = {"id": "1-2", "task": "t", "retries": 1, "root_id": "1-2", "parent_id": None}
    message = Mock(headers=headers, body=([], {}, {}), content_type="application/json", content_encoding="utf-8")
    return Request(message, app=app, task=app.tasks["t"], headers=headers, decoded=True, connection_errors=(OSError,))


def test_a_lazy_task_is_resolved(app: Celery) -> None:
    task = app.task(name="t", shared=False)(nothing)
    assert celery_compat.is_lazy(task)
    assert not app.finalized
    assert celery_compat.resolved(task) is app.tasks["t"]
    assert not celery_compat.is_lazy(app.tasks["t"])


def test_the_application_of_a_task_class(app: Celery) -> None:
    class Made(app.Task):  # type: ignore[name-defined,misc]
        pass

    class Unbound(Task):  # type: ignore[type-arg]
        pass

    assert celery_compat.app_of_class(Made) is app
    assert celery_compat.app_of_class(Unbound) is None


def test_the_current_task_is_known_inside_of_a_task(app: Celery) -> None:
    found: list[Any] = []

    @app.task(name="t", shared=False)
    def task() -> None:
        found.append(celery_compat.current_task())

    build_tracer("t", app.tasks["t"], app=app)("1-2", (), {}, {"id": "1-2"})
    assert found == [app.tasks["t"]]
    assert celery_compat.current_task() is None


def test_active_requests_of_a_task(request_: Any) -> None:
    state.active_requests.add(request_)
    try:
        assert celery_compat.active_requests("1-2") == [request_]
        assert celery_compat.active_requests("other") == []
    finally:
        state.active_requests.discard(request_)


def test_the_context_of_a_request(request_: Any) -> None:
    context = celery_compat.request_context(request_)
    assert (context.id, context.retries) == ("1-2", 1)


def test_the_result_of_a_request_in_the_pool(request_: Any) -> None:
    assert celery_compat.pool_result(request_) is None
    pool = Mock()
    pool.apply_async.return_value = result = Mock()
    request_.execute_using_pool(pool)
    assert celery_compat.pool_result(request_) is result
    assert isinstance(request_._apply_result, weakref.ref)


def test_an_error_of_an_acknowledgement_counts_as_a_lost_connection(request_: Any) -> None:
    celery_compat.treat_as_connection_error(request_, AttributeError)
    assert request_.connection_errors == (OSError, AttributeError)
    request_._on_ack = on_ack = Mock()
    request_.acknowledge()
    assert AttributeError in on_ack.call_args.args[1]


def test_the_backend_of_a_task(app: Celery) -> None:
    backend = app.backend
    task = app.task(name="t", lazy=False, shared=False)(nothing)
    assert celery_compat.own_backend(task) is None
    task.backend = backend
    assert celery_compat.own_backend(task) is backend


def test_the_check_of_a_tasks_arguments(app: Celery) -> None:
    @app.task(name="t", lazy=False, shared=False)
    def task(prompt: str) -> None: ...

    check: Callable[..., Any] = celery_compat.argument_check(task)
    with pytest.raises(TypeError):
        check()
    with ExitStack() as undo:
        celery_compat.replace_attribute(task, "__header__", lambda *args, **kwargs: None, undo)
        task.apply_async()  # type: ignore[call-arg,unused-ignore]
    with pytest.raises(TypeError):
        task.apply_async()  # type: ignore[call-arg,unused-ignore]


def test_the_exception_that_a_pool_process_reports() -> None:
    try:
        raise ValueError("no")
    except ValueError as raised:
        error = raised
        info = ExceptionInfo(sys.exc_info())
    assert celery_compat.reported_exception(info) is error
    assert celery_compat.reported_exception(Mock(exception=error)) is error


@pytest.mark.parametrize("own", [False, True])
def test_a_replaced_attribute_is_restored(app: Celery, own: bool) -> None:
    task: Any = app.task(name="t", lazy=False, shared=False)(nothing)
    if own:
        task.Request = "its own"
    before = dict(vars(task))
    with ExitStack() as undo:
        celery_compat.replace_attribute(task, "Request", "another", undo)
        celery_compat.restore_attribute(task, "__trace__", undo)
        task.__trace__ = nothing
        assert task.Request == "another"
    assert vars(task) == before


def test_autoretry_calls_the_replaced_function_and_catches_what_it_raises(app: Celery) -> None:
    @app.task(name="again", shared=False, bind=True, autoretry_for=(KeyError,), max_retries=0)
    def task(self: Any) -> None: ...

    app.finalize()
    calls: list[str] = []

    def raises(*args: Any) -> None:
        calls.append("called")
        raise KeyError

    assert celery_compat.autoretried(task) is not None
    with ExitStack() as undo:
        celery_compat.replace_attribute(task, "_orig_run", raises, undo)
        with pytest.raises(KeyError):
            task()
    task()
    assert calls == ["called"]
    assert celery_compat.autoretried(Mock(spec=["run"])) is None


def test_a_task_s_context_can_be_entered_on_another_thread(app: Celery) -> None:
    @app.task(name="t", shared=False, bind=True)
    def task(self: Any) -> Any:
        context = celery_compat.TaskContext.current()
        assert context is not None
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(entered, context).result()

    def entered(context: celery_compat.TaskContext) -> list[Any]:
        before = celery_compat.TaskContext.current()
        context.push()
        inside = (celery_compat.current_task(), task.request.id)
        context.pop()
        return [before, inside, celery_compat.TaskContext.current()]

    assert task.apply(task_id="some-id").get() == [None, (task, "some-id"), None]


def test_the_current_application_is_kept(app: Celery) -> None:
    before = current_app._get_current_object()
    with celery_compat.current_app_kept():
        app.set_current()
        app.set_default()
    assert current_app._get_current_object() is before


@pytest.mark.parametrize(
    ("names", "default", "found"),
    [(["a"], "", "a"), (["a", "b"], "", "default"), (["a", "b"], "b", "b"), ([], "", "default")],
)
def test_the_only_application_is_that_of_a_thread_without_one(
    monkeypatch: pytest.MonkeyPatch, names: list[str], default: str, found: str
) -> None:
    monkeypatch.setattr(_state, "_apps", weakref.WeakSet())
    monkeypatch.setattr(_state, "default_app", None)
    with celery_compat.current_app_kept(), ThreadPoolExecutor(1) as pool:
        apps = {name: Celery(name) for name in names}
        if default:
            apps[default].set_default()
        assert pool.submit(celery_compat.application_of_thread).result().main == found


def test_a_thread_s_own_application_comes_first(app: Celery) -> None:
    with celery_compat.current_app_kept():
        app.set_as_current = True
        app.set_current()
        assert celery_compat.application_of_thread() is app


def test_settings_are_overridden_in_a_block_under_all_their_names(app: Celery) -> None:
    app.conf.broker_url = "memory://before"
    with celery_compat.configured(app, {"broker_url": "memory://inside"}):
        assert app.conf.broker_url == "memory://inside"
    assert app.conf.broker_url == "memory://before"


def test_the_methods_that_a_base_class_overrides(app: Celery) -> None:
    class Base(Task):
        abstract = True

        def before_start(self, *args: Any) -> None: ...

    @app.task(name="t", base=Base, shared=False)
    def task() -> None: ...

    made = app.tasks["t"]
    overridden = [
        name for name in ("before_start", "__call__", "apply_async") if celery_compat.is_overridden(made, name)
    ]
    assert overridden == ["before_start"]


def test_the_method_of_a_celery_worker_itself_overrides_nothing(app: Celery) -> None:
    @app.task(name="t", shared=False)
    def task() -> None: ...

    celery_trace._install_stack_protection()
    try:
        assert celery_trace.task_has_custom(app.tasks["t"], "__call__")
        assert not celery_compat.is_overridden(app.tasks["t"], "__call__")
    finally:
        celery_trace.reset_worker_optimizations(app)


def test_a_replaced_attribute_of_a_class_is_restored() -> None:
    class Base:
        def __call__(self) -> str:
            return "base"

    class Own(Base):
        def __call__(self) -> str:
            return "own"

    class Plain(Base): ...

    with ExitStack() as undo:
        for kind in (Own, Plain):
            celery_compat.replace_class_attribute(kind, "__call__", lambda self: "replaced", undo)
            assert kind()() == "replaced"
        assert Base()() == "base"
    assert (Own()(), Plain()()) == ("own", "base")
    assert "__call__" not in vars(Plain)


def test_the_representation_of_a_result_is_replaced(app: Celery) -> None:
    @app.task(name="t", shared=False)
    def task() -> list[int]:
        return [1, 2]

    def retstr() -> Any:
        return build_tracer("t", app.tasks["t"], app=app)("1-2", (), {}, {"id": "1-2"}).retstr

    with ExitStack() as undo:
        celery_compat.show_results(lambda value: len(value), undo)
        celery_compat.show_results(lambda value: "a second worker of this process", undo)
        assert retstr() == "2"
    assert retstr() == "[1, 2]"


def test_arguments_are_left_out_of_one_tasks_message(app: Celery) -> None:
    @app.task(name="t", shared=False)
    def task(a: Any, b: Any, c: Any = None) -> None: ...

    hidden = {"a": object(), "b": object()}
    with ExitStack() as undo:
        celery_compat.intercept_messages(app, undo)
        with celery_compat.collected() as messages, celery_compat.messages_without(hidden, "one"):
            task.apply_async((), {**hidden, "b": "changed", "c": 3}, task_id="one")
            task.apply_async((), hidden, task_id="two")
    assert [message.body[1] for message in messages] == [{"b": "changed", "c": 3}, hidden]


def test_messages_are_collected_instead_of_published_and_published_later() -> None:
    app = Celery("collecting", broker="memory://", set_as_current=False)

    @app.task(name="collecting.t", shared=False)
    def task(x: int) -> int:
        return x

    published: list[str] = []
    with ExitStack() as undo:
        celery_compat.intercept_messages(app, undo)
        celery_compat.intercept_messages(app, undo)  # a second worker of the application in this process
        with celery_compat.collected() as messages:
            task.s(1).apply_async(task_id="one", queue="elsewhere")
        (message,) = messages
        assert (message.name, message.headers["id"], message.options["queue"].name) == (
            "collecting.t",
            "one",
            "elsewhere",
        )
        assert message.body[0] == (1,)
        receive = partial(_note_published, published)
        signals.before_task_publish.connect(receive)
        try:
            celery_compat.publish_collected(app, message)
            celery_compat.publish_collected(app, message)
            assert published == ["one", "one"]
            task.delay(2)
            assert len(published) == 3
        finally:
            signals.before_task_publish.disconnect(receive)
    assert not hasattr(app.amqp.send_task_message, "_mr_celery")


def _note_published(published: list[str], headers: dict[str, Any] | None = None, **_: Any) -> None:
    published.append((headers or {})["id"])


@pytest.mark.parametrize(("backend", "can"), [(None, False), ("rpc://", False), ("cache+memory://", True)])
def test_a_result_backend_that_can_join_groups(backend: str | None, can: bool) -> None:
    assert (
        celery_compat.has_result_backend(Celery("joining", broker="memory://", backend=backend, set_as_current=False))
        == can
    )


@pytest.mark.parametrize("namespace", [None, "CELERY"])
def test_celery_masks_the_settings_that_may_have_a_password(namespace: str | None) -> None:
    secret = {
        "ledger_url": "redis://:hushhush@redis/0",
        "spool_url": "s3://id:hushhush@bucket",
        "token": "hushhush",
        "admin_token": "hushhush",
    }
    named = {"modelreins_name": "the-name", **{f"modelreins_{name}": value for name, value in secret.items()}}
    app = Celery("masked", set_as_current=False)
    app.config_from_object(
        {f"CELERY_{name.upper()}": value for name, value in named.items()} if namespace else named, namespace=namespace
    )
    for shown in (str(app.conf.table()), app.bugreport()):
        assert "hushhush" not in shown
        assert "the-name" in shown
        assert shown.count("*" * 8) == len(secret)
