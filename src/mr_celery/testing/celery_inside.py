"""Celery in a test's own process: an application as the current one, a task called as a worker calls it, a worker.

As ``celery_hooks`` for the package, this is the only module of the fixtures that touches Celery's internals.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from celery import _state, states
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from celery.worker import WorkController

from ..bridge.sender import exec_options
from ..celery_hooks import header, message_options
from ..errors import MrCeleryError

START_SECONDS = 10.0
STOP_SECONDS = 10.0

MOST_CALLS = 100
"""How often a task may ask to be run again, before a test that runs it gives up."""


@contextmanager
def current(app: Any) -> Iterator[None]:
    """Make ``app`` the current application in all threads, as it is in its workers, while the block lasts."""
    state: Any = _state
    before, default = state._tls.current_app, state.default_app
    app.set_current()
    app.set_default()
    try:
        yield
    finally:
        state._tls.current_app = before
        state.set_default_app(default)


@contextmanager
def configured(app: Any, changes: Mapping[str, Any]) -> Iterator[None]:
    """Lay ``changes`` over an application's configuration while the block lasts, with a broker of its own."""
    app.conf.get("broker_url")  # until a value is asked for, the configuration is not there yet
    # Under every name that it may be looked for: in Django's namespace, CELERY_BROKER_URL goes before broker_url.
    layer = {key: value for name, value in changes.items() for key in app.conf._to_keys(name)}
    maps = app.conf.maps
    maps.insert(0, layer)
    kept = {name: vars(app).pop(name) for name in ("amqp", "_pool") if name in vars(app)}
    try:
        yield
    finally:
        maps[:] = [each for each in maps if each is not layer]
        for name in ("amqp", "_pool"):
            vars(app).pop(name, None)
        vars(app).update(kept)


# -- a task, called as a worker calls it -------------------------------------------------------------


@dataclass(frozen=True)
class Called:
    """How a task ended.

    Args:
        exception: what it raised; ``None``: nothing.
        retries: how often it has asked for a retry.
    """

    exception: BaseException | None
    retries: int


def call(app: Any, task: Any, worker: str, job_id: int, task_id: str, *, node: str, queue: str) -> Called:
    """Call a task with the message of a job, and again at once whenever it asks for that.

    Args:
        app: the Celery application.
        task: the task, with the runner around it.
        worker: the worker name that the job is assigned to.
        job_id: the job.
        task_id: the task id of the message.
        node: the node name of the worker.
        queue: the queue of the message.

    Raises:
        MrCeleryError: it asks again and again.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    retries = 0
    options = exec_options(task)
    for _ in range(MOST_CALLS):
        request = {
            **message_options(job_id),
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
        with _retries_kept(task) as asked:
            # eager: nothing goes to the result backend.
            tracer: Any = build_tracer(task.name, task, app=app, hostname=node, eager=True)
            info = tracer(task_id, args, kwargs, request)[1]
        state, value = (info.state, info.retval) if info is not None else (states.SUCCESS, None)
        if state == states.RETRY and asked:
            args, kwargs, retries = tuple(asked[-1].args), dict(asked[-1].kwargs), asked[-1].options["retries"]
        elif not (isinstance(value, Reject) and value.requeue):  # type: ignore[attr-defined]
            return Called(value if state == states.FAILURE else None, retries)
    raise MrCeleryError(
        f"{task.name} asked {MOST_CALLS} times to be run again: give it max_retries, or look at why it never succeeds"
    )


@contextmanager
def _retries_kept(task: Any) -> Iterator[list[Any]]:
    """Keep the messages of a task's retries instead of publishing them."""
    kept: list[Any] = []
    build, own = task.signature_from_request, vars(task).get("signature_from_request")

    @wraps(build)
    def signature_from_request(*args: Any, **options: Any) -> Any:
        signature = build(*args, **options)
        signature.apply_async = lambda *_, **__: kept.append(signature)
        return signature

    task.signature_from_request = signature_from_request
    try:
        yield kept
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
    """A Celery worker in threads of this process, while the block lasts.

    Unlike ``celery.contrib.testing`` it leaves the process' logging alone, and stops no other worker with it.

    Raises:
        MrCeleryError: it does not come up, or its tasks do not end.
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
    thread = threading.Thread(target=controller.start, name="modelreins-test-worker", daemon=True)
    thread.start()
    try:
        if not controller.ready.wait(START_SECONDS):
            raise MrCeleryError("the worker of this test has not come up: the log says why")
        yield
    finally:
        app.control.shutdown(destination=[hostname])
        thread.join(STOP_SECONDS)
        keeper = getattr(controller, "modelreins_keeper", None)
        if keeper is not None:
            keeper.end()
        if thread.is_alive():
            raise MrCeleryError(f"the worker of this test has not ended within {STOP_SECONDS:g} s: a task still runs")
