"""Runs Celery in the test's process: sets the current application, calls tasks like a worker, and runs a worker.

Of the fixtures' modules, only this one uses Celery's internals.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from celery import states
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from celery.worker import WorkController

from ..celery_compat import current_app_kept, exec_options, restore_attribute
from ..errors import MrCeleryError
from ..message import header, message_options

START_SECONDS = 10.0
STOP_SECONDS = 10.0

MAX_CALLS = 100
"""Number of calls of a task, including retries, after which a test gives up."""


@contextmanager
def current(app: Any) -> Iterator[None]:
    """Make ``app`` the current application in all threads inside the block, as it is in a worker."""
    with current_app_kept():
        app.set_current()
        app.set_default()
        yield


# -- calling a task ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Called:
    """The result of calling a task.

    Args:
        exception: the exception that it raised last, or ``None``.
        retries: the number of retries.
    """

    exception: BaseException | None
    retries: int


def call(app: Any, task: Any, worker: str, job_id: int, task_id: str, *, node: str, queue: str) -> Called:
    """Call a task with the message of a job, and repeat it immediately if it retries.

    Args:
        app: the Celery application.
        task: the task, wrapped with the runner.
        worker: the worker name that the job is assigned to.
        job_id: the job's id.
        task_id: the task id of the message.
        node: the node name of the worker.
        queue: the queue of the message.

    Raises:
        MrCeleryError: the task retried too often.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    retries = 0
    options = exec_options(task)
    for _ in range(MAX_CALLS):
        request = {
            **message_options(job_id, task.name),
            **header(worker, job_id),
            "headers": header(worker, job_id),
            "id": task_id,
            "root_id": task_id,
            "correlation_id": task_id,
            "task": task.name,
            "hostname": node,
            "is_eager": False,
            "retries": retries,
            "timelimit": [options.get("time_limit"), options.get("soft_time_limit")],
            "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": False},
        }
        with _capture_retries(task) as retried:
            # eager: do not use the result backend.
            tracer: Any = build_tracer(task.name, task, app=app, hostname=node, eager=True)
            info = tracer(task_id, args, kwargs, request)[1]
        state, value = (info.state, info.retval) if info is not None else (states.SUCCESS, None)
        if state == states.RETRY and retried:
            args, kwargs, retries = tuple(retried[-1].args), dict(retried[-1].kwargs), retried[-1].options["retries"]
        elif not (isinstance(value, Reject) and value.requeue):  # type: ignore[attr-defined]
            return Called(value if state == states.FAILURE else None, retries)
    raise MrCeleryError(
        f"{task.name} was called {MAX_CALLS} times and retried each time: set max_retries, or find out why it never "
        "succeeds"
    )


@contextmanager
def _capture_retries(task: Any) -> Iterator[list[Any]]:
    """Collect the messages of a task's retries instead of publishing them."""
    captured: list[Any] = []
    build, own = task.signature_from_request, vars(task).get("signature_from_request")

    @wraps(build)
    def signature_from_request(*args: Any, **options: Any) -> Any:
        signature = build(*args, **options)
        signature.apply_async = lambda *_, **__: captured.append(signature)
        return signature

    task.signature_from_request = signature_from_request
    try:
        yield captured
    finally:
        del task.signature_from_request
        if own is not None:
            task.signature_from_request = own


# -- a worker ----------------------------------------------------------------------------------------


class _Worker(WorkController):
    def __init__(self, **options: Any) -> None:
        self.ready = threading.Event()
        super().__init__(**options)

    def on_consumer_ready(self, consumer: Any) -> None:
        self.ready.set()


@contextmanager
def worker(app: Any, *, hostname: str, queues: list[str], concurrency: int) -> Iterator[None]:
    """Run a Celery worker in threads of this process inside the block.

    Unlike ``celery.contrib.testing``, it does not change logging and does not stop other workers of the process.

    Raises:
        MrCeleryError: the worker does not start, or its tasks do not end.
    """
    controller = _Worker(
        app=app,
        hostname=hostname,
        queues=queues,
        concurrency=concurrency,
        pool="threads",
        loglevel="WARNING",
        without_heartbeat=True,
        without_mingle=True,
        without_gossip=True,
    )
    undo = ExitStack()
    for task in app.tasks.values():
        restore_attribute(task, "__trace__", undo)  # the worker replaces it with one that calls the wrapped task
    thread = threading.Thread(target=controller.start, name="modelreins-test-worker", daemon=True)
    thread.start()
    try:
        if not controller.ready.wait(START_SECONDS):
            raise MrCeleryError("the worker of this test did not start: see the log for the reason")
        yield
    finally:
        app.control.shutdown(destination=[hostname])
        thread.join(STOP_SECONDS)
        renewer = getattr(controller, "modelreins_lease_renewer", None)
        if renewer is not None:
            renewer.end()
        undo.close()
        if thread.is_alive():
            raise MrCeleryError(
                f"the worker of this test did not stop within {STOP_SECONDS:g} s: a task is still running"
            )
