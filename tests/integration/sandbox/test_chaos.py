"""Effects of each fault on connections and jobs, and how to switch faults on and off."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Chaos, Rule, Sandbox
from mr_celery.sandbox.chaos import FAULTS, LISTS, ROUTES
from support.ports import until

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_in_the_server(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Checks that uvicorn logs no errors because of a fault."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@contextmanager
def asked(sandbox: Sandbox, method: str, path: str, body: Any = None) -> Iterator[socket.socket]:
    """A keep-alive connection on which a request was sent."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sandbox.token}\r\n"
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def split(received: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.lower().split(": ", 1) for line in lines), body


def claim(sandbox: Sandbox) -> tuple[str, str, dict[str, str]]:
    """Create a job, and return the request that claims it."""
    job = sandbox.dispatch("x", worker="w")
    return "POST", f"/jobs/{job['id']}/claim", {"worker": "w"}


def status(sandbox: Sandbox) -> str:
    """The status of the only job."""
    return str(sandbox.store.job(1)["status"])


both = pytest.mark.parametrize(("after", "then"), [(False, "pending"), (True, "running")])


@both
def test_drop_closes_the_connection_without_an_answer(sandbox: Sandbox, after: bool, then: str) -> None:
    sandbox.chaos.set([Rule("drop", after=after)])
    with asked(sandbox, *claim(sandbox)) as connection:
        assert rest(connection) == b""
    assert status(sandbox) == then
    assert sandbox.chaos.counts == {("claim", "drop"): 1}


@both
def test_drop_on_a_reused_connection_is_a_network_error(talk: Any, sandbox: Sandbox, after: bool, then: str) -> None:
    method, path, body = claim(sandbox)
    assert talk.get("/health").status_code == 200
    sandbox.chaos.set([Rule("drop", after=after)])
    with pytest.raises(requests.ConnectionError, match="Connection aborted"):
        talk.request(method, path, json=body)
    assert status(sandbox) == then


@pytest.mark.parametrize(("after", "kept"), [(False, 0), (True, 1)])
def test_drop_of_an_upload(talk: Any, sandbox: Sandbox, after: bool, kept: int) -> None:
    sandbox.chaos.set([Rule("drop", after=after)])
    with pytest.raises(requests.ConnectionError):
        talk.post("/artifacts/upload", files={"file": ("a.bin", b"x" * 8_000_000)})
    assert len(sandbox.store.artifacts()) == kept


@both
def test_truncated_sends_half_of_the_announced_length(sandbox: Sandbox, after: bool, then: str) -> None:
    sandbox.chaos.set([Rule("truncated", after=after)])
    with asked(sandbox, *claim(sandbox)) as connection:
        first, headers, body = split(rest(connection))
    assert first == "HTTP/1.1 200 OK"
    assert headers["content-type"] == "application/json"
    assert len(body) == int(headers["content-length"]) // 2 > 10
    assert body.startswith(b'{"success"')
    assert status(sandbox) == then


