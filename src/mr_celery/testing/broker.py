"""A Celery broker inside of the process: kombu's one in memory, but each virtual host is a broker of its own."""

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
    """A channel that sees the queues of its virtual host only."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.queues = _queues[connection.client.virtual_host]


class Transport(memory.Transport):
    """A transport that knows the bindings of its virtual host only."""

    Channel = Channel
    polling_interval = 0.01

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = _states[client.virtual_host]


@contextmanager
def broker_inside() -> Iterator[str]:
    """A new, empty broker for as long as the block lasts. Yields its address."""
    host = secrets.token_hex(8)
    try:
        yield f"{SCHEME}://localhost/{host}"
    finally:
        _queues.pop(host, None)
        _states.pop(host, None)
