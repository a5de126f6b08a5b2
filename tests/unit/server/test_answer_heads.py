"""The heads of responses are read as ``http.client`` reads them, or refused."""

from __future__ import annotations

import http.client
import io
import random
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.server.transport import MOST_HEAD_BYTES, Answer

NEXT = b"the body, or the next answer"


class Stream:
    """A stand-in for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._data))  # type: ignore[arg-type]


def ours(data: bytes, method: str = "GET") -> Answer:
    answer = Answer(Stream(data), method=method, timeout=30.0)  # type: ignore[arg-type]
    answer.begin()
    return answer


def theirs(data: bytes, method: str = "GET") -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(Stream(data), method=method)  # type: ignore[arg-type]
    answer.begin()
    return answer


def found(read: Callable[[bytes, str], Any], data: bytes, method: str = "GET") -> dict[str, Any] | None:
    """The parsed head and the rest of the stream; ``None`` if the head is refused."""
    try:
        answer = read(data, method)
    except (http.client.HTTPException, OSError, ValueError):
        return None
    fields: dict[str, list[str]] = {}
    for name, value in answer.headers.items():
        fields.setdefault(name.lower(), []).append(value)
    return {
        "status": answer.status,
        "reason": answer.reason,
        "version": answer.version,
        "fields": fields,
        "length": answer.length,
        "chunked": answer.chunked,
        "closes": answer.will_close,
        "left": answer.fp.read(10**6),
    }


def head(*fields: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "".join(f"{line}\r\n" for line in (status, *fields, "")).encode("latin-1") + NEXT


@pytest.mark.parametrize("status", ["200 OK", "200", "200 ", "201  Made \t", "204 No Content", "304 N", "599 \t~"])
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Content-Length: 5",),
        ("content-length:5", "Connection: keep-alive", "X-Empty:", "X-Blank: \t"),
        ("Content-Length: 5", "Connection: Close"),
        ("Transfer-Encoding: Chunked", "Connection: upgrade, close"),
        ("Keep-Alive: timeout=5", "Content-Length: 0"),
        ("Connection: Keep-Alive", "Content-Length: 999999999999999999"),
    ],
)
def test_usual_heads(status: str, fields: tuple[str, ...]) -> None:
    for version in ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/1.9"):
        data = head("Server: x", *fields, status=f"{version} {status}")
        for method in ("GET", "POST", "HEAD"):
            assert found(ours, data, method) == found(theirs, data, method), (method, version)


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "content-length: 7"),
        ("Content-Length: 5, 5",),
        ("Content-Length: -1",),
        ("Content-Length: +5",),
        ("Content-Length: 5_0",),
        ("Content-Length: \xb2",),
        ("Content-Length: 0x5",),
        ("Content-Length:",),
        ("Content-Length: 5 ",),
        (f"Content-Length: {'9' * 5000}",),
        ("Content-Length : 5",),
        ("Content-Length",),
        (" Content-Length: 5",),
        ("X: 1", " Content-Length: 5"),
        ("X: 1\n", "Content-Length: 5"),
        ("X: 1\rContent-Length: 7", "Content-Length: 5"),
        ("X: 1\x85Content-Length: 7", "Content-Length: 5"),
        ("X: 1\x00", "Content-Length: 5"),
        ("X\x00: 1", "Content-Length: 5"),
        ("X: \xe4\xf6", "Content-Length: 5"),
        (": empty", "Content-Length: 5"),
        ("X Y: 1", "Content-Length: 5"),
        ("From x", "Content-Length: 5"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: chunked ",),
        ("Transfer-Encoding:", "Content-Length: 5"),
        ("Set-Cookie: a=1", "Set-Cookie: b=2", "Content-Length: 5"),
        ("Connection: close", "Connection: keep-alive", "Content-Length: 5"),
        ("Content-Type: multipart/mixed; boundary=x", "Content-Length: 5"),
        tuple(f"X-{number}: 1" for number in range(99)),
        tuple(f"X-{number}: 1" for number in range(100)),
    ],
)
def test_unusual_heads(fields: tuple[str, ...]) -> None:
    assert found(ours, head(*fields)) == found(theirs, head(*fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",  # http.client accepts it
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * MOST_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MOST_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MOST_HEAD_BYTES // 6),
    ],
)
def test_heads_that_are_refused(data: bytes) -> None:
    assert found(ours, data) is None


def test_the_longest_head() -> None:
    rest = MOST_HEAD_BYTES - len(b"HTTP/1.1 200 OK\r\nX: \r\n\r\n")
    assert found(ours, head(f"X: {'y' * rest}")) == found(theirs, head(f"X: {'y' * rest}"))
    assert found(ours, head(f"X: {'y' * (rest + 1)}")) is None


@pytest.mark.parametrize("interim", ["100 Continue", "103 Early Hints", "102", "199 \x00"])
@pytest.mark.parametrize("fields", [(), ("Link: <x>", "Content-Length: 5"), (" odd", "\x00")])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_interim_answers_are_skipped(interim: str, fields: tuple[str, ...], version: str) -> None:
    before = head(*fields, status=f"{version} {interim}").removesuffix(NEXT)
    final = head("Content-Length: 5")
    assert found(ours, before * 3 + final) == found(theirs, final)


def test_a_head_that_ends_in_the_middle() -> None:
    data = head("Content-Length: 5", "Server: x").removesuffix(NEXT)
    for end in range(1, len(data)):
        assert found(ours, data[:end]) in (found(theirs, data[:end]), None), data[:end]


NAMES = ("Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Set-Cookie", "X", "Y")
VALUES = ("0", "5", "12", "chunked", "close", "keep-alive", "a, b", "", " ", "\t5", "identity", "-3", "x\xff", "5 ")
DAMAGE = (b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b"\x0b", b"\x85", b"\xff", b"5", b"HTTP/1.1 ")


def random_head(dice: random.Random) -> bytes:
    status = f"HTTP/1.{dice.choice('0111')} {dice.choice((200, 201, 204, 301, 304, 404, 503))} {dice.choice(VALUES)}"
    fields = [f"{dice.choice(NAMES)}:{dice.choice(('', ' '))}{dice.choice(VALUES)}" for _ in range(dice.randrange(6))]
    return head(*fields, status=status)


def damaged(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) - len(NEXT))
        data = data[:at] + dice.choice(DAMAGE) + data[at + dice.randrange(3) :]
    return data


@pytest.mark.parametrize("seed", range(20))
def test_random_heads_are_read_as_by_http_client(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        data, method = random_head(dice), dice.choice(("GET", "POST", "HEAD"))
        assert found(ours, data, method) == found(theirs, data, method), data


@pytest.mark.parametrize("seed", range(20))
def test_damaged_heads_are_read_as_by_http_client_or_refused(seed: int) -> None:
    dice, refused = random.Random(seed), 0
    for _ in range(400):
        data, method = damaged(random_head(dice), dice), dice.choice(("GET", "POST", "HEAD"))
        expected, read = found(theirs, data, method), found(ours, data, method)
        assert read is None or read == expected, data
        refused += expected is not None and read is None
    assert refused < 40  # only those with something before "HTTP/" are refused
