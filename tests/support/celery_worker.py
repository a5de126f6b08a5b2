"""A Celery worker for tests: its messages, requests and signals, and a runner that calls handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any

from celery import Celery, signals
from celery.app import trace as celery_trace
from celery.worker import state as worker_state

from mr_celery import modelreins_job
from mr_celery.celery_worker.current import Run, running
from mr_celery.celery_worker.runner import Returned
from mr_celery.celery_worker.task_wrapper import install
from mr_celery.delivery.attachments import Attachments
from mr_celery.handlers import Declaration, handlers_of
from mr_celery.job import Job
from mr_celery.ledger import RunKey
from mr_celery.message import Message, header

TASK_ID = "mr-7-1-x"
MESSAGE = Message("w", 7, TASK_ID)
APP = SimpleNamespace()


class Consumer:
    """A worker's consumer, as the sender of signals."""

    app = APP

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname


SENDER = Consumer("celery@a")


class FakeRunner:
    """Records the runs it is given, and calls the handler as the real runner does."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.given: list[tuple[Declaration, tuple[Any, ...], dict[str, Any]]] = []
        self.fields = {"prompt": "from the job"}
        self.installed = ExitStack()

    def run(
        self,
        message: Message,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Returned:
        self.messages.append(message)
        self.given.append((declaration, args, dict(kwargs)))
        job = Job({"id": message.job_id})
        run = Run(
            message.task_id,
            job,
            1,
            worker_name="w",
            url="",
            api=None,
            keys=iter(()),
            attachments=Attachments(),
            wait_for=asyncio.run,
        )
        with running(run):
            value = handler(*args, **{**self.fields, **kwargs})
            return Returned("done", run.wait_for(value) if isawaitable(value) else value)


def put(app: Celery, runner: FakeRunner) -> list[str]:
    """Install the runner until the end of the test. Returns the names of the handlers."""
    runner.installed.enter_context(install(app, runner))  # type: ignore[arg-type]
    return sorted(handler.name for handler in handlers_of(app))


def trace(
    app: Celery, name: str, *args: Any, request: Mapping[str, Any] | None = None, **kwargs: Any
) -> tuple[Any, Any]:
    """Process a message as a worker does: for job 7, or as ``request`` says. Returns the state and the value."""
    task = app.tasks[name]
    fields = header("w", 7) if request is None else request
    fields = {"id": TASK_ID, "retries": 0, "delivery_info": {}, "ignore_result": True, **fields}
    answer = celery_trace.build_tracer(name, task, app=app)(TASK_ID, args, kwargs, fields)
    return answer.info.state if answer.info else "SUCCESS", answer.retval


def declare_plain(app: Celery) -> None:
    @modelreins_job("cap")
    @app.task(name="t")
    def task(prompt: str) -> str:
        return prompt.upper()


class Request:
    """A task message as a Celery worker holds it."""

    def __init__(self, run: RunKey, fields: Mapping[str, Any] | None = None) -> None:
        self.id = run.task_id
        self.message = SimpleNamespace(headers={})
        self.time_start: float | None = 1.0  # when Celery began it
        self.request_dict = {"retries": run.retries, **(header("w", run.job_id) if fields is None else fields)}


class Running(Request):
    """A request that a worker's pool has begun to run."""

    def __init__(self, run: RunKey, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(run, fields)
        signals.task_received.send(sender=SENDER, request=self)
        signals.task_prerun.send(sender=SENDER, task_id=run.task_id)
        worker_state.active_requests.add(self)

    def terminate(self, pool: Any) -> None:
        pool.terminate_job(self)
