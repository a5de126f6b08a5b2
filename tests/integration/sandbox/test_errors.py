"""Errors over HTTP: 401 without a token, JSON bodies, and no server error for any input."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox
from mr_celery.sandbox.store import Store

ROUTES = [
    ("PUT", "/presence"),
    ("GET", "/presence"),
    ("GET", "/my-jobs?worker=w"),
    ("GET", "/jobs"),
    ("GET", "/jobs/1"),
    ("GET", "/jobs/1/events"),
    ("POST", "/jobs/1/claim"),
    ("POST", "/jobs/1/close"),
    ("POST", "/jobs/1/abort"),
    ("POST", "/jobs/1/requeue"),
    ("POST", "/jobs/1/approve"),
    ("POST", "/jobs/1/reject"),
    ("POST", "/jobs/1/dispatch"),
    ("POST", "/abort-all"),
    ("GET", "/killswitch"),
    ("POST", "/killswitch"),
    ("DELETE", "/killswitch"),
    ("GET", "/api/jobs"),
    ("POST", "/api/jobs"),
    ("GET", "/api/jobs/1"),
    ("PUT", "/api/jobs/1"),
    ("POST", "/api/jobs/1/cancel"),
    ("POST", "/api/jobs/1/retry"),
    ("GET", "/api/workers"),
    ("GET", "/api/workers/1"),
    ("POST", "/api/workers/1/pause"),
    ("POST", "/api/workers/1/resume"),
    ("POST", "/artifacts/upload"),
    ("GET", "/artifacts"),
    ("POST", "/review"),
    ("GET", "/reviews"),
    ("POST", "/reviews/1/approve"),
    ("POST", "/reviews/1/reject"),
    ("POST", "/api/v1/workers/register"),
    ("POST", "/dispatch"),
    ("GET", "/nothing/here"),
    ("DELETE", "/jobs"),
    ("GET", "/s/"),
    ("GET", "/s/a/b"),
    ("GET", "/health/"),
]
JSON_ROUTES = ["/dispatch", "/api/jobs", "/jobs/1/claim", "/jobs/1/close", "/review", "/api/v1/workers/register"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_all_routes_answer_401_without_a_token(sandbox: Sandbox, method: str, path: str) -> None:
    sandbox.dispatch("x", worker="w")
    token = sandbox.token
    for given in (None, "", "Bearer", "Bearer ", f"Bearer {token}x", f"Bearer {token[:-1]}", token, "Bearer \xff\xfe"):
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        answer = requests.request(method, sandbox.url + path, headers=headers, data=b"\xff not json", timeout=30)
        assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
    assert [event["event"] for event in sandbox.store.events()] == ["dispatched"]


def test_a_browser_that_opens_the_address_of_a_job_gets_to_its_page(sandbox: Sandbox) -> None:
    headers = {"Accept": "text/html,application/xhtml+xml"}
    answer = requests.get(f"{sandbox.url}/jobs/7", headers=headers, allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["location"]) == (307, "/ui/jobs/7")
    assert requests.post(f"{sandbox.url}/jobs/7/close", headers=headers, timeout=30).status_code == 401
    assert requests.get(f"{sandbox.url}/jobs", headers=headers, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/jobs/", 404),
        ("GET", "/", 404),
        ("PATCH", "/jobs", 405),
        ("GET", "/dispatch", 405),
    ],
)
def test_unknown_paths_and_methods_are_json(talk: Any, method: str, path: str, status: int) -> None:
    answer = talk.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_server_error_is_json(sandbox: Sandbox, talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Store) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Store, "reviews", broken)
    answer = talk.get("/reviews")
    assert answer.status_code == 500
    assert set(answer.json()) == {"error"}
    assert "secret detail" not in answer.text


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"9" * 9999,
    ],
)
def test_malformed_bodies(talk: Any, path: str, body: bytes) -> None:
    answer = talk.post(path, data=body)
    assert answer.status_code == 400
    assert "the body" in answer.json()["error"]


HOSTILE = [
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    "1" * 4000,
    "-1",
    "1e308",
    '{"\\ud800": "\\ud800"}',
    "[[]]",
    "null",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_field_values_never_cause_a_server_error(sandbox: Sandbox, talk: Any, value: str) -> None:
    sandbox.dispatch("x", worker="w")
    sandbox.store.claim(1, "w")
    names = {
        "PUT /presence": ["instance", "status", "details", "tags", "worker_type"],
        "POST /jobs/1/claim": ["worker"],
        "POST /jobs/1/close": ["result", "status"],
        "POST /review": ["type", "title", "content", "preview", "target", "job_id", "created_by"],
        "POST /api/v1/workers/register": ["name", "description", "capabilities"],
        "POST /dispatch": ["prompt", "worker", "priority", "anything", "\\ud800"],
    }
    good = {name: '"x"' for each in names.values() for name in each} | {"job_id": "1", "capabilities": "[]"}
    for route, fields in names.items():
        method, path = route.split()
        for name in fields:
            members = {each: good[each] for each in fields} | {name: value}
            body = "{" + ", ".join(f'"{each}": {said}' for each, said in members.items()) + "}"
            answer = talk.request(method, path, data=body.encode())
            assert answer.status_code < 500, (route, name, answer.text)
            assert isinstance(answer.json(), dict)
    for path in ("/jobs", "/reviews", "/presence", "/my-jobs?worker=x", "/jobs/1/events"):
        assert talk.get(path).status_code == 200


@pytest.mark.parametrize(
    "query", ["worker=%00", "worker=%ED%A0%80", "worker=%FF", "worker=w&worker=v", "worker=" + "w" * 9000]
)
def test_queries_never_cause_a_server_error(talk: Any, query: str) -> None:
    for path in ("/my-jobs", "/jobs"):
        assert talk.get(f"{path}?{query}").status_code == 200


def test_interrupted_upload_leaves_nothing(sandbox: Sandbox, talk: Any) -> None:
    head = (
        "POST /artifacts/upload HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {sandbox.token}\r\nContent-Length: 99999\r\n"
        'Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\nContent-Disposition: form-data; name="file"; '
        'filename="x"\r\n\r\nhalf'
    )
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=30) as connection:
        connection.sendall(head.encode())
    assert talk.get("/artifacts").json() == {"artifacts": []}
