"""The event stream of changes, read without a browser."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests

from mr_celery.sandbox import Sandbox
from support.login import log_in
from support.ports import until


@contextmanager
def stream(sandbox: Sandbox, *, since: str = "", last: str | None = None) -> Iterator[Iterator[tuple[str, Any]]]:
    """Open the stream, and yield pairs of an event id and its data."""
    with requests.Session() as session:
        session.trust_env = False
        pages = log_in(session, sandbox.login_link())
        headers = {} if last is None else {"Last-Event-ID": last}
        answer = session.get(f"{pages}/live", params={"since": since}, headers=headers, stream=True, timeout=30)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"

        def messages() -> Iterator[tuple[str, Any]]:
            place = ""
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("id: "):
                    place = line[4:]
                elif line.startswith("data: "):
                    yield place, json.loads(line[6:])

        with answer:
            yield messages()


def test_stream_resumes_at_the_last_event(sandbox: Sandbox) -> None:
    store = sandbox.store
    with stream(sandbox, since=store.changes.place) as messages:
        store.dispatch("secret prompt", "w", {})
        place, topics = next(messages)
        assert topics == ["job:1"]
        store.report({"instance": "w"})
        assert next(messages)[1] == ["workers"]
    store.claim(1, "w")
    store.add_review({"type": "t", "title": "T", "content": "c", "job_id": 1})
    for options in ({"last": place}, {"since": place}, {"since": "nonsense", "last": place}):
        with stream(sandbox, **options) as messages:
            assert next(messages)[1] == ["workers", "job:1", "reviews"]


def test_unknown_place_means_everything_changed(sandbox: Sandbox) -> None:
    here = sandbox.store.changes.place
    own, _, number = here.partition("-")
    for place in ("", "nonsense", f"{own}-", f"{own}-{int(number) + 1}", f"0000-{number}", f"{own}-²", f"{own}--1"):
        with stream(sandbox, since=place) as messages:
            assert next(messages)[1] is None
    sandbox.store.changes.publish(*["workers"] * 10_001)
    with stream(sandbox, since=here) as messages:
        assert next(messages)[1] is None
    sandbox.store.dispatch_all(["p"] * 501, "w", {})
    with stream(sandbox, since=f"{own}-10001") as messages:
        assert next(messages)[1] is None, "too many topics for one message"


def test_many_listeners_are_notified_and_removed(sandbox: Sandbox) -> None:
    heard: list[Any] = []

    def listen() -> None:
        with stream(sandbox, since=place) as messages:
            heard.append(next(messages)[1])

    place = sandbox.store.changes.place
    threads = [threading.Thread(target=listen) for _ in range(30)]
    for thread in threads:
        thread.start()
    until(lambda: len(sandbox.store.changes._listeners) == 30)
    sandbox.store.dispatch("p", "w", {})
    for thread in threads:
        thread.join()
    assert heard == [["job:1"]] * 30
    until(lambda: not sandbox.store.changes._listeners, what="all listeners are removed")


def test_faults_are_published(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    with stream(sandbox, since=sandbox.store.changes.place) as messages:
        rules = {"rules": [{"fault": "status", "status": 503}]}
        requests.put(f"{sandbox.url}/chaos", json=rules, headers=headers, timeout=30)
        assert next(messages)[1] == ["faults"]
        requests.get(f"{sandbox.url}/my-jobs?worker=w&status=pending", headers=headers, timeout=30)
        assert next(messages)[1] == ["faults"]


def test_open_streams_do_not_delay_a_stop() -> None:
    sandbox = Sandbox().start()
    with stream(sandbox) as messages:
        next(messages)
        sandbox.stop()
        assert list(messages) == []


def test_signal_ends_the_command_with_open_streams() -> None:
    code = "from mr_celery.sandbox import run; run(port=0)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        link = [process.stdout.readline() for _ in range(3)][-1].split()[-1]
        port = int(link.split(":")[2].split("/")[0])
        with requests.Session() as session, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            pages = urlsplit(log_in(session, link)).path
            cookie = "; ".join(f"{each.name}={each.value}" for each in session.cookies)
            head = f"GET {pages}/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n"
            connection.sendall(head.encode())
            assert b"text/event-stream" in connection.recv(10_000)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, ""), "it logged errors about closed connections"
    finally:
        process.kill()
        process.communicate()
