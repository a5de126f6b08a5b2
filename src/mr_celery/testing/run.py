"""``modelreins_run``: one job through a handler, the whole way, at once.

The parts are the real ones (the bridge's claimer and courier, the ledger's scripts, the runner, the client, a sandbox
over HTTP); but there are no loops and no broker: each does its step, one after the other, in the test's own thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from ..bridge.claimer import Claimer
from ..bridge.courier import Courier
from ..bridge.office import Office
from ..bridge.sender import Sender, registry_of
from ..celery_hooks import install, left_as_it_was
from ..client import Api
from ..errors import MrCeleryError, SettingsError
from ..ledger import Fleet, Ledger, Node
from ..routing import Declaration, Handler, Registry
from ..runner import Runner
from ..sandbox import Sandbox
from ..settings import Settings, load
from ..spool import spool_of
from ..workplace import Workplace
from .application import application, handler_of, must_take_jobs, name_of
from .celery_inside import Called, call, current
from .inside import redis_inside
from .jobs import RanJob

NODE = "celery@test"
STEP_SECONDS = 30.0

MOST_DELIVERIES = 5
"""How often the courier is asked: each time something of a result is refused, the rest of it is delivered anew."""


@dataclass(frozen=True)
class _Sending:
    handler: Handler
    task_id: str


class _Hand:
    """What the bridge sends is kept, to be called in the test's thread."""

    def __init__(self) -> None:
        self.sent: list[_Sending] = []

    def send(self, handler: Handler, worker: str, job_id: int, task_id: str, **_: Any) -> None:
        self.sent.append(_Sending(handler, task_id))


class JobRun:
    """Runs jobs, each as if the server had given it to this application.

    Args:
        sandbox: the server.
        app: the Celery application; ``None``: that of the task, or else the current one.
        tell: called with a text about each job that has not ended as done: what a failing test shows.
        folder: where large artifacts wait, if the application has a spool.

    Example::

        def test_generate(modelreins_run):
            job = modelreins_run(generate, prompt="a cat", model="x")
            assert job.done
            assert job.artifacts[0].content_type == "image/png"
    """

    def __init__(self, sandbox: Sandbox, app: Any, tell: Callable[[str], object], folder: str) -> None:
        self._sandbox = sandbox
        self._app = app
        self._tell = tell
        self._folder = folder

    def __repr__(self) -> str:
        return "<modelreins_run>"

    def __call__(self, task: Any = None, /, prompt: str = "", *, worker: str | None = None, **fields: Any) -> RanJob:
        """Run a job.

        Args:
            task: the decorated task that is to take it: the job then asks for what the task declares, as far as
                ``fields`` say nothing else. Without one, it is taken by whichever task takes it.
            prompt: the job's prompt.
            worker: the worker name that it is assigned to; default: that of the settings.
            fields: its further fields: ``capability``, ``tags``, ``input``, ``model``, …

        Returns:
            The job, as the server has it now. The test fails at once where the job went to another task.
        """
        __tracebackhide__ = True
        try:
            app = application(self._app, task)
            with current(app), left_as_it_was(app), redis_inside() as ledger_url:
                settings, registry = self._at_work(app, ledger_url, worker, task)
                wanted = None if task is None else handler_of(app, task, registry)
                if wanted is not None:
                    fields = {**_asked_by(wanted.declaration, fields), **fields}
                job = self._run(app, settings, registry, wanted, prompt, fields)
        except MrCeleryError as error:
            raise pytest.fail.Exception(str(error)) from None
        if not job.done:
            self._tell(f"job {job.id} {job.status}, task {job.task or 'none'}, retries {job.retries}\n{job.result}")
        return job

    def _at_work(self, app: Any, ledger_url: str, worker: str | None, task: Any) -> tuple[Settings, Registry]:
        """The application's own settings, but nothing of them leaves this machine; and what it offers with them."""
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
        hand, store = _Hand(), self._sandbox.store
        job_id: int = self._sandbox.dispatch(prompt, worker=settings.name, **fields)["id"]
        office = Office(
            settings=settings,
            registry=registry,
            api=Api(settings.url, settings.token, settings.name, timeout=settings.timeout),
            ledger=Ledger(settings.ledger_url, settings.name, history=settings.history),
            fleet=Fleet(settings.ledger_url),
            sender=cast(Sender, hand),
            app=app,
            spool=spool_of(settings, settings.name),
        )
        queues = tuple(sorted({route.queue for route in office.routes.values()}))
        office.fleet.announce(Node(NODE, 1, queues, tuple(office.routes)), seconds=STEP_SECONDS)
        _claim(office)
        called, taken_by = Called(None, 0), None
        for sending in hand.sent:
            taken_by = sending.handler.name
            if wanted is not None and taken_by != wanted.name:
                offers = sending.handler.declaration.offers
                raise MrCeleryError(f"the job is taken by {taken_by} ({offers}), not by {wanted.name}")
            install(app, Runner(Workplace(settings), NODE, NODE))
            queue = office.routes[taken_by].queue
            task = sending.handler.task
            called = call(app, task, settings.name, job_id, sending.task_id, node=NODE, queue=queue)
        _deliver(office, job_id)
        return RanJob(store, job_id, taken_by, called.exception, called.retries)


def _claim(office: Office) -> None:
    claimer = Claimer(office)
    try:
        claimer.run_once()
    finally:
        claimer.close(STEP_SECONDS)


def _deliver(office: Office, job_id: int) -> None:
    """What the worker has not delivered, the courier does."""
    for _ in range(MOST_DELIVERIES):
        record = office.ledger.read(job_id)
        if record is None or record.state != "finished":
            return
        courier = Courier(office)
        try:
            courier.run_once()
        finally:
            courier.close(STEP_SECONDS)
    raise MrCeleryError(f"the result of job {job_id} could not be delivered to the sandbox: the log says why")


def _asked_by(declaration: Declaration, fields: dict[str, Any]) -> dict[str, Any]:
    """What a job has to ask for, so that the handler takes it."""
    asked: dict[str, Any] = {}
    if declaration.capability is not None and "capabilities" not in fields:
        asked["capability"] = declaration.capability
    if declaration.tags:
        asked["tags"] = sorted(declaration.tags)
    return asked
