"""The worker protocol over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from mr_celery.sandbox import Sandbox

PRESENCE = {"instance": "w", "status": "active", "details": None, "tags": "a,b", "worker_type": "silicon"}
REVIEW = {
    "type": "t",
    "title": "T",
    "content": "c",
    "preview": None,
    "target": None,
    "job_id": 1,
    "created_by": "worker:w",
}


def test_presence(sandbox: Sandbox, talk: Any) -> None:
    answer = talk.put("/presence", json=PRESENCE)
    assert (answer.status_code, type(answer.json())) == (200, dict)
    (worker,) = talk.get("/presence").json()["workers"]
    assert {name: worker[name] for name in PRESENCE} == PRESENCE
    assert worker["age"] >= 0
    assert worker["present"] is True


def test_inbox_lists_jobs_of_a_worker_by_status(sandbox: Sandbox, talk: Any) -> None:
    sandbox.dispatch("one", worker="w x&y", tier="fast", tags=["a"], input=None)
    sandbox.dispatch("two", worker="other")
    (job,) = talk.get("/my-jobs", params={"worker": "w x&y", "status": "pending"}).json()["jobs"]
    assert {name: job[name] for name in ("id", "prompt", "assigned_to", "status", "priority")} == {
        "id": 1,
        "prompt": "one",
        "assigned_to": "w x&y",
        "status": "pending",
        "priority": "normal",
    }
    assert (job["tier"], job["tags"], job["input"]) == ("fast", ["a"], None)
    assert talk.get("/my-jobs", params={"worker": "w x&y", "status": "running"}).json() == {"jobs": []}
    assert talk.get("/my-jobs", params={"worker": "nobody"}).json() == {"jobs": []}


@pytest.mark.parametrize(
    "query", ["", "?worker=", "?worker=w&status=", "?worker=w&status=Pending", "?worker=w&status=x"]
)
def test_invalid_inbox_queries_are_refused(talk: Any, query: str) -> None:
    answer = talk.get(f"/my-jobs{query}")
    assert answer.status_code == 400
    assert "must be" in answer.json()["error"]


@pytest.mark.parametrize("status", ["done", "failed", "escalated"])
def test_claim_and_close(sandbox: Sandbox, talk: Any, status: str) -> None:
    sandbox.dispatch("x", worker="w")
    assert talk.post("/jobs/1/claim", json={"worker": "w"}).json() == {"success": True, "id": 1, "status": "running"}
    answer = talk.post("/jobs/1/close", json={"result": "é\x00😀", "status": status})
    assert answer.json() == {"success": True, "id": 1, "status": status}
    job = talk.get("/jobs/1").json()
    assert (job["status"], job["result"]) == (status, "é\x00😀")


def test_invalid_transition_is_409_and_recorded(sandbox: Sandbox, talk: Any) -> None:
    sandbox.dispatch("x", worker="w")
    claim, close = {"worker": "w"}, {"result": "", "status": "done"}
    assert talk.post("/jobs/1/claim", json={"worker": "v"}).status_code == 409
    assert talk.post("/jobs/1/close", json=close).status_code == 409
    assert talk.post("/jobs/1/claim", json=claim).status_code == 200
    assert talk.post("/jobs/1/claim", json=claim).status_code == 409
    assert talk.post("/jobs/1/close", json=close).status_code == 200
    again = talk.post("/jobs/1/close", json=close)
    assert (again.status_code, again.json()) == (409, {"error": "cannot close a job that is done"})
    assert [event.split(":")[0] for event in talk.events(1)] == [
        "dispatched",
        "refused",
        "refused",
        "claim",
        "refused",
        "close done",
        "refused",
    ]


@pytest.mark.parametrize("job_id", ["7", "0", "-1", "x", "1.5", "%00", "9" * 30, "٣"])
def test_unknown_job(talk: Any, job_id: str) -> None:
    for answer in (
        talk.get(f"/jobs/{job_id}"),
        talk.get(f"/jobs/{job_id}/events"),
        talk.post(f"/jobs/{job_id}/claim", json={"worker": "w"}),
        talk.post(f"/jobs/{job_id}/close", json={"result": "", "status": "done"}),
        talk.post(f"/jobs/{job_id}/abort"),
        talk.post(f"/jobs/{job_id}/requeue"),
    ):
        assert answer.status_code == 404
        assert "there is no job" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "/presence", {}, "instance"),
        ("PUT", "/presence", {**PRESENCE, "instance": 5}, "instance"),
        ("PUT", "/presence", {**PRESENCE, "tags": ["a"]}, "tags"),
        ("POST", "/jobs/1/claim", {}, "worker"),
        ("POST", "/jobs/1/claim", {"worker": None}, "worker"),
        ("POST", "/jobs/1/close", {"status": "done"}, "result"),
        ("POST", "/jobs/1/close", {"result": None, "status": "done"}, "result"),
        ("POST", "/jobs/1/close", {"result": {}, "status": "done"}, "result"),
        ("POST", "/jobs/1/close", {"result": ""}, "status"),
        ("POST", "/jobs/1/close", {"result": "", "status": "pending"}, "status"),
        ("POST", "/jobs/1/close", {"result": "", "status": ["done"]}, "status"),
        ("POST", "/review", {**REVIEW, "type": ""}, "type"),
        ("POST", "/review", {**REVIEW, "title": None}, "title"),
        ("POST", "/review", {**REVIEW, "content": 1}, "content"),
        ("POST", "/review", {**REVIEW, "preview": {}}, "preview"),
        ("POST", "/review", {**REVIEW, "job_id": "1"}, "job_id"),
        ("POST", "/review", {**REVIEW, "job_id": 10**30}, "job_id"),
        ("POST", "/api/v1/workers/register", {"description": "d"}, "name"),
        ("POST", "/api/v1/workers/register", {"name": "n", "capabilities": {}}, "capabilities"),
        ("POST", "/api/v1/workers/register", {"name": "n", "capabilities": ["x"]}, "capabilities"),
        (
            "POST",
            "/api/v1/workers/register",
            {"name": "n", "capabilities": [{"name": "x", "risk_tier": "y"}]},
            "risk_tier",
        ),
    ],
)
def test_malformed_field_is_named(sandbox: Sandbox, talk: Any, method: str, path: str, body: Any, field: str) -> None:
    sandbox.dispatch("x", worker="w")
    answer = talk.request(method, path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{field} must be")
    assert talk.events(1) == ["dispatched"]


def test_submit_review(talk: Any) -> None:
    assert talk.post("/review", json=REVIEW).json() == {"id": 1, "status": "pending", "mode": "review"}
    (review,) = talk.get("/reviews").json()["reviews"]
    assert {name: review[name] for name in REVIEW} == REVIEW


def test_register_returns_a_view_url(sandbox: Sandbox, talk: Any) -> None:
    capabilities = [{"name": "email.triage", "risk_tier": "auto", "requires_secrets": ["X"]}]
    body = {"name": "n", "description": "d", "capabilities": capabilities}
    assert talk.post("/api/v1/workers/register", json=body).json()["view_url"].startswith(f"{sandbox.url}/view/")


def test_token_of_another_worker_name_is_refused() -> None:
    with Sandbox(tokens={"a": "token-of-a"}) as sandbox:
        jobs = {name: sandbox.dispatch("p", worker=name)["id"] for name in ("a", "b")}

        def status(method: str, path: str, **body: Any) -> int:
            return requests.request(
                method, sandbox.url + path, json=body, headers={"Authorization": "Bearer token-of-a"}, timeout=10
            ).status_code

        for name, expected in (("a", 200), ("b", 403)):
            assert status("PUT", "/presence", instance=name, status="active") == expected
            assert status("GET", f"/my-jobs?worker={name}&status=pending") == expected
            assert status("POST", f"/jobs/{jobs[name]}/claim", worker=name) == expected
            assert status("POST", f"/jobs/{jobs[name]}/close", result="", status="done") == expected
