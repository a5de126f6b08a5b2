"""The fixture ``modelreins_run``: runs one job through a handler, from claim to close.

It uses the real claimer, courier, ledger scripts, runner and client, and a sandbox over HTTP. There are no loops and no
broker: each part runs its step in the test's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pytest

from ..bridge.capacity import FleetCapacity, FleetReader
from ..bridge.claiming.claimer import Claimer
from ..bridge.context import BridgeContext
from ..bridge.courier import Courier
from ..bridge.destinations import Destination
from ..bridge.job_sender import JobSender
from ..bridge.outages import Outages
from ..bridge.publisher import Publisher
from ..bridge.renewal import ClaimRenewer
from ..bridge.routes import Routes, registry_of
from ..celery_worker.function_retries import FunctionRetries
from ..celery_worker.runner import Runner
from ..celery_worker.task_wrapper import install
from ..clients import Clients
from ..completion import connected
from ..errors import MrCeleryError, SettingsError
from ..handlers import Declaration, Handler, Registry
from ..job import Job
from ..ledger import Ledger, Node, RunKey
from ..ledger.reference import reference
from ..sandbox import Sandbox
from ..settings import Settings, load
from ..telemetry.outages import Outage
from .application import application, handler_of, must_take_jobs, name_of
from .celery_in_process import Called, call, current
from .jobs import RanJob
from .memory_redis import memory_redis

logger = logging.getLogger("mr_celery.testing")

NODE = "celery@test"
STEP_SECONDS = 30.0

MAX_DELIVERIES = 5
"""Maximum number of deliveries. After a refused artifact or review, the rest of the outcome is delivered again."""


@dataclass(frozen=True)
class _SentTask:
    handler: Handler
    task_id: str


class _CapturingSender:
    """Collects the tasks that the bridge sends, so that the test's thread can call them."""

    def __init__(self) -> None:
        self.sent: list[_SentTask] = []

    def verify(self, destination: Destination) -> None:
        """Do nothing, since there is no broker that could refuse it."""

    def send(self, handler: Handler, worker: str, job_id: int, task_id: str, **_: Any) -> None:
        self.sent.append(_SentTask(handler, task_id))


class _Process:
    """Objects that the processes of a bridge and a worker create once, and that all their jobs share.

    Args:
        settings: the settings of both.
    """

    def __init__(self, settings: Settings) -> None:
        self.clients = Clients(settings)
        self.outages = Outages(*(Outage(each, "The test fails", logger) for each in ("server", "ledger", "broker")))
        self.runner = Runner(self.clients, NODE, NODE, function_retries=FunctionRetries(0.0, 0))


