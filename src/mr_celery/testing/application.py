"""Finds the application and the handler under test."""

from __future__ import annotations

from typing import Any

from celery import current_app
from celery.app import app_or_default
from celery.app.task import Task

from ..celery_compat import is_lazy, resolved
from ..errors import MrCeleryError, RoutingError
from ..handlers import Handler, Registry


def application(given: Any, task: Any = None) -> Any:
    """The given Celery application, or else that of a task, or else the current one.

    Raises:
        MrCeleryError: ``task`` is not a task.
    """
    if given is not None:
        return given
    return app_or_default() if task is None else _resolved(task).app


def handler_of(app: Any, task: Any, registry: Registry) -> Handler:
    """The handler of a decorated task.

    Raises:
        MrCeleryError: the task takes no jobs in this application.
    """
    name = name_of(task)
    handler = registry.named(name)
    if handler is None:
        takers = ", ".join(each.name for each in registry.handlers)
        raise MrCeleryError(
            f"{name} takes no jobs in the application {app.main!r}, only {takers} do: is it decorated with "
            "@modelreins_job, and is this its application (fixture modelreins_app)?"
        )
    return handler


def name_of(task: Any) -> str:
    """The name of a task.

    Raises:
        MrCeleryError: ``task`` is not a task.
    """
    return str(_resolved(task).name)


def must_take_jobs(app: Any, registry: Registry) -> None:
    """Check that the application has a handler.

    Raises:
        RoutingError: no task of the application is decorated.
    """
    if not registry.handlers:
        raise RoutingError(
            f"no task of the application {app.main!r} takes jobs: decorate one with @modelreins_job, import its module "
            "in the test, and override the fixture modelreins_app if your application is not the current one"
        )


def _resolved(task: Any) -> Any:
    if is_lazy(task):
        task = resolved(task)
    if isinstance(task, type) and issubclass(task, Task):
        task = next((each for each in current_app.tasks.values() if type(each) is task), task)
    if not isinstance(task, Task):
        raise MrCeleryError(
            f"modelreins_run needs a task with @modelreins_job, not {task!r}; to let routing choose the task, write "
            'modelreins_run(capability="image.generate", prompt="…")'
        )
    return task
