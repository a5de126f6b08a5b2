"""Publishing to a real Redis broker, over the bridge's own connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis

from mr_celery.bridge.broker import publishing
from mr_celery.ledger.connection import Client
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


def test_messages_arrive_over_one_client(app: Celery, redis_server: RedisServer) -> None:
    with publishing(app) as connection:
        publish(connection, "first", "second")
        channel = connection.default_channel
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
            assert one is other
            assert isinstance(one, Client)
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
