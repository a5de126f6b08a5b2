"""An in-memory Celery broker. Unlike kombu's, each virtual host has its own queues."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, memory, virtual

SCHEME = "modelreins-test"

_queues: defaultdict[str, dict[str, Any]] = defaultdict(dict)
_states: defaultdict[str, Any] = defaultdict(virtual.BrokerState)

TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


class Channel(memory.Channel):
    """A channel with the queues of its virtual host."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.queues = _queues[connection.client.virtual_host]


class Transport(memory.Transport):
    """A transport with the bindings of its virtual host."""

    Channel = Channel
    polling_interval = 0.01

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = _states[client.virtual_host]


@contextmanager
def memory_broker() -> Iterator[str]:
    """Create an empty broker for the block. Yields its URL."""
    host = secrets.token_hex(8)
    try:
        yield f"{SCHEME}://localhost/{host}"
    finally:
        _queues.pop(host, None)
        _states.pop(host, None)
