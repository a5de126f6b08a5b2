"""A server whose responses a test defines byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

Respond = Callable[[socket.socket, bytes], None]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies, certificates and netrc file of the machine from the environment."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent/netrc")


class RawServer:
    """Accepts connections on a free port, one at a time.

    Args:
        respond: called with each connection and its first request. The connection is closed when it returns.

    Attributes:
        requests: the first request of each connection.
        closed: number of connections that were closed.
    """

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._over = threading.Event()
        self.requests: list[bytes] = []
        self.closed = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def over(self) -> threading.Event:
        """Set at the end of the test. A ``respond`` that waits must then return."""
        return self._over

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(10)
                request = read_request(connection)
                self.requests.append(request)
                with suppress(OSError):
                    self._respond(connection, request)
            self.closed += 1


def read_request(connection: socket.socket) -> bytes:
    """Read one request with its body, whose length is its Content-Length; empty if the client closed the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body


@pytest.fixture
def serve() -> Iterator[Callable[[Respond | bytes], RawServer]]:
    """Starts servers that end with the test. Bytes are sent as the response to each request."""
    servers: list[RawServer] = []

    def start(respond: Respond | bytes) -> RawServer:
        if isinstance(respond, bytes):
            answer = respond
            respond = lambda connection, request: connection.sendall(answer)  # noqa: E731
        servers.append(RawServer(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