class JobRun:
    """Runs jobs as if the server had assigned them to this application.

    Args:
        sandbox: the server.
        app: the Celery application; ``None`` for that of the task, or else the current one.
        report: called with a description of each job that is not done, for the report of a failing test.
        folder: the spool's folder, if the application has a spool.
        stack: keeps the ledger until the end of the test, for deferred jobs.

    Example::

        def test_generate(modelreins_run):
            job = modelreins_run(generate, prompt="a cat", model="x")
            assert job.done
            assert job.artifacts[0].content_type == "image/png"
    """

    def __init__(
        self, sandbox: Sandbox, app: Any, report: Callable[[str], object], folder: str, stack: ExitStack
    ) -> None:
        self._sandbox = sandbox
        self._app = app
        self._report = report
        self._folder = folder
        self._stack = stack
        self._ledger_url = ""
        self._connected: list[Any] = []
        self._process: _Process | None = None

    def __repr__(self) -> str:
        return "<modelreins_run>"

    def __call__(self, task: Any = None, /, prompt: str = "", *, worker: str | None = None, **fields: Any) -> RanJob:
        """Run a job.

        Args:
            task: the decorated task that should run the job. The job requests the task's capability and tags, unless
                ``fields`` set others. Without a task, routing chooses one.
            prompt: the job's prompt.
            worker: the worker name that the job is assigned to; by default that of the settings.
            fields: further fields: ``capability``, ``tags``, ``input``, ``model``, …

        Returns:
            The job on the server. The test fails if another task takes the job.
        """
        __tracebackhide__ = True
        try:
            app = application(self._app, task)
            with current(app):
                settings, registry = self._configure(app, self._ledger(), worker, task)
                self._connect_callers(app, settings)
                wanted = None if task is None else handler_of(app, task, registry)
                if wanted is not None:
                    fields = {**_requested_by(wanted.declaration, fields), **fields}
                job = self._run(app, settings, registry, wanted, prompt, fields)
        except MrCeleryError as error:
            raise pytest.fail.Exception(str(error)) from None
        if not job.done:
            status = "deferred" if job.deferred else job.status
            self._report(f"job {job.id} {status}, task {job.task or 'none'}, retries {job.retries}\n{job.result}")
        return job

    def _ledger(self) -> str:
        """The address of the test's ledger."""
        if not self._ledger_url:
            self._ledger_url = self._stack.enter_context(memory_redis())
        return self._ledger_url

    def _connect_callers(self, app: Any, settings: Settings) -> None:
        """Connect ``complete()`` and the like to the test's ledger."""
        if app not in self._connected:
            self._connected.append(app)
            self._stack.enter_context(connected(app, self._process_of(settings).clients))

    def _process_of(self, settings: Settings) -> _Process:
        """The objects that the runs of a test share, like the jobs of a process."""
        if self._process is None or self._process.clients.settings != settings:
            self._process = _Process(settings)
        return self._process

    def _configure(self, app: Any, ledger_url: str, worker: str | None, task: Any) -> tuple[Settings, Registry]:
        """The application's settings with local addresses, and the handlers that they offer."""
        given = load(app.conf)
        settings = replace(
            given,
            url=self._sandbox.url,
            token=self._sandbox.token,
            workers=tuple(replace(each, token_env="", token="") for each in given.workers),
            ledger_url=ledger_url,
            spool_url=self._folder if given.spool_url else "",
        )
        if worker is not None and not settings.workers:
            settings = replace(settings, name=worker)
        offers = [(each, registry_of(app, each)) for each in settings.each() if worker in (None, each.name)]
        if not offers:
            raise SettingsError(f"worker {worker!r} is none of {', '.join(each.name for each in settings.each())}")
        must_take_jobs(app, offers[0][1])
        fitting = (offer for offer in offers if task is not None and offer[1].named(name_of(task)))
        return next(fitting, offers[0])

    def _run(
        self,
        app: Any,
        settings: Settings,
        registry: Registry,
        wanted: Handler | None,
        prompt: str,
        fields: dict[str, Any],
    ) -> RanJob:
        capturing, store = _CapturingSender(), self._sandbox.store
        publisher = cast(Publisher, capturing)
        job_id: int = self._sandbox.dispatch(prompt, worker=settings.name, **fields)["id"]
        process = self._process_of(settings)
        clients, outages = process.clients, process.outages
        ledger, fleet, routes = clients.ledger(), clients.fleet(), Routes(app, registry, settings.max_attempts)
        context = BridgeContext(
            settings=settings,
            registry=registry,
            api=clients.api(),
            ledger=ledger,
            publisher=publisher,
            routes=routes,
            capacity=FleetCapacity(FleetReader(fleet), routes, settings.max_inflight),
            sender=JobSender(
                ledger, registry, routes, publisher, outages.broker, wait_seconds=settings.lease, url=settings.url
            ),
            renewer=ClaimRenewer(ledger, settings.lease),
            outages=outages,
            spool=clients.spool(),
        )
        queues = _queues(context, Job(store.job(job_id)))
        fleet.announce(Node(NODE, 1, queues, tuple(context.routes)), seconds=STEP_SECONDS)
        _claim(context)
        for waiting in context.waiting.now if context.waiting.groups else ():
            if waiting.reason == "match":
                store.abort(job_id)  # the sandbox is shared, and the next test would find the job
                raise MrCeleryError(f"the job stays pending: {waiting.text}")
        called, taken_by = Called(None, 0), None
        for sent in capturing.sent:
            taken_by = sent.handler.name
            if wanted is not None and taken_by != wanted.name:
                offers = sent.handler.declaration.offers
                raise MrCeleryError(f"the job is taken by {taken_by} ({offers}), not by {wanted.name}")
            queue = context.routes[taken_by].queue
            with install(app, process.runner):
                called = call(app, sent.handler.task, settings.name, job_id, sent.task_id, node=NODE, queue=queue)
        _deliver(context, job_id)
        ref, deliver = _reference(ledger, job_id), partial(_deliver, context, job_id)
        return RanJob(store, job_id, taken_by, called.exception, called.retries, ref=ref, deliver=deliver)


def _queues(context: BridgeContext, job: Job) -> tuple[str, ...]:
    """The queues that the job's message may go to: the worker of this test consumes all of them."""
    found = {context.routes.of_adopted(handler, job).queue for handler in context.registry.handlers}
    for handler in context.registry.handlers:
        found.update(queue for each in context.routes.destinations(handler) for queue in each.queues)
    return tuple(sorted(found))


def _claim(context: BridgeContext) -> None:
    claimer = Claimer(context)
    try:
        claimer.run_once()
    finally:
        claimer.close(STEP_SECONDS)


def _reference(ledger: Ledger, job_id: int) -> str:
    """The reference of a job if it is deferred; otherwise empty."""
    record = ledger.read(job_id) if ledger.survey().states["deferred"] else None
    if record is None or record.state != "deferred":
        return ""
    key = ledger.reference(RunKey(job_id, record.task_id, record.retries), shaped=record.shaped)
    return "" if key is None else reference(ledger.worker_name, key)


def _deliver(context: BridgeContext, job_id: int) -> None:
    """Let the courier deliver an outcome that the worker did not deliver."""
    for _ in range(MAX_DELIVERIES):
        if not context.ledger.survey().states["finished"]:
            return
        courier = Courier(context)
        try:
            courier.run_once()
        finally:
            courier.close(STEP_SECONDS)
    raise MrCeleryError(f"the outcome of job {job_id} could not be delivered to the sandbox: see the log")


def _requested_by(declaration: Declaration, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a job that make routing choose the handler."""
    requested: dict[str, Any] = {}
    if declaration.capabilities and "capabilities" not in fields:
        requested["capability"] = declaration.capabilities[0]
    if declaration.tags:
        requested["tags"] = sorted(declaration.tags)
    return requested
