"""The operator routes over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox import Sandbox
from mr_celery.version import __version__


def test_dispatch_to_a_worker(talk: Any) -> None:
    answer = talk.post("/dispatch", json={"prompt": "", "worker": "w", "capability": "email.triage", "n": 10**400})
    assert answer.status_code == 200
    job = answer.json()
    assert (job["id"], job["status"], job["assigned_to"], job["capability"]) == (1, "pending", "w", "email.triage")
    assert job == talk.get("/jobs/1").json()


def test_dispatch_without_a_worker_uses_the_last_present_one(sandbox: Sandbox, talk: Any) -> None:
    answer = talk.post("/dispatch", json={"prompt": "x"})
    assert answer.status_code == 503
    assert "no worker is present" in answer.json()["error"]
    with pytest.raises(MrCeleryError, match="no worker is present"):
        sandbox.dispatch("x")
    for name in ("first", "second"):
        talk.put("/presence", json={"instance": name})
    assert talk.post("/dispatch", json={"prompt": "x", "worker": None}).json()["assigned_to"] == "second"
    assert sandbox.dispatch("x")["assigned_to"] == "second"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x", "worker": ""}, "worker"),
        ({"prompt": "x", "worker": 1}, "worker"),
        ({"prompt": "x", "worker": "w", "priority": 1}, "priority"),
        ({"prompt": "x", "worker": "w", "status": "done"}, "status"),
        ({"prompt": "x", "worker": "w", "id": 5}, "id"),
    ],
)
def test_invalid_dispatch(talk: Any, body: Any, field: str) -> None:
    answer = talk.post("/dispatch", json=body)
    assert answer.status_code == 400
    assert field in answer.json()["error"]
    assert talk.get("/jobs").json() == {"jobs": []}


def test_abort_and_requeue(sandbox: Sandbox, talk: Any) -> None:
    sandbox.dispatch("x", worker="w")
    assert talk.post("/jobs/1/requeue").status_code == 409
    assert talk.post("/jobs/1/abort").json() == {"success": True, "id": 1, "status": "failed"}
    assert talk.post("/jobs/1/abort").status_code == 409
    assert talk.post("/jobs/1/requeue").json() == {"success": True, "id": 1, "status": "pending"}
    talk.post("/jobs/1/claim", json={"worker": "w"})
    assert talk.post("/jobs/1/abort").status_code == 200
    assert talk.post("/jobs/1/close", json={"result": "", "status": "done"}).status_code == 409
    assert talk.get("/my-jobs?worker=w&status=running").json() == {"jobs": []}


def test_abort_all(sandbox: Sandbox, talk: Any) -> None:
    for _ in range(2):
        sandbox.dispatch("x", worker="w")
    assert sorted(talk.post("/abort-all").json()["aborted"]) == [1, 2]
    assert talk.post("/abort-all").json() == {"aborted": []}


def test_list_jobs(sandbox: Sandbox, talk: Any) -> None:
    for worker in ("w", "v", "w"):
        sandbox.dispatch("x", worker=worker)
    sandbox.store.abort(1)

    def ids(query: str) -> list[int]:
        return [job["id"] for job in talk.get(f"/jobs?{query}").json()["jobs"]]

    assert ids("") == [3, 2, 1]
    assert ids("worker=w") == [3, 1]
    assert ids("worker=w&status=pending") == [3]
    assert ids("limit=1&offset=1") == [2]
    assert ids("limit=0") == []
    for query in ("limit=x", "offset=-1", "limit=" + "9" * 40, "status=nope"):
        answer = talk.get(f"/jobs?{query}")
        assert answer.status_code == 400
        assert query.split("=")[0] in answer.json()["error"]


def test_reviews_are_decided_once(talk: Any) -> None:
    for _ in range(2):
        talk.post("/review", json={"type": "t", "title": "T", "content": ""})
    assert talk.post("/reviews/1/approve").json()["status"] == "approved"
    assert talk.post("/reviews/2/reject").json()["status"] == "rejected"
    assert talk.post("/reviews/1/reject").status_code == 409
    assert [each["status"] for each in talk.get("/reviews").json()["reviews"]] == ["rejected", "approved"]
    for review_id in ("3", "x", "9" * 30):
        answer = talk.post(f"/reviews/{review_id}/approve")
        assert answer.status_code == 404
        assert "there is no review" in answer.json()["error"]
    assert talk.post("/reviews/1/explode").status_code == 404


def test_events_have_times_and_health_is_open(sandbox: Sandbox, talk: Any) -> None:
    sandbox.dispatch("x", worker="w")
    (event,) = talk.get("/jobs/1/events").json()["events"]
    assert (event["job_id"], event["event"]) == (1, "dispatched")
    assert isinstance(event["at"], float)
    health = {"ok": True, "version": __version__, "server_version": "4.6.0"}
    assert talk.get("/health", headers={"Authorization": ""}).json() == health
