"""The documented routes for users, and those of the sandbox for killswitch and approvals, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox, ServerOptions

CAPABILITIES = [{"name": "read", "risk_tier": "auto"}, {"name": "send", "risk_tier": "approve"}]


def present(talk: Any, name: str, **report: Any) -> int:
    """Report presence, and return the worker's id."""
    assert talk.put("/presence", json={"instance": name, "status": "active", **report}).status_code == 200
    workers = talk.get("/api/workers").json()["workers"]
    return int(next(each["id"] for each in workers if each["name"] == name))


def pending(talk: Any, name: str) -> list[int]:
    return [job["id"] for job in talk.get(f"/my-jobs?worker={name}&status=pending").json()["jobs"]]


def test_dispatch_picks_an_eligible_worker(talk: Any) -> None:
    talk.post("/api/v1/workers/register", json={"name": "mail", "capabilities": CAPABILITIES})
    present(talk, "draft", tags="code,draft", provider="ollama")
    present(talk, "mail", tags="economy")

    def assigned(**job: Any) -> Any:
        answer = talk.post("/dispatch", json={"prompt": "x", **job})
        return answer.json()["assigned_to"] if answer.status_code == 200 else answer.status_code

    assert assigned(tags=["code"]) == "draft"
    assert assigned(tags=["economy"]) == "mail"
    assert assigned(capability="read") == "mail"
    assert assigned(provider="ollama") == "draft"
    assert assigned(provider="openai") == assigned(tags=["code", "economy"]) == 503
    assert assigned(capability="other") == "draft"
    assert assigned(capability="other", tags=["economy"]) == 503
    assert assigned(capability="other", worker="mail") == 503
    assert assigned(worker="not seen yet") == "not seen yet"
    answer = talk.post("/dispatch", json={"prompt": "x", "tags": ["gpu"]})
    assert answer.json()["error"] == (
        "no worker is eligible (mail: it does not report tag 'gpu'; draft: it does not report tag 'gpu')"
    )


def test_pause_and_resume(talk: Any) -> None:
    worker = present(talk, "w")
    talk.post("/dispatch", json={"prompt": "x", "worker": "w"})
    assert talk.post(f"/api/workers/{worker}/pause").json()["paused"] is True
    assert pending(talk, "w") == []
    assert talk.post("/jobs/1/claim", json={"worker": "w"}).status_code == 409
    assert talk.post("/dispatch", json={"prompt": "x"}).status_code == 503
    assert talk.get(f"/api/workers/{worker}").json()["paused"] is True
    assert talk.post(f"/api/workers/{worker}/resume").json()["paused"] is False
    assert pending(talk, "w") == [1]
    assert talk.post("/jobs/1/claim", json={"worker": "w"}).status_code == 200
    for path in ("/api/workers/9", "/api/workers/x"):
        assert talk.get(path).status_code == talk.post(f"{path}/pause").status_code == 404


def test_create_read_change_cancel_and_retry(talk: Any) -> None:
    created = talk.post("/api/jobs", json={"prompt": "x", "provider": "ollama"})
    assert (created.status_code, created.json()["status"], created.json()["assigned_to"]) == (200, "pending", None)
    assert talk.get("/api/jobs/1").json() == talk.get("/jobs/1").json() == created.json()
    changed = talk.put("/api/jobs/1", json={"tags": ["a"], "priority": "high", "tier": "economy"}).json()
    assert (changed["tags"], changed["priority"], changed["tier"]) == (["a"], "high", "economy")
    assert talk.post("/jobs/1/dispatch").status_code == 503
    assert talk.post("/jobs/1/dispatch", json={"worker": "w"}).json()["assigned_to"] == "w"
    assert pending(talk, "w") == [1]
    assert talk.post("/api/jobs/1/retry").status_code == 409
    talk.post("/jobs/1/claim", json={"worker": "w"})
    assert talk.put("/api/jobs/1", json={"tags": []}).status_code == 409
    assert talk.post("/api/jobs/1/cancel").json()["status"] == "failed"
    assert talk.post("/api/jobs/1/cancel").status_code == 409
    retried = talk.post("/api/jobs/1/retry").json()
    assert (retried["status"], retried["result"]) == ("pending", None)


