"""The sharing of connections by requests and responses."""

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
from urllib.parse import urlsplit

import pytest
import trustme

from mr_celery.errors import WorkerError
from mr_celery.server.failures import MOST_ERROR_BYTES
from mr_celery.server.transport import Transport
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


def test_interim_answers_are_skipped_and_each_request_gets_its_own_answer(serve: Any) -> None:
    """http.client skips only 100, so each request would get the response to the previous one."""
    interim = b"".join(b"HTTP/1.1 %d Soon\r\nRetry-After: 9\r\nContent-Length: 3\r\n\r\n" % n for n in (103, 100, 102))

    def respond(connection: socket.socket, request: bytes) -> None:
        while request:
            connection.sendall(interim)
            connection.sendall(answer(json.dumps({"path": request.split(b" ")[1].decode()}).encode()))
            request = read_request(connection)

    made = transport(serve(respond).url)
    assert [made.request("GET", f"/{n}") for n in range(3)] == [{"path": f"/{n}"} for n in range(3)]
    made.close()


def test_an_unrequested_switch_of_protocols_is_not_an_answer(serve: Any) -> None:
    with pytest.raises(WorkerError, match="GET /x -> network: ") as caught:
        transport(serve(b"HTTP/1.1 101 Now Else\r\n\r\nhello\r\n").url).request("GET", "/x")
    assert caught.value.retryable


def test_a_transport_that_is_not_used_any_more_closes_its_connections(serve: Any) -> None:
    ended = threading.Event()

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer(b"{}"))
        if read_request(connection) == b"":
            ended.set()

    server = serve(respond)
    port = urlsplit(server.url).port
    made = transport(server.url)
    made.request("GET", "/x")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del made
        gc.collect()
    # Python warns about unclosed sockets. Ignore those of other tests.
    unclosed = [str(each.message) for each in caught if f", {port})>" in str(each.message)]
    assert not unclosed
    assert ended.wait(30)


def test_the_fragment_of_a_redirect_is_not_sent(serve: Any) -> None:
    answers = [b"HTTP/1.1 302 Found\r\nLocation: /y?a=1#part\r\nContent-Length: 0\r\n\r\n", answer(b"{}")]
    server = serve(lambda connection, request: connection.sendall(answers.pop(0)))
    assert transport(server.url).request("GET", "/x") == {}
    assert server.requests[1].startswith(b"GET /y?a=1 HTTP/1.1\r\n")


def test_a_connection_that_the_server_closed_is_not_used_again(serve: Any) -> None:
    server = serve(answer(b'{"ok": true}'))  # without "Connection: close"
    made = transport(server.url)
    for count in (1, 2, 3):
        assert made.request("POST", "/x", json={}) == {"ok": True}
        until(lambda count=count: server.closed == count, what="it is closed")
    assert len(server.requests) == 3


def test_the_unread_rest_of_an_answer_is_not_part_of_the_next_one(serve: Any) -> None:
    answers = [answer(b"x" * 3 * MOST_ERROR_BYTES, "500 Oh"), answer(b'{"ok": true}')]
    server = serve(lambda connection, request: connection.sendall(answers.pop(0)))
    made = transport(server.url)
    with pytest.raises(WorkerError, match="500"):
        made.request("GET", "/x")
    assert made.request("GET", "/x") == {"ok": True}
    assert len(server.requests) == 2, "each came on its own connection"


def test_each_request_has_its_own_time_out_and_a_late_answer_is_discarded(serve: Any) -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer(b'{"late": false}'))
        if read_request(connection):
            connection.recv(1)  # until the client gives up
            connection.sendall(answer(b'{"late": true}'))

    server = serve(respond)
    made = transport(server.url, timeout=30.0)
    made.request("GET", "/x")
    with pytest.raises(WorkerError, match="timed out"):
        made.request("GET", "/x", timeout=0.1)
    assert made.request("GET", "/x") == {"late": False}
    made.close()


@pytest.mark.parametrize("body", [None, {"result": "x" * 1000}])
def test_a_short_request_comes_in_one_piece(body: Any) -> None:
    """Each further piece costs a system call here, and often one more read on the server."""
    pieces: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                pieces.append(connection.recv(2**16))
                connection.sendall(answer(b"{}"))
                pieces.append(connection.recv(2**16))

        accepting = threading.Thread(target=accept)
        accepting.start()
        made = transport(f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert made.request("POST", "/x", json=body) == {}
        made.close()
        accepting.join(10)
    head, _, sent = pieces[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x ")
    assert sent == (b"" if body is None else json.dumps(body).encode())
    assert pieces[1] == b"", "nothing came after the answer"


def test_a_server_that_does_not_read_the_request_in_time(serve: Any) -> None:
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
    """Responds with the path, and records the addresses of the clients."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.seen.add(self.client_address)  # type: ignore[attr-defined]
        if self.path == "/silence":
            self.rfile.read(1)  # until the client gives up
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
    """A certificate authority that clients trust."""
    made = trustme.CA()
    bundle = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return made


def secure(echo: ThreadingHTTPServer, authority: trustme.CA) -> str:
    """Switch a server to TLS. Returns its address."""
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


def test_a_certificate_of_an_unknown_authority_is_refused(echo: ThreadingHTTPServer, authority: trustme.CA) -> None:
    made = transport(secure(echo, trustme.CA()))
    with pytest.raises(WorkerError, match=r"network: .*CERTIFICATE_VERIFY_FAILED"):
        made.request("GET", "/x")
    assert not echo.seen  # type: ignore[attr-defined]
