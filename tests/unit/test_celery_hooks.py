"""The runner around tasks of every kind, and around no call but that of a job's message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from celery import Celery, Task

from mr_celery.celery_hooks import header
from mr_celery.current import Run, running
from mr_celery.job import Job
from mr_celery.routing import Declaration, decorator
from mr_celery.runner import Message


class FakeRunner:
    """Notes what it is to run, and calls the handler as the runner does."""

    def __init__(self) -> None:
        self.calls: list[tuple[Message, Declaration, tuple[Any, ...], dict[str, Any]]] = []

    def run(
        self,
        message: Message,
        handler: Callable[..., Any],
        declaration: Declaration,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str:
        self.calls.append((message, declaration, args, dict(kwargs)))
        run = Run(message.task_id, Job({"id": message.job_id}), 1, lambda: None)  # type: ignore[arg-type,return-value]
        with running(run):
            return f"ran: {handler(*args, **{'prompt': 'from the job', **kwargs})}"

    @property
    def messages(self) -> list[Message]:
        return [call[0] for call in self.calls]


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test declares is declared."""
    monkeypatch.setattr(decorator, "_declared", [])


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("hooked", broker="memory://", set_as_current=False)
    made.conf.update(result_backend="cache+memory://")
    yield made
    made.close()


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


def traced(task: Task[Any, Any], *args: Any, request: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """What a worker does with a message that brings job 7."""
    fields = {"id": "mr-7-1-x", "retries": 0, "is_eager": True, **header("w", 7), **(request or {})}
    task.push_request(args=list(args), kwargs=kwargs, **fields)
    try:
        return task.run(*args, **kwargs) if task.__self__ is None else task.__call__(*args, **kwargs)
    finally:
        task.pop_request()
