"""Ways in which Celery applications route their tasks, and the queues in which a message arrives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from mr_celery import message as job_codec
from mr_celery.bridge.destinations import name_of

TASK = "proj.video.encode"

MEDIA = Exchange("media", type="topic")
VIDEO = Queue("video", MEDIA, routing_key="video.#")
AUDIO = Queue("audio", MEDIA, routing_key="audio.*")
ALL_MEDIA = Queue("archive", MEDIA, routing_key="#")
PRINT = Exchange("print", type="direct")
COLOUR = Queue("colour", PRINT, routing_key="colour")
GREY = Queue("grey", PRINT, routing_key="grey")
NEWS = Exchange("news", type="fanout")
PAPER = Queue("paper", NEWS)
RADIO = Queue("radio", NEWS)
CELERY = Queue("celery", Exchange("celery"), routing_key="celery")


def by_function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    return {"exchange": "media", "exchange_type": "topic", "routing_key": f"video.{name.rpartition('.')[2]}"}


def to_a_queue(name: str, *_: Any, **__: Any) -> str:
    return "colour"


def to_nothing(name: str, *_: Any, **__: Any) -> None:
    return None


class ByClass:
    """A router of the kind that Celery had before 4.0."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "grey"}


@dataclass(frozen=True)
class Routing:
    """One way to route a task.

    Args:
        name: its name.
        conf: the application's configuration.
        options: the task's own options.
        arrives: the queues in which a message arrives.
        lost: plain Celery loses the message on brokers that kombu emulates, such as Redis.
        rabbit_only: it works on RabbitMQ only.
    """

    name: str
    conf: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    arrives: frozenset[str] = frozenset({"celery"})
    lost: bool = False
    rabbit_only: bool = False

    def __str__(self) -> str:
        return self.name

    def app(self, broker: str) -> Celery:
        """An application that routes in this way."""
        app = Celery("proj", broker=broker, set_as_current=False)
        app.conf.update(self.conf)
        app.task(encode, name=TASK, lazy=False, **self.options)
        job_codec.accept(TASK)  # the test reads the messages, as a worker with the handler would
        return app


def encode(prompt: str = "") -> str:
    return prompt


def _to(*queues: str, lost: bool = False, rabbit_only: bool = False) -> dict[str, Any]:
    return {"arrives": frozenset(queues), "lost": lost, "rabbit_only": rabbit_only}


_BARE = {"task_queues": [CELERY, VIDEO, AUDIO, ALL_MEDIA, COLOUR, GREY, PAPER, RADIO]}


def _routes(route: Any, **conf: Any) -> dict[str, Any]:
    return {**_BARE, "task_routes": route, **conf}


def _bare(exchange: str, routing_key: str, **more: Any) -> dict[str, Any]:
    return _routes({TASK: {"exchange": exchange, "routing_key": routing_key, **more}})


