"""The routes of an application's handlers, as its Celery routers choose them for each message."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery.app.routes import MapRoute, Router
from celery.exceptions import QueueNotFound
from kombu import Exchange
from kombu.common import Broadcast

from ..celery_compat import exec_options
from ..databases import close_old_connections
from ..errors import RoutingError
from ..handlers import Handler, Registry, load_registry
from ..handlers.arguments import by_name
from ..job import Job
from ..ledger import Kind, Nodes, Route
from ..settings import Settings
from .destinations import AMQP, Destination, missing_queues, name_of, reached
from .limits import MOST_REMEMBERED, ROUTE_SECONDS, ROUTING_SECONDS

logger = logging.getLogger("mr_celery.bridge")


@dataclass(frozen=True)
class _Kept:
    destination: Destination
    at: float


class Routes(Mapping[str, Route]):
    """The routes of an application's handlers: a mapping from each task name to its route.

    Routers that are tables are called once. Any other router is called for each message, since its result may change;
    the mapping then has the route of its last result.

    Args:
        app: the Celery application.
        registry: the handlers.
        max_attempts: the setting.
        driver: the broker's driver type; by default that of the application's transport.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: Any,
        registry: Registry,
        max_attempts: int,
        *,
        driver: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._registry = registry
        self._max_attempts = max_attempts
        self._driver = _driver_of(app) if driver is None else driver
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes = Nodes()
        self._runs: frozenset[tuple[str, str]] = frozenset()
        self._announced: frozenset[str] = frozenset()
        self._router: Any = None
        self._is_fixed = False
        self._made: dict[tuple[str, tuple[str, ...]], Route] = {}
        self._fixed: dict[str, Destination] = {}
        self._usable: dict[str, tuple[Route, Destination]] = {}
        self._last: dict[str, Destination] = {}
        self._kept: dict[int, _Kept] = {}
        self._routing_seconds = 0.0
        self._problems: dict[str, dict[str, float]] = {}

    # -- the mapping -------------------------------------------------------------------------------------

    def __getitem__(self, task_name: str) -> Route:
        handler = self._registry.named(task_name)
        if handler is None:
            raise KeyError(task_name)
        destination = self._destination(handler) if self.fixed else self._last.get(task_name, Destination())
        return self._route(handler, destination)

    def __iter__(self) -> Iterator[str]:
        return (handler.name for handler in self._registry.handlers)

    def __len__(self) -> int:
        return len(self._registry.handlers)

    @property
    def fixed(self) -> bool:
        """Whether all routers are tables, so that their results do not change."""
        router: Any = self._app.amqp.router
        if router is not self._router:
            kind = type(router)
            self._is_fixed = kind is Router and all(type(each) is MapRoute for each in router.routes)
            self._fixed, self._usable = {}, {}
            self._router = router
        return self._is_fixed

    # -- the fleet ---------------------------------------------------------------------------------------

    def known(self, nodes: Nodes) -> list[Route]:
        """The routes that jobs can take now.

        If a router decides for each message, that is any queue of a worker that has the task.

        Args:
            nodes: the online workers.
        """
        if nodes is not self._nodes:
            self._nodes = nodes
            self._read_offers(nodes.kinds)
        if not self.fixed:
            return [
                self._route(handler, Destination(queues=(queue,)))
                for handler in self._registry.handlers
                for queue in sorted(queue for task, queue in self._runs if task == handler.name)
            ]
        found = [(handler, self._destination(handler)) for handler in self._registry.handlers]
        for handler, destination in found:
            if destination.problem or self._problems:
                self._report(handler, destination.problem)
        return [self._route(handler, destination) for handler, destination in found if not destination.problem]

    def _read_offers(self, kinds: Sequence[Kind]) -> None:
        """Note which queues and tasks the online workers have."""
        announced = frozenset(queue for kind in kinds for queue in kind.queues)
        runs = frozenset((task, queue) for kind in kinds for task in kind.tasks for queue in kind.queues)
        if announced != self._announced:
            self._announced = announced
            self._fixed, self._usable = {}, {}
        if runs != self._runs:
            self._runs = runs
            self._made.clear()
            self._usable = {}

    def _consumed(self, handler: Handler, destination: Destination) -> str:
        """The queue from which an online worker consumes the handler's task; empty if there is none."""
        for queue in destination.queues:
            if (handler.name, queue) in self._runs:
                return queue
        return ""

    def _route(self, handler: Handler, destination: Destination) -> Route:
        """The route for the ledger. If a message reaches several queues, it names one that a worker consumes."""
        made, runs = self._made.get((handler.name, destination.queues)), self._runs
        if made is not None:
            return made
        declaration = handler.declaration
        first = destination.queues[0] if destination.queues else ""
        made = Route(
            task_name=handler.name,
            queue=self._consumed(handler, destination) or first or str(self._app.conf.task_default_queue),
            max_attempts=declaration.max_attempts or self._max_attempts,
            on_lost=declaration.on_lost,
        )
        if runs is self._runs and len(self._made) < MOST_REMEMBERED:
            self._made[handler.name, destination.queues] = made
        return made

    # -- pending jobs --------------------------------------------------------------------------------------

    def begin_poll(self) -> None:
        """Begin a poll of the inbox: reset the time limit of the routers, and drop expired results."""
        if self.fixed and not self._kept:
            return
        oldest = self._clock() - ROUTE_SECONDS
        with self._lock:
            self._routing_seconds = 0.0
            kept = list(self._kept.items())  # an atomic copy, because other threads remove entries
            self._kept = {job: each for job, each in kept if each.at > oldest}

    def of_pending(self, handler: Handler, job: Job) -> tuple[Route, Destination] | None:
        """The route of a pending job; ``None`` if the job cannot run now and must stay pending.

        The routers are those of the last :meth:`begin_poll`.
        """
        usable = self._usable
        if (found := usable.get(handler.name)) is not None:
            return found
        is_fixed = self.fixed
        if is_fixed:
            destination = self._destination(handler)
        elif (kept := self._kept.get(job.id)) is not None:
            destination = kept.destination
        elif self._routing_seconds > ROUTING_SECONDS:
            return None
        else:
            began = self._clock()
            destination = self._call_router(handler, job)
            self._routing_seconds += self._clock() - began
            self._report(handler, destination.problem or self._unconsumed(handler, destination))
        if destination.problem or not self._consumed(handler, destination):
            self._kept.pop(job.id, None)
            return None
        found = self._route(handler, destination), destination
        if is_fixed:
            usable[handler.name] = found  # a change of the routers or the fleet meanwhile replaces the dictionary
        else:
            self._kept.setdefault(job.id, _Kept(destination, self._clock()))
        return found

    def of_adopted(self, handler: Handler, job: Job) -> Route:
        """The route of a job that was claimed earlier, whether it can run now or not."""
        return self._route(handler, self._destination(handler) if self.fixed else self._call_router(handler, job))

    def of_claimed(self, handler: Handler, job_id: int, job: Job | None, recorded: Route) -> tuple[Route, Destination]:
        """The route by which a claimed job's message is published.

        Normally this is the route for which the job was claimed. If that is no longer cached, the routers are called
        again. If no worker consumes their result, the message goes to the queue in the ledger.

        Args:
            handler: the handler.
            job_id: the job.
            job: its fields, if they are known.
            recorded: the route in the ledger.
        """
        if self._kept and (kept := self._kept.pop(job_id, None)) is not None:
            return recorded, kept.destination
        if (usable := self._usable.get(handler.name)) is not None and recorded.queue in usable[1].queues:
            return recorded, usable[1]
        destination = self._destination(handler) if self.fixed else self._call_router(handler, job)
        if destination.problem or not self._consumed(handler, destination):
            by_queue = self._resolve({"queue": recorded.queue})
            if self._consumed(handler, by_queue) or (destination.problem and not by_queue.problem):
                destination = by_queue
        route = self._route(handler, destination)
        return (recorded if recorded.queue in destination.queues else route), destination

    def latest(self, handler: Handler) -> Destination:
        """The destination of a handler's messages, as far as it is known without calling a router for a job."""
        return self._destination(handler) if self.fixed else self._last.get(handler.name, Destination())

    def describe(self, handler: Handler) -> str:
        """Describe for the log from which queue a handler's jobs come."""
        if not self.fixed:
            return "from the queue that its router chooses for each job"
        destination = self._destination(handler)
        if destination.problem:
            return f"but none can be sent: {destination.problem}"
        through = f", through {destination}" if destination.exchange else ""
        return f"from queue {' and '.join(destination.queues)}{through}"

    # -- calling the routers -------------------------------------------------------------------------------

    def destinations(self, handler: Handler) -> list[Destination]:
        """The destinations of a handler's messages, found without a job; several if its router's result varies."""
        times = 1 if self.fixed else 5
        found = {(each.exchange, each.routing_key, each.problem): each for each in self._samples(handler, times)}
        return list(found.values())

    def _samples(self, handler: Handler, times: int) -> Iterator[Destination]:
        until = self._clock() + ROUTING_SECONDS
        for _ in range(times):
            yield self._call_router(handler)
            if self._clock() > until:
                return

    def _destination(self, handler: Handler) -> Destination:
        """The destination from the tables of routes, cached."""
        fixed = self._fixed  # a change of the routers or the fleet meanwhile replaces the dictionary
        found = fixed.get(handler.name)
        if found is None:
            found = fixed[handler.name] = self._call_router(handler)
        return found

    def _call_router(self, handler: Handler, job: Job | None = None) -> Destination:
        task = handler.task
        arguments = {} if job is None else by_name(task.run, job, handler.declaration.fields)
        try:
            options = self._app.amqp.router.route(_routed_options(task), task.name, (), arguments, task)
        except BaseException as error:  # the application's router may raise anything
            close_old_connections()
            return Destination(problem=_why(error, job))
        destination = self._resolve(options)
        self._last[handler.name] = destination
        return destination

    def _resolve(self, options: Mapping[str, Any]) -> Destination:
        try:
            return destination_of(self._app.amqp, options, driver=self._driver, announced=self._announced)
        except Exception as error:
            return Destination(problem=_why(error, None))

    # -- reporting -----------------------------------------------------------------------------------------

    def _unconsumed(self, handler: Handler, destination: Destination) -> str:
        if self._consumed(handler, destination):
            return ""
        return f"the task's router sends to {destination}, which no online worker consumes"

    def _report(self, handler: Handler, problem: str) -> None:
        """Log each problem of a handler's route once, and when all of them have been over for a while."""
        name, now = handler.name, self._clock()
        with self._lock:
            known = self._problems.setdefault(name, {})
            new = bool(problem) and problem not in known and len(known) < 20  # routers may fail in ever new words
            over = not problem and bool(known) and now - max(known.values()) > ROUTE_SECONDS
            if problem and (new or problem in known):
                known[problem] = now
            if over:
                known.clear()
        if new:
            logger.warning("jobs for %s stay pending: %s", name, problem)
        if over:
            logger.info("jobs for %s are claimed again", name)


