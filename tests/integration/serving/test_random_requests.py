"""Random bytes to the HTTP server and to the sandbox: it responds or closes, and serves the next request."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mr_celery.sandbox import Sandbox
from mr_celery.serving import BackgroundServer, Limits, listen
from support.fuzzing import FACTOR

REQUESTS = 400 * FACTOR
FRAGMENTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"%",
    b"..",
    b"/",
    b"?",
    b"#",
    b"@",
    b"HTTP/0.9",
    b"99999999999999",
)
LINES = (
    b"GET /hello HTTP/1.1",
    b"POST /echo HTTP/1.1",
    b"PUT /presence HTTP/1.1",
    b"POST /login HTTP/1.1",
    b"GET http://evil.example/hello HTTP/1.1",
    b"GET //evil.example/%2e%2e/hello HTTP/1.1",
    b"CONNECT evil.example:443 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"GET /s/../../etc/passwd HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
HEADERS = (
    b"Host: x",
    b"Host: a\r\nHost: b",
    b"Host: [::1",
    b"Content-Length: 5",
    b"Content-Length: -5",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: \x0bchunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Authorization: Bearer \xff\xfe",
    b"Authorization: Basic",
    b"Cookie: " + b"a=b; " * 500,
    b"Range: bytes=0-0,1-1," + b"2-2," * 500,
    b"Content-Type: multipart/form-data; boundary=" + b"-" * 300,
    b"X: " + b"y" * 60_000,
    b" folded",
    b"no colon",
    b"Accept: text/html",
)


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def gone(request: Request, error: Exception) -> Response:
    return PlainTextResponse("gone", 400)


APP = Starlette(
    routes=[Route("/hello", hello), Route("/echo", echo, methods=["POST"])],
    exception_handlers={ClientDisconnect: gone},
)


@pytest.fixture(params=["a page", "the sandbox"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "the sandbox":
        with Sandbox() as sandbox:
            yield f"{sandbox.url}/health"
        return
    server = BackgroundServer(APP, listen("127.0.0.1", 0), Limits(connections=20), name="test-random")
    server.start()
    host, port = server.address[:2]
    yield f"http://{host}:{port}/hello"
    server.stop()


def random_request(chance: random.Random) -> bytes:
    parts = [
        chance.choice(LINES),
        chance.choice([b"Host: x", b"Host: y", b"X: y"]),
        *chance.sample(HEADERS, chance.randrange(3)),
    ]
    body = chance.choice(
        [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"-5\r\nx", b"ffffffffffffffff\r\n", chance.randbytes(20)]
    )
    whole = bytearray(b"\r\n".join([*parts, b"", body]))
    for _ in range(chance.choice([0, 1, 1, 3])):
        at = chance.randrange(len(whole) + 1)
        whole[at : at + chance.randrange(4)] = chance.choice(FRAGMENTS)
    return bytes(whole)


@pytest.mark.parametrize("path", [b"/hello", b"/echo", b"/login", b"/presence"])
@pytest.mark.parametrize("rest", [b"zz\r\n", b"1\r\nxyz\r\n", b"0\r\n\r\nGET / \0\r\n\r\n"])
def test_a_body_that_is_no_http_is_no_error_of_the_application(
    address: str, path: bytes, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address.removeprefix("http://").partition("/")[0].split(":")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + rest)
                while client.recv(65536):
                    pass
        assert requests.get(address, timeout=30).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_random_requests_stop_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    host, port = address.removeprefix("http://").partition("/")[0].split(":")
    with caplog.at_level(logging.ERROR):
        for seed in range(REQUESTS):
            chance = random.Random(seed)
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(random_request(chance))
                client.shutdown(socket.SHUT_WR)
                while answer := client.recv(65536):
                    assert not answer.startswith(b"HTTP/1.1 5"), (seed, answer[:200])
            if seed % 50 == 0:
                assert requests.get(address, timeout=30).status_code == 200
    assert requests.get(address, timeout=30).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
