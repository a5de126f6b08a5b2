"""How requests and answers share connections."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from mr_celery.client.http import MOST_ERROR_BYTES, Transport
from mr_celery.errors import WorkerError
from support.ports import until

from .conftest import read_request


def transport(url: str, timeout: float = 5.0) -> Transport:
    return Transport(url, "token", "test/1", timeout)


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_connection_is_used_again(serve: Any) -> None:
    later: list[bytes] = []

    def respond(connection: socket.socket, request: bytes) -> None:
        while request:
            connection.sendall(answer(b'{"on": "one connection"}'))
            request = read_request(connection)
            later.append(request)

    made = transport(serve(respond).url)
    assert [made.request("GET", f"/{n}") for n in range(3)] == [{"on": "one connection"}] * 3
    made.close()
    until(lambda: later[-1:] == [b""], what="the connection is closed")
    assert [each.split(b" ")[1] for each in later[:-1]] == [b"/1", b"/2"]


def test_who_lets_go_of_a_transport_need_not_close_it(serve: Any) -> None:
    ended = threading.Event()

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer(b"{}"))
        if read_request(connection) == b"":
            ended.set()

    made = transport(serve(respond).url)
    made.request("GET", "/x")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del made
        gc.collect()
    assert not caught  # Python tells of a socket that nobody closed
    assert ended.wait(30)


def test_head_and_body_are_one_packet(serve: Any) -> None:
    packets: list[bytes] = []

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer(b"{}"))
        packets.append(connection.recv(65536))
        connection.sendall(answer(b"{}"))

    made = transport(serve(respond).url)
    made.request("GET", "/x")
    made.request("POST", "/x", json={"worker": "render-1"})
    assert packets[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert packets[0].endswith(b'\r\n\r\n{"worker": "render-1"}')


def test_a_redirects_fragment_stays_here(serve: Any) -> None:
    answers = [b"HTTP/1.1 302 Found\r\nLocation: /y?a=1#part\r\nContent-Length: 0\r\n\r\n", answer(b"{}")]
    server = serve(lambda connection, request: connection.sendall(answers.pop(0)))
    assert transport(server.url).request("GET", "/x") == {}
    assert server.requests[1].startswith(b"GET /y?a=1 HTTP/1.1\r\n")


def test_a_connection_that_the_server_closed_is_not_used_again(serve: Any) -> None:
    server = serve(answer(b'{"ok": true}'))  # it does not say that it closes
    made = transport(server.url)
    for _ in range(3):
        assert made.request("POST", "/x", json={}) == {"ok": True}
        (idle,) = _idle(made)
        until(lambda idle=idle: not idle.is_connected, what="it is closed")
    assert len(server.requests) == 3


def test_the_rest_of_an_answer_is_not_taken_for_the_next_one(serve: Any) -> None:
    answers = [answer(b"x" * 3 * MOST_ERROR_BYTES, "500 Oh"), answer(b'{"ok": true}')]
    server = serve(lambda connection, request: connection.sendall(answers.pop(0)))
    made = transport(server.url)
    with pytest.raises(WorkerError, match="500"):
        made.request("GET", "/x")
    assert not _idle(made)
    assert made.request("GET", "/x") == {"ok": True}


def test_each_request_has_its_own_time_out(serve: Any) -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer(b"{}"))
        read_request(connection)
        server.over.wait(20)

    server = serve(respond)
    made = transport(server.url, timeout=30.0)
    made.request("GET", "/x")
    with pytest.raises(WorkerError, match="timed out"):
        made.request("GET", "/x", timeout=0.1)
    assert not _idle(made)


def test_a_server_that_does_not_take_the_request_in_time(serve: Any) -> None:
    server: Any = serve(lambda connection, request: None)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1)  # connects, and reads nothing
    try:
        made = transport(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.2)
        with pytest.raises(WorkerError, match="network: timed out"):
            made.request("POST", "/x", json={"result": "x" * 2**25})
    finally:
        listening.close()
    assert not server.requests


class Echo(BaseHTTPRequestHandler):
    """Answers with the path; the clients' addresses are noted."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.seen.add(self.client_address)  # type: ignore[attr-defined]
        if self.path == "/silence":
            self.rfile.read(1)  # until the client has had enough
            return
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        server.seen = set()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_threads_share_connections_and_get_their_own_answers(echo: ThreadingHTTPServer) -> None:
    made = transport(f"http://127.0.0.1:{echo.server_address[1]}")

    def ask(thread: int) -> bool:
        paths = [f"/{thread}/{n}" for n in range(50)]
        return [made.request("GET", path)["path"] for path in paths] == paths

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))
    assert len(echo.seen) <= 8  # type: ignore[attr-defined]
    made.close()


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Who signs certificates that requests believe."""
    made = trustme.CA()
    bundle = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return made


def secure(echo: ThreadingHTTPServer, authority: trustme.CA) -> str:
    """Let a server speak TLS. Returns its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    echo.socket = context.wrap_socket(echo.socket, server_side=True)
    return f"https://localhost:{echo.server_address[1]}"


def test_over_tls(echo: ThreadingHTTPServer, authority: trustme.CA) -> None:
    made = transport(secure(echo, authority))
    assert [made.request("GET", f"/{n}") for n in range(3)] == [{"path": f"/{n}"} for n in range(3)]
    assert len(echo.seen) == 1  # type: ignore[attr-defined]
    made.close()


def test_a_time_out_over_tls(echo: ThreadingHTTPServer, authority: trustme.CA) -> None:
    made = transport(secure(echo, authority))
    assert made.request("GET", "/x") == {"path": "/x"}
    with pytest.raises(WorkerError, match="timed out"):
        made.request("GET", "/silence", timeout=0.1)
    made.close()


def test_a_certificate_that_nobody_believes(echo: ThreadingHTTPServer, authority: trustme.CA) -> None:
    made = transport(secure(echo, trustme.CA()))
    with pytest.raises(WorkerError, match=r"network: .*CERTIFICATE_VERIFY_FAILED"):
        made.request("GET", "/x")
    assert not echo.seen  # type: ignore[attr-defined]


def _idle(made: Transport) -> list[Any]:
    """The connections that nobody uses."""
    adapter: Any = made._session().get_adapter(made.url)
    return [connection for server in adapter._servers.values() for connection in server._idle]
