"""Limits on the resources that the clients of an HTTP server may use."""

from __future__ import annotations

import resource
from dataclasses import KW_ONLY, dataclass

_SHARE = 4
"""A server's connections may take one in this many of the process's file descriptors."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        connections: maximum number of open connections. Beyond it, connections without a complete request are closed,
            the oldest first.
        header_seconds: seconds for the headers of a request, from the connection or the end of the previous response.
            The rest of a request that was already answered must arrive in the same time.
        header_bytes: maximum size of the headers.
        body_rate: minimum rate of a request's body, in bytes per second. A slower client is disconnected.
        stalled_seconds: seconds for which a client may read nothing of a response.
        request_seconds: seconds for a request and its response in total; ``None`` for no limit.
    """

    _: KW_ONLY
    connections: int
    header_seconds: float = 10.0
    header_bytes: int = 32 * 1024
    body_rate: float = 500.0
    stalled_seconds: float = 30.0
    request_seconds: float | None = None

    @property
    def possible_connections(self) -> int:
        """The number of connections that leaves file descriptors for the rest of the process."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.connections if soft == resource.RLIM_INFINITY else max(4, min(self.connections, soft // _SHARE))