def test_truncated_list_is_the_correct_one(talk: Any, sandbox: Sandbox) -> None:
    jobs = [sandbox.dispatch("x" * 2000, worker="w") for _ in range(100)]
    whole = talk.get("/my-jobs?worker=w").content
    sandbox.chaos.set([Rule("truncated", after=True)])
    with asked(sandbox, "GET", "/my-jobs?worker=w") as connection:
        _, headers, body = split(rest(connection))
    assert int(headers["content-length"]) == len(whole) > 2000 * len(jobs)
    assert body == whole[: len(whole) // 2]
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        talk.get("/my-jobs?worker=w")


@both
@pytest.mark.parametrize(
    ("rule", "code", "content_type", "body"),
    [
        ({"fault": "status", "status": 503}, 503, "text/plain; charset=utf-8", r"503 Service Unavailable"),
        ({"fault": "status", "status": 409}, 409, "text/plain; charset=utf-8", r"409 Conflict"),
        ({"fault": "status", "status": 204}, 204, None, r""),
        ({"fault": "html"}, 200, "text/html; charset=utf-8", r"<!doctype html>.*Log in.*"),
        ({"fault": "null"}, 200, "application/json", r"null"),
        ({"fault": "list"}, 200, "application/json", r"\[\]"),
    ],
)
def test_replaced_answers(
    talk: Any,
    sandbox: Sandbox,
    after: bool,
    then: str,
    rule: dict[str, Any],
    code: int,
    content_type: str | None,
    body: str,
) -> None:
    method, path, said = claim(sandbox)
    sandbox.chaos.set([Rule(**rule, after=after)])
    answer = talk.request(method, path, json=said)
    assert (answer.status_code, answer.headers.get("Content-Type")) == (code, content_type)
    assert re.fullmatch(body, answer.text)
    assert "Retry-After" not in answer.headers
    assert status(sandbox) == then


def test_replaced_answer_keeps_the_connection_usable(talk: Any, sandbox: Sandbox) -> None:
    sandbox.chaos.set([Rule("status", status=503, retry_after=7)])
    with asked(sandbox, "PUT", "/presence", {"instance": "w"}) as connection:
        assert b"503 Service Unavailable\r\n" in connection.recv(65536)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'"ok":true' in rest(connection)
    assert sandbox.store.workers() == []
    upload = talk.post("/artifacts/upload", files={"file": ("a.bin", b"x" * 8_000_000)})
    assert (upload.status_code, upload.headers["Retry-After"]) == (503, "7")
    assert sandbox.store.artifacts() == []


def test_empty_list_hides_the_jobs(talk: Any, sandbox: Sandbox) -> None:
    claim(sandbox)
    assert len(talk.get("/my-jobs?worker=w").json()["jobs"]) == 1
    sandbox.chaos.set([Rule("empty_list")])
    for wanted in ("pending", "running"):
        assert talk.get(f"/my-jobs?worker=w&status={wanted}").json() == {"jobs": []}
    assert talk.get("/jobs/1").json()["status"] == "pending"


def test_wrong_types_has_an_effect(talk: Any, sandbox: Sandbox) -> None:
    method, path, body = claim(sandbox)
    sandbox.chaos.set([Rule("wrong_types")])
    answer = talk.request(method, path, json=body)
    assert answer.status_code == 200
    assert answer.json().keys() == {"success", "id", "status"}
    assert [type(value) for value in answer.json().values()] != [bool, int, str]
    assert status(sandbox) == "running"


def test_wrong_types_changes_nested_fields(talk: Any, sandbox: Sandbox) -> None:
    for _ in range(3):
        sandbox.dispatch("x", worker="w", tags=["a"])
    right = talk.get("/my-jobs?worker=w").json()["jobs"]
    sandbox.chaos.set([Rule("wrong_types")], seed=1)
    entries = []
    for _ in range(50):
        jobs = talk.get("/my-jobs?worker=w").json()["jobs"]
        entries += jobs if isinstance(jobs, list) and len(jobs) == 3 else []
    assert any(not isinstance(job, dict) for job in entries)
    assert any(isinstance(job, dict) and type(job.get("id")) is not int for job in entries)
    assert any(job in right for job in entries)


def test_large_pads_the_correct_answer_to_10_mb(talk: Any, sandbox: Sandbox) -> None:
    method, path, body = claim(sandbox)
    sandbox.chaos.set([Rule("large")])
    answer = talk.request(method, path, json=body)
    assert len(answer.content) == pytest.approx(10_000_000, abs=1000)
    said = answer.json()
    assert len(said.pop("padding")) > 9_900_000
    assert said == {"success": True, "id": 1, "status": "running"}
    assert status(sandbox) == "running"


@both
def test_hang_closes_after_the_delay(sandbox: Sandbox, after: bool, then: str) -> None:
    sandbox.chaos.set([Rule("hang", delay=0.3, after=after)])
    begun = time.monotonic()
    with asked(sandbox, *claim(sandbox)) as connection:
        assert rest(connection) == b""
    assert time.monotonic() - begun >= 0.3
    assert status(sandbox) == then


def test_hang_reads_the_whole_request(sandbox: Sandbox) -> None:
    """Otherwise a client would block while it sends, before its read timeout starts."""
    sandbox.chaos.set([Rule("hang")])
    with asked(sandbox, "PUT", "/presence", ["x" * 30_000_000]) as connection:
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_hanging_request_ends_if_the_client_disconnects(sandbox: Sandbox) -> None:
    sandbox.chaos.set([Rule("hang")])
    assert sandbox._server is not None
    tasks = sandbox._server.server_state.tasks
    with asked(sandbox, *claim(sandbox)):
        until(lambda: sandbox.chaos.counts)
        assert len(tasks) == 1
    until(lambda: not tasks)


@pytest.mark.parametrize("fault", ["hang", "trickle", "latency"])
def test_stop_ends_hanging_requests(fault: str) -> None:
    """Otherwise uvicorn would wait and log an error, which the fixture checks for."""
    sandbox = Sandbox()
    sandbox.chaos.set([Rule(fault, delay=3600)])
    with ExitStack() as stack:
        with sandbox:
            connection = stack.enter_context(asked(sandbox, "PUT", "/presence", {"instance": "w"}))
            until(lambda: sandbox.chaos.counts)
        assert (b'{"success":true}' in rest(connection)) == (fault == "latency")
    with sandbox, asked(sandbox, "PUT", "/presence", {"instance": "w"}) as again:
        until(lambda: sum(sandbox.chaos.counts.values()) == 2)
        again.settimeout(0.2)
        with pytest.raises(TimeoutError):  # after the restart it hangs again
            rest(again)


def test_trickle_sends_byte_by_byte(sandbox: Sandbox) -> None:
    sandbox.chaos.set([Rule("trickle", delay=0.02)])
    body, arrivals = b"", []
    with asked(sandbox, *claim(sandbox)) as connection:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        _, headers, _ = split(head)
        while len(body) < int(headers["content-length"]):
            body += connection.recv(65536)
            arrivals.append(time.monotonic())
    assert json.loads(body) == {"success": True, "id": 1, "status": "running"}
    assert len(arrivals) > len(body) / 2
    assert arrivals[-1] - arrivals[0] >= 0.02 * len(body) / 2


@pytest.mark.parametrize("after", [False, True])
def test_latency_before_or_after_the_effect(talk: Any, sandbox: Sandbox, after: bool) -> None:
    method, path, body = claim(sandbox)
    sandbox.chaos.set([Rule("latency", delay=0.3, after=after)])
    begun = time.time()
    answer = talk.request(method, path, json=body)
    ended = time.time()
    effect = sandbox.store.events(1)[-1]["at"]
    assert answer.json() == {"success": True, "id": 1, "status": "running"}
    assert (ended - effect if after else effect - begun) >= 0.29


def test_server_works_after_every_fault_on_every_route(talk: Any, sandbox: Sandbox) -> None:
    """The fixture checks that no fault causes an error in the server's log."""
    requests_of: dict[str, tuple[str, str, dict[str, Any]]] = {
        "presence": ("PUT", "/presence", {"json": {"instance": "w"}}),
        "inbox": ("GET", "/my-jobs?worker=w", {}),
        "running": ("GET", "/my-jobs?worker=w&status=running", {}),
        "claim": ("POST", "/jobs/{}/claim", {"json": {"worker": "v"}}),
        "close": ("POST", "/jobs/{}/close", {"json": {"result": "r", "status": "done"}}),
        "artifact": ("POST", "/artifacts/upload", {"files": {"file": ("a.txt", b"text")}}),
        "review": ("POST", "/review", {"json": {"type": "t", "title": "T", "content": "c"}}),
        "job": ("GET", "/jobs/{}", {}),
        "register": ("POST", "/api/v1/workers/register", {"json": {"name": "w"}}),
    }
    assert requests_of.keys() == {*ROUTES}
    for fault in FAULTS:
        delay = 0.001 if fault in ("hang", "trickle", "latency") else None
        code = 500 if fault == "status" else None
        for route in LISTS if fault == "empty_list" else ROUTES:
            for after in (False, True):
                method, path, options = requests_of[route]
                path = path.format(sandbox.dispatch("x", worker="v")["id"])
                sandbox.chaos.set([Rule(fault, routes=(route,), status=code, delay=delay, after=after)])
                lost = fault in ("drop", "hang", "truncated")
                try:
                    answer = talk.request(method, path, **options)
                except requests.RequestException:
                    assert lost, (fault, route)
                else:
                    assert not lost, (fault, route, answer.content[:100])
                assert sandbox.chaos.counts[route, fault] == 1 + after
    sandbox.chaos.clear()
    job_id = sandbox.dispatch("x", worker="w")["id"]
    assert talk.post(f"/jobs/{job_id}/claim", json={"worker": "w"}).json()["status"] == "running"


def test_faults_do_not_apply_to_operator_routes(talk: Any, sandbox: Sandbox) -> None:
    sandbox.chaos.set([Rule("drop")])
    artifact = sandbox.store.add_artifact(io.BytesIO(b"text"), {"content_type": "text/plain", "filename": "x"})
    review = sandbox.store.add_review({"type": "t", "title": "T", "content": "c"})
    codes = {
        path: talk.request(method, path, json=body).status_code
        for method, path, body in [
            ("POST", "/dispatch", {"prompt": "x", "worker": "w"}),
            ("GET", "/jobs", None),
            ("GET", "/jobs/1/events", None),
            ("POST", "/jobs/1/abort", None),
            ("POST", "/jobs/1/requeue", None),
            ("POST", "/abort-all", None),
            ("GET", "/killswitch", None),
            ("GET", "/presence", None),
            ("POST", "/api/jobs", {"prompt": "x"}),
            ("GET", "/api/jobs/1", None),
            ("GET", "/api/workers", None),
            ("GET", "/artifacts", None),
            ("GET", f"/s/{artifact['slug']}", None),
            ("GET", "/reviews", None),
            ("POST", f"/reviews/{review['id']}/approve", None),
            ("GET", "/health", None),
            ("GET", "/chaos", None),
        ]
    }
    assert codes == dict.fromkeys(codes, 200)
    assert sandbox.chaos.counts == {}


def test_set_show_and_clear_over_http(talk: Any, sandbox: Sandbox) -> None:
    seed = sandbox.chaos.seed
    assert talk.get("/chaos").json() == {"seed": seed, "rules": [], "counts": {}}
    rules = [
        {"fault": "status", "status": 503, "retry_after": 1, "routes": ["presence"], "rate": 1.0, "after": False},
        {"fault": "drop", "routes": ["claim", "close"], "rate": 0.5, "seconds": 1000, "after": True},
    ]
    answer = talk.put("/chaos", json={"seed": 7, "rules": rules})
    assert answer.status_code == 200
    assert [talk.put("/presence", json={"instance": "w"}).status_code for _ in range(3)] == [503] * 3
    state = talk.get("/chaos").json()
    left = state["rules"][1].pop("seconds")
    assert 0 < left <= answer.json()["rules"][1]["seconds"] <= rules[1].pop("seconds")
    assert state == {"seed": 7, "rules": rules, "counts": {"presence": {"status": 3}}}
    assert talk.delete("/chaos").json() == {"seed": 7, "rules": [], "counts": {"presence": {"status": 3}}}
    assert talk.put("/presence", json={"instance": "w"}).status_code == 200


def test_invalid_faults_are_refused_without_changes(talk: Any, sandbox: Sandbox) -> None:
    sandbox.chaos.set([Rule("null", routes=("job",))])
    for body, why in [
        ({"rules": [{"fault": "drop"}, {"fault": "drop", "rate": 2}]}, "rule 2: rate is 2: it must be a number"),
        ({"rules": "drop"}, "rules is"),
        ([], "must be a JSON object"),
    ]:
        answer = talk.put("/chaos", json=body)
        assert answer.status_code == 400
        assert why in answer.json()["error"]
    assert [rule["fault"] for rule in talk.get("/chaos").json()["rules"]] == ["null"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_chaos_routes_need_the_token(sandbox: Sandbox, method: str) -> None:
    sandbox.chaos.set([Rule("null")])
    assert requests.request(method, f"{sandbox.url}/chaos", json={"rules": []}, timeout=30).status_code == 401
    assert [rule.fault for rule in sandbox.chaos.rules] == ["null"]


def test_given_faults_survive_a_restart() -> None:
    sandbox = Sandbox(chaos=Chaos.parse({"seed": 7, "rules": [{"fault": "status", "status": 503}]}))
    assert sandbox.chaos.seed == 7
    for _ in range(2):
        with sandbox:
            headers = {"Authorization": f"Bearer {sandbox.token}"}
            assert requests.get(f"{sandbox.url}/jobs/1", headers=headers, timeout=30).status_code == 503


@contextmanager
def command(*options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [BIN / "mr-celery", "sandbox", "--port", "0", *options],
        env={**os.environ, "MODELREINS_TOKEN": "t"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_command_reads_faults_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"seed": 7, "rules": [{"fault": "hang"}]}')
    with command("--chaos", str(path)) as process:
        assert process.stdout is not None
        match = re.search(r"http://\S+:(\d+)", process.stdout.readline())
        assert match
        assert process.stdout.readline() == f"faults from {path}: rules 1, seed 7\n"
        port, headers = int(match[1]), {"Authorization": "Bearer t"}
        head = b"GET /jobs/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head)
            url = f"http://127.0.0.1:{port}/chaos"
            until(lambda: requests.get(url, headers=headers, timeout=30).json()["counts"] == {"job": {"hang": 1}})
            process.send_signal(signal.SIGTERM)
            assert rest(connection) == b""
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"rules": [{"fault": "nope"}]}', 'are invalid: rule 1: fault is "nope": it must be one of status, html, .*'),
        ("{", "are not JSON: .*"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_command_refuses_invalid_file_with_one_line(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    if content is not None:
        path.write_text(content)
    with command("--chaos", str(path)) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert re.fullmatch(f"mr-celery: the faults in {path} {why}\n", errors)
