from __future__ import annotations

import gzip
import logging
import os
import pickle
import socket
import time
import traceback
import zlib
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from mr_celery.errors import MOST_RETRY_AFTER, WorkerError
from mr_celery.server import Transport, answers
from mr_celery.server import transport as http_module
from mr_celery.server.answers import MOST_PARSED
from mr_celery.server.failures import MOST_SECONDS, retry_after, without_secret
from support.mocked_http import MockedHttp
from support.ports import until

from .conftest import read_request

TOKEN = "mr-secret-token-1234"
BASE = "https://mr.example"


def transport(url: str = BASE, timeout: float = 5.0, token: str = TOKEN) -> Transport:
    return Transport(url, token, "test/1", timeout)


def failing(made: Transport, method: str = "GET", path: str = "/x", **options: Any) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        made.request(method, path, **options)
    made.close()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return caught.value


def answer(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class TestRequest:
    def test_sends_what_the_sdk_sends(self, mocked_http: MockedHttp) -> None:
        mocked_http.post(f"{BASE}/jobs/7/claim", json={"ok": True})
        assert transport().request("POST", "/jobs/7/claim", json={"worker": "ä"}) == {"ok": True}
        sent = mocked_http.last_request
        assert sent is not None
        assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
        assert sent.headers["Content-Type"] == "application/json"
        assert sent.headers["User-Agent"] == "test/1"
        assert sent.body == b'{"worker": "\\u00e4"}'

    def test_a_query_is_encoded(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/my-jobs", json={})
        transport().request("GET", "/my-jobs", params={"worker": "a b/c&ü"})
        sent = mocked_http.last_request
        assert sent is not None
        assert sent.url == f"{BASE}/my-jobs?worker=a%20b%2Fc%26%C3%BC"

    def test_a_base_path_is_kept(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/mr/api/x", json=[1])
        assert transport(f"{BASE}/mr/api//").request("GET", "/x") == [1]

    @pytest.mark.parametrize("body", [b"", b"\r\n"])
    def test_an_empty_answer_is_an_empty_object(self, mocked_http: MockedHttp, body: bytes) -> None:
        mocked_http.post(f"{BASE}/x", content=body, status_code=204)
        assert transport().request("POST", "/x", json={}) == {}

    @pytest.mark.parametrize("encoding", ["identity", " Identity", ""])
    def test_an_answer_that_is_not_compressed_and_says_so(self, serve: Any, encoding: str) -> None:
        server = serve(answer(b'{"a": 1}', "200 OK", f"Content-Encoding: {encoding}"))
        assert transport(server.url).request("GET", "/x") == {"a": 1}

    @pytest.mark.parametrize("json", [{"details": object()}, {"x": {1, 2}}])
    def test_a_body_that_is_not_json_is_not_sent(self, json: object) -> None:
        error = failing(transport(), "PUT", json=json)
        assert str(error).startswith("PUT /x -> not sent: ")
        assert (error.status, error.retryable) == (None, False)

    def test_a_header_with_a_newline_is_not_sent(self) -> None:
        error = failing(transport(), headers={"Idempotency-Key": "a\r\nX: y"})
        assert str(error).startswith("GET /x -> not sent: ")

    def test_a_query_that_cannot_be_encoded_is_not_sent(self) -> None:
        assert "not sent" in str(failing(transport(), params={"worker": "\ud800"}))

    def test_connections_are_not_shared_with_a_fork(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        later: list[bytes] = []

        def respond(connection: socket.socket, request: bytes) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            later.append(read_request(connection))

        server = serve(respond)
        made = transport(server.url)
        made.request("GET", "/parent")
        pid = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        made.request("GET", "/child")
        made.close()
        until(lambda: len(later) == 2, what="both connections are closed")
        assert [request.split(b" ")[1] for request in server.requests] == [b"/parent", b"/child"]
        assert later == [b"", b""]


class TestErrorAnswers:
    @pytest.mark.parametrize(
        ("status", "retryable"),
        [
            (400, False),
            (401, False),
            (403, False),
            (404, False),
            (408, True),
            (409, False),
            (413, False),
            (422, False),
            (425, True),
            (429, True),
            (500, True),
            (502, True),
            (503, True),
            (599, True),
            (304, False),
        ],
    )
    def test_status(self, mocked_http: MockedHttp, status: int, retryable: bool) -> None:
        mocked_http.post(f"{BASE}/jobs/7/close", status_code=status, text="no " * 400)
        error = failing(transport(), "POST", "/jobs/7/close", json={})
        assert str(error) == f"POST /jobs/7/close -> {status}: " + ("no " * 400)[:500]
        assert (error.status, error.retryable, error.retry_after) == (status, retryable, None)
        assert error.summary == f"POST /jobs/7/close -> {status}"

    def test_an_error_that_is_not_utf8(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=500, content=b"\xff\xfe oops")
        assert str(failing(transport())) == "GET /x -> 500: �� oops"

    def test_an_error_that_breaks_off_keeps_its_status(self, serve: Any) -> None:
        server = serve(answer(b"not the wh", "503 Unavailable", "Retry-After: 7", length=100))
        error = failing(transport(server.url))
        assert (error.status, error.retryable, error.retry_after) == (503, True, 7.0)

    def test_a_chunk_of_negative_size_is_not_read_endlessly(self, serve: Any) -> None:
        sent = 0

        def respond(connection: socket.socket, request: bytes) -> None:
            nonlocal sent
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
            for _ in range(256):  # fewer if the client closes the connection
                connection.sendall(b"x" * 2**20)
                sent += 2**20

        error = failing(transport(serve(respond).url))
        assert str(error) == "GET /x -> network: a part of the response has no usable size"
        assert error.retryable
        assert sent < 128 * 2**20

    @pytest.mark.parametrize(
        ("length", "said"),
        [(b"9" * 4000, "network: the response was cut off"), (b"9" * 5000, None), (b"-1", None), (b"\xb2", None)],
        ids=["huge", "beyond Python", "negative", "not ASCII"],
    )
    def test_an_invalid_content_length(self, serve: Any, length: bytes, said: str | None) -> None:
        server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\nConnection: close\r\n\r\n{}" % length)
        if said is None:
            assert transport(server.url).request("GET", "/x") == {}
        else:
            error = failing(transport(server.url))
            assert said in str(error)
            assert error.retryable
            assert len(str(error)) < 600

    def test_a_long_error_is_not_read_to_its_end(self, serve: Any) -> None:
        def respond(connection: socket.socket, request: bytes) -> None:
            connection.sendall(b"HTTP/1.1 500 Oh\r\n\r\n")
            while True:  # ends when the client closes the connection
                connection.sendall(b"x" * 65536)

        assert str(failing(transport(serve(respond).url))) == "GET /x -> 500: " + "x" * 500

    def test_an_error_can_be_pickled(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=429, headers={"Retry-After": "3"})
        error = pickle.loads(pickle.dumps(failing(transport())))
        assert (error.status, error.retryable, error.retry_after) == (429, True, 3.0)

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("0", 0.0), ("12", 12.0), (" 1.5 ", 1.5), ("2.", 2.0), ("0007", 7.0), ("86400", 86400.0)]
        + [("1000000000000", 1e12), ("9" * 400, MOST_SECONDS), ("9" * 60_000, MOST_SECONDS), ("1." + "0" * 400, 1.0)]
        + [("3, 4", 4.0), ("1000000000000,5", 1e12)]
        + [
            (text, None)
            for text in ("", ",", "-3", "+3", "nan", "inf", "1e400", "0x10", "soon", "3, soon", "3 s", "1_0")
        ]
        + [(text, None) for text in ("٣", "\xb2", "\xd9\xa3", "３", "\u2066 5", "Fri, 99 Foo", "\0", "5\r\n 6")]
        + [(text, None) for text in ("Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "1 Jan 0000")]
        + [("Fri, 31 Dec 9999 23:59:59 +9999", None)],
    )
    def test_retry_after(self, header: str, seconds: float | None) -> None:
        assert retry_after(header) == seconds

    @pytest.mark.parametrize(
        "zone", ["GMT", "UTC", "Z", "+0000", "-0000", "", "Mars"], ids=lambda zone: zone or "no zone"
    )
    def test_retry_after_a_date(self, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            seconds = retry_after(formatdate(time.time() + 100, usegmt=True).replace("GMT", zone))
        finally:
            monkeypatch.undo()
            time.tzset()
        assert seconds is not None
        assert 0 < seconds <= 100
        assert retry_after(None) is None

    def test_retry_after_a_date_in_another_zone(self) -> None:
        date = formatdate(time.time() + 100 + 5.5 * 3600, usegmt=True)
        seconds = retry_after(date.replace("GMT", "+0530"))
        assert seconds is not None
        assert 0 < seconds <= 100

    def test_retry_after_in_a_far_future(self) -> None:
        assert (retry_after("Fri, 31 Dec 9999 23:59:59 GMT") or 0) > 1e11

    @pytest.mark.parametrize(
        ("headers", "least", "most"),
        [
            ([b"1000000000000"], MOST_RETRY_AFTER, MOST_RETRY_AFTER),
            ([b"Fri, 31 Dec 9999 23:59:59 GMT"], MOST_RETRY_AFTER, MOST_RETRY_AFTER),
            ([b"5", b"1000000000000"], 5.0, MOST_RETRY_AFTER),
            ([b"1000000000000", b"5"], 5.0, MOST_RETRY_AFTER),
            ([b"\xb2"], None, None),
            ([b"\xd9\xa3\xff"], None, None),
            ([b""], None, None),
            ([b"-1"], None, None),
            ([b"9" * 60_000], MOST_RETRY_AFTER, MOST_RETRY_AFTER),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_an_error_passes_on_an_hour_at_most(
        self, serve: Any, headers: list[bytes], least: float | None, most: float | None
    ) -> None:
        lines = b"".join(b"Retry-After: %s\r\n" % each for each in headers)
        head = b"HTTP/1.1 429 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n" % lines
        error = failing(transport(serve(head).url))
        if least is None or most is None:
            assert error.retry_after is None
        else:
            assert error.retry_after is not None
            assert least <= error.retry_after <= most


class TestNotTheProtocol:
    @pytest.mark.parametrize(
        "body",
        [b"<!doctype html><p>Sign in", b'{"jobs": [', b"nul", b"\xff\xfe", b"[" * 20_000, b"1" * 5000],
        ids=["html", "cut", "word", "bytes", "deep", "digits"],
    )
    def test_a_2xx_that_is_not_json(self, mocked_http: MockedHttp, body: bytes) -> None:
        mocked_http.get(f"{BASE}/x", content=body, headers={"Content-Type": "text/html"})
        error = failing(transport())
        assert str(error).startswith("GET /x -> 200: not JSON (text/html): ")
        assert body[:9].decode(errors="replace") in str(error)
        assert len(str(error)) < 600
        assert (error.status, error.retryable) == (200, True)

    @pytest.mark.parametrize("needed", [(), ("id",)])
    @pytest.mark.parametrize(
        ("body", "value"),
        [
            (b"", {}),
            (b" \r\n", {}),
            (b"{}", {}),
            (b'{"id": 1, "x": [2]}', {"id": 1, "x": [2]}),
            (b"[1]", [1]),
            (b"7", 7),
            (b" " * (MOST_PARSED - 1) + b"7", 7),
        ],
    )
    @pytest.mark.parametrize("is_chunked", [False, True])
    def test_a_short_answer_is_parsed(
        self, serve: Any, body: bytes, value: object, needed: tuple[str, ...], *, is_chunked: bool
    ) -> None:
        reply = answer(body)
        if is_chunked:
            pieces = (body[at : at + 30_000] for at in range(0, len(body), 30_000))
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        assert transport(serve(reply).url).request("GET", "/x", needed=needed) == value

    @pytest.mark.parametrize("size", [MOST_PARSED + 1, 3 * MOST_PARSED])
    def test_a_long_answer_is_reduced_to_what_is_needed(self, serve: Any, size: int) -> None:
        body = b'{"id": 1, "url": "u", "x": "'.ljust(size - 2, b"x") + b'"}'
        client = transport(serve(answer(body)).url)
        assert client.request("GET", "/x", needed=("id", "url")) == {"id": 1, "url": "u"}
        assert client.request("GET", "/x") == {}

    def test_an_answer_that_is_too_long(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(answers, "MOST_BYTES", 100_000)
        error = failing(transport(serve(answer(b'{"x": "' + b"x" * 200_000 + b'", "id": 1}')).url), needed=("id",))
        assert str(error) == "GET /x -> 200: the response is longer than 100000 bytes"

    def test_no_http_at_all(self, serve: Any) -> None:
        error = failing(transport(serve(b"SSH-2.0-OpenSSH_9.2\r\n").url))
        assert error.summary == "GET /x -> network"
        assert (error.status, error.retryable) == (None, True)

    @pytest.mark.parametrize("length", ["5, 7", "x", "-1"])
    def test_contradicting_lengths(self, serve: Any, length: str) -> None:
        server = serve(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n[".encode())
        assert failing(transport(server.url)).retryable

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [
            ("gzip", gzip.compress(b'{"a": 1}')),
            ("x-gzip", gzip.compress(gzip.compress(b" " * 2**20))),
            ("gzip, gzip", gzip.compress(gzip.compress(b" " * 2**20))),
            ("deflate", zlib.compress(b"{}")),
            ("br", b"\x0b\x02\x80{}\x03"),
            ("zstd", b"\x28\xb5\x2f\xfd"),
            ("unheard-of", b"{}"),
        ],
        ids=["gzip", "x-gzip", "twice", "deflate", "br", "zstd", "unheard-of"],
    )
    @pytest.mark.parametrize("read", [{}, {"read": b"".join}], ids=["answer", "list"])
    def test_compressed(self, serve: Any, encoding: str, body: bytes, read: dict[str, Any]) -> None:
        error = failing(transport(serve(answer(body, "200 OK", f"Content-Encoding: {encoding}")).url), **read)
        said = "the response is compressed, although no compression was requested (Content-Encoding)"
        assert (str(error), error.summary) == (f"GET /x -> 200: {said}", f"GET /x -> 200: {said}")
        assert (error.status, error.retryable) == (200, True)

    @pytest.mark.parametrize(("status", "retryable"), [("401 No", False), ("409 No", False), ("503 No", True)])
    def test_a_compressed_error_keeps_its_status(self, serve: Any, status: str, retryable: bool) -> None:
        bomb = gzip.compress(b" " * 2**20)
        error = failing(transport(serve(answer(bomb, status, "Content-Encoding: gzip")).url))
        assert str(error).endswith(
            "the response is compressed, although no compression was requested (Content-Encoding)"
        )
        assert (error.status, error.retryable) == (int(status[:3]), retryable)

    @pytest.mark.parametrize(
        "lines",
        [
            ["X-Long: " + "x" * 60_000] * 2,
            [f"X-{number}: {'x' * 1000}" for number in range(90)],
            ["X-Longest: " + "x" * 70_000],
            [f"X-{number}: x" for number in range(200)],
        ],
        ids=["long", "several", "one", "many"],
    )
    def test_a_head_that_is_too_long(self, serve: Any, lines: list[str]) -> None:
        error = failing(transport(serve(answer(b"{}", "200 OK", *lines)).url))
        assert str(error).startswith("GET /x -> network: ")
        assert error.retryable

    def test_a_head_that_is_too_long_is_logged(self, serve: Any) -> None:
        error = failing(transport(serve(answer(b"{}", "200 OK", *["X: " + "x" * 60_000] * 2)).url))
        assert error.summary == "GET /x -> network: the headers of the response are too long"

    def test_a_long_body_in_small_chunks_after_a_long_head(self, serve: Any) -> None:
        body = b"1\r\n \r\n" * 40_000 + b"2\r\n{}\r\n0\r\n\r\n"
        head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Long: {'x' * 60_000}\r\n\r\n".encode()
        assert transport(serve(head + body).url).request("GET", "/x") == {}

    def test_the_rest_of_a_long_answer_is_not_read(self, serve: Any) -> None:
        left: list[bool] = []

        def respond(connection: socket.socket, request: bytes) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n")
            try:
                while not server.over.is_set():
                    connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
            except OSError:
                left.append(True)

        server = serve(respond)
        assert transport(server.url).request("POST", "/x", json={}) == {}
        until(lambda: left)


class TestNoAnswer:
    def test_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        error = failing(transport(f"http://127.0.0.1:{port}"))
        assert str(error).startswith("GET /x -> network: [Errno ")
        assert "refused" in str(error)
        assert (error.status, error.retryable) == (None, True)

    def test_an_unknown_host(self) -> None:
        error = failing(transport("https://no-such-host.invalid"))
        assert error.summary == "GET /x -> network: [Errno -2] Name or service not known"
        assert error.retryable

    def test_dropped(self, serve: Any) -> None:
        error = failing(transport(serve(b"").url), "POST", json={})
        assert str(error) == "POST /x -> network: Remote end closed connection without response"
        assert (error.status, error.retryable) == (None, True)

    def test_truncated(self, serve: Any) -> None:
        error = failing(transport(serve(answer(b"{}", length=50)).url))
        assert error.summary == "GET /x -> network: the response was cut off"
        assert (error.status, error.retryable) == (None, True)

    def test_truncated_to_nothing_is_not_read_as_empty(self, serve: Any) -> None:
        assert failing(transport(serve(answer(b"", length=2)).url)).retryable

    def test_truncated_in_a_chunk(self, serve: Any) -> None:
        server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        assert failing(transport(server.url)).retryable

    def test_silence(self, serve: Any) -> None:
        server: Any = serve(lambda connection, request: server.over.wait(20))
        error = failing(transport(server.url, timeout=0.1))
        assert str(error) == "GET /x -> network: timed out"
        assert error.retryable

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nX-Long: ",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        ],
        ids=["status", "headers", "body", "chunk"],
    )
    def test_a_trickle_times_out(self, serve: Any, head: bytes) -> None:
        def trickle(connection: socket.socket, request: bytes) -> None:
            connection.sendall(head)
            while not server.over.wait(0.02):
                connection.sendall(b"1")

        server = serve(trickle)
        error = failing(transport(server.url, timeout=0.5))
        assert "timed out: the response came too slowly" in str(error)
        assert error.retryable

    def test_endless_interim_answers_time_out(self, serve: Any) -> None:
        def respond(connection: socket.socket, request: bytes) -> None:
            while not server.over.wait(0.02):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        server = serve(respond)
        assert failing(transport(server.url, timeout=0.2)).retryable

    def test_a_source_that_cannot_be_read(self, serve: Any) -> None:
        class Broken:
            len = 10

            def read(self, size: int = -1) -> bytes:
                raise OSError("disk gone")

        error = failing(transport(serve(answer(b"{}")).url), "POST", data=Broken())
        assert str(error) == "POST /x -> network: disk gone"


class TestRedirects:
    def test_followed_on_the_same_server(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=302, headers={"Location": "/y?a=1#part"})
        mocked_http.get(f"{BASE}/y?a=1", json={"ok": 1})
        assert transport().request("GET", "/x") == {"ok": 1}
        assert mocked_http.last_request is not None
        assert mocked_http.last_request.headers["Authorization"] == f"Bearer {TOKEN}"

    def test_followed_from_http_to_https(self, mocked_http: MockedHttp) -> None:
        mocked_http.post("http://mr.example/x", status_code=308, headers={"Location": "https://MR.example/x"})
        mocked_http.post("https://mr.example/x", json={"ok": 1})
        assert transport("http://mr.example").request("POST", "/x", json={"a": 1}) == {"ok": 1}
        assert mocked_http.last_request is not None
        assert mocked_http.last_request.json() == {"a": 1}

    def test_followed_to_the_default_port(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=301, headers={"Location": f"{BASE}:443/y"})
        mocked_http.get(f"{BASE}/y", json={"ok": 1})
        assert transport().request("GET", "/x") == {"ok": 1}

    @pytest.mark.parametrize(
        ("location", "named"),
        [
            ("https://evil.example/x", "https://evil.example"),
            ("//evil.example/x", "https://evil.example"),
            ("http://mr.example/x", "http://mr.example"),
            ("https://mr.example:8443/x", "https://mr.example:8443"),
            ("https://user:pass@mr.example/x", "https://mr.example"),
            ("https://mr.example@evil.example/x", "https://evil.example"),
            ("ftp://mr.example/x", "ftp://mr.example"),
            ("https://mr.example:x/", "an invalid address"),
            ("https://[::1/", "an invalid address"),
            ("https://ev il.example/", "an invalid address"),
        ],
    )
    def test_never_followed_elsewhere(self, mocked_http: MockedHttp, location: str, named: str) -> None:
        mocked_http.get(f"{BASE}/x", status_code=307, headers={"Location": location})
        error = failing(transport())
        assert str(error) == f"GET /x -> 307: redirects to {named}, where the token is not sent"
        assert (error.status, error.retryable) == (307, False)
        assert mocked_http.call_count == 1

    @pytest.mark.parametrize("status", [301, 302, 303])
    def test_a_post_is_not_turned_into_a_get(self, mocked_http: MockedHttp, status: int) -> None:
        mocked_http.post(f"{BASE}/x", status_code=status, headers={"Location": "/y"})
        error = failing(transport(), "POST", json={})
        assert "redirects to https://mr.example, which only a GET follows" in str(error)

    def test_an_upload_is_not_redirected(self, serve: Any) -> None:
        class Stream:
            len = 2

            def read(self, size: int = -1) -> bytes:
                data, self.len = b"ab"[: self.len], 0
                return data

        server = serve(answer(b"", "307 Elsewhere", "Location: /y"))
        assert "307: redirects to" in str(failing(transport(server.url), "POST", data=Stream()))
        assert len(server.requests) == 1

    def test_the_number_of_redirects_is_limited(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=302, headers={"Location": "/x"})
        assert str(failing(transport())) == "GET /x -> redirected more than 5 times"
        assert mocked_http.call_count == 6

    def test_a_redirect_without_a_location_is_an_error(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", status_code=302, text="somewhere")
        assert str(failing(transport())) == "GET /x -> 302: somewhere"


class TestToken:
    def test_is_in_no_repr(self) -> None:
        made = transport()
        assert repr(made) == "Transport('https://mr.example')"
        assert TOKEN not in repr(vars(made))

    @pytest.mark.parametrize(
        "echo",
        [f"bad token {TOKEN}!", f'{{"got": "Bearer {TOKEN}"}}', "x" * 490 + TOKEN],
    )
    @pytest.mark.parametrize("status", [200, 401])
    def test_is_redacted_in_an_echo(self, mocked_http: MockedHttp, echo: str, status: int) -> None:
        mocked_http.get(f"{BASE}/x", status_code=status, text=f"<p>{echo}")
        error = failing(transport())
        assert "***" in str(error)
        assert TOKEN[:8] not in str(error)

    def test_is_redacted_in_an_encoded_echo(self) -> None:
        for echo in ('a"b<c/d e', 'a\\"b<c/d e', "a&quot;b&lt;c/d e", "a%22b%3Cc%2Fd%20e", "a%22b%3Cc/d%20e"):
            assert without_secret(f"-{echo}-", 'a"b<c/d e') == "-***-"

    def test_is_in_no_log(self, serve: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        transport(serve(answer(b"{}")).url).request("GET", "/x")
        failing(transport(serve(answer(TOKEN.encode(), "500 Oh")).url))
        assert TOKEN not in caplog.text

    def test_is_stripped(self, mocked_http: MockedHttp) -> None:
        mocked_http.get(f"{BASE}/x", json={})
        transport(token=f" {TOKEN}\r\n").request("GET", "/x")
        assert mocked_http.last_request is not None
        assert mocked_http.last_request.headers["Authorization"] == f"Bearer {TOKEN}"

    @pytest.mark.parametrize("token", ["", " \n", "sec\nret", "sec\x00ret", "sec\x7fret", "sec\u2028ret", "secret€"])
    def test_an_unusable_one_is_refused_without_echo(self, token: str) -> None:
        with pytest.raises(WorkerError) as caught:
            transport(token=token)
        assert "sec" not in str(caught.value)
        assert "token" in str(caught.value)

    def test_a_netrc_does_not_replace_it(self, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password hidden\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        server = serve(answer(b"{}"))
        transport(server.url).request("GET", "/x")
        assert f"Authorization: Bearer {TOKEN}".encode() in server.requests[0]


class TestEnvironment:
    def test_a_proxy_is_used(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        proxy = serve(answer(b'{"through": "proxy"}'))
        monkeypatch.setenv("http_proxy", proxy.url)
        assert transport("http://mr.invalid").request("GET", "/x") == {"through": "proxy"}
        assert proxy.requests[0].startswith(b"GET http://mr.invalid/x HTTP/1.1\r\n")

    def test_a_tunnel_through_an_https_proxy_is_requested_without_the_token(
        self, serve: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve(answer(b"", "403 No"))
        monkeypatch.setenv("https_proxy", proxy.url)
        error = failing(transport("https://mr.invalid"))
        assert error.summary == "GET /x -> network"
        assert proxy.requests[0].startswith(b"CONNECT mr.invalid:443 ")
        assert TOKEN.encode() not in proxy.requests[0]

    def test_no_proxy_is_respected(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert transport(serve(answer(b"{}")).url).request("GET", "/x") == {}

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_certificates(self, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        missing = str(tmp_path / "none.pem")
        monkeypatch.setenv(variable, missing)
        error = failing(transport())
        assert missing in str(error)


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "kept"),
        [
            ("https://mr.example/", "https://mr.example"),
            (" https://mr.example/base// ", "https://mr.example/base"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x"),
        ],
    )
    def test_usable(self, url: str, kept: str) -> None:
        assert transport(url).url == kept

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "mr.example",
            "ftp://mr.example",
            "https://",
            "https:///x",
            "https://mr.example:port",
            "https://[::1",
            "https://mr.example:99999",
            "https://mr example",
            "https://mr.example/\n/x",
            "https://mr.example?x=1",
            "https://mr.example/#x",
            "file:///etc/passwd",
        ],
    )
    def test_unusable(self, url: str) -> None:
        with pytest.raises(WorkerError, match="is not a server URL"):
            transport(url)

    def test_a_password_is_refused_without_echo(self) -> None:
        with pytest.raises(WorkerError, match="must not contain a user or password") as caught:
            transport("https://me:hidden@mr.example")
        assert "hidden" not in str(caught.value)

    def test_an_unencrypted_address_is_logged_once(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_module, "_warned", set())
        for url in ("http://mr.example", "http://mr.example/", "http://localhost:1", "http://a.localhost"):
            transport(url)
        for url in ("http://127.0.0.9", "http://[::1]:1", "https://mr.example", "http://10.0.0.1"):
            transport(url)
        assert [(record.name, record.getMessage()) for record in caplog.records] == [
            ("mr_celery", "http://mr.example is not https: the worker's token is sent unencrypted"),
            ("mr_celery", "http://10.0.0.1 is not https: the worker's token is sent unencrypted"),
        ]
