"""One application in three versions: without mr-celery, with one other task that takes jobs, and with all of them.

Every task can be called without arguments, and would then do something that no job asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Task

from .proj_base import new_app, note

CODE = os.environ.get("PROJ_CODE", "new")
TASKS = ("mail", "anything", "bound", "untyped", "of_a_class")

app = new_app("mixed")
app.conf.worker_prefetch_multiplier = 1


def note_task(task: str, prompt: str) -> str:
    """Note the task and the prompt, and return both."""
    note(f"{task} {prompt}")
    return f"{task} {prompt}"


def job(capability: str) -> Callable[[Any], Any]:
    """The decorator, if this version of the code has it."""
    if CODE != "new":
        return lambda task: task
    from mr_celery import modelreins_job

    return modelreins_job(capability, on_lost="fail")


@job("mail")
@app.task
def mail(prompt: str = "everybody") -> str:
    return note_task("mail", prompt)


@job("anything")
@app.task
def anything(job: Any = None, **fields: Any) -> str:
    return note_task("anything", "everybody" if job is None else job.prompt)


@job("bound")
@app.task(bind=True)
def bound(self: Task[Any, Any], prompt: str = "everybody", *, again: bool = False) -> str:
    return note_task("bound", prompt)


@job("untyped")
@app.task(typing=False)
def untyped(*args: Any, prompt: str = "everybody") -> str:
    return note_task("untyped", prompt)


@job("of_a_class")
class OfAClass(app.Task):  # type: ignore[name-defined,misc]
    name = "support.proj_mixed.of_a_class"

    def run(self, prompt: str = "everybody") -> str:
        return note_task("of_a_class", prompt)


app.register_task(OfAClass())

if CODE == "other":
    from mr_celery import modelreins_job

    @modelreins_job("other")
    @app.task
    def other(prompt: str) -> str:
        return prompt
