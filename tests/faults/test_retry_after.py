"""The server sends ``Retry-After`` headers with absurdly long pauses.

The matrix of the server's faults has a ``Retry-After`` of one second, as the sandbox writes it, and so shares the
code's assumption that headers are sensible. This server is not the sandbox, and its headers are not sensible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from mr_celery.telemetry.quantities import duration
from support.fleet import Fleet
from support.http_server import Reply, Request
from support.plain_server import PlainServer, route_of
from support.ports import until
from support.servers import RedisServer

INTERVAL = 4.0
"""Seconds between two reports of presence: enough for one and a half of it to be no question of the machine's load."""

BOUND = 60.0
"""Seconds for which a ``Retry-After`` stops the claiming at most."""

VALUES: Sequence[Sequence[bytes]] = [
    [b"1000000000000"],
    [b"Fri, 31 Dec 9999 23:59:59 GMT"],
    [b"Fri, 31 Dec 9999 23:59:59 +9999"],
    [b"9" * 400],
    [b"-1000000000000"],
    [b"86400.5"],
    [b"1000000000000", b"1000000000000"],
    [b"1e400"],
    [b"\xd9\xa3\xb2\xff"],
    [b""],
]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_endless_retry_after_stops_claiming_for_a_minute_and_presence_not_at_all(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    def refuse(request: Request) -> Reply | None:
        route = route_of(request)
        number = server.asked[route]
        if route != "presence" and (route, number) != ("pending", 1):
            return None
        values = VALUES[number % len(VALUES)] if number > 1 else VALUES[0]
        return Reply(429, {"error": "too many requests"}, headers=[("Retry-After", value) for value in values])

    with PlainServer() as server:
        server.spoil = refuse
        job_id = server.dispatch("a job", "w")["id"]
        fleet = Fleet(cast(Any, server), broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
        fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = str(INTERVAL)
        try:
            fleet.worker("-c", "1")
            bridge = fleet.bridge()
            until(lambda: server.jobs[job_id]["status"] == "done", seconds=2 * BOUND, what="the job is done")
            assert bridge.popen.poll() is None
            output = bridge.output
        finally:
            fleet.stop()
        assert server.jobs[job_id]["result"] == "A JOB"
        looks = server.gaps("pending")
        assert BOUND - 1 <= looks[0] <= BOUND + 5  # not earlier: a pause of up to a minute is respected
        assert len(server.gaps("presence")) >= len(VALUES)
        assert max(server.gaps("presence")) < 1.5 * INTERVAL
    wish = "the server requested a pause of 11574074 d (Retry-After), next try in"
    request = "GET /my-jobs?worker=w&status=pending -> 429"
    assert [line for line in output.splitlines() if "status=pending" in line and wish in line] == [
        line for line in output.splitlines() if f"claim: failure 1 in a row: {request}; {wish} 1 min" in line
    ]
    assert output.count(f"{request}; {wish}") == 1
    assert f"heartbeat: failure 1 in a row: PUT /presence -> 429; {wish} {duration(INTERVAL)}" in output
