"""Where mr-celery meets Celery: with :mod:`.celery_discretion` the only module that touches Celery's internals.

On a Celery worker that imports a decorated task, this

* puts the :mod:`runner <mr_celery.runner>` around the task's ``run``,
* announces the worker to the bridge, and holds the leases of the jobs it has (:class:`JobKeeper`),
* interrupts the runs that have lost their job: it was aborted, or another worker has it,
* turns failures that never reach the handler's code into outcomes (the signal handlers below).

No hook is the only way in which a job ends: what they miss, the leases and the bridge's reaper find.
"""

from __future__ import annotations

import logging
import secrets
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps, signals
from celery.app.task import Task
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.local import Proxy
from celery.worker import state as worker_state
from celery.worker.control import control_command
from redis.exceptions import RedisError

from .celery_discretion import keep_discreet, mark
from .errors import LedgerUnavailable, RoutingError, SettingsError
from .ledger import Node
from .log import JobLog, tell_lost, tell_not_started, unexpected
from .outcome import Outcome
from .routing import Declaration, Handler, Registry, declared
from .runner import Message, Runner, running_here
from .settings import load
from .spool import spool_of
from .texts import RESEND_BUDGET, lost_texts, never_started
from .version import __version__
from .workplace import Workplace

logger = logging.getLogger("mr_celery.worker")

HEADER = "modelreins"
"""The message header that says which job a task message brings."""


def header(worker: str, job_id: int) -> dict[str, Any]:
    """The message headers of a job's task."""
    return {HEADER: {"worker": worker, "job": job_id}}


def message_options(job_id: int) -> dict[str, Any]:
    """How a job's task is published, at first and at each Celery retry.

    Logs, events and Flower show the job in place of arguments. Nothing waits for the result, and each result that is
    waited for costs a subscription.
    """
    return {"argsrepr": f"(ModelReins job {job_id})", "kwargsrepr": "{}", "ignore_result": True}


def message_of(headers: Mapping[str, Any] | None, task_id: object, retries: object = 0) -> Message | None:
    """The job that a task message brings; ``None`` if it brings none."""
    marks = (headers or {}).get(HEADER)
    try:
        return Message(str(marks["worker"]), int(marks["job"]), str(task_id), int(retries or 0))  # type: ignore
    except (TypeError, KeyError, ValueError):
        return None


def _message_of_context(request: Any) -> Message | None:
    """The job of a task's request context. Both places are read: some add-ons damage one of them."""
    marks = getattr(request, HEADER, None)
    headers = {HEADER: marks} if marks else getattr(request, "headers", None)
    return message_of(headers, request.id, request.retries)


def _job_of(request: Any) -> int | None:
    """The id of the job that a task's request brings."""
    message = _message_of_context(request)
    return None if message is None else message.job_id


def _keep_header(request: Any, message: Message) -> None:
    """See that the message of a Celery retry brings the job, too: it gets the headers that the context has.

    Some add-ons (sentry-sdk before 2.55) put headers of their own in their place.
    """
    if HEADER not in (request.headers or {}):
        request.headers = {**(request.headers or {}), **header(message.worker, message.job_id)}


# -- decorated tasks ---------------------------------------------------------------------------------


def handlers(app: Any) -> list[Handler]:
    """The decorated tasks of an application, resolved. It is finalized by this."""
    found: dict[str, Handler] = {}
    for target, declaration in declared():
        for task in _resolve(app, target):
            found[task.name] = Handler(task, declaration)
    return list(found.values())


def _resolve(app: Any, target: Any) -> Iterable[Any]:
    tasks = app.tasks
    if isinstance(target, type):
        return [task for task in tasks.values() if type(task) is target]
    if issubclass(type(target), Proxy):
        try:
            target = target._get_current_object()
        except Exception as error:
            logger.debug("a decorated task belongs to no application here: %s", type(error).__name__)
            return []
    return [target] if tasks.get(target.name) is target else []


def load_registry(app: Any) -> Registry:
    """The routes of an application, after importing its task modules.

    Raises:
        RoutingError: the declarations contradict each other.
    """
    app.loader.import_default_modules()
    return Registry(handlers(app))


def install(app: Any, runner: Runner) -> list[Handler]:
    """Put ``runner`` around every decorated task of ``app``. Returns their handlers."""
    found = handlers(app)
    for handler in found:
        _wrap(handler.task, handler.declaration, runner)
    return found


_CHANGED = ("run", "__header__", "signature_from_request", "__trace__", "_backend", "Request")
"""What :func:`install`, and a worker that starts, put into a task."""


