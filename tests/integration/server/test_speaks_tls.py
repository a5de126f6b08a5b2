"""Ports with and without TLS, as the check recognises them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from mr_celery.operations.diagnosis import speaks_tls
from support.ports import free_port


@pytest.fixture(params=["tls", "plain", "silent"])
def port(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A server of one kind, and its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mr.example").configure_cert(context)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connected, _ = listening.accept()
        with connected:
            if request.param == "tls":
                context.wrap_socket(connected, server_side=True).close()
            elif request.param == "plain":
                connected.recv(1000)
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            else:
                connected.recv(1000)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    yield request.param, listening.getsockname()[1]
    listening.close()
    server.join(5)


def test_a_port_is_recognised(port: tuple[str, int]) -> None:
    kind, number = port
    assert speaks_tls("127.0.0.1", number) is (kind == "tls")


def test_a_port_that_nobody_has_is_not_known() -> None:
    assert speaks_tls("127.0.0.1", free_port()) is None
