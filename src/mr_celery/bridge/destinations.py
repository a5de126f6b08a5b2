"""The destinations of messages, and the queues that they reach. Pure functions without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from kombu import Exchange
from kombu.common import Broadcast
from kombu.transport.virtual.exchange import TopicExchange

AMQP = ("amqp", "py-amqp")
"""Driver types of AMQP brokers such as RabbitMQ."""


@dataclass(frozen=True)
class Destination:
    """The place where a message is published.

    Args:
        exchange: the exchange's name; empty for the default exchange, which routes by queue name.
        routing_key: the routing key.
        queues: the queues that it reaches, as workers announce them; the queue named by the route comes first.
        options: the options for publishing that Celery's router returned.
        queue: the queue named by the route; ``None`` if it names only an exchange and a routing key.
        declare: the queues or exchanges to declare before publishing; ``None`` for those that Celery declares.
        problem: why nothing can be published there; empty if it can.
    """

    exchange: str = ""
    routing_key: str = ""
    queues: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    queue: Any = field(default=None, repr=False, compare=False)
    declare: tuple[Any, ...] | None = field(default=None, repr=False, compare=False)
    problem: str = ""

    def __str__(self) -> str:
        if not self.exchange:
            return f"queue {self.routing_key}" if self.routing_key else "any queue"
        return f"exchange {self.exchange!r} with routing key {self.routing_key!r}"


def name_of(queue: Any) -> str:
    """A queue's name as workers announce it; the real name of a broadcast queue differs in each process."""
    return str((isinstance(queue, Broadcast) and getattr(queue, "alias", None)) or queue.name)


def missing_queues(amqp: Any, names: Iterable[str]) -> Iterable[Any]:
    """Queues that the application does not declare, as Celery creates them for a worker's ``-Q``."""
    queues = amqp.queues
    if not queues.create_missing:
        return []
    return [queues.new_missing(name) for name in names if name not in queues and name not in queues.aliases]


def reached(
    exchange: str, routing_key: str, queues: Iterable[Any], *, named: Any = None, driver: str = AMQP[0]
) -> tuple[str, ...]:
    """The queues that a message reaches.

    Args:
        exchange: the exchange's name; empty for the default exchange.
        routing_key: the message's routing key.
        queues: the declared queues.
        named: the queue named by the route, which is declared with each publish.
        driver: the broker's driver type; kombu matches topics slightly differently than AMQP brokers.
    """
    if not exchange:
        return ((name_of(named) if named is not None else routing_key),) if routing_key else ()
    found: dict[str, None] = {}
    for queue in [*([named] if named is not None else []), *sorted(queues, key=lambda each: str(each.name))]:
        for bound, key in _bindings(queue):
            if bound.name == exchange and _matches(bound.type, key, routing_key, driver=driver):
                found[name_of(queue)] = None
    return tuple(found)


def _bindings(queue: Any) -> Iterable[tuple[Exchange, str]]:
    if queue.exchange:
        yield queue.exchange, queue.routing_key or ""
    for each in queue.bindings:
        yield each.exchange, each.routing_key or ""


def _matches(kind: str, binding: str, routing_key: str, *, driver: str) -> bool:
    if kind == "direct":
        return binding == routing_key
    if kind == "topic":
        return topic_matches(binding, routing_key) if driver in AMQP else _kombu_matches(binding, routing_key)
    if kind == "fanout" and driver == "redis":
        # With kombu's option fanout_patterns (the default), the key is part of the name of the Redis channel.
        if not (binding and routing_key):
            return binding == routing_key
        return fnmatchcase(routing_key, binding.replace("#", "*"))
    # A fanout reaches every queue. Other types (headers, hash, delay) are assumed to match: their criteria are unknown.
    return True


@lru_cache(maxsize=1024)
def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether an AMQP topic binding matches a routing key: ``*`` is one word, ``#`` any number of words."""
    return _words_match(_words(pattern), _words(routing_key))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _words_match(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(_words_match(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _words_match(rest, words[1:])


def _kombu_matches(pattern: str, routing_key: str) -> bool:
    exchange: Any = TopicExchange(None)
    return bool(exchange.lookup([exchange.prepare_bind("it", "", pattern, {})], "", routing_key, None))
