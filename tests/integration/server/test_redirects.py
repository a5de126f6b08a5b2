"""The token is sent to no other server, wherever a response redirects: each target, status and method."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.errors import WorkerError
from mr_celery.sdk import Worker
from mr_celery.server import register
from mr_celery.server.api import Api
from mr_celery.server.dispatching import Dispatcher
from support.fuzzing import examples

TOKEN = "secret-worker-token-123"
HOST = "mr.example"

STATUSES = ("201 Created", "300 Choices", "301 Moved", "302 Found", "303 Other", "305 Proxy", "307 Here", "308 Here")

ELSEWHERE = (
    "http://evil.example/x",
    "https://evil.example/x",
    "//evil.example/x",
    "///evil.example/x",
    "////evil.example/x",
    "/\\evil.example/x",
    "\\\\evil.example/x",
    "http:\\\\evil.example/x",
    "http:/\\evil.example",
    "https:evil.example",
    "http:///evil.example/x",
    "http://mr.example:8080/x",
    "http://mr.example:443/x",
    "http://mr.example.:80/x",
    "http://mr.example./x",
    "http://MR.EXAMPLE.EVIL.EXAMPLE/x",
    "http://mr.example.evil.example/x",
    "http://evil.example/http://mr.example/x",
    "http://user@mr.example/x",
    "http://user:pass@mr.example/x",
    "http://mr.example@evil.example/x",
    "http://mr.example:80@evil.example/x",
    "http://mr.example%40evil.example/x",
    "http://mr.example%2eevil.example/x",
    "http://mr.example\\@evil.example/x",
    "http://evil.example\\@mr.example/x",
    "http://mr.example#@evil.example/x",
    "http://mr.example?@evil.example/x",
    "http://evil.example#mr.example",
    "http://evil.example?mr.example",
    "http://[::1]/x",
    "http://[::ffff:127.0.0.1]:80/x",
    "http://127.0.0.1/x",
    "http://2130706433/x",
    "http://0/x",
    "http://mr\u3002example/x",
    "http://mr\uff0eexample/x",
    "http://\u24dcr.example/x",
    "http://m\u0155.example/x",
    "http://xn--mr-example.evil.example/x",
    "http://mr.example\t.evil.example/x",
    "http://mr.example\x0b.evil.example/x",
    "http://mr.example\u00a0.evil.example/x",
    "http://mr.example\u200b.evil.example/x",
    "ftp://mr.example/x",
    "file:///etc/passwd",
    "gopher://mr.example/x",
    "unix:/run/docker.sock",
    "javascript:alert(1)",
    "data:text/plain,x",
    "ws://mr.example/x",
    "http+unix://mr.example/x",
    "HTTP://EVIL.EXAMPLE/x",
    "http://mr.example:0/x",
    "http://mr.example:65616/x",
    "http://mr.example:-80/x",
    "http://mr.example: 80/x",
    "http://mr.example:\u0661/x",
)
"""Targets outside of the server, and targets whose host different parsers of addresses read differently."""

CALLS: dict[str, Callable[[Api], object]] = {
    "inbox": lambda api: api.jobs(),
    "presence": lambda api: api.presence(),
    "claim": lambda api: api.claim(1),
    "close": lambda api: api.close(1, "r", "done"),
    "upload": lambda api: api.upload(io.BytesIO(b"data"), content_type="text/plain"),
    "review": lambda api: api.review("t", "t", "c"),
    "job": lambda api: api.job(1),
}


def call(api: Api, name: str) -> None:
    """Send a request; an error of the documented kind is fine."""
    with suppress(WorkerError):
        CALLS[name](api)


def pointing(status: str, location: str) -> bytes:
    body = b'{"jobs": []}'
    head = (
        f"HTTP/1.1 {status}\r\nLocation: {location}\r\nRefresh: 0; url={location}\r\nContent-Location: {location}\r\n"
    )
    return head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


class Names:
    """A resolver of names that leads port 80 of every host to one server, and no other port anywhere.

    Attributes:
        asked: the hosts and ports that were to be connected to.
        port: the port of the server.
    """

    def __init__(self) -> None:
        self.asked: set[tuple[str, int]] = set()
        self.port = 0

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        self.asked.add((host.decode() if isinstance(host, bytes) else host, port))
        if port != 80:
            raise socket.gaierror("not led anywhere")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", self.port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


def with_token(requests: list[bytes]) -> list[bytes]:
    return [request for request in requests if TOKEN.encode() in request]


@pytest.mark.parametrize("location", ELSEWHERE)
def test_the_token_goes_to_no_other_server(location: str, serve: Any, names: Names) -> None:
    answer = b""
    server = serve(lambda connection, request: connection.sendall(answer))
    names.port = server.port
    api = Api(f"http://{HOST}", TOKEN, "w", timeout=5)
    for status in STATUSES:
        answer = pointing(status, location)
        for name in ("inbox", "close", "upload"):
            call(api, name)
    assert names.asked <= {(HOST, 80), (HOST, 443)}
    for request in with_token(server.requests):
        assert b"\r\nHost: mr.example\r\n" in request


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", sorted(CALLS))
def test_no_request_is_led_elsewhere(name: str, status: str, serve: Any, names: Names) -> None:
    server = serve(pointing(status, "http://evil.example/x"))
    names.port = server.port
    call(Api(f"http://{HOST}", TOKEN, "w", timeout=5), name)
    assert names.asked == {(HOST, 80)}


@pytest.mark.parametrize("status", STATUSES)
def test_the_tokens_of_users_and_administrators_are_not_led_elsewhere(status: str, serve: Any, names: Names) -> None:
    server = serve(pointing(status, "http://evil.example/x"))
    names.port = server.port
    url = f"http://{HOST}"
    for send in (
        lambda: register(url, TOKEN, {}),
        lambda: Dispatcher(url, TOKEN).dispatch({"prompt": "p"}),
        lambda: Dispatcher(url, TOKEN).job(1),
        lambda: Dispatcher(url, TOKEN).artifacts(1),
        lambda: Worker(url, TOKEN, "w").my_jobs(),
    ):
        with suppress(WorkerError):
            send()
    assert names.asked == {(HOST, 80)}


@pytest.mark.parametrize("slug", ["http://evil.example/s/x", "//evil.example/s/x", "\\\\evil.example", "@evil.example"])
def test_no_address_in_an_answer_is_opened(slug: str, serve: Any, names: Names) -> None:
    body = b'{"slug": "%s", "url": "%s", "view_url": "%s", "next": "%s"}' % ((slug.replace("\\", "\\\\").encode(),) * 4)
    server = serve(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    names.port = server.port
    for name in CALLS:
        call(Api(f"http://{HOST}", TOKEN, "w", timeout=5), name)
    with suppress(WorkerError):
        register(f"http://{HOST}", TOKEN, {})
    assert names.asked == {(HOST, 80)}


# -- addresses that parsers may read differently ---------------------------------------------------------

PARTS = (
    *("http:", "https:", "HTTP:", "//", "/", "\\", "@", ":", "80", "443", "8080", "mr.example", "evil.example", "MR."),
    *(".", "..", "?", "#", "%40", "%2f", "%5c", "%2e", "[", "]", "::1", "127.0.0.1", "x", ";", "&", "user", "|", "^"),
    *("\t", " ", "\x00", "\x0b", "\u3002", "\u200b", "\u2100", "\uff0f", "\xad", "\xdf", "\u212a"),
)
LOCATIONS = st.lists(st.sampled_from(PARTS) | st.characters(max_codepoint=255), max_size=10).map("".join)
BASES = ("http://mr.example", "https://mr.example", "http://mr.example:8080/base", "http://[::1]:80", "http://10.0.0.1")


@examples(500)
@given(base=st.sampled_from(BASES), location=LOCATIONS, status=st.sampled_from([201, 301, 302, 303, 307, 308]))
def test_random_locations_lead_to_no_other_server(base: str, location: str, status: int) -> None:
    opened: list[tuple[str, str, int]] = []

    def urlopen(pool: Any, method: str, target: str, body: Any, headers: Any, **options: Any) -> urllib3.HTTPResponse:
        opened.append((pool.scheme, pool.host, pool.port))
        assert target.startswith("/")
        headers = {"Location": location} if len(opened) == 1 else {}
        return urllib3.HTTPResponse(b"{}", headers, status if headers else 200, preload_content=False)

    with patch.object(urllib3.HTTPConnectionPool, "urlopen", urlopen):
        call(Api(base, TOKEN, "w"), "job")
    first = opened[0]
    upgraded = ("https", first[1], 443)
    for each in opened[1:]:
        assert each == first or (first[0] == "http" and (each[0], each[1]) == upgraded[:2])


# -- the environment -------------------------------------------------------------------------------------

COOKIE = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: session=planted; Path=/; Domain=example\r\nContent-Length: 12\r\n"
    b"Connection: close\r\n\r\n" + b'{"jobs": []}'
)


def test_cookies_of_the_server_are_not_kept(serve: Any) -> None:
    server = serve(COOKIE)
    api = Api(server.url, TOKEN, "w", timeout=5)
    for _ in range(3):
        api.jobs()
    assert len(server.requests) == 3
    assert not any(b"cookie" in request.lower() for request in server.requests)


def test_a_netrc_with_a_default_entry_adds_nothing(serve: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(COOKIE)
    for name in CALLS:
        call(Api(server.url, TOKEN, "w", timeout=5), name)
    for request in server.requests:
        head = request.partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"\r\nauthorization:") == 1
        assert f"\r\nauthorization: bearer {TOKEN}".encode().lower() in head


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("exempt", ["mr.example", ".example", "*"])
def test_no_proxy_keeps_the_token_from_the_proxy(
    variable: str, exempt: str, serve: Any, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(COOKIE)
    names.port = server.port
    monkeypatch.setenv(variable, "http://proxy.example")
    monkeypatch.setenv("no_proxy" if variable.islower() else "NO_PROXY", exempt)
    Api(f"http://{HOST}", TOKEN, "w", timeout=5).jobs()
    assert names.asked == {(HOST, 80)}


def test_a_proxy_with_a_password_gets_no_token_in_a_tunnel(
    serve: Any, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nLocation: http://evil.example/\r\n\r\n")
    names.port = server.port
    monkeypatch.setenv("https_proxy", "http://user:word@proxy.example:80")
    for name in CALLS:
        call(Api(f"https://{HOST}", TOKEN, "w", timeout=5), name)
    assert names.asked == {("proxy.example", 80)}
    assert with_token(server.requests) == []


def test_a_redirect_of_a_proxy_is_followed_nowhere_else(
    serve: Any, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(pointing("302 Found", "http://evil.example/x"))
    names.port = server.port
    monkeypatch.setenv("http_proxy", "http://proxy.example:80")
    for name in CALLS:
        call(Api(f"http://{HOST}", TOKEN, "w", timeout=5), name)
    assert names.asked == {("proxy.example", 80)}
    for request in with_token(server.requests):
        assert b" http://mr.example/" in request.partition(b"\r\n")[0]
