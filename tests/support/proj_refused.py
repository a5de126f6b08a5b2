"""Celery applications with one task that can never take a job. ``PROJ_REFUSED`` selects which."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from celery import Task

from mr_celery import modelreins_job

from .proj_base import new_app

app = new_app()
kind = os.environ["PROJ_REFUSED"]

if kind == "protocol":
    app.conf.task_protocol = 1

    @modelreins_job
    @app.task
    def plain(prompt: str) -> str:
        return prompt


if kind == "positional-only":

    @modelreins_job
    @app.task(bind=True)
    def positional(self: Task[Any, Any], prompt: str, /) -> str:
        return prompt


if kind == "generator":

    @modelreins_job
    @app.task
    def yields(prompt: str) -> Iterator[str]:
        yield prompt


if kind == "batches":

    class Batches(Task):  # type: ignore[type-arg]
        """As in celery-batches, which limits the version of Celery and so cannot be installed here."""

        abstract = True

        def Strategy(self, *_: Any) -> None: ...

    @modelreins_job
    @app.task(base=Batches, name="batch")
    def batch(requests: list[Any]) -> None: ...


if kind == "abstract":

    @modelreins_job
    class Base(Task):  # type: ignore[type-arg]
        abstract = True


if kind == "no-run":

    @modelreins_job
    class Empty(app.Task):  # type: ignore[name-defined,misc]
        name = "empty"

    app.register_task(Empty())


if kind == "unregistered":

    @modelreins_job
    class Forgotten(app.Task):  # type: ignore[name-defined,misc]
        def run(self, prompt: str) -> str:
            return str(prompt)