def test_list_of_jobs(talk: Any) -> None:
    for provider in ("ollama", "openai", None):
        talk.post("/api/jobs", json={"prompt": "x", "worker": "w", "provider": provider})
    talk.post("/api/jobs/1/cancel")

    def ids(query: str) -> list[int]:
        return [job["id"] for job in talk.get(f"/api/jobs?{query}").json()["jobs"]]

    assert ids("") == [3, 2, 1]
    assert ids("provider=ollama") == [1]
    assert ids("status=pending") == [3, 2]
    assert ids("status=pending&provider=openai&limit=5") == [2]
    assert ids("limit=1&offset=1") == [2]
    for query in ("status=over", "limit=x"):
        assert talk.get(f"/api/jobs?{query}").status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "other"}, "prompt cannot be changed"),
        ({"status": "done"}, "status cannot be changed"),
        ({"tags": "a"}, "tags must be"),
        ({"tags": [1]}, "tags must be"),
        ({"priority": "urgent"}, "priority must be one of low, normal, high"),
    ],
)
def test_invalid_change(talk: Any, body: Any, message: str) -> None:
    talk.post("/api/jobs", json={"prompt": "x"})
    answer = talk.put("/api/jobs/1", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_unknown_job(talk: Any) -> None:
    for method, path in (
        ("GET", ""), ("PUT", ""), ("POST", "/cancel"), ("POST", "/retry"),
    ):  # fmt: skip
        for job_id in ("7", "x"):
            answer = talk.request(method, f"/api/jobs/{job_id}{path}", json={})
            assert answer.status_code == 404, (method, path)
    assert talk.post("/jobs/7/approve").status_code == talk.post("/jobs/7/reject").status_code == 404


def test_killswitch(talk: Any) -> None:
    present(talk, "w")
    for _ in range(2):
        talk.post("/dispatch", json={"prompt": "x"})
    talk.post("/jobs/1/claim", json={"worker": "w"})
    assert talk.get("/killswitch").json() == {"level": None, "since": None}
    assert talk.post("/killswitch", json={"level": "stop"}).json()["aborted"] == [1]
    assert talk.post("/jobs/1/close", json={"result": "", "status": "done"}).status_code == 409
    refused = talk.post("/dispatch", json={"prompt": "x", "worker": "w"})
    assert (refused.status_code, "killswitch is on (level stop)" in refused.json()["error"]) == (503, True)
    assert pending(talk, "w") == []
    assert talk.post("/killswitch", json={"level": "all"}).status_code == 400
    assert talk.post("/killswitch").json()["aborted"] == [2]
    assert talk.delete("/killswitch").json()["level"] is None
    assert talk.post("/dispatch", json={"prompt": "x"}).json()["assigned_to"] == "w"


def test_job_that_needs_an_approval_is_not_in_the_inbox(talk: Any) -> None:
    talk.post("/api/v1/workers/register", json={"name": "w", "capabilities": CAPABILITIES})
    for _ in range(2):
        job = talk.post("/dispatch", json={"prompt": "x", "worker": "w", "capability": "send"}).json()
        assert job["status"] == "awaiting_approval"
    assert pending(talk, "w") == []
    assert talk.get("/my-jobs?worker=w&status=awaiting_approval").status_code == 400
    assert talk.post("/jobs/1/approve").json() == {"approved": [1]}
    assert pending(talk, "w") == [1]
    assert talk.post("/jobs/2/reject").json()["status"] == "failed"
    assert talk.post("/jobs/2/approve").status_code == talk.post("/jobs/1/reject").status_code == 409


def request(sandbox: Sandbox, token: str, method: str, path: str, **body: Any) -> int:
    """Send a request, and return the status of the response."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.request(method, sandbox.url + path, json=body, headers=headers, timeout=30).status_code


FOR_USERS = [
    ("POST", "/dispatch"), ("GET", "/presence"), ("GET", "/jobs"), ("POST", "/jobs/1/abort"), ("GET", "/api/jobs"),
    ("POST", "/jobs/1/requeue"), ("GET", "/api/jobs/1"), ("POST", "/api/jobs/1/cancel"), ("GET", "/api/workers"),
    ("POST", "/abort-all"), ("POST", "/killswitch"), ("PUT", "/chaos"), ("POST", "/jobs/1/approve"),
]  # fmt: skip


def test_worker_tokens_are_not_for_users() -> None:
    with Sandbox("worker", api_key="key", tokens={"a": "token-of-a"}) as sandbox:
        own, other = (sandbox.dispatch("x", worker=name)["id"] for name in ("a", "b"))
        for method, path in FOR_USERS:
            for token in ("worker", "token-of-a"):
                assert request(sandbox, token, method, path) == 403, (token, method, path)
        assert request(sandbox, "key", "GET", "/jobs") == 200
        assert request(sandbox, "key", "POST", "/dispatch", prompt="x", worker="a") == 200
        assert request(sandbox, "token-of-a", "GET", f"/jobs/{own}") == 200
        assert request(sandbox, "token-of-a", "GET", f"/jobs/{other}") == 403
        assert request(sandbox, "worker", "GET", f"/jobs/{other}") == 200
        assert request(sandbox, "worker", "PUT", "/presence", instance="b") == 200
        register = ("POST", "/api/v1/workers/register")
        assert [request(sandbox, token, *register, name="c") for token in ("key", "worker", "token-of-a", "x")] == [
            200, 403, 403, 401,
        ]  # fmt: skip


def test_one_token_for_everything_is_the_default(sandbox: Sandbox) -> None:
    assert request(sandbox, sandbox.token, "POST", "/dispatch", prompt="x", worker="w") == 200
    assert request(sandbox, sandbox.token, "PUT", "/presence", instance="w") == 200


@pytest.mark.parametrize(("token", "status"), [("key", 200), ("worker", 403)])
def test_page_is_for_users(token: str, status: int) -> None:
    with Sandbox("worker", api_key="key") as sandbox:
        headers = {"Origin": sandbox.url}
        answer = requests.post(f"{sandbox.url}/login", data={"token": token}, headers=headers, timeout=30)
        assert answer.status_code == status


def test_server_before_4_6_has_no_artifacts_and_no_reviews() -> None:
    with Sandbox("t", options=ServerOptions(version="4.5")) as sandbox:
        for method, path in (("POST", "/artifacts/upload"), ("POST", "/review"), ("GET", "/reviews"), ("GET", "/s/x")):
            assert request(sandbox, "t", method, path) == 404
        assert request(sandbox, "t", "PUT", "/presence", instance="w") == 200
        assert requests.get(f"{sandbox.url}/health", timeout=30).json()["server_version"] == "4.5"


def test_other_words_for_the_ends_of_jobs() -> None:
    with Sandbox("t", options=ServerOptions(words={"done": "completed", "aborted": "cancelled"})) as sandbox:
        for _ in range(2):
            sandbox.dispatch("x", worker="w")
        assert request(sandbox, "t", "POST", "/jobs/1/claim", worker="w") == 200
        assert request(sandbox, "t", "POST", "/jobs/1/close", result="", status="done") == 200
        assert request(sandbox, "t", "POST", "/api/jobs/2/cancel") == 200
        assert [job["status"] for job in sandbox.store.jobs()] == ["cancelled", "completed"]
        for status, expected in (("completed", 200), ("cancelled", 200), ("done", 400)):
            assert request(sandbox, "t", "GET", f"/my-jobs?worker=w&status={status}") == expected
            assert request(sandbox, "t", "GET", f"/api/jobs?status={status}") == expected
