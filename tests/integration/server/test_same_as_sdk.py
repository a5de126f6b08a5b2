"""The official SDK's worker and ours send the same requests, and return the same results."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import modelreins_worker
import pytest

import mr_celery.sdk
from mr_celery.errors import WorkerError
from mr_celery.sdk import loop as polling

TOKEN = "mr-secret-token-1234"
NAME = "render-1"
METHODS = ("heartbeat", "inbox", "claim", "complete", "upload_artifact", "submit_review", "run")

Answer = tuple[int, bytes]


@dataclass(frozen=True)
class Part:
    """One part of a multipart body."""

    disposition: str
    content_type: str | None
    content: bytes


@dataclass(frozen=True)
class Call:
    """What a server can see of a request, apart from what may differ: the client's name and a boundary."""

    method: str
    target: str
    authorization: str | None
    content_type: str | None
    has_length: bool
    chunked: bool
    body: Any


@dataclass
class Server:
    """Records calls. Responds from a list for each method and path, otherwise with ``{"ok": true}``."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def answer(self, call: Call) -> Answer:
        self.calls.append(call)
        left = self.answers.get(f"{call.method} {call.target}")
        return left.pop(0) if left else (200, b'{"ok": true}')


def recorded(handler: BaseHTTPRequestHandler) -> Call:
    headers = handler.headers
    length = headers["Content-Length"]
    raw = handler.rfile.read(int(length or 0))
    content_type, _, boundary = (headers["Content-Type"] or "").partition("; boundary=")
    body: Any = None
    if boundary:
        body = parts(raw, boundary)
    elif raw:
        body = json.loads(raw)
    return Call(
        handler.command,
        handler.path,
        headers["Authorization"],
        content_type or None,
        # A GET has no body, and so needs no length.
        length is not None or handler.command == "GET",
        "Transfer-Encoding" in headers,
        body,
    )


def parts(raw: bytes, boundary: str) -> list[Part]:
    pieces = raw.split(f"--{boundary}".encode())
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = message_from_bytes(head)
        found.append(Part(headers["Content-Disposition"], headers["Content-Type"], content.removesuffix(b"\r\n")))
    return found


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_any(self) -> None:
            status, body = state.answer(recorded(self))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join(10)


@dataclass
class Told:
    """The requests and results of one worker."""

    calls: list[Call]
    returned: Any = None
    error: str | None = None


Scenario = Callable[[Any], Any]


def play(server: Server, cls: Any, scenario: Scenario, answers: dict[str, list[Answer]]) -> Told:
    server.calls = []
    server.answers = {target: list(each) for target, each in answers.items()}
    worker = cls(TOKEN, server.url + "/", NAME, 0.01, 10.0)
    told = Told(server.calls)
    try:
        told.returned = scenario(worker)
    except (modelreins_worker.WorkerError, WorkerError) as error:
        told.error = str(error)
    return told


def both(server: Server, scenario: Scenario, **answers: Any) -> tuple[Told, Told]:
    """Run the same scenario with the SDK's worker and with ours."""
    script = answers.get("answers", {})
    sdk = play(server, modelreins_worker.Worker, scenario, script)
    ours = play(server, mr_celery.sdk.Worker, scenario, script)
    return sdk, ours


def assert_same(server: Server, scenario: Scenario, **answers: Any) -> Told:
    sdk, ours = both(server, scenario, **answers)
    assert len(ours.calls) == len(sdk.calls)
    for our_call, sdk_call in zip(ours.calls, sdk.calls, strict=True):
        assert our_call == sdk_call
    assert ours.returned == sdk.returned
    assert ours.error == sdk.error
    assert all(call.has_length and not call.chunked for call in ours.calls)
    assert all(call.authorization == f"Bearer {TOKEN}" for call in ours.calls)
    return ours


JOBS = (200, json.dumps({"jobs": [{"id": 7, "prompt": "ü", "status": "pending", "tags": None}]}).encode())
EMPTY = (200, b'{"jobs": []}')
PENDING = f"GET /my-jobs?worker={NAME}&status=pending"

