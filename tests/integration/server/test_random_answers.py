"""Thousands of damaged responses: each request returns or raises the documented error in time."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import register
from mr_celery.server.api import Api
from mr_celery.server.dispatching import Dispatcher
from support.fuzzing import FACTOR

TOKEN = "secret-worker-token-123"
ANSWERS = 1000 * FACTOR
SECONDS = 10.0
"""An answer that has been sent whole is read in far less time, also on a busy machine."""

JOB = {"id": 7, "prompt": "p", "assigned_to": "w", "status": "pending", "tags": ["a"], "input": {"n": 1.5}}
BODIES: dict[str, Any] = {
    "inbox": {"jobs": [JOB, {**JOB, "id": 8, "capability": "text.sum"}]},
    "presence": {"success": True},
    "claim": {"success": True, "id": 7, "status": "running"},
    "close": {"success": True, "id": 7, "status": "done"},
    "upload": {
        "success": True,
        "slug": "a" * 40,
        "url": "/s/a",
        "content_type": "a/b",
        "size_bytes": 4,
        "filename": "f",
    },
    "review": {"id": 3, "status": "pending", "mode": "review"},
    "job": {**JOB, "status": "running"},
    "register": {"success": True, "view_url": "/view/abc"},
    "dispatch": {"job": JOB},
    "artifacts": {"artifacts": [{"job_id": 7, "url": "/s/a"}]},
}
CALLS: dict[str, Callable[[str], object]] = {
    "inbox": lambda url: api(url).jobs(),
    "presence": lambda url: api(url).presence(),
    "claim": lambda url: api(url).claim(7),
    "close": lambda url: api(url).close(7, "r", "done"),
    "upload": lambda url: api(url).upload(io.BytesIO(b"data"), content_type="text/plain"),
    "review": lambda url: api(url).review("t", "t", "c"),
    "job": lambda url: api(url).job(7),
    "register": lambda url: register(url, TOKEN, {}, timeout=0.5),
    "dispatch": lambda url: Dispatcher(url, TOKEN, timeout=0.5).dispatch({"prompt": "p"}),
    "artifacts": lambda url: Dispatcher(url, TOKEN, timeout=0.5).artifacts(7),
}
VALUES: list[Any] = [None, True, -1, 0, 2**63, 1e308, "", "x", "\ud800", "\x1b[2J\u202e", [], {}, [[]], {"id": 7}, 0.5]
FRAGMENTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b":",
    b" ",
    b"\0",
    b"\xff",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"chunked",
    b"gzip",
)
HEADERS = (
    b"Content-Length: 3",
    b"Content-Length: -1",
    b"Content-Length: 18446744073709551616",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: identity",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br, deflate, gzip",
    b"Location: /x",
    b"Location: \xff\xfe",
    b"Retry-After: \xb2",
    b"Retry-After: 1e999",
    b"Retry-After: Sun, 99 Feb 99999 99:99:99 +9999",
    b"Date: \x00\xff",
    b"Content-Type: text/html; charset=\xff",
    b"Connection: close, keep-alive",
    b"Upgrade: h2c",
    b" folded",
    b"no colon",
    b": no name",
    b"X: " + b"y" * 70_000,
)


def api(url: str) -> Api:
    return Api(url, TOKEN, "w", timeout=0.5)


def damaged(value: Any, chance: random.Random) -> Any:
    """A JSON value with some of its parts replaced, dropped or repeated."""
    if chance.random() < 0.12:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        kept = {key: damaged(each, chance) for key, each in value.items() if chance.random() > 0.1}
        return {
            **kept,
            **({chance.choice(["id", "jobs", "url", ""]): chance.choice(VALUES)} if chance.random() < 0.1 else {}),
        }
    if isinstance(value, list):
        return [damaged(each, chance) for each in value for _ in range(chance.choice([0, 1, 1, 1, 2]))]
    return value


def chunked(body: bytes, chance: random.Random) -> bytes:
    sizes = [b"%x" % len(body), b"0x%x" % len(body), b"-5", b"", b"ffffffffffffffff", b"%x;x=y" % len(body), b"zz"]
    return (
        chance.choice(sizes)
        + b"\r\n"
        + body
        + chance.choice([b"\r\n0\r\n\r\n", b"\r\n", b"", b"\r\n0\r\nX: y\r\n\r\n"])
    )


def answer(body: Any, chance: random.Random) -> bytes:
    """A response with damage to its JSON, its headers or its bytes."""
    content = json.dumps(damaged(body, chance) if chance.random() < 0.8 else body).encode()
    status = chance.choice(
        [b"200 OK"] * 6 + [b"201", b"204 No", b"302 F", b"401 U", b"429 T", b"503 S", b"103 E", b"999"]
    )
    headers = chance.sample(HEADERS, chance.choice([0, 0, 1, 2]))
    if any(each.startswith(b"Transfer") for each in headers):
        content = chunked(content, chance)
    elif chance.random() < 0.8:
        headers.append(b"Content-Length: %d" % len(content))
    whole = bytearray(b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", content]))
    for _ in range(chance.choice([0, 0, 1, 1, 3])):
        at = chance.randrange(len(whole) + 1)
        whole[at : at + chance.randrange(4)] = chance.choice([*FRAGMENTS, chance.randbytes(2)])
    return bytes(whole[: chance.choice([len(whole), len(whole), chance.randrange(len(whole) + 1)])])


@pytest.mark.timeout(600 * FACTOR)
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_damaged_answer_is_an_answer_or_a_documented_error(name: str, serve: Any) -> None:
    sending, succeeded = b"", 0
    server = serve(lambda connection, request: connection.sendall(sending))
    for seed in range(ANSWERS):
        chance = random.Random(f"{name} {seed}")
        sending = answer(BODIES[name], chance)
        began = time.monotonic()
        try:
            CALLS[name](server.url)
            succeeded += 1
        except WorkerError as error:
            shown = f"{error} {error!r} {error.fault} {error.challenge} {error.summary}"
            assert TOKEN not in shown
        except Exception as error:
            raise AssertionError(f"seed {seed}: {sending[:500]!r}") from error
        assert time.monotonic() - began < SECONDS, f"seed {seed}: {sending[:500]!r}"
    assert ANSWERS * 0.05 < succeeded < ANSWERS * 0.9, "the damage is too small or too great to find anything"
