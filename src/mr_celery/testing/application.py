"""Which application a test is about, and which of its tasks."""

from __future__ import annotations

from typing import Any

from celery import current_app
from celery.app import app_or_default
from celery.app.task import Task
from celery.local import Proxy

from ..errors import MrCeleryError, RoutingError
from ..routing import Handler, Registry


def application(given: Any, task: Any = None) -> Any:
    """The Celery application: the one given, or that of a task, or else the current one.

    Raises:
        MrCeleryError: the task is none.
    """
    if given is not None:
        return given
    return app_or_default() if task is None else _resolved(task).app


def handler_of(app: Any, task: Any, registry: Registry) -> Handler:
    """The handler that a decorated task is in an application.

    Raises:
        MrCeleryError: it takes no jobs there.
    """
    name = name_of(task)
    handler = registry.named(name)
    if handler is None:
        takers = ", ".join(each.name for each in registry.handlers)
        raise MrCeleryError(
            f"{name} takes no jobs in the application {app.main!r}, only {takers}: is it decorated with "
            "@modelreins_job, and is this its application (fixture modelreins_app)?"
        )
    return handler


def name_of(task: Any) -> str:
    """The name of a task.

    Raises:
        MrCeleryError: it is none.
    """
    return str(_resolved(task).name)


def must_take_jobs(app: Any, registry: Registry) -> None:
    """See that there is something to test.

    Raises:
        RoutingError: no task of the application is decorated.
    """
    if not registry.handlers:
        raise RoutingError(
            f"no task of the application {app.main!r} takes jobs: decorate one with @modelreins_job, import its module "
            "in the test, and override the fixture modelreins_app where your application is not the current one"
        )


def _resolved(task: Any) -> Any:
    if isinstance(task, Proxy):
        task = task._get_current_object()
    if isinstance(task, type) and issubclass(task, Task):
        task = next((each for each in current_app.tasks.values() if type(each) is task), task)
    if not isinstance(task, Task):
        raise MrCeleryError(
            f"modelreins_run takes a task with @modelreins_job, and {task!r} is none; for a job without a task write "
            'modelreins_run(capability="image.generate", prompt="…")'
        )
    return task
