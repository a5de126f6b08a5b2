"""Lists of jobs over a real connection: a long one, and some that break off."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import Api, Listing, PartialList, keep_nothing
from mr_celery.server.answers import MOST_BYTES

TOKEN = "mr-secret-token-1234"

CUT = b'{"jobs": [{"id": 1}, {"id": 2, "status": "done"}, {"id": 3, "pro'


def test_a_list_longer_than_any_other_answer_may_be(serve: Any) -> None:
    entry = b'{"id": 1, "prompt": "' + b"x" * 2**20 + b'"},'
    count = MOST_BYTES // 2**20 + 1
    size = len(b'{"jobs":[') + count * len(entry) + len(b"{}]}")

    def respond(connection: Any, request: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b'{"jobs":[')
        for _ in range(count):
            connection.sendall(entry)
        connection.sendall(b"{}]}")

    tracemalloc.start()
    try:
        listing = Api(serve(respond).url, TOKEN, "w").jobs(take=keep_nothing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert listing.count == count
    assert peak < 16 * 2**20


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + CUT, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + CUT + b"\r\n", None),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + CUT, 200),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + CUT[:-10] + b"<html>", 200),
    ],
    ids=["length", "chunks", "no length", "html"],
)
def test_a_list_that_breaks_off_has_what_was_read(serve: Any, answer: bytes, status: int | None) -> None:
    errors: list[WorkerError] = []
    api = Api(serve(answer).url, TOKEN, "w", on_error=errors.append)
    with pytest.raises(PartialList) as caught:
        api.jobs()
    assert caught.value.listing == Listing(({"id": 1},), {1: "pending", 2: "done"}, whole=False, count=1)
    assert (caught.value.status, caught.value.retryable, caught.value.route) == (status, True, "inbox")
    assert len(errors) == 1
    assert "pro" not in caught.value.summary.replace("protocol", "")


def test_a_list_may_come_too_slowly(serve: Any) -> None:
    def trickle(connection: Any, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b'{"jobs":[{"id":1},')
        while not server.over.wait(0.01):
            connection.sendall(b" " * 1000)

    server = serve(trickle)
    with pytest.raises(WorkerError, match="network"):
        Api(server.url, TOKEN, "w", timeout=0.1).jobs()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"jobs": null, "secret prompt": 1}', 'GET /my-jobs -> 200: not {"jobs": […]} but an object'),
        (b"[]", 'GET /my-jobs -> 200: not {"jobs": […]} but list'),
        (b"<html>secret prompt", "GET /my-jobs?worker=w&status=pending -> 200: it is not JSON"),
        (b'{"jobs": [', "GET /my-jobs?worker=w&status=pending -> 200: it ends in the middle"),
        (b'{"jobs": []} secret', "GET /my-jobs?worker=w&status=pending -> 200: something follows its end"),
    ],
)
def test_an_answer_that_is_not_a_list_is_logged_without_its_content(serve: Any, body: bytes, says: str) -> None:
    api = Api(serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).url, TOKEN, "w")
    with pytest.raises(WorkerError) as caught:
        api.jobs()
    assert caught.value.summary == says


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a', "the response was cut off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**17 + b"\r\n\r\n{}", ""),
    ],
)
def test_common_reasons_for_a_missing_answer_are_logged(serve: Any, answer: bytes, says: str) -> None:
    with pytest.raises(WorkerError) as caught:
        Api(serve(answer).url, TOKEN, "w").presence()
    assert caught.value.summary.startswith(f"PUT /presence -> network: {says}")


def test_a_silent_server_is_logged(serve: Any) -> None:
    server = serve(lambda connection, request: server.over.wait(5))
    with pytest.raises(WorkerError) as caught:
        Api(server.url, TOKEN, "w", timeout=0.1).presence()
    assert caught.value.summary == "PUT /presence -> network: no answer in time"
