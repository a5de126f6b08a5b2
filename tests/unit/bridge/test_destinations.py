"""Destinations and the queues that they reach, compared with where Celery publishes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from celery import Celery
from kombu.transport.virtual.exchange import TopicExchange

from mr_celery.bridge.destinations import Destination, reached, topic_matches
from mr_celery.bridge.publisher import Publisher
from mr_celery.bridge.routes import Routes, destination_of
from mr_celery.handlers import Declaration, Handler, Registry
from mr_celery.testing.memory_broker import memory_broker
from support.routing import ALL_MEDIA, AUDIO, ROUTINGS, TASK, VIDEO, Routing, arrived, declare

pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


@pytest.fixture
def broker() -> Iterator[str]:
    with memory_broker() as url:
        yield url


class Listening(kombu.Producer):  # type: ignore[misc]
    """A producer that publishes nothing and records its calls."""

    said: tuple[str, str] = ("", "")

    def publish(self, body: Any, exchange: Any = "", routing_key: Any = "", **_: Any) -> None:
        self.said = (getattr(exchange, "name", exchange) or "", routing_key or "")


def handler_of(app: Celery) -> Handler:
    return Handler(app.tasks[TASK], Declaration())


def ask(app: Celery, driver: str = "amqp") -> Destination:
    handler = handler_of(app)
    (destination,) = Routes(app, Registry([handler]), 3, driver=driver).destinations(handler)
    return destination


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_is_the_exchange_and_key_that_celery_publishes_with(routing: Routing, broker: str) -> None:
    app = routing.app(broker)
    with app.connection_for_write() as connection:
        producer = Listening(connection)
        app.tasks[TASK].apply_async(("a",), producer=producer)
    destination = ask(routing.app(broker))
    assert (destination.exchange, destination.routing_key) == producer.said


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_reaches_the_queues_in_which_the_message_should_arrive(routing: Routing, broker: str) -> None:
    destination = ask(routing.app(broker))
    assert set(destination.queues) == routing.arrives
    assert bool(destination.problem) == (not routing.arrives)


_topics = TopicExchange(None)
TOPICS_MATCH_BEGINNINGS = bool(_topics._match(_topics.key_to_pattern("video.*"), "video.hd.mp4"))
"""Kombu's own topics before 5.6 also match longer keys."""


def is_for_kombu(routing: Routing) -> bool:
    """Whether this version of kombu's virtual broker routes as RabbitMQ does."""
    return not (routing.rabbit_only or (routing.name == "a topic of one word too many" and TOPICS_MATCH_BEGINNINGS))


@pytest.mark.parametrize("routing", filter(is_for_kombu, ROUTINGS), ids=str)
def test_a_message_arrives_in_the_predicted_queues(routing: Routing, broker: str) -> None:
    app, worker = routing.app(broker), routing.app(broker)
    destination = ask(app, driver="memory")
    assert set(destination.queues) == routing.arrives
    with worker.connection_for_read() as connection:
        declare(worker, connection, destination.queues)
        worker.tasks[TASK].apply_async(("a",))
        plain = arrived(worker, connection)
        if not routing.lost:
            assert plain == routing.arrives
        if destination.problem:
            return
        publisher = Publisher(app)
        publisher.verify(destination)
        publisher.send(handler_of(app), "w", 1, "mr-1-1-x", destination=destination, priority="normal")
        assert arrived(worker, connection) == routing.arrives


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("video.#", "video.hd", True),
        ("video.#", "video.hd.mp4", True),
        ("video.#", "video", True),
        ("video.#", "videos.hd", False),
        ("video.*", "video.hd", True),
        ("video.*", "video", False),
        ("video.*", "video.hd.mp4", False),
        ("*.hd", "video.hd", True),
        ("*.hd", "hd", False),
        ("#", "", True),
        ("#", "a.b", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("#.hd.#", "a.hd", True),
        ("#.hd.#", "hd", True),
        ("#.hd.#", "a.b.hd.c", True),
        ("#.hd.#", "a.b", False),
        ("a.*.#", "a", False),
        ("a.*.#", "a.b", True),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("video.hd", "video.hd", True),
        ("video.hd", "video-hd", False),
    ],
)
def test_topics_match_as_in_amqp(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(pattern, key) is matches


def test_the_queue_that_a_route_names_comes_first() -> None:
    assert reached("media", "video.x", [ALL_MEDIA, AUDIO, VIDEO], named=VIDEO) == ("video", "archive")
    assert reached("media", "video.x", [VIDEO, AUDIO, ALL_MEDIA]) == ("archive", "video")


def test_a_queue_that_only_workers_name_is_known_as_they_declare_it() -> None:
    app = Celery("proj", broker="memory://", set_as_current=False)
    bare = {"exchange": "gpu", "routing_key": "gpu"}
    assert destination_of(app.amqp, bare, driver="amqp").problem
    assert destination_of(app.amqp, bare, driver="amqp", announced=["gpu"]).queues == ("gpu",)
    assert "gpu" not in app.amqp.queues
    app.amqp.queues.create_missing = False
    assert destination_of(app.amqp, bare, driver="amqp", announced=["gpu"]).problem


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"exchange": "media", "routing_key": "video.hd"}, "exchange 'media' with routing key 'video.hd'"),
        ({"exchange": "media"}, "names neither a queue nor an exchange with a routing key"),
        ({"exchange": ""}, "names neither a queue nor an exchange with a routing key"),
    ],
)
def test_an_unroutable_destination_explains_why(options: dict[str, str], named: str) -> None:
    app = Celery("proj", broker="memory://", set_as_current=False)
    assert named in destination_of(app.amqp, options, driver="amqp").problem
