"""Publishing a job's task to the broker."""

from __future__ import annotations

import logging
from typing import Any

from kombu.exceptions import KombuError
from kombu.pools import ProducerPool

from .. import tracing
from ..celery_hooks import announce_abort, header, load_registry, message_options
from ..ledger import Route
from ..routing import Handler, Registry
from ..settings import Settings
from .broker import publishing

logger = logging.getLogger("mr_celery.bridge")

AMQP = ("amqp", "py-amqp")
"""The driver types of brokers like RabbitMQ."""

PUBLISH_TIMEOUT = 5.0
"""Seconds for which a broker may be silent during a publish."""


class NotPublished(Exception):
    """The broker did not take a message, or it is unknown whether it did: publish the same again."""


class Sender:
    """Publishes tasks with a chosen id, over connections of its own with short time-outs.

    Args:
        app: the Celery application.
        limit: how many publish side by side.
    """

    def __init__(self, app: Any, *, limit: int = 4) -> None:
        self._app = app
        connection = publishing(app)
        self._driver = str(connection.transport.driver_type)
        timeouts: dict[str, Any] = {}
        if self._driver == "redis":
            timeouts = {"socket_timeout": PUBLISH_TIMEOUT, "socket_connect_timeout": PUBLISH_TIMEOUT}
        elif self._driver in AMQP:
            timeouts = {
                "confirm_publish": True,
                "read_timeout": PUBLISH_TIMEOUT,
                "write_timeout": PUBLISH_TIMEOUT,
            }
        connection.transport_options = {**timeouts, **(connection.transport_options or {})}
        connection.connect_timeout = PUBLISH_TIMEOUT
        self._connection = connection
        self._connections = connection.Pool(limit=limit)
        self._producers = ProducerPool(connections=self._connections, limit=limit, Producer=app.amqp.Producer)

    def send(
        self, handler: Handler, worker: str, job_id: int, task_id: str, *, priority: str, retries: int = 0
    ) -> None:
        """Publish the task of one attempt.

        The message says which job it brings and nothing of its content: the worker gets that from the
        ledger.

        Args:
            handler: the handler.
            worker: the worker name whose ledger has the job.
            job_id: the job.
            task_id: the attempt's task id.
            priority: the job's priority.
            retries: the number of Celery retries that the attempt has had.

        Raises:
            Exception: the broker did not take it, or it is unknown whether it did: publish the same again.
        """
        task = handler.task
        options = exec_options(task)
        options.update(
            task_id=task_id,
            # A worker's instrumentation joins the trace by these, also where the bridge has none.
            headers={**tracing.fields(), **header(worker, job_id)},
            **message_options(job_id),
            retries=retries,
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.5},
        )
        limit = self._max_priority(task) if self._driver in AMQP else None
        level = message_priority(self._driver, limit, priority)
        if level is not None and task.priority is None:
            options["priority"] = level
        if self._driver in AMQP:
            options["mandatory"] = True
        with self._producers.acquire(block=True, timeout=PUBLISH_TIMEOUT) as producer:
            self._app.send_task(task.name, (), {}, task_type=task, producer=producer, **options)

    def announce_abort(self, task_id: str, node: str) -> None:
        """Tell a worker that the job of a task is over.

        Args:
            task_id: the task.
            node: the worker's node name; if empty, all are told.

        Raises:
            Exception: the broker did not take it.
        """
        with self._connections.acquire(block=True, timeout=PUBLISH_TIMEOUT) as connection:
            announce_abort(self._app, [task_id], nodes=[node] if node else [], connection=connection)

    def _max_priority(self, task: Any) -> int | None:
        queue = queue_of(self._app, task)
        arguments = getattr(queue, "queue_arguments", None) or {}
        limit = getattr(queue, "max_priority", None) or arguments.get("x-max-priority")
        return int(limit) if limit else None

    def waiting(self, queue: str) -> int | None:
        """How many messages wait in a queue; ``None`` where the broker does not say."""
        try:
            # A connection of its own: it is rarely asked for, and an unknown queue or a lost broker spoils it.
            with self._connection.clone() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except Exception as error:
            code = getattr(error, "code", None) or getattr(error, "reply_code", None)
            if str(code) == "404":
                return 0  # Redis has no list without entries
            logger.warning("the length of queue %s is not known: %s: %s", queue, type(error).__name__, error)
            return None

    def close(self) -> None:
        """Close the connections."""
        try:
            self._connections.force_close_all()
        except (KombuError, OSError) as error:
            logger.debug("closing the broker connections: %r", error)


def exec_options(task: Any) -> dict[str, Any]:
    """The task's own options for its messages: queue, time limits, serializer and so on."""
    return {key: value for key, value in task._get_exec_options().items() if value is not None}


def queue_of(app: Any, task: Any) -> Any:
    """The ``kombu.Queue`` that the application's routing chooses for a task; ``None`` for a bare exchange."""
    routed = app.amqp.router.route(exec_options(task), task.name, (), {}, task)
    queue = routed.get("queue")
    return app.amqp.queues[queue] if isinstance(queue, str) else queue


def route_of(app: Any, handler: Handler, max_attempts: int) -> Route:
    """How the ledger is told to run a handler's jobs."""
    queue = queue_of(app, handler.task)
    declaration = handler.declaration
    return Route(
        task=handler.name,
        queue=str(getattr(queue, "name", None) or app.conf.task_default_queue),
        max_attempts=declaration.max_attempts or max_attempts,
        on_lost=declaration.on_lost,
    )


def routes_of(app: Any, registry: Registry, max_attempts: int) -> dict[str, Route]:
    """Each handler's route, by task name."""
    return {handler.name: route_of(app, handler, max_attempts) for handler in registry.handlers}


def registry_of(app: Any, settings: Settings) -> Registry:
    """The handlers of an application that the settings' worker name offers.

    Raises:
        RoutingError: the declarations contradict each other, or what the worker name is to offer is not there.
    """
    return load_registry(app).of(settings.identity, lambda each: route_of(app, each, settings.max_attempts).queue)


def message_priority(driver: str, max_priority: int | None, priority: str) -> int | None:
    """A job's priority as that of its message.

    Args:
        driver: the broker's driver type.
        max_priority: the queue's ``x-max-priority``, where it has one.
        priority: ``high``, ``normal`` or ``low``.

    Returns:
        ``None`` where the broker has no priorities. RabbitMQ serves the highest number first, and only
        in queues declared with ``x-max-priority``; Celery's Redis transport the lowest one.
    """
    if driver == "redis":
        return {"high": 0, "normal": 3, "low": 6}[priority]
    if driver in AMQP and max_priority:
        return {"high": max_priority, "normal": max_priority // 2, "low": 0}[priority]
    return None
