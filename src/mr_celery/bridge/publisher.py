"""Publishing a job's task to the broker."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any, NoReturn, cast

from amqp import exceptions as amqp_errors
from kombu.common import Broadcast
from kombu.exceptions import KombuError, LimitExceeded, OperationalError
from kombu.pools import ProducerPool
from redis import exceptions as redis_errors

from ..abort_command import announce_abort
from ..celery_compat import exec_options
from ..handlers import Handler
from ..message import header, message_options
from ..telemetry import tracing
from .broker_connection import publishing
from .destinations import AMQP, Destination
from .limits import PUBLISH_TIMEOUT

logger = logging.getLogger("mr_celery.bridge")

REDIS_WAITS = ("BUSY", "MISCONF", "NOREPLICAS")
"""Error codes of a Redis that accepts no writes at the moment, for which redis-py has no classes."""


class NotPublished(Exception):
    """The broker did not accept a message, or the result is unknown: publish the same message again."""


class MessageRefused(NotPublished):
    """The broker works, but refuses this message; others may be accepted."""


class QueueFull(MessageRefused):
    """The broker has no room for the message now."""


class Unroutable(Exception):
    """The broker returned a message because no queue is bound to its destination."""


class Publisher:
    """Publishes tasks with a given id, over separate connections with short timeouts.

    Args:
        app: the Celery application.
        limit: the number of concurrent publishes.
    """

    def __init__(self, app: Any, *, limit: int = 4) -> None:
        self._app = app
        self._returned = threading.local()
        self._own_options: dict[str, tuple[Any, dict[str, Any]]] = {}
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
        producer = app.amqp.Producer
        if self._driver in AMQP:
            # Without a callback, the error is raised before the confirmation arrives, and the next message would take
            # that confirmation for its own.
            producer = partial(producer, on_return=self._on_return)
        self._producers = ProducerPool(connections=self._connections, limit=limit, Producer=producer)

    @property
    def driver(self) -> str:
        """The broker's driver type."""
        return self._driver

    def send(
        self,
        handler: Handler,
        worker_name: str,
        job_id: int,
        task_id: str,
        *,
        destination: Destination,
        priority: str,
        retries: int = 0,
    ) -> None:
        """Publish the task of one attempt.

        The message identifies the job and has none of its content, which the worker reads from the ledger.

        Args:
            handler: the handler.
            worker_name: the worker name whose ledger has the job.
            job_id: the job.
            task_id: the attempt's task id.
            destination: the place where it is published.
            priority: the job's priority.
            retries: the number of Celery retries that the attempt has had.

        Raises:
            MessageRefused: the broker works, but refuses the message.
            NotPublished: the broker is unreachable, or the result is unknown: publish the same message again.
        """
        task = handler.task
        known, own = self._own_options.get(handler.name, (None, {}))
        if known is not task:
            own = exec_options(task)
            self._own_options[handler.name] = (task, own)
        options = dict(
            own,
            task_id=task_id,
            # A worker's instrumentation joins the trace by these, even if the bridge is not instrumented.
            headers={**tracing.fields(), **header(worker_name, job_id)},
            **message_options(job_id, task.name),
            retries=retries,
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.5},
        )
        limit = _max_priority(destination.queue) if self._driver in AMQP else None
        level = message_priority(self._driver, limit, priority)
        if level is not None and destination.options.get("priority") is None:
            options["priority"] = level
        if self._driver in AMQP:
            options["mandatory"] = True
        if destination.declare is not None:
            options["declare"] = list(destination.declare)
        try:
            with self._producers.acquire(block=True, timeout=PUBLISH_TIMEOUT) as producer:
                self._returned.error = None
                self._app.send_task(
                    task.name, (), {}, task_type=task, producer=producer, router=_FixedRouter(destination), **options
                )
                if self._returned.error is not None:
                    # The queue was deleted after it was declared. Make the next message declare it again.
                    cast(Any, producer.connection).declared_entities.clear()
                    raise Unroutable(f"{self._returned.error}")
        except BaseException as error:  # signal handlers of the application may raise anything
            self._raise_translated(error)

    def verify(self, destination: Destination) -> None:
        """Declare the queues or exchanges of a destination, as publishing a message would.

        Raises:
            MessageRefused: the broker refuses the declaration.
            NotPublished: the broker is unreachable.
        """
        declared = destination.declare
        if declared is None:
            named = destination.queue is not None and not isinstance(destination.queue, Broadcast)
            declared = (destination.queue,) if named else ()
        try:
            with self._connection.clone() as connection, connection.channel() as channel:
                for entity in declared:
                    entity(channel).declare()
                if not declared and destination.exchange and self._driver in AMQP:
                    channel.exchange_declare(destination.exchange, "", passive=True)
        except BaseException as error:
            self._raise_translated(error)

    def _on_return(self, error: Exception, *_: Any) -> None:
        self._returned.error = error

    def _raise_translated(self, raised: BaseException) -> NoReturn:
        """Raise :class:`MessageRefused` for an exception if the broker works, else :class:`NotPublished`."""
        # kombu wraps some errors of the broker.
        error = raised.__cause__ if isinstance(raised, OperationalError) and raised.__cause__ else raised
        # Safe to show: the message has none of the job's content, so the broker cannot repeat any.
        why = _shown(error)
        if isinstance(error, amqp_errors.MessageNacked):
            raise QueueFull("the broker has no room for it (its queue is full, or has no quorum)") from error
        lost = self._driver not in AMQP and isinstance(error, self._connection.connection_errors)
        if not lost and refuses(error) and self._answers():
            raise MessageRefused(why) from error
        raise NotPublished(why) from error

    def connect(self) -> None:
        """Open a new connection to the broker, and close it.

        Raises:
            NotPublished: the broker is unreachable.
        """
        try:
            with self._connection.clone() as connection:
                connection.ensure_connection(max_retries=1, timeout=PUBLISH_TIMEOUT)
                connection.channel().close()
        except Exception as error:
            cause = error.__cause__ or error  # kombu wraps it
            raise NotPublished(_shown(cause)) from error

    def _answers(self) -> bool:
        """Whether the broker accepts a new connection."""
        try:
            self.connect()
        except NotPublished as error:
            logger.debug("the broker accepts no connection: %s", error)
            return False
        return True

    def announce_abort(self, task_id: str, node: str) -> None:
        """Notify a worker that the job of a task was aborted.

        Args:
            task_id: the task.
            node: the worker's node name; if empty, all workers are notified.

        Raises:
            Exception: the broker did not accept the notification.
        """
        with self._connections.acquire(block=True, timeout=PUBLISH_TIMEOUT) as connection:
            announce_abort(self._app, [task_id], nodes=[node] if node else [], connection=connection)

    def waiting(self, queue: str) -> int | None:
        """Number of messages waiting in a queue; ``None`` if the broker does not report it."""
        if isinstance(self._app.amqp.queues.aliases.get(queue), Broadcast):
            return None  # each worker has a separate queue with a random name
        try:
            # A new connection, because an unknown queue or an unreachable broker breaks it. This call is rare.
            with self._connection.clone() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except Exception as error:
            code = getattr(error, "code", None) or getattr(error, "reply_code", None)
            if str(code) == "404":
                return 0  # Redis deletes empty lists
            logger.warning("cannot get the length of queue %s: %s: %s", queue, type(error).__name__, error)
            return None

    def close(self) -> None:
        """Close the connections."""
        try:
            self._connections.force_close_all()
        except (KombuError, OSError) as error:
            logger.debug("error while closing the broker connections: %r", error)


