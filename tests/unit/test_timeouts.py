"""Time-outs that the kernel watches over."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from mr_celery.timeouts import let_kernel_watch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere Python does it")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def test_what_waits_for_too_long_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    here, _ = pair
    assert let_kernel_watch(here, 0.05)
    with pytest.raises(BlockingIOError):
        here.recv(1)
    with pytest.raises(BlockingIOError):
        here.sendall(bytes(2**26))


def test_what_comes_in_time_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    assert let_kernel_watch(here, 30)
    there.sendall(b"x")
    assert here.recv(10) == b"x"


@pytest.mark.parametrize(("seconds", "expected"), [(0.25, (0, 250_000)), (30, (30, 0)), (1e-9, (0, 1))])
def test_no_time_out_is_for_ever(
    pair: tuple[socket.socket, socket.socket], seconds: float, expected: tuple[int, int]
) -> None:
    here, _ = pair
    assert let_kernel_watch(here, seconds)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        whole, micro = struct.unpack("@ll", here.getsockopt(socket.SOL_SOCKET, option, 16))
        assert whole == expected[0]
        assert expected[1] <= micro <= expected[1] + 10_000  # the kernel's clock has ticks
    assert here.gettimeout() is None


class Cooperative(socket.socket):
    """A socket of another kind: with TLS, or of a library that makes threads cooperative."""


def test_a_socket_of_another_kind_is_left_alone() -> None:
    with Cooperative() as other:
        other.settimeout(5)
        assert not let_kernel_watch(other, 1)
        assert other.gettimeout() == 5
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)