@contextmanager
def left_as_it_was(app: Any) -> Iterator[None]:
    """At the end of the block, an application is as if it had been on no worker: for runs and workers inside of tests.

    Args:
        app: the Celery application. It is finalized by this.
    """
    global _workplace
    workplace = _workplace
    steps = {name: set(named) for name, named in app.steps.items()}
    tasks = [handler.task for handler in handlers(app)]
    before = [{name: vars(task)[name] for name in _CHANGED if name in vars(task)} for task in tasks]
    try:
        yield
    finally:
        for task, attributes in zip(tasks, before, strict=True):
            for name in _CHANGED:
                vars(task).pop(name, None)
            vars(task).update(attributes)
        for name in app.steps:
            app.steps[name] = steps.get(name, set())
        _workplace = workplace


def _wrap(task: Task[Any, Any], declaration: Declaration, runner: Runner) -> None:
    original = getattr(task.run, "_mr_celery_original", task.run)

    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        message = _message_of_context(task.request)
        if message is None or running_here(message.task_id):
            return original(*args, **kwargs)
        _keep_header(task.request, message)
        try:
            return runner.run(replace(message, task=task.name), original, declaration, args, kwargs)
        except Exception as error:
            mark(error, message.job_id)
            raise

    run._mr_celery_original = original  # type: ignore[attr-defined]
    task.run = run  # type: ignore[method-assign]

    check = getattr(task, "__header__", None)
    if check is not None and not hasattr(check, "_mr_celery"):

        def lenient(*args: Any, **kwargs: Any) -> Any:
            # A Celery retry of a job's message has no arguments to check: they come from the ledger.
            if running_here(str(task.request.id)):
                return None
            return check(*args, **kwargs)

        lenient._mr_celery = True  # type: ignore[attr-defined]
        task.__header__ = lenient  # type: ignore[attr-defined]

    _keep_options_in_retries(task)
    keep_discreet(task, _job_of)


def _keep_options_in_retries(task: Task[Any, Any]) -> None:
    """Celery forgets at a retry what is shown for the arguments, and up to 5.6 that the result is ignored.

    A handler may give its own retry some of the job's content as arguments.
    """
    build = task.signature_from_request
    if hasattr(build, "_mr_celery"):
        return

    @wraps(build)
    def signature_from_request(request: Any = None, *args: Any, **options: Any) -> Any:
        signature = build(request, *args, **options)
        message = _message_of_context(request or task.request)
        return signature if message is None else signature.set(**message_options(message.job_id))

    signature_from_request._mr_celery = True  # type: ignore[attr-defined]
    task.signature_from_request = signature_from_request  # type: ignore[method-assign]


# -- workers -----------------------------------------------------------------------------------------


