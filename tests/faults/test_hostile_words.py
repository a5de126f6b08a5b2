"""A server, jobs and another host whose texts would forge log lines and control the terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from mr_celery.ledger import Fleet as Register
from mr_celery.ledger import Ledger, Node, Pause
from support.fleet import BIN, Fleet
from support.hostile import EVERYTHING, FORGED, forged, unsafe
from support.http_server import Reply, Request
from support.plain_server import PlainServer
from support.ports import until
from support.servers import RedisServer

WORDS = EVERYTHING.encode(errors="ignore").decode()
"""Without lone surrogates, which only JSON can carry."""

LINE = WORDS.replace("\r", "").replace("\n", "").encode("latin-1", "ignore")
"""In one line of the head of a response."""

CAPABILITIES = {"fine": "done", "raise": "failed", "escalate": "escalated", "fail": "failed", "unreadable": "failed"}

OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def raw(status: bytes, head: bytes = b"", body: bytes = b"") -> Reply:
    return Reply(raw=[b"HTTP/1.1 ", status, b"\r\n", head, b"connection: close\r\n\r\n", body])


REPLIES = [
    Reply(503, WORDS, content_type="text/plain"),
    raw(b"503 " + LINE, b"content-type: text/" + LINE + b"\r\nretry-after: " + LINE + b"\r\n", LINE),
    Reply(raw=[LINE, b"\r\n", LINE]),
    Reply(raw=[FORGED.encode(), b"\r\n\r\n"]),
    raw(b"302 Found", b"location: http://" + LINE + b".test/" + LINE + b"\r\n"),
    raw(b"302 Found", b"location: //evil\x9b2J.test/\r\n"),
    raw(b"200 OK", b"transfer-encoding: chunked\r\n", b"\x1b[31m" + LINE + b"\r\n"),
    raw(b"200 OK", b"content-length: 7, " + LINE + b"\r\n"),
    raw(b"200 OK", b"content-encoding: " + LINE + b"\r\n", b"x"),
    Reply(200, {EVERYTHING: EVERYTHING, "jobs": EVERYTHING}),
    Reply(200, f"<html>captcha {WORDS}", content_type="text/html"),
    Reply(418, WORDS, headers=[("x", LINE)]),
    Reply(400 + 499, {"error": EVERYTHING}),
]


class HostileServer(PlainServer):
    """Replies to every third request with hostile texts, until each reply has been sent twice."""

    token = "MarkedToken5d2e"

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count()
        self.spoil = self._spoil
        self.extra["pending"] = [json.dumps({"id": 900, "prompt": [EVERYTHING], "status": EVERYTHING}).encode()]
        self.extra["running"] = [json.dumps({"id": 901, "prompt": EVERYTHING, "status": EVERYTHING}).encode()]

    def _spoil(self, request: Request) -> Reply | None:
        if request.path == "/dispatch":
            return Reply(403, WORDS)
        number, rest = divmod(next(self._numbers), 3)
        return None if rest or number >= 2 * len(REPLIES) else REPLIES[number % len(REPLIES)]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def fleet(server: HostileServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(
        cast(Any, server),
        broker=redis_server.url(0),
        ledger=redis_server.url(1),
        folder=tmp_path,
        app="support.proj_marked",
    )
    fleet.environment["MODELREINS_TIMEOUT"] = "2"
    yield fleet
    fleet.stop()


def on_a_terminal(fleet: Fleet, *arguments: str) -> str:
    """The output of a command on a terminal, without its own styles."""
    master, slave = pty.openpty()
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", *arguments]
    environment = {**fleet.environment, "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        output = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(master, 2**16):
                output += part
        process.wait(60)
    os.close(master)
    return OWN_STYLE.sub("", output.decode().replace("\r\n", "\n"))


@pytest.mark.timeout(300)
def test_no_line_is_forged_and_nothing_controls_the_terminal(fleet: Fleet, server: HostileServer) -> None:
    register = Register(fleet.environment["MODELREINS_LEDGER_URL"])
    register.announce(Node(WORDS, 1, (EVERYTHING,), (EVERYTHING,), EVERYTHING, EVERYTHING), seconds=600)
    bridge = fleet.bridge("-l", "DEBUG", ready=False)
    worker = fleet.worker("-c", "4", "-l", "DEBUG", MODELREINS_SHOW_OUTPUT="1")
    jobs = {fleet.dispatch(WORDS, each, tags=[WORDS], secret=WORDS): end for each, end in CAPABILITIES.items()}
    jobs[fleet.dispatch(EVERYTHING, EVERYTHING)] = "failed"  # no handler takes it
    for job in fleet.ended(*jobs):  # a hostile response to a part of a result fails its job
        assert job["status"] in (jobs[job["id"]], "failed")
    worker.says("    Traceback (most recent call last)")  # an output keeps its lines
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    ledger.pause(Pause(by=EVERYTHING, at=ledger.survey().now, why=EVERYTHING))

    for arguments in (("status",), ("jobs", "2"), ("check",), ("dispatch", "x")):
        output = on_a_terminal(fleet, *arguments)
        assert "Traceback" not in output
        assert (arguments, unsafe(output), forged(output)) == (arguments, [], [])
    until(lambda: server.asked.total() > 2 * 3 * len(REPLIES), seconds=60, what="each reply was sent twice")
    for process in fleet.processes:
        process.terminate()
        assert unsafe(process.output, kept="\n\t") == []
        assert forged(process.output) == []
    assert "begin" not in bridge.output  # neither prompts nor response bodies