class _FixedRouter:
    """A router with one fixed result, so that Celery does not route the message a second time.

    Args:
        destination: the destination that the application's router chose for the message.
    """

    def __init__(self, destination: Destination) -> None:
        self._options = destination.options

    def route(self, options: dict[str, Any], *_: Any) -> dict[str, Any]:
        """Options for publishing: the caller's override the router's, except for the queue."""
        return {**self._options, **{name: value for name, value in options.items() if name != "queue"}}


def _shown(error: BaseException) -> str:
    """The broker's error for logs and outcomes."""
    return f"{type(error).__name__}: {error}"[:300]


def refuses(error: BaseException) -> bool:
    """Whether an error may concern the single message, and not the connection to the broker.

    RabbitMQ closes the connection or channel in both cases, so the reply of the broker decides.
    """
    if isinstance(error, (OperationalError, LimitExceeded)):
        return False
    if isinstance(error, amqp_errors.FrameSyntaxError):
        return True  # raised before anything is sent if AMQP has no type for a header
    if isinstance(error, amqp_errors.AMQPError):
        if error.reply_code in (320, 541) or "down or inaccessible" in str(error.reply_text):
            return False
        kind = error.method_sig[0] if isinstance(error.method_sig, tuple) else None
        return kind in (40, 50, 60)  # exchange, queue, basic; others concern the connection
    if isinstance(error, redis_errors.RedisError):
        about_this = isinstance(error, (redis_errors.NoPermissionError, redis_errors.DataError))
        answer = str(error).rpartition("caused error: ")[2]  # in a pipeline, redis-py prepends the command
        return about_this or (type(error) is redis_errors.ResponseError and not answer.startswith(REDIS_WAITS))
    return not isinstance(error, (OSError, EOFError))


def _max_priority(queue: Any) -> int | None:
    arguments = getattr(queue, "queue_arguments", None) or {}
    limit = getattr(queue, "max_priority", None) or arguments.get("x-max-priority")
    return int(limit) if limit else None


def message_priority(driver: str, max_priority: int | None, priority: str) -> int | None:
    """Convert a job's priority to a message priority.

    RabbitMQ serves the highest number first, and only in queues declared with ``x-max-priority``. Celery's Redis
    transport serves the lowest number first.

    Args:
        driver: the broker's driver type.
        max_priority: the queue's ``x-max-priority``, if it has one.
        priority: ``high``, ``normal`` or ``low``.

    Returns:
        The message priority; ``None`` if the broker or queue has no priorities.
    """
    if driver == "redis":
        return {"high": 0, "normal": 3, "low": 6}[priority]
    if driver in AMQP and max_priority:
        return {"high": max_priority, "normal": max_priority // 2, "low": 0}[priority]
    return None