ROUTINGS = [
    Routing("nothing is said"),
    Routing("another default queue", {"task_default_queue": "jobs"}, **_to("jobs")),
    Routing(
        "the default is a topic exchange",
        {
            "task_default_queue": "jobs",
            "task_default_exchange": "all",
            "task_default_exchange_type": "topic",
            "task_default_routing_key": "jobs.any",
        },
        **_to("jobs"),
    ),
    Routing("a dict by name", _routes({TASK: {"queue": "colour"}}), **_to("colour")),
    Routing("a text by name", _routes({TASK: "colour"}), **_to("colour")),
    Routing("a glob", _routes({"proj.video.*": {"queue": "grey"}}), **_to("grey")),
    Routing("a regular expression", _routes({re.compile(r".*\.encode"): {"queue": "grey"}}), **_to("grey")),
    Routing("a list of pairs", _routes([[("other.*", "colour"), ("proj.*", "grey")]]), **_to("grey")),
    Routing("several routers", _routes([{"other": "colour"}, {"proj.*": "grey"}]), **_to("grey")),
    Routing("no route fits", _routes({"other.*": "colour"})),
    Routing("a function", _routes(by_function), **_to("video", "archive", lost=True)),
    Routing("a function that returns a text", _routes([to_a_queue]), **_to("colour")),
    Routing("a function that returns nothing", _routes([to_nothing])),
    Routing("a function by its path", _routes("support.routing.to_a_queue"), **_to("colour")),
    Routing("a class by its path", _routes("support.routing.ByClass"), **_to("grey")),
    Routing("a queue that nobody declares", _routes({TASK: {"queue": "made"}}), **_to("made")),
    Routing(
        "a queue without missing ones", _routes({TASK: "colour"}, task_create_missing_queues=False), **_to("colour")
    ),
    Routing("a queue object", _routes({TASK: {"queue": COLOUR}}), **_to("colour")),
    Routing("a queue of a topic exchange", _routes({TASK: "video"}), **_to("video", "archive")),
    Routing(
        "a queue, and a routing key of another",
        _routes({TASK: {"queue": "video", "routing_key": "audio.mp3"}}),
        **_to("audio", "archive"),
    ),
    Routing("a direct exchange and a key", _bare("print", "grey"), **_to("grey")),
    Routing("a direct exchange and an unknown key", _bare("print", "green"), **_to()),
    Routing("a topic exchange and a key", _bare("media", "video.hd.mp4"), **_to("video", "archive", lost=True)),
    Routing("a topic of one word too many", _bare("media", "audio.a.b"), **_to("archive", lost=True)),
    Routing(
        "a topic with its type",
        _bare("media", "audio.mp3", exchange_type="topic"),
        **_to("audio", "archive", lost=True),
    ),
    Routing("an exchange object", _bare(MEDIA, "audio.mp3"), **_to("audio", "archive", lost=True)),  # type: ignore
    Routing("a topic without words", _bare("media", "video"), **_to("video", "archive", rabbit_only=True)),
    Routing(
        "a fanout exchange", _bare("news", "any", exchange_type="fanout"), **_to("paper", "radio", rabbit_only=True)
    ),
    Routing("a queue of a fanout exchange", _routes({TASK: "paper"}), **_to("paper", "radio", rabbit_only=True)),
    Routing("a routing key alone", _routes({TASK: {"routing_key": "grey"}})),
    Routing("the task's queue", _BARE, {"queue": "grey"}, **_to("grey")),
    Routing("the task's queue before a route's", _routes({TASK: "colour"}), {"queue": "grey"}, **_to("grey")),
    Routing("the task's exchange and key", _BARE, {"exchange": "print", "routing_key": "grey"}, **_to("grey")),
    Routing("the task's key alone", _BARE, {"routing_key": "grey"}),
    Routing(
        "a queue of several bindings",
        {
            "task_queues": [
                Queue("mixed", [binding(PRINT, routing_key="mixed"), binding(MEDIA, routing_key="mix.*")]),
                GREY,
            ],
            "task_routes": {TASK: {"exchange": "media", "routing_key": "mix.tape"}},
            "task_default_queue": "grey",
        },
        **_to("mixed", lost=True),
    ),
    Routing(
        "an alias",
        {
            "task_queues": [CELERY, Queue("long-name", PRINT, routing_key="long", alias="short")],
            "task_routes": {TASK: "short"},
        },
        **_to("long-name"),
    ),
    Routing(
        "a priority queue",
        {
            "task_queues": [Queue("ranked", PRINT, routing_key="ranked", max_priority=10)],
            "task_default_queue": "ranked",
        },
        **_to("ranked"),
    ),
    Routing(
        "quorum queues",
        {
            "task_default_queue_type": "quorum",
            "task_default_queue": "q",
            "broker_native_delayed_delivery_queue_type": "quorum",
        },
        **_to("q"),
    ),
    Routing(
        "a broadcast",
        {"task_queues": [CELERY, Broadcast("everybody")], "task_routes": {TASK: {"queue": "everybody"}}},
        **_to("everybody", rabbit_only=True),
    ),
    Routing(
        "a queue without exchange",
        {"task_queues": [CELERY, Queue("plain")], "task_routes": {TASK: "plain"}},
        **_to("plain"),
    ),
]


def declare(app: Celery, connection: Any, also: Iterable[str] = ()) -> None:
    """Declare the queues of an application, as its workers do."""
    for queue in [*app.amqp.queues.values(), *(app.amqp.queues[name] for name in also)]:
        queue(connection.default_channel).declare()


def arrived(app: Celery, connection: Any) -> set[str]:
    """Take all messages out of an application's queues. Returns the names of the queues that had any."""
    found = set()
    for queue in app.amqp.queues.values():
        while (message := queue(connection.default_channel).get()) is not None:
            message.ack()
            found.add(name_of(queue))
    return found