class _Received:
    """The job messages that this worker process has, from receipt until Celery lets go of them."""

    def __init__(self) -> None:
        # By identity: a redelivered copy and a Celery retry come under the same task id.
        self._requests: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def add(self, request: Any) -> None:
        if message_of(request.request_dict, request.id) is not None:
            self._requests[id(request)] = request

    def _all(self) -> list[Any]:
        # Through a list of references, taken in one step: other threads add requests meanwhile.
        requests = [reference() for reference in self._requests.valuerefs()]
        return [request for request in requests if request is not None]

    def failed(self, task_id: str) -> Message | None:
        """The message whose execution has failed just now; ``None`` where it brings no job."""
        active = _active(task_id)
        # Celery has begun it, and does not count it as active any more.
        over = [each for each in self._all() if each.id == task_id and each.time_start and each not in active]
        if not over:
            return None
        last = max(over, key=lambda request: request.time_start)
        return message_of(last.request_dict, task_id, last.request_dict.get("retries"))

    def by_worker(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for request in self._all():
            if message := message_of(request.request_dict, request.id):
                found[message.worker].append((message.job_id, message.task_id))
        return found


def _active(task_id: str) -> list[Any]:
    """The requests of a task that run here; more than one where the broker has brought its message again."""
    active: Any = worker_state.active_requests
    requests = [reference() for reference in list(active.data)]  # in one step: other threads change it meanwhile
    return [request for request in requests if request is not None and request.id == task_id]


received = _Received()
_workplace: Workplace | None = None
_HOLDER = secrets.token_hex(8)
"""What tells this worker from others, also from an earlier one of the same node name; its pool processes inherit it."""


STOPS = {"aborted": "aborted", "superseded": "given to another worker", "ended": "ended by an operator or a limit"}
"""The states of a job whose run is stopped, in words. What a ledger that lost its data does not know runs on."""


class JobKeeper(bootsteps.StartStopStep):
    """A worker's step that announces it to the bridge and holds its jobs' leases, from its start to its end.

    A run that turns out to have lost its job is interrupted, where the pool can do that.

    Under prefork it ticks on the worker's own timer, since a thread beside forks is unsafe; but only while the
    consumer is connected (:class:`KeeperSwitch`). While it is not, the timer stands still, as it does in a shutdown
    before the pool has drained; then, and under all other pools, it ticks on a thread of its own.
    """

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")
    label = "ModelReins jobs"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        parent.modelreins_keeper = self
        self._parent = parent
        self._entry: Any = None
        self._thread_ends: threading.Event | None = None
        self._draining = False
        self._interval = 10.0
        self._tasks: tuple[str, ...] = ()
        self._stopped: weakref.WeakSet[Any] = weakref.WeakSet()

    def start(self, parent: Any) -> None:
        """Announce the worker, and go on doing so."""
        self._tasks = tuple(handler.name for handler in handlers(parent.app))
        self._interval = _need(_workplace).settings.lease / 3
        self.tick_on_thread()

    def stop(self, parent: Any) -> None:
        """Announce that no more tasks are taken; those that still run are held until the process ends."""
        if self._draining:
            return
        self._draining = True
        _quietly("withdraw this worker", lambda: _need(_workplace).fleet().withdraw(parent.hostname))
        self.tick_on_thread()

    terminate = stop

    def end(self) -> None:
        """Tick no more. A worker's process ends anyway; one that outlives its worker calls this."""
        self._cancel_entry()
        self._end_thread()

    def tick_on_timer(self) -> None:
        """Tick on the worker's timer, where that is the better way."""
        if self._draining or not issubclass(self._parent.pool_cls, PreforkPool):
            return
        self._end_thread()
        # Up to Celery 5.6 the timer forgets its entries whenever the consumer connects anew.
        self._cancel_entry()
        self._entry = self._parent.timer.call_repeatedly(self._interval, self.tick)

    def tick_on_thread(self) -> None:
        """Tick on a thread."""
        self._cancel_entry()
        if self._thread_ends is None:
            self._thread_ends = threading.Event()
            threading.Thread(
                target=self._tick_until, args=(self._thread_ends,), name="modelreins-job-keeper", daemon=True
            ).start()

    def _cancel_entry(self) -> None:
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def _end_thread(self) -> None:
        if self._thread_ends is not None:
            self._thread_ends.set()
            self._thread_ends = None

    def _tick_until(self, ends: threading.Event) -> None:
        while not ends.is_set():
            self.tick()
            ends.wait(self._interval)

    def tick(self) -> None:
        """Hold the leases of what this worker has, and announce the worker while it takes tasks."""
        if not self._draining:
            _quietly("announce this worker", self._announce)
        _quietly("hold leases", self._hold_all)

    def _announce(self) -> None:
        node = Node(
            hostname=self._parent.hostname,
            concurrency=_concurrency(self._parent),
            queues=tuple(self._parent.app.amqp.queues.consume_from),
            tasks=self._tasks,
            version=__version__,
        )
        workplace = _need(_workplace)
        workplace.fleet().announce(node, seconds=workplace.settings.lease)

    def _hold_all(self) -> None:
        for worker, runs in received.by_worker().items():
            _quietly("hold leases", partial(self._hold, worker, runs))

    def look_at(self, task_ids: Collection[str]) -> None:
        """Hold the leases of these tasks, as far as this worker has them; those that lost their job are stopped."""
        for worker, runs in received.by_worker().items():
            named = [run for run in runs if run[1] in task_ids]
            if named:
                _quietly("hold leases", partial(self._hold, worker, named))

    def _hold(self, worker: str, runs: list[tuple[int, str]]) -> None:
        workplace = _need(_workplace)
        lease = workplace.settings.lease
        while runs:
            # One attempt of each job at a time: a worker may have two of them, and the answer tells jobs apart only.
            tasks = dict(runs)
            lost = workplace.ledger(worker).hold(tasks.items(), holder=_HOLDER, lease=lease, wait_seconds=lease)
            for job_id, state in lost.items():
                log = JobLog(logger, job_id, worker_name=worker, task_id=tasks[job_id])
                log.debug("not_held", f"is {state}", state=state)
                if state in STOPS:
                    _quietly("interrupt a run", partial(self._interrupt, log, STOPS[state]))
            runs = [(job_id, task_id) for job_id, task_id in runs if tasks[job_id] != task_id]

    def _interrupt(self, log: JobLog, why: str) -> None:
        """Stop what runs of a task, once. What only waits here is left alone: it is refused when it starts."""
        for request in _active(log.task_id):
            if request in self._stopped:
                continue
            self._stopped.add(request)
            try:
                request.terminate(self._parent.pool)
            except NotImplementedError:
                pool = self._parent.pool_cls.__module__
                log.info(
                    "not_interrupted",
                    f"was {why}, but the pool ({pool}) cannot interrupt it: a handler has to ask job.aborted",
                    reason=why,
                )
            else:
                log.warning("interrupted", f"interrupted: it was {why}", reason=why)


class KeeperSwitch(bootsteps.StartStopStep):
    """A consumer's step: it comes and goes with the connection to the broker, and the keeper's timer with it.

    It also keeps the worker alive where a Redis broker has a bad time, so that the worker looks for it again:
    what Redis refuses while it is a replica or has no memory left counts as a lost connection (as for Celery's own
    setting ``broker_channel_error_retry``; not for other brokers, whose refusals tell of wrong declarations); and so
    does whatever the end of the old connection raises: with messages unacknowledged, kombu's Redis transport raises an
    AttributeError there (kombu issue 582).
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    label = "ModelReins jobs' timer"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        clean_up = consumer.on_connection_error_after_connected

        def clean_up_and_go_on(error: Exception) -> None:
            try:
                clean_up(error)
            except Exception as failure:
                logger.warning("the lost connection to the broker was not closed cleanly: %s", type(failure).__name__)

        consumer.on_connection_error_after_connected = clean_up_and_go_on
        consumer.connection_errors += (RedisError,)

    def start(self, consumer: Any) -> None:
        """The consumer is connected."""
        consumer.controller.modelreins_keeper.tick_on_timer()

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker shuts down."""
        consumer.controller.modelreins_keeper.tick_on_thread()

    shutdown = stop


def _concurrency(worker: Any) -> int:
    """How many tasks the worker runs at once, at most."""
    limits = (worker.max_concurrency, getattr(worker.pool, "limit", None), worker.concurrency)
    return max(int(limit) for limit in limits if limit)


def _need(workplace: Workplace | None) -> Workplace:
    assert workplace is not None  # noqa: S101 - the step starts after worker_init
    return workplace


def _quietly(what: str, step: Callable[[], Any]) -> None:
    """Do a step of which no failure may reach Celery's event loop."""
    try:
        step()
    except LedgerUnavailable as error:
        logger.warning("cannot %s: %s", what, error)
    except Exception as error:
        unexpected(logger, f"cannot {what}", error)


def set_up_worker(worker: Any) -> None:
    """Make a Celery worker that is coming up one that takes jobs.

    Raises:
        SystemExit: a setting has a value that is not allowed, or needs a package that is not installed, or two
            decorated tasks contradict each other.
    """
    global _workplace
    try:
        settings = load(worker.app.conf)
        spool_of(settings, settings.name)  # before the first handler has worked in vain
        Registry(handlers(worker.app))
    except (SettingsError, RoutingError) as error:
        raise SystemExit(f"mr-celery: {error}") from None
    if settings.log_format == "json":
        worker.quiet = True  # its banner is no JSON
    if not settings.ledger_url:
        logger.warning(
            "This worker takes no ModelReins jobs: modelreins_ledger_url is not set, and neither the broker nor the "
            "result backend is a Redis. Set MODELREINS_LEDGER_URL to the Redis that the bridge uses."
        )
        return
    _workplace = Workplace(settings, ledger_timeout=2.0)
    # The runner has connections of its own: it can wait longer than the worker's event loop.
    install(worker.app, Runner(Workplace(settings), worker.hostname, _HOLDER))
    worker.app.steps["worker"].add(JobKeeper)
    worker.app.steps["consumer"].add(KeeperSwitch)


# -- aborts ------------------------------------------------------------------------------------------

ABORT = "modelreins_abort"
"""The remote control command that makes workers look at once whether runs have lost their jobs."""


def announce_abort(app: Any, task_ids: Sequence[str], *, nodes: Sequence[str] = (), connection: Any = None) -> None:
    """Tell workers that these tasks' jobs are over: who runs one of them asks the ledger, and stops it.

    Celery's own ``revoke(terminate=True)`` is not for this: under pools that cannot terminate it raises in the worker.

    Args:
        app: the Celery application.
        task_ids: the tasks.
        nodes: the workers, by their node names; none: all of them. A worker without decorated tasks does not know
            the command, and logs an error.
        connection: to the broker; default: one of the application's.

    Raises:
        Exception: the broker did not take it. Workers then find out when they renew the leases.
    """
    arguments = {"task_ids": list(task_ids)}
    app.control.broadcast(ABORT, arguments=arguments, destination=list(nodes) or None, connection=connection)


@control_command(name=ABORT, visible=False)
def _on_abort(state: Any, task_ids: Sequence[str] = (), **_: Any) -> dict[str, str]:
    keeper = getattr(state.consumer.controller, "modelreins_keeper", None)  # none where the worker takes no jobs
    if keeper is not None:
        keeper.look_at(frozenset(task_ids))
    return {"ok": "looked"}


# -- failures that never reach the handler's code ----------------------------------------------------


@signals.task_received.connect(weak=False)
def _on_task_received(request: Any = None, **_: Any) -> None:
    received.add(request)
    # Its acknowledgement may come when the connection that brought it is gone, and another one is there. kombu's Redis
    # transport raises an AttributeError then, which ends the worker unless it counts as a lost connection.
    request._connection_errors = (*getattr(request, "connection_errors", ()), AttributeError)


@signals.task_failure.connect(weak=False)
def _on_task_failure(task_id: str = "", exception: BaseException | None = None, **_: Any) -> None:
    message = received.failed(task_id)
    if message is None:
        return
    if isinstance(exception, TimeLimitExceeded):
        why = f"the task's hard time limit ended the run: {exception}"
        _quietly("record a time limit", lambda: _fail(message, why))
    elif isinstance(exception, WorkerLostError):
        _quietly("record a lost run", lambda: _lose(message, f"its worker process died: {exception}"))


@signals.task_revoked.connect(weak=False)
def _on_task_revoked(request: Any = None, terminated: bool = False, expired: bool = False, **_: Any) -> None:
    message = _message_of_context(request)
    if message is None:
        return
    if expired:
        why = "the task expired before a worker started it (its option expires=)"
    elif terminated:
        why = "the task was revoked and terminated while it ran (celery control terminate)"
    else:
        why = "the task was revoked before it ran (celery control revoke)"
    _quietly("record a revoked task", lambda: _fail(message, why, unstarted=not terminated))


@signals.task_unknown.connect(weak=False)
def _on_task_unknown(sender: Any = None, message: Any = None, name: str = "", id: str = "", **_: Any) -> None:
    job = message_of(message.headers, id)
    if job is not None:
        why = f"the task {name} is not registered on the worker {sender.hostname} that took its message"
        _quietly("record an unknown task", lambda: _not_started(job, why))


@signals.task_rejected.connect(weak=False)
def _on_task_rejected(sender: Any = None, message: Any = None, exc: BaseException | None = None, **_: Any) -> None:
    headers = message.headers or {}
    job = message_of(headers, headers.get("id"))
    if job is not None:
        why = f"the worker {sender.hostname} could not read the task's message: {type(exc).__name__}: {exc}"
        _quietly("record an unreadable task", lambda: _not_started(job, why))


def _log_of(message: Message) -> JobLog:
    return JobLog(logger, message.job_id, worker_name=message.worker, task_id=message.task_id, task=message.task)


def _fail(message: Message, why: str, *, unstarted: bool = False) -> None:
    if _workplace is None:
        return
    failed = _workplace.ledger(message.worker).fail(
        message.job_id,
        message.task_id,
        Outcome.failed(why),
        unstarted=unstarted,
        retries=message.retries,
        holder=_HOLDER,
    )
    if failed:
        _log_of(message).warning("failed", f"failed: {why}", reason=why)


def _lose(message: Message, why: str) -> None:
    if _workplace is None:
        return
    must_not, too_often = lost_texts(why)
    loss = _workplace.ledger(message.worker).lose(
        message.job_id,
        message.task_id,
        retries=message.retries,
        holder=_HOLDER,
        why=why,
        must_not=Outcome.failed(must_not),
        too_often=Outcome.failed(too_often),
    )
    tell_lost(_log_of(message), loss, why)


def _not_started(message: Message, why: str) -> None:
    if _workplace is None:
        return
    loss = _workplace.ledger(message.worker).resend(
        message.job_id,
        message.task_id,
        why=why,
        budget=RESEND_BUDGET,
        wait_seconds=2.0,
        exhausted=Outcome.failed(never_started(why)),
    )
    tell_not_started(_log_of(message), loss, why)
