"""Publishing to a real Redis broker, over the bridge's connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis

from mr_celery.bridge.broker_connection import publishing
from mr_celery.bridge.destinations import Destination, name_of
from mr_celery.bridge.publisher import MessageRefused, NotPublished, Publisher
from mr_celery.bridge.routes import Routes
from mr_celery.handlers import Declaration, Handler, Registry
from support.ports import free_port, until
from support.routing import ROUTINGS, TASK, Routing
from support.servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    redis_server.client(2).flushdb()
    with Celery("broker", broker=redis_server.url(2), set_as_current=False) as made:
        yield made


def publish(connection: Any, *bodies: str) -> None:
    with connection.Producer() as producer:
        for body in bodies:
            producer.publish(body, routing_key="here", serializer="json", retry=True)


def names(server: RedisServer) -> set[str]:
    return {key.decode() for key in server.client(2).scan_iter() if not key.startswith(b"_kombu")}


def test_messages_use_one_client(app: Celery, redis_server: RedisServer) -> None:
    with publishing(app) as connection:
        publish(connection, "first", "second")
        channel = connection.default_channel
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
            assert one is other
            assert one.connection is not None
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("here")
        publish(connection, "by kombu's own")
        assert {queue.get(timeout=10).payload for _ in range(3)} == {"first", "second", "by kombu's own"}


def test_a_connection_that_the_broker_closed_is_replaced(app: Celery, redis_server: RedisServer) -> None:
    with publishing(app) as connection:
        publish(connection, "first")
        for each in redis_server.client().client_list():
            if each["db"] == "2":
                redis_server.client().client_kill_filter(_id=each["id"])
        publish(connection, "second")
    assert redis_server.client(2).llen("here") == 2


def test_a_prefix_for_all_keys_is_respected(app: Celery, redis_server: RedisServer) -> None:
    app.conf.broker_transport_options = {"global_keyprefix": "team:"}
    with publishing(app) as connection:
        publish(connection, "first")
    assert names(redis_server) == {"team:here"}


def test_other_brokers_are_left_alone() -> None:
    app = Celery("broker", broker="memory://", set_as_current=False)
    connection = publishing(app)
    assert not issubclass(connection.get_transport_cls(), redis.Transport)
    assert connection.transport.driver_type == "memory"


# -- jobs' messages --------------------------------------------------------------------------------------------


def routed(app: Celery) -> tuple[Handler, Destination]:
    handler = Handler(app.tasks[TASK], Declaration())
    (destination,) = Routes(app, Registry([handler]), 3).destinations(handler)
    return handler, destination


def send(app: Celery, publisher: Publisher) -> None:
    handler, destination = routed(app)
    publisher.send(handler, "w", 1, "mr-1-1-x", destination=destination, priority="normal")


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_a_message_arrives_in_the_predicted_queue(routing: Routing, redis_server: RedisServer) -> None:
    """This includes cases in which plain Celery loses the message because it has not declared the exchange."""
    redis_server.client(2).flushdb()
    app, worker = routing.app(redis_server.url(2)), routing.app(redis_server.url(2))
    _, destination = routed(app)
    if routing.arrives and not routing.rabbit_only:
        assert set(destination.queues) == routing.arrives
    found: set[str] = set()
    with worker.connection_for_read() as connection, ExitStack() as stack:
        for queue in [*worker.amqp.queues.values(), *(worker.amqp.queues[name] for name in destination.queues)]:
            note = partial(lambda name, body, message: (found.add(name), message.ack()), name_of(queue))
            stack.enter_context(connection.Consumer([queue], callbacks=[note], accept=["json"]))

        def drain() -> None:
            for _ in range(3 * len(worker.amqp.queues)):
                try:
                    connection.drain_events(timeout=0.05)
                except TimeoutError:
                    return

        drain()
        if destination.problem:
            assert not destination.queues
            return
        publisher = Publisher(app)
        publisher.verify(destination)
        send(app, publisher)
        # A connection receives a fanout message once, even if it consumes several of the queues.
        wanted = found.intersection if routing.rabbit_only else found.issuperset
        until(lambda: (drain(), wanted(destination.queues))[1], what="the message")
    assert found <= set(destination.queues)


@pytest.fixture
def plain(redis_server: RedisServer) -> Celery:
    redis_server.client(2).flushdb()
    return Routing("plain").app(redis_server.url(2))


def test_a_queue_that_is_something_else_refuses_the_message(plain: Celery, redis_server: RedisServer) -> None:
    publisher = Publisher(plain)
    send(plain, publisher)
    redis_server.client(2).delete("celery", "celery\x06\x163")
    redis_server.client(2).set("celery\x06\x163", "no list")
    for _ in range(2):
        with pytest.raises(MessageRefused, match="WRONGTYPE"):
            send(plain, publisher)


def test_a_user_without_the_right_to_a_queue_is_refused(plain: Celery, redis_server: RedisServer) -> None:
    client = redis_server.client()
    client.acl_setuser("small", enabled=True, passwords=["+small"], keys=["allowed*", "_kombu*"], categories=["+@all"])
    try:
        app = Routing("plain").app(redis_server.url(2).replace("redis://", "redis://small:small@"))
        with pytest.raises(MessageRefused, match="NoPermission"):
            send(app, Publisher(app))
    finally:
        client.acl_deluser("small")


@pytest.mark.parametrize(
    ("setting", "value", "back"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["OOM", "NOREPLICAS"],
)
def test_a_redis_without_writes_counts_as_unreachable(
    plain: Celery, redis_server: RedisServer, setting: str, value: str, back: str
) -> None:
    publisher = Publisher(plain)
    send(plain, publisher)
    redis_server.client().config_set(setting, value)
    try:
        with pytest.raises(NotPublished) as caught:
            send(plain, publisher)
        assert not isinstance(caught.value, MessageRefused)
    finally:
        redis_server.client().config_set(setting, back)
    send(plain, publisher)


def test_a_redis_replica_counts_as_unreachable(plain: Celery, redis_server: RedisServer) -> None:
    publisher = Publisher(plain)
    redis_server.client().replicaof("127.0.0.1", free_port())
    try:
        with pytest.raises(NotPublished) as caught:
            send(plain, publisher)
        assert not isinstance(caught.value, MessageRefused)
    finally:
        redis_server.client().replicaof("NO", "ONE")
