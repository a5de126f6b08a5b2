"""The limits of the HTTP server, with clients that send slowly, read slowly, or are many."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mr_celery.serving import BackgroundServer, Limits, listen
from support.ports import until

HEAD = b"GET /hello HTTP/1.1\r\nHost: x\r\n"


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def unread(request: Request) -> Response:
    return PlainTextResponse("no", 401)


async def large(request: Request) -> Response:
    return PlainTextResponse(b"x" * 30_000_000)


APP = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/echo", echo, methods=["POST"]),
        Route("/unread", unread, methods=["POST"]),
        Route("/large", large),
    ]
)


@contextmanager
def served(limits: Limits) -> Iterator[tuple[str, int]]:
    """A server with these limits. Yields its address."""
    server = BackgroundServer(APP, listen("127.0.0.1", 0), limits, name="test-serving")
    server.start()
    try:
        yield server.address[0], server.address[1]
    finally:
        server.stop()
        assert not [each for each in threading.enumerate() if each.name == "test-serving"]


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection, after reading what it has sent."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def drip(client: socket.socket) -> None:
    """Send one byte, if the connection is still open."""
    with suppress(OSError):
        client.send(b"a")


def closed_while_dripping(client: socket.socket) -> None:
    """Send byte after byte until the server closes the connection."""

    def dripped() -> bool:
        drip(client)
        return is_closed(client)

    until(dripped, seconds=20, what="the server closes the connection")


def get(address: tuple[str, int], path: str = "/hello") -> requests.Response:
    return requests.get(f"http://{address[0]}:{address[1]}{path}", timeout=10)


def test_many_dripping_connections_are_bounded_and_others_are_served() -> None:
    with served(Limits(connections=20, header_seconds=60)) as address, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(300)]
        for client in clients:
            drip(client)
        until(lambda: sum(not is_closed(client) for client in clients) <= 20, what="most of them are closed")
        assert not is_closed(clients[-1])  # the newest stay, and get their deadline
        for _ in range(30):
            assert get(address).text == "hello"


def test_limit_leaves_file_descriptors_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(connections=64)
    for soft, expected in ((20_000, 64), (128, 32), (8, 4), (-1, 64)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert limits.possible_connections == expected


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        HEAD + b"X-Long: ",
        HEAD + b"\r\n",  # a complete request, then the beginning of another
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",  # the body is not read
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    ],
)
@pytest.mark.parametrize("total", [None, 1.0])
def test_slow_request_is_cut_off(sent: bytes, total: float | None) -> None:
    limits = Limits(connections=8, header_seconds=0.5, request_seconds=total)
    with served(limits) as address, socket.create_connection(address) as client:
        client.sendall(sent)
        closed_while_dripping(client)


def test_long_headers_are_refused() -> None:
    with served(Limits(connections=8, header_bytes=4096)) as address, socket.create_connection(address) as client:
        client.sendall(HEAD + b"X-Long: " + b"a" * 100_000)
        until(lambda: is_closed(client), what="the server closes the connection")


def test_response_that_nobody_reads_is_cut_off() -> None:
    limits = Limits(connections=8, stalled_seconds=2.0)
    with served(limits) as address, socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        received = 0
        client.settimeout(20)
        threading.Event().wait(5.0)  # reads nothing in the meantime
        try:
            while part := client.recv(1_000_000):
                received += len(part)
        except ConnectionError:
            pass
        assert received < 30_000_000
        assert len(get(address, "/large").content) == 30_000_000


def test_steady_upload_takes_longer_than_the_deadline_of_headers() -> None:
    limits = Limits(connections=8, header_seconds=0.3, body_rate=1000)
    with served(limits) as address, socket.create_connection(address) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20):
            client.sendall(b"a" * 1000)
            threading.Event().wait(0.05)
        client.settimeout(10)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_upload_goes_on_while_others_drip() -> None:
    with served(Limits(connections=8)) as address, ExitStack() as stack:
        upload = stack.enter_context(socket.create_connection(address))
        upload.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert get(address).text == "hello"
        for _ in range(100):
            drip(stack.enter_context(socket.create_connection(address)))
        assert get(address).text == "hello"
        upload.sendall(b"67890")
        upload.settimeout(10)
        received = b""
        while b"1234567890" not in received:
            part = upload.recv(65536)
            assert part, received
            received += part


def test_requests_on_one_connection() -> None:
    with served(Limits(connections=8)) as address, requests.Session() as session:
        for _ in range(3):
            assert session.get(f"http://{address[0]}:{address[1]}/hello", timeout=10).text == "hello"
        body = b"a" * 500_000
        assert session.post(f"http://{address[0]}:{address[1]}/echo", data=body, timeout=10).content == body


def test_many_complete_requests_at_once_are_answered() -> None:
    with served(Limits(connections=64)) as address, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(50)]
        for client in clients:
            client.sendall(HEAD + b"\r\n")
        for client in clients:
            client.settimeout(10)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