SCENARIOS: dict[str, Scenario] = {
    "heartbeat": lambda worker: worker.heartbeat(),
    "heartbeat by position": lambda worker: worker.heartbeat("busy", "3 jobs: ü", "gpu,eu"),
    "heartbeat by name": lambda worker: worker.heartbeat(status="idle", tags="gpu"),
    "claim": lambda worker: worker.claim(7),
    "complete": lambda worker: worker.complete(7),
    "complete by position": lambda worker: worker.complete(7, "text ü\n\x00", "escalated"),
    "complete by name": lambda worker: worker.complete(job_id=7, result="", status="failed"),
    "upload": lambda worker: worker.upload_artifact(b"\x00\r\n--x", "image/png"),
    "upload by position": lambda worker: worker.upload_artifact(b"x", "text/plain", "a b.txt", 7, 8, "2030-01-01"),
    "upload by name": lambda worker: worker.upload_artifact(
        data=b"", content_type="application/x-unheard-of", job_id=0, expires_at=""
    ),
    "upload with a name": lambda worker: worker.upload_artifact(b"x", "text/html; charset=utf-8", "größe.html"),
    "upload of much": lambda worker: worker.upload_artifact(bytes(range(256)) * 12_000, "video/mp4", "a.mp4"),
    "review": lambda worker: worker.submit_review("email", "Hello", "text"),
    "review by position": lambda worker: worker.submit_review("email", "T", "c", "/s/p", "a@b", 7),
    "review by name": lambda worker: worker.submit_review(
        type="email", title="T", content="c", job_id=7, preview="p", target="t"
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_calls(server: Server, name: str) -> None:
    told = assert_same(server, SCENARIOS[name])
    assert told.returned == {"ok": True}
    assert len(told.calls) == 1


@pytest.mark.parametrize("status", ["pending", "running"])
def test_inbox(server: Server, status: str) -> None:
    jobs = [{"id": 7, "prompt": "ü", "status": status, "more": {"a": [1.5, None]}}, {"id": 0}]
    answer = (200, json.dumps({"jobs": jobs, "more": 1}).encode())
    target = f"GET /my-jobs?worker={NAME}&status={status}"
    assert assert_same(server, lambda worker: worker.inbox(status), answers={target: [answer]}).returned == jobs


def test_an_empty_inbox(server: Server) -> None:
    assert assert_same(server, lambda worker: worker.inbox(), answers={PENDING: [EMPTY]}).returned == []


@pytest.mark.parametrize("answer", [(204, b""), (200, b""), (201, b'{"id": 3}')])
def test_other_good_answers(server: Server, answer: Answer) -> None:
    assert_same(server, lambda worker: worker.complete(7), answers={"POST /jobs/7/close": [answer]})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503])
@pytest.mark.parametrize("body", [b'{"error": "no"}', b"<html>" + b"x" * 600, b"\xff\xfe", b""])
def test_errors(server: Server, status: int, body: bytes) -> None:
    targets = ["PUT /presence", PENDING, "POST /jobs/7/claim", "POST /jobs/7/close"]
    answers = {target: [(status, body)] for target in [*targets, "POST /artifacts/upload", "POST /review"]}
    scenarios: list[Scenario] = [
        lambda worker: worker.heartbeat(),
        lambda worker: worker.inbox(),
        lambda worker: worker.claim(7),
        lambda worker: worker.complete(7, "x"),
        lambda worker: worker.upload_artifact(b"x", "text/plain"),
        lambda worker: worker.submit_review("email", "T", "c"),
    ]
    for scenario in scenarios:
        told = assert_same(server, scenario, answers=answers)
        assert told.error is not None
        assert f" -> {status}: " in told.error


def test_no_server(server: Server) -> None:
    def scenario(worker: Any) -> Any:
        worker.url = "http://127.0.0.1:1"
        return worker.heartbeat()

    assert "PUT /presence -> network: [Errno " in (assert_same(server, scenario).error or "")


def test_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELREINS_TOKEN", raising=False)
    with pytest.raises(modelreins_worker.WorkerError) as sdk:
        modelreins_worker.Worker()
    with pytest.raises(WorkerError) as ours:
        mr_celery.sdk.Worker()
    assert str(ours.value) == str(sdk.value)


