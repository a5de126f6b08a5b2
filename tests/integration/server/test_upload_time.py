"""A request may take as long as its size needs at a slow rate, and no longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import Api, api

RETRY_SECONDS = 1.0
SIZE = 16 * 2**20
ANSWER = b'{"success": true, "slug": "x", "url": "/s/x"}'


@contextmanager
def server(take: Callable[[socket.socket], None]) -> Iterator[str]:
    """Start a server that handles one request with ``take``, and has a small receive buffer. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)

        def serve() -> None:
            with listening.accept()[0] as connection:
                take(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "UPLOAD_TIMEOUT", RETRY_SECONDS)


def upload(url: str) -> dict[str, object]:
    client = Api(url, "token", "w", timeout=RETRY_SECONDS)
    return client.upload(bytes(SIZE), content_type="video/mp4", filename="film.mp4")


def test_a_slow_upload_that_makes_progress_does_not_time_out() -> None:
    began = time.monotonic()

    def slowly(connection: socket.socket) -> None:
        left = SIZE
        while left > 0:
            left -= len(connection.recv(2**18))
            time.sleep(RETRY_SECONDS / 20)  # a slow server
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
        connection.sendall(head.encode() + ANSWER)

    with server(slowly) as url:
        assert upload(url)["slug"] == "x"
    assert time.monotonic() - began > 2 * RETRY_SECONDS, "otherwise the test proves nothing"


def test_an_upload_times_out_if_the_server_stops_reading() -> None:
    given_up = threading.Event()

    def stuck(connection: socket.socket) -> None:
        connection.recv(2**16)
        given_up.wait(30)

    with server(stuck) as url:
        try:
            with pytest.raises(WorkerError, match="timed out") as caught:
                upload(url)
        finally:
            given_up.set()
    assert caught.value.retryable


RATE = 32 * 2**20
"""Bytes per second at which the server must read. The server of the test reads an eighth of it."""


def too_slowly(connection: socket.socket) -> None:
    with suppress(ConnectionError):
        while connection.recv(2**18):
            time.sleep(2**18 * 8 / RATE)


@pytest.mark.parametrize(
    "request_",
    [
        lambda api: api.upload(bytes(SIZE), content_type="video/mp4", filename="film.mp4"),
        lambda api: api.close(1, "x" * SIZE, "done"),
        lambda api: api.review("text", "title", "x" * SIZE),
    ],
    ids=["upload", "close", "review"],
)
def test_a_request_ends_if_the_server_reads_it_too_slowly(request_: Callable[[Api], object]) -> None:
    with server(too_slowly) as url:
        client = Api(url, "token", "w", timeout=RETRY_SECONDS, min_rate=RATE)
        with pytest.raises(WorkerError, match="timed out") as caught:
            request_(client)
    assert caught.value.trouble
