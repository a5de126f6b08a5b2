"""The handlers of one application, found among all decorated tasks."""

from __future__ import annotations

import pytest
from celery import Celery, Task

from mr_celery import modelreins_job
from mr_celery.errors import RoutingError
from mr_celery.handlers import handlers_of, load_registry
from support.celery_worker import declare_plain

pytestmark = pytest.mark.usefixtures("nothing_declared")


def test_declaring_a_task_does_not_finalize_the_application(app: Celery) -> None:
    declare_plain(app)
    assert not app.finalized
    assert [handler.name for handler in handlers_of(app)] == ["t"]
    assert app.finalized


def test_a_decorated_task_class_that_is_not_registered_is_refused(app: Celery) -> None:
    @modelreins_job("cap")
    class Unregistered(app.Task):  # type: ignore[name-defined,misc]
        name = "t"

        def run(self, prompt: str) -> str:
            return prompt

    with pytest.raises(RoutingError, match=r"Unregistered is not registered, .* add app\.register_task\("):
        handlers_of(app)
    with Celery("other", set_as_current=False) as other:
        assert handlers_of(other) == []
    app.register_task(Unregistered())
    assert [handler.name for handler in handlers_of(app)] == ["t"]


def test_an_abstract_task_class_is_refused(app: Celery) -> None:
    @modelreins_job("cap")
    class Base(Task):  # type: ignore[type-arg]
        abstract = True

    with pytest.raises(RoutingError, match=r"Base is abstract, so it takes no job"):
        handlers_of(app)


def test_a_task_without_run_is_refused(app: Celery) -> None:
    @modelreins_job("cap")
    class Empty(app.Task):  # type: ignore[name-defined,misc]
        name = "empty"

    app.register_task(Empty())
    with pytest.raises(RoutingError, match=r"empty has no code to run: its class Empty defines no run\(\)"):
        load_registry(app)


def test_messages_without_headers_are_refused(app: Celery) -> None:
    declare_plain(app)
    app.conf.task_protocol = 1
    with pytest.raises(RoutingError, match=r"^t cannot take jobs: with task_protocol = 1 in the Celery configuration"):
        load_registry(app)


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