def test_the_environment_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELREINS_TOKEN", TOKEN)
    monkeypatch.setenv("MODELREINS_URL", "https://mr.example/base/")
    sdk, ours = modelreins_worker.Worker(), mr_celery.sdk.Worker()
    for attribute, value in vars(sdk).items():
        assert getattr(ours, attribute) == value


@pytest.mark.parametrize("method", ["__init__", *METHODS])
def test_signatures(method: str) -> None:
    def shape(cls: type) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(getattr(cls, method)).parameters.values()
        return [(each.name, each.kind, each.default) for each in parameters]

    assert shape(mr_celery.sdk.Worker) == shape(modelreins_worker.Worker)


def test_there_is_no_other_method() -> None:
    public = [name for name in dir(modelreins_worker.Worker) if not name.startswith("_")]
    assert sorted(public) == sorted(METHODS)


class Ending:
    """A handler that ends the run when it gets the job with the last id."""

    def __init__(self, work: Callable[[dict[str, Any]], Any]) -> None:
        self._work = work
        self.jobs: list[dict[str, Any]] = []

    def __call__(self, job: dict[str, Any]) -> Any:
        if job["id"] == 99:
            raise KeyboardInterrupt
        self.jobs.append(job)
        return self._work(job)


def listed(*job_ids: int) -> Answer:
    return 200, json.dumps({"jobs": [{"id": job_id, "prompt": f"p{job_id}"} for job_id in job_ids]}).encode()


@pytest.fixture
def no_presence_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presence while a handler runs is what ours adds; without it, the calls of a run can be compared."""
    monkeypatch.setattr(polling, "Presence", lambda beat, interval: nullcontext())


@pytest.mark.usefixtures("no_presence_between")
def test_run(server: Server) -> None:
    results = {1: "text", 2: None, 3: 7, 4: ["a", "ü"]}

    def scenario(worker: Any) -> Any:
        handler = Ending(lambda job: results[job["id"]])
        return worker.run(handler), handler.jobs

    answers = {PENDING: [listed(1, 2), EMPTY, listed(3, 5, 4), listed(99)], "POST /jobs/5/claim": [(409, b"taken")]}
    told = assert_same(server, scenario, answers=answers)
    closed = [call.body for call in told.calls if call.target.endswith("/close")]
    assert [each["result"] for each in closed] == ["text", "", "7", "['a', 'ü']"]


@pytest.mark.usefixtures("no_presence_between")
def test_run_continues_after_an_error(server: Server) -> None:
    def scenario(worker: Any) -> Any:
        return worker.run(Ending(lambda job: "x"))

    answers = {PENDING: [(500, b"oh"), listed(1), listed(99)]}
    told = assert_same(server, scenario, answers=answers)
    assert [call.target for call in told.calls].count("/jobs/1/close") == 1


@pytest.mark.usefixtures("no_presence_between")
def test_run_of_a_handler_that_raises(server: Server) -> None:
    """The same calls, except that the output of a failed job is the whole traceback."""
    told: list[tuple[Any, str]] = []

    def bad(job: dict[str, Any]) -> str:
        raise ValueError("bad prompt")

    def scenario(worker: Any) -> Any:
        return worker.run(Ending(bad), lambda job, error: told.append((job, str(error))))

    answers = {PENDING: [listed(1), listed(99)]}
    sdk, ours = both(server, scenario, answers=answers)
    assert [(call.method, call.target) for call in ours.calls] == [(call.method, call.target) for call in sdk.calls]
    [sdk_close] = [call.body for call in sdk.calls if call.target == "/jobs/1/close"]
    [our_close] = [call.body for call in ours.calls if call.target == "/jobs/1/close"]
    assert sdk_close == {"result": "ValueError: bad prompt", "status": "failed"}
    assert our_close["status"] == "failed"
    assert our_close["result"].startswith("Traceback (most recent call last):")
    assert our_close["result"].endswith("ValueError: bad prompt\n")
    assert told == [({"id": 1, "prompt": "p1"}, "bad prompt")] * 2
