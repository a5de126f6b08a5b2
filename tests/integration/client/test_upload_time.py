"""An upload may take as long as it makes progress, and no longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mr_celery.client import Api, api
from mr_celery.errors import WorkerError

PATIENCE = 1.0
SIZE = 16 * 2**20
ANSWER = b'{"success": true, "slug": "x", "url": "/s/x"}'


@contextmanager
def server(take: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that takes one request as the test says, with little room for what it has not read. Its address."""
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
    monkeypatch.setattr(api, "UPLOAD_TIMEOUT", PATIENCE)


def upload(url: str) -> dict[str, object]:
    client = Api(url, "token", "w", timeout=PATIENCE)
    return client.upload(bytes(SIZE), content_type="video/mp4", filename="film.mp4")


def test_a_slow_server_is_given_the_time_that_it_takes() -> None:
    began = time.monotonic()

    def slowly(connection: socket.socket) -> None:
        left = SIZE
        while left > 0:
            left -= len(connection.recv(2**18))
            time.sleep(PATIENCE / 20)  # it is what the server is like
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
        connection.sendall(head.encode() + ANSWER)

    with server(slowly) as url:
        assert upload(url)["slug"] == "x"
    assert time.monotonic() - began > 2 * PATIENCE, "the test shows nothing otherwise"


def test_a_server_that_takes_nothing_more_is_given_up() -> None:
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
