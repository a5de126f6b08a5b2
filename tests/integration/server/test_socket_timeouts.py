"""Timeouts that the kernel enforces, on pairs of connected sockets."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator

import pytest

from mr_celery.socket_timeouts import let_kernel_watch


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these timeouts")
@pytest.mark.parametrize("seconds", [0.05, 0.0000001, 1])
def test_kernel_ends_what_takes_too_long(pair: tuple[socket.socket, socket.socket], seconds: float) -> None:
    here, there = pair
    assert let_kernel_watch(here, seconds)
    assert here.gettimeout() is None, "Python does not watch as well"
    there.sendall(b"in time")
    assert here.recv(100) == b"in time"
    with pytest.raises(BlockingIOError):
        here.recv(100)
    with pytest.raises(BlockingIOError):
        here.sendall(b"x" * 2**24)


@pytest.mark.parametrize("seconds", [None, 0, 0.0])
def test_no_time_out_is_left_alone(pair: tuple[socket.socket, socket.socket], seconds: float | None) -> None:
    assert not let_kernel_watch(pair[0], seconds)


def test_tls_is_left_to_python(pair: tuple[socket.socket, socket.socket]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(pair[0], do_handshake_on_connect=False) as wrapped:
        wrapped.settimeout(5)
        assert not let_kernel_watch(wrapped, 1)
        assert wrapped.gettimeout() == 5


def test_other_systems_are_left_to_python(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair[0].settimeout(5)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not let_kernel_watch(pair[0], 1)
    assert pair[0].gettimeout() == 5
