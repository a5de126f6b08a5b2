"""Publishing to a real RabbitMQ: where messages arrive, and how refused ones are reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from mr_celery.bridge.destinations import Destination
from mr_celery.bridge.publisher import MessageRefused, NotPublished, Publisher, QueueFull
from mr_celery.bridge.routes import Routes
from mr_celery.handlers import Declaration, Handler, Registry
from support.ports import free_port, until
from support.routing import ROUTINGS, TASK, Routing, arrived, declare
from support.servers import RabbitServer

pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


class Bench:
    """An application with a task, its route, and a publisher with one connection."""

    def __init__(self, broker: str, route: Any = None, queues: Any = None, **options: Any) -> None:
        conf = {"task_queues": queues, "task_routes": {TASK: route} if route else None}
        self.app = Routing("", conf, options).app(broker)
        self.publisher = Publisher(self.app, limit=1)

    @property
    def handler(self) -> Handler:
        return Handler(self.app.tasks[TASK], Declaration())

    def destination(self) -> Destination:
        (found,) = Routes(self.app, Registry([self.handler]), 3).destinations(self.handler)
        return found

    def send(self, destination: Destination | None = None) -> None:
        where = destination or self.destination()
        self.publisher.send(self.handler, "w", 1, "mr-1-1-x", destination=where, priority="normal")

    def refusal(self, destination: Destination | None = None) -> str:
        with pytest.raises(MessageRefused) as caught:
            self.send(destination)
        return str(caught.value)


@pytest.fixture
def raw(rabbit_server: RabbitServer) -> Iterator[Any]:
    """A connection to the broker."""
    with Celery("raw", broker=rabbit_server.url, set_as_current=False).connection_for_write() as connection:
        yield connection


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_a_job_arrives_where_plain_celery_sends_the_task(routing: Routing, rabbit_server: RabbitServer) -> None:
    app, worker = routing.app(rabbit_server.url), routing.app(rabbit_server.url)
    handler = Handler(app.tasks[TASK], Declaration())
    (destination,) = Routes(app, Registry([handler]), 3).destinations(handler)
    assert set(destination.queues) == routing.arrives
    with worker.connection_for_read() as connection:
        declare(worker, connection, [each for each in destination.queues if each not in worker.amqp.queues.aliases])
        worker.tasks[TASK].apply_async(("a",), retry=False)
        assert all_arrived(worker, connection, routing.arrives) == routing.arrives
        if routing.arrives:
            publisher = Publisher(app)
            publisher.verify(destination)
            publisher.send(handler, "w", 1, "mr-1-1-x", destination=destination, priority="normal")
            publisher.close()
        assert all_arrived(worker, connection, routing.arrives) == routing.arrives


def all_arrived(app: Celery, connection: Any, wanted: frozenset[str]) -> set[str]:
    """The queues with a message, once all expected ones have one. Quorum queues take a moment."""
    found = arrived(app, connection)

    def complete() -> bool:
        found.update(arrived(app, connection))
        return found >= wanted

    until(complete, what=f"messages in {', '.join(wanted)}")
    return found


def test_a_message_that_comes_back_is_refused_and_the_next_one_is_not(rabbit_server: RabbitServer, raw: Any) -> None:
    bench = Bench(rabbit_server.url, {"exchange": "returns", "routing_key": "nothing"})
    Queue("returns", Exchange("returns"), routing_key="something")(raw.default_channel).declare()
    good = Bench(rabbit_server.url).destination()
    for _ in range(3):
        assert "NO_ROUTE" in bench.refusal(bench_destination("returns", "nothing"))
        bench.send(good)


def bench_destination(exchange: str, routing_key: str) -> Destination:
    """A destination whose queues are wrongly predicted."""
    return Destination(exchange, routing_key, ("q",), {"exchange": exchange, "routing_key": routing_key})


def test_a_queue_that_was_deleted_is_declared_again_with_the_next_message(
    rabbit_server: RabbitServer, raw: Any
) -> None:
    bench = Bench(rabbit_server.url, {"queue": "deleted"})
    bench.send()
    raw.default_channel.queue_delete("deleted")
    assert "NO_ROUTE" in bench.refusal()
    bench.send()
    assert raw.default_channel.queue_declare("deleted", passive=True).message_count == 1


def test_an_exchange_that_is_not_there_is_refused(rabbit_server: RabbitServer) -> None:
    bench = Bench(rabbit_server.url)
    nowhere = bench_destination("nowhere", "x")
    for _ in range(2):
        assert "404" in bench.refusal(nowhere)
    with pytest.raises(MessageRefused, match="404"):
        bench.publisher.verify(nowhere)
    bench.send()


def test_a_queue_that_is_declared_differently_is_refused(rabbit_server: RabbitServer, raw: Any) -> None:
    Queue("differs", Exchange("differs"), routing_key="differs", max_priority=5)(raw.default_channel).declare()
    bench = Bench(rabbit_server.url, {"queue": "differs"})
    for _ in range(2):
        assert "406" in bench.refusal()
    with pytest.raises(MessageRefused, match="406"):
        bench.publisher.verify(bench.destination())


def test_a_publish_without_permission_is_refused(rabbit_server: RabbitServer) -> None:
    rabbit_server.control("add_user", "small", "small")
    rabbit_server.control("set_permissions", "-p", "/", "small", "^allowed$", "^(allowed|amq.default)$", ".*")
    url = rabbit_server.url.replace("guest:guest", "small:small")
    assert "403" in Bench(url, {"queue": "forbidden"}).refusal()


def test_a_wrong_password_is_not_a_refusal_of_a_message(rabbit_server: RabbitServer) -> None:
    bench = Bench(rabbit_server.url.replace("guest:guest", "guest:wrong"), {"queue": "celery"})
    for step in (bench.send, lambda: bench.publisher.verify(bench.destination())):
        with pytest.raises(NotPublished) as caught:
            step()
        assert not isinstance(caught.value, MessageRefused)


def test_an_unreachable_broker_is_not_a_refusal() -> None:
    bench = Bench(f"amqp://guest:guest@127.0.0.1:{free_port()}//")
    for step in (bench.send, lambda: bench.publisher.verify(bench.destination())):
        with pytest.raises(NotPublished) as caught:
            step()
        assert not isinstance(caught.value, MessageRefused)


def test_connections_that_an_operator_closes_are_not_a_refusal(rabbit_server: RabbitServer) -> None:
    bench = Bench(rabbit_server.url)
    bench.send()
    rabbit_server.control("close_all_connections", "for a test")
    bench.send()  # it connects again


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"serializer": "nothing"}, "nothing"),
        ({"immediate": True}, "540"),
    ],
)
def test_an_invalid_message_is_refused(rabbit_server: RabbitServer, options: dict[str, Any], why: str) -> None:
    bench = Bench(rabbit_server.url, **options)
    for _ in range(2):
        assert why in bench.refusal()


def test_a_queue_without_room_is_waited_for(rabbit_server: RabbitServer, raw: Any) -> None:
    full = Queue("full", Exchange("full"), "full", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    bench = Bench(rabbit_server.url, {"queue": "full"}, [full])
    bench.send()
    for _ in range(2):
        with pytest.raises(QueueFull):
            bench.send()
    full(raw.default_channel).purge()
    bench.send()
