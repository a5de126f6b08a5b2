"""The Redis servers of the ledger's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.servers import ClusterServers


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterServers]:
    """A Redis Cluster of three nodes."""
    servers = ClusterServers()
    yield servers
    servers.stop()


@pytest.fixture(params=["one Redis", "a Cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty ledger, for a user that has only the documented permissions."""
    if request.param == "one Redis":
        return str(request.getfixturevalue("redis_server").ledger_url(1))
    servers: ClusterServers = request.getfixturevalue("cluster")
    servers.flush()
    return servers.ledger_url()