def destination_of(amqp: Any, options: Mapping[str, Any], *, driver: str, announced: Iterable[str] = ()) -> Destination:
    """The place where Celery publishes a message with routed options.

    Follows the logic of ``app.amqp.send_task_message``, which cannot be queried without publishing.

    Args:
        amqp: the application's ``amqp``.
        options: the options that the application's router returned.
        driver: the broker's driver type.
        announced: the queues that workers consume, including undeclared ones.

    Raises:
        Exception: Celery cannot use the options either.
    """
    conf = amqp.app.conf
    exchange, routing_key = options.get("exchange"), options.get("routing_key")
    queue: Any = options.get("queue")
    if queue is None and exchange is None:
        queue = amqp.default_queue
    if isinstance(queue, str):
        queue = amqp.queues[queue]
    kind = options.get("exchange_type")
    if kind is None:
        kind = getattr(getattr(queue, "exchange", None), "type", "direct")
    if (not exchange or not routing_key) and kind == "direct":
        exchange, routing_key = "", queue.name if queue is not None else ""
    elif exchange is None:
        exchange = queue.exchange.name or amqp.default_exchange
        routing_key = routing_key or queue.routing_key or conf.task_default_routing_key
    name = str(exchange.name if isinstance(exchange, Exchange) else exchange)
    key = str(routing_key or "")
    queues: tuple[str, ...] = (key,) if key else ()
    if name or isinstance(queue, Broadcast):
        known = [*list(amqp.queues.values()), *missing_queues(amqp, announced)]
        queues = reached(name, key, known, named=queue, driver=driver)
    declare: tuple[Any, ...] | None = None
    # kombu's virtual transports route by the bindings that the publisher has declared.
    if queue is None and driver not in AMQP:
        declare = tuple(each for each in list(amqp.queues.values()) if name_of(each) in queues)
    elif driver not in AMQP and isinstance(queue, Broadcast):
        declare = (queue.exchange,)
    return Destination(name, key, queues, options, queue, declare, "" if queues else _reaches_nothing(name, key))


