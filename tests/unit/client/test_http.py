from __future__ import annotations

import gzip
import logging
import os
import pickle
import socket
import time
import traceback
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests_mock

from mr_celery.client import Transport
from mr_celery.client import http as http_module
from mr_celery.client.answers import MOST_RETRY_AFTER, Redactor, retry_after
from mr_celery.errors import WorkerError

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
    def test_sends_what_the_sdk_sends(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post(f"{BASE}/jobs/7/claim", json={"ok": True})
        assert transport().request("POST", "/jobs/7/claim", json={"worker": "ä"}) == {"ok": True}
        sent = requests_mock.last_request
        assert sent is not None
        assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
        assert sent.headers["Content-Type"] == "application/json"
        assert sent.headers["User-Agent"] == "test/1"
        assert sent.body == b'{"worker": "\\u00e4"}'

    def test_a_query_is_encoded(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/my-jobs", json={})
        transport().request("GET", "/my-jobs", params={"worker": "a b/c&ü"})
        sent = requests_mock.last_request
        assert sent is not None
        assert sent.url == f"{BASE}/my-jobs?worker=a%20b%2Fc%26%C3%BC"

    def test_a_base_path_is_kept(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/mr/api/x", json=[1])
        assert transport(f"{BASE}/mr/api//").request("GET", "/x") == [1]

    @pytest.mark.parametrize("body", [b"", b"\r\n"])
    def test_an_empty_answer_is_an_empty_object(self, requests_mock: requests_mock.Mocker, body: bytes) -> None:
        requests_mock.post(f"{BASE}/x", content=body, status_code=204)
        assert transport().request("POST", "/x", json={}) == {}

    def test_a_compressed_answer(self, serve: Any) -> None:
        server = serve(answer(gzip.compress(b'{"a": 1}'), "200 OK", "Content-Encoding: gzip"))
        assert transport(server.url).request("GET", "/x") == {"a": 1}

    @pytest.mark.parametrize("json", [{"details": object()}, {"x": {1, 2}}])
    def test_a_body_that_is_no_json_is_not_sent(self, json: object) -> None:
        error = failing(transport(), "PUT", json=json)
        assert str(error).startswith("PUT /x -> not sent: ")
        assert (error.status, error.retryable) == (None, False)

    def test_a_header_with_a_newline_is_not_sent(self) -> None:
        error = failing(transport(), headers={"Idempotency-Key": "a\r\nX: y"})
        assert str(error).startswith("GET /x -> not sent: ")

    def test_a_query_that_cannot_be_encoded_is_not_sent(self) -> None:
        assert "not sent" in str(failing(transport(), params={"worker": "\ud800"}))

    def test_connections_are_not_shared_with_a_fork(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = transport()
        here, pid = made._session(), os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        assert made._session() is not here


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
    def test_status(self, requests_mock: requests_mock.Mocker, status: int, retryable: bool) -> None:
        requests_mock.post(f"{BASE}/jobs/7/close", status_code=status, text="no " * 400)
        error = failing(transport(), "POST", "/jobs/7/close", json={})
        assert str(error) == f"POST /jobs/7/close -> {status}: " + ("no " * 400)[:500]
        assert (error.status, error.retryable, error.retry_after) == (status, retryable, None)
        assert error.summary == f"POST /jobs/7/close -> {status}"

    def test_bytes_that_are_no_text(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=500, content=b"\xff\xfe oops")
        assert str(failing(transport())) == "GET /x -> 500: �� oops"

    def test_an_error_that_breaks_off_keeps_its_status(self, serve: Any) -> None:
        server = serve(answer(b"not the wh", "503 Unavailable", "Retry-After: 7", length=100))
        error = failing(transport(server.url))
        assert (error.status, error.retryable, error.retry_after) == (503, True, 7.0)

    def test_a_long_error_is_not_read_to_its_end(self, serve: Any) -> None:
        def respond(connection: socket.socket, request: bytes) -> None:
            connection.sendall(b"HTTP/1.1 500 Oh\r\n\r\n")
            while True:  # ends when the client lets go
                connection.sendall(b"x" * 65536)

        assert str(failing(transport(serve(respond).url))) == "GET /x -> 500: " + "x" * 500

    def test_an_error_can_travel_between_processes(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=429, headers={"Retry-After": "3"})
        error = pickle.loads(pickle.dumps(failing(transport())))
        assert (error.status, error.retryable, error.retry_after) == (429, True, 3.0)

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("0", 0.0), ("12", 12.0), (" 1.5 ", 1.5), ("86400", MOST_RETRY_AFTER), ("9" * 18, MOST_RETRY_AFTER)]
        + [(text, None) for text in ("", "-3", "nan", "inf", "1e400", "soon", "3, 4", "٣", "Fri, 99 Foo", "9" * 400)]
        + [("Wed, 21 Oct 2015 07:28:00 GMT", None), ("Fri, 31 Dec 9999 23:59:59 GMT", MOST_RETRY_AFTER)],
    )
    def test_retry_after(self, header: str, seconds: float | None) -> None:
        assert retry_after(header) == seconds

    def test_retry_after_a_date(self) -> None:
        seconds = retry_after(formatdate(time.time() + 100, usegmt=True))
        assert seconds is not None
        assert 0 < seconds <= 100
        assert retry_after(None) is None


class TestNotTheProtocol:
    @pytest.mark.parametrize(
        "body",
        [b"<!doctype html><p>Sign in", b'{"jobs": [', b"nul", b"\xff\xfe\x00", b"[" * 200_000, b"1" * 5000],
        ids=["html", "cut", "word", "bytes", "deep", "digits"],
    )
    def test_a_2xx_that_is_not_json(self, requests_mock: requests_mock.Mocker, body: bytes) -> None:
        requests_mock.get(f"{BASE}/x", content=body, headers={"Content-Type": "text/html"})
        error = failing(transport())
        assert str(error).startswith("GET /x -> 200: not JSON (text/html): ")
        assert body[:9].decode(errors="replace") in str(error)
        assert len(str(error)) < 600
        assert (error.status, error.retryable) == (200, True)

    def test_an_answer_that_is_too_long(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_module, "MOST_BYTES", 1000)
        error = failing(transport(serve(answer(b'"' + b"x" * 2000 + b'"')).url))
        assert str(error) == "GET /x -> 200: the answer is longer than 1000 bytes"

    def test_no_http_at_all(self, serve: Any) -> None:
        error = failing(transport(serve(b"SSH-2.0-OpenSSH_9.2\r\n").url))
        assert error.summary == "GET /x -> network"
        assert (error.status, error.retryable) == (None, True)

    @pytest.mark.parametrize("length", ["5, 7", "x", "-1"])
    def test_a_nonsensical_length(self, serve: Any, length: str) -> None:
        server = serve(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n[".encode())
        assert failing(transport(server.url)).retryable

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [("gzip", gzip.compress(b"{}", mtime=0)[:10]), ("deflate", b"abc")],
        ids=["gzip", "deflate"],
    )
    def test_cut_compression_is_not_read_as_empty(self, serve: Any, encoding: str, body: bytes) -> None:
        error = failing(transport(serve(answer(body, "200 OK", f"Content-Encoding: {encoding}")).url), "POST", json={})
        assert str(error) == "POST /x -> network: the answer broke off inside its compression"
        assert error.retryable

    def test_broken_compression(self, serve: Any) -> None:
        error = failing(transport(serve(answer(b"not gzip", "200 OK", "Content-Encoding: gzip")).url))
        assert error.summary == "GET /x -> network"
        assert error.retryable


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
        assert error.summary == "GET /x -> network"
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
    def test_a_trickle_ends(self, serve: Any, head: bytes) -> None:
        def trickle(connection: socket.socket, request: bytes) -> None:
            connection.sendall(head)
            while not server.over.wait(0.02):
                connection.sendall(b"1")

        server = serve(trickle)
        error = failing(transport(server.url, timeout=0.2))
        assert "timed out: the answer came too slowly" in str(error)
        assert error.retryable

    def test_interim_answers_without_end(self, serve: Any) -> None:
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
    def test_followed_on_the_same_server(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=302, headers={"Location": "/y?a=1#part"})
        requests_mock.get(f"{BASE}/y?a=1", json={"ok": 1})
        assert transport().request("GET", "/x") == {"ok": 1}
        assert requests_mock.last_request is not None
        assert requests_mock.last_request.headers["Authorization"] == f"Bearer {TOKEN}"

    def test_followed_from_http_to_https(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.post("http://mr.example/x", status_code=308, headers={"Location": "https://MR.example/x"})
        requests_mock.post("https://mr.example/x", json={"ok": 1})
        assert transport("http://mr.example").request("POST", "/x", json={"a": 1}) == {"ok": 1}
        assert requests_mock.last_request is not None
        assert requests_mock.last_request.json() == {"a": 1}

    def test_followed_to_the_default_port(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=301, headers={"Location": f"{BASE}:443/y"})
        requests_mock.get(f"{BASE}:443/y", json={"ok": 1})
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
            ("https://mr.example:x/", "an address that is none"),
            ("https://[::1/", "an address that is none"),
            ("https://ev il.example/", "an address that is none"),
        ],
    )
    def test_never_followed_elsewhere(self, requests_mock: requests_mock.Mocker, location: str, named: str) -> None:
        requests_mock.get(f"{BASE}/x", status_code=307, headers={"Location": location})
        error = failing(transport())
        assert str(error) == f"GET /x -> 307: redirects to {named}, where the token is not sent"
        assert (error.status, error.retryable) == (307, False)
        assert requests_mock.call_count == 1

    @pytest.mark.parametrize("status", [301, 302, 303])
    def test_a_post_is_not_turned_into_a_get(self, requests_mock: requests_mock.Mocker, status: int) -> None:
        requests_mock.post(f"{BASE}/x", status_code=status, headers={"Location": "/y"})
        error = failing(transport(), "POST", json={})
        assert "redirects to https://mr.example, which only a GET follows" in str(error)

    def test_a_stream_is_not_sent_twice(self, serve: Any) -> None:
        class Stream:
            len = 2

            def read(self, size: int = -1) -> bytes:
                data, self.len = b"ab"[: self.len], 0
                return data

        server = serve(answer(b"", "307 Elsewhere", "Location: /y"))
        assert "307: redirects to" in str(failing(transport(server.url), "POST", data=Stream()))
        assert len(server.requests) == 1

    def test_not_for_ever(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=302, headers={"Location": "/x"})
        assert str(failing(transport())) == "GET /x -> redirected more than 5 times"
        assert requests_mock.call_count == 6

    def test_without_a_place_it_is_an_error(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", status_code=302, text="somewhere")
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
    def test_is_taken_out_of_an_echo(self, requests_mock: requests_mock.Mocker, echo: str, status: int) -> None:
        requests_mock.get(f"{BASE}/x", status_code=status, text=f"<p>{echo}")
        error = failing(transport())
        assert "***" in str(error)
        assert TOKEN[:8] not in str(error)

    def test_is_taken_out_of_an_encoded_echo(self) -> None:
        redact = Redactor('a"b<c/d e')
        for echo in ('a"b<c/d e', 'a\\"b<c/d e', "a&quot;b&lt;c/d e", "a%22b%3Cc%2Fd%20e", "a%22b%3Cc/d%20e"):
            assert redact(f"-{echo}-") == "-***-"

    def test_is_in_no_log(self, serve: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        transport(serve(answer(b"{}")).url).request("GET", "/x")
        failing(transport(serve(answer(TOKEN.encode(), "500 Oh")).url))
        assert TOKEN not in caplog.text

    def test_blanks_around_it_are_dropped(self, requests_mock: requests_mock.Mocker) -> None:
        requests_mock.get(f"{BASE}/x", json={})
        transport(token=f" {TOKEN}\r\n").request("GET", "/x")
        assert requests_mock.last_request is not None
        assert requests_mock.last_request.headers["Authorization"] == f"Bearer {TOKEN}"

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

    def test_an_https_proxy_is_asked_for_a_tunnel_without_the_token(
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
        assert transport()._session().verify == missing
        error = failing(transport())
        assert missing in str(error)

    def test_certificates_are_checked(self) -> None:
        assert transport()._session().verify is True


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
        with pytest.raises(WorkerError, match="is not a server's URL"):
            transport(url)

    def test_a_password_is_refused_without_echo(self) -> None:
        with pytest.raises(WorkerError, match="must not contain a user or password") as caught:
            transport("https://me:hidden@mr.example")
        assert "hidden" not in str(caught.value)

    def test_in_clear_is_told_once(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_module, "_warned", set())
        for url in ("http://mr.example", "http://mr.example/", "http://localhost:1", "http://a.localhost"):
            transport(url)
        for url in ("http://127.0.0.9", "http://[::1]:1", "https://mr.example", "http://10.0.0.1"):
            transport(url)
        assert [(record.name, record.getMessage()) for record in caplog.records] == [
            ("mr_celery", "http://mr.example is not https: the worker's token travels in clear"),
            ("mr_celery", "http://10.0.0.1 is not https: the worker's token travels in clear"),
        ]
