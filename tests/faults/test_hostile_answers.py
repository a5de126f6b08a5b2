"""Whatever the server returns on any route, bridge and worker use little memory, and everything else continues."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.campaign import FULL
from support.fleet import Fleet, Process
from support.http_server import Reply, Request
from support.plain_server import PlainServer, route_of
from support.ports import until
from support.servers import RedisServer

MOST_RSS = 256 * 2**20
"""Bytes of memory that a process may use."""

HOSTILE_BYTES = (62 if FULL else 31) * 2**20
"""Size of an answer: less than a list may have, and parsed as a whole, it would need far more than ``MOST_RSS``."""

PARTS = 3
"""The number of tests that share the kinds of answers, side by side."""

TIMES = 1
"""The number of hostile answers on each route. Then it works again."""

ROUTES = ("presence", "pending", "running", "claim", "close", "upload", "review")
BLOCK = 2**16

Body = Callable[[], Iterator[bytes]]


def repeated(part: bytes, start: bytes = b"", end: bytes = b"") -> Body:
    """A body with as many repetitions of a part as fit."""

    def write() -> Iterator[bytes]:
        block = part * max(1, BLOCK // len(part))
        yield start
        for _ in range(HOSTILE_BYTES // len(block)):
            yield block
        yield end

    return write


def counted_entries(entry: str) -> Body:
    """A list of different entries, with high ids."""

    def write() -> Iterator[bytes]:
        yield b'{"jobs":['
        for start in range(10**9, 10**9 + HOSTILE_BYTES // len(entry), 1000):
            yield "".join(entry % number for number in range(start, start + 1000)).encode()
        yield b"{}]}"

    return write


def responding(body: Body, *headers: bytes) -> Body:
    """A response whose body ends with the connection."""

    def write() -> Iterator[bytes]:
        yield b"".join(b"%s\r\n" % line for line in (b"HTTP/1.1 200 OK", b"Connection: close", *headers)) + b"\r\n"
        yield from body()

    return write


def chunked(parts: Body) -> Body:
    """A chunked response."""

    def write() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for part in parts():
            yield b"%x\r\n%s\r\n" % (len(part), part)

    return write


def endless(part: bytes, pause: float = 0.0) -> Body:
    def write() -> Iterator[bytes]:
        while True:
            yield part
            time.sleep(pause)

    return write


def bomb() -> bytes:
    inner = gzip.compress(b" " * 2**24)
    return gzip.compress(inner * 64)


IN_JOB = b'{"id":1,"slug":"s","jobs":[{"id":99,"prompt":"p","status":"%s","more":['
HEADERS = [b"X-%d: " % number + b"x" * 65_000 for number in range(99)]
ANSWERS: dict[str, Body] = {
    "brackets": responding(repeated(b"[],", b"[", b"0]")),
    "objects": responding(repeated(b'{"a":1},', b'{"x":[', b'0],"jobs":[]}')),
    "brackets in a job": responding(repeated(b"[],", IN_JOB % b"pending", b"0]}]}")),
    "lists of brackets": responding(repeated(b"[],", b'{"jobs":[', b"{}]}")),
    "nested": responding(repeated(b"[", b'{"jobs":')),
    "digits": responding(repeated(b"9", b'{"id":', b"}")),
    "long texts": responding(
        repeated(b'{"id":99,"prompt":"' + "\U0001f600".encode() * 900_000 + b'","status":"pending"},', b'{"jobs":[')
    ),
    "texts with one wide character": responding(
        repeated(
            b'{"id":99,"prompt":"' + "\U0001f600".encode() + b"x" * 1_040_000 + b'","status":"pending"},', b'{"jobs":['
        )
    ),
    "texts with one broad character": responding(
        repeated(
            b'{"id":99,"prompt":"' + "\u4e2d".encode() + b"x" * 2_090_000 + b'","status":"pending"},', b'{"jobs":['
        )
    ),
    "running jobs": responding(counted_entries('{"id":%d,"prompt":"","status":"running","priority":"low"},')),
    "long ids": responding(repeated(b"x", b'{"success":true,"id":"', b'","slug":"s","url":"/s/s"}')),
    "long headers": responding(lambda: iter([b"{}"]), *HEADERS),
    "endless headers": lambda: (part for part in (b"HTTP/1.1 200 OK\r\n", *[b"X: x\r\n" * 10_000] * 1000)),
    "endless": chunked(endless(b" " * BLOCK, 0.001)),
    "dribbling": chunked(endless(b" ", 0.02)),
    "compressed": responding(lambda: iter([bomb()]), b"Content-Encoding: gzip"),
}


class Memory:
    """The peak memory of any one of some processes and their children, as measured by the kernel."""

    def __init__(self, *processes: Process) -> None:
        self._roots = [psutil.Process(each.popen.pid) for each in processes]

    def _folders(self) -> list[Path]:
        return [Path("/proc", str(each.pid)) for root in self._roots for each in (root, *root.children(recursive=True))]

    def reset(self) -> None:
        """Reset the kernel's measurement."""
        for folder in self._folders():
            (folder / "clear_refs").write_text("5")

    def most(self) -> int:
        """The peak of any process since the last reset, in bytes."""
        peaks = [re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text()) for folder in self._folders()]
        return max(int(peak[1]) << 10 for peak in peaks if peak)


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer() as running:
        yield running


@pytest.fixture
def fleet(server: PlainServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(server, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)  # type: ignore[arg-type]
    made.environment["MODELREINS_TIMEOUT"] = "2"
    yield made
    made.stop()


@pytest.mark.long
@pytest.mark.timeout(420)
@pytest.mark.parametrize("part", range(PARTS))
def test_memory_is_bounded_and_presence_and_jobs_go_on(
    fleet: Fleet, server: PlainServer, redis_server: RedisServer, part: int
) -> None:
    worker, bridge = fleet.worker("-c", "1"), fleet.bridge()
    memory = Memory(worker, bridge)
    largest: dict[str, int] = {}
    for name, body in list(ANSWERS.items())[part::PARTS]:
        spoiled: Counter[str] = Counter()

        def spoil(request: Request, body: Body = body, spoiled: Counter[str] = spoiled) -> Reply | None:
            route = route_of(request)
            if route not in ROUTES or spoiled[route] >= TIMES:
                return None
            if route == "upload" and body is ANSWERS["dribbling"]:  # an upload may take minutes
                return None
            spoiled[route] += 1
            return Reply(raw=body(), after=request.method == "POST")

        server.spoil = spoil
        memory.reset()
        reports = server.asked["presence"]
        job_id = fleet.dispatch(name, "poster")
        (job,) = fleet.ended(job_id, seconds=120.0)
        assert (job["status"], job["result"]) == ("done", name.upper()), name
        until(lambda: server.asked["presence"] > reports + TIMES, seconds=30.0)  # noqa: B023
        until(lambda: set(ROUTES) - {"upload", "review"} <= set(spoiled), seconds=30.0)  # noqa: B023
        largest[name] = memory.most()
    print({name: f"{most >> 20} MiB" for name, most in largest.items()})
    assert max(largest.values()) <= MOST_RSS, largest
    assert max(server.gaps("presence")) < 20
    client = redis_server.client(1)
    keys = [key for key in client.scan_iter() if b":outcome:" not in key]  # outcomes are kept for two minutes
    sizes = {key: client.memory_usage(key) or 0 for key in keys}
    assert sum(sizes.values()) < 2**20, Counter(sizes).most_common(5)