def _reaches_nothing(exchange: str, routing_key: str) -> str:
    where = f"exchange {exchange!r} with routing key {routing_key!r}"
    if not exchange:
        return (
            "the task's route names neither a queue nor an exchange with a routing key: give it queue= or both of these"
        )
    return (
        f"the task's messages go to {where}, to which no queue of the application is bound: "
        "bind one in task_queues, or route the task to a queue"
    )


def _driver_of(app: Any) -> str:
    """The broker's driver type; empty if its transport cannot be loaded, which connecting to it reports as an error."""
    try:
        return str(app.connection_for_write().transport.driver_type)
    except Exception as error:
        logger.debug("the broker's transport cannot be loaded: %s: %s", type(error).__name__, error)
        return ""


def _routed_options(task: Any) -> dict[str, Any]:
    """The options that Celery passes to its routers."""
    left_out = ("time_limit", "soft_time_limit", "expires", "ignore_result")
    return {name: value for name, value in exec_options(task).items() if name not in left_out}


def registry_of(app: Any, settings: Settings) -> Registry:
    """The handlers of an application that the settings' worker name offers.

    Raises:
        RoutingError: the declarations contradict each other, the worker name is restricted to handlers that do not
            exist, or a router names no queue for a handler.
    """
    registry, options = load_registry(app, undeclared=settings.undeclared), settings.options
    if not options.capabilities and not options.queues:
        return registry
    if not options.queues:
        return registry.of(options, lambda handler: "")
    routes = Routes(app, registry, settings.max_attempts)

    def queue_of(handler: Handler) -> str:
        (destination, *_) = routes.destinations(handler)
        if destination.problem:
            raise RoutingError(f"modelreins_workers: the queue of {handler.name} is unknown: {destination.problem}")
        return destination.queues[0]

    return registry.of(options, queue_of)


def _why(error: BaseException, job: Job | None) -> str:
    """Explain why a route is unknown.

    Leaves out the text of an error that was raised for a job, because it may repeat the job's fields.
    """
    if isinstance(error, QueueNotFound):
        return f"{error.args[0]} (task_create_missing_queues is off): declare it there, or correct the route"
    where = traceback.extract_tb(error.__traceback__)[-1]
    words = f": {text}" if job is None and (text := _printed(error)) else ""
    return (
        f"the task's route is unknown: {type(error).__name__}{words}, in {where.name} ({where.filename}:{where.lineno})"
    )


def _printed(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "it cannot be printed"
