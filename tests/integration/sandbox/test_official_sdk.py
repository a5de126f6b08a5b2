"""The official SDK, unchanged, against the sandbox."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from modelreins_worker import Worker, WorkerError

from mr_celery.sandbox import Sandbox


@pytest.fixture
def worker(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("no_proxy", "*")
    return Worker(token=sandbox.token, url=sandbox.url, name="w", poll_interval=0.01, timeout=30)


def test_presence_inbox_claim_and_complete(sandbox: Sandbox, worker: Worker) -> None:
    assert isinstance(worker.heartbeat(status="busy", details="d", tags="a,b"), dict)
    (present,) = sandbox.store.workers()
    assert (present["instance"], present["status"], present["worker_type"]) == ("w", "busy", "silicon")
    job_id = sandbox.dispatch("hello")["id"]
    assert [job["prompt"] for job in worker.inbox()] == ["hello"]
    worker.claim(job_id)
    assert worker.inbox() == []
    assert [job["id"] for job in worker.inbox(status="running")] == [job_id]
    worker.complete(job_id, result="HELLO", status="escalated")
    job = sandbox.store.job(job_id)
    assert (job["status"], job["result"]) == ("escalated", "HELLO")


def test_refusals_are_its_errors(sandbox: Sandbox, worker: Worker) -> None:
    job_id = sandbox.dispatch("hello", worker="somebody else")["id"]
    with pytest.raises(WorkerError, match="409"):
        worker.claim(job_id)
    with pytest.raises(WorkerError, match="404"):
        worker.complete(99)
    with pytest.raises(WorkerError, match=r'401: \{"error":"Unauthorized"\}'):
        Worker(token="wrong", url=sandbox.url, name="w").inbox()


def test_an_artifact_and_a_review(sandbox: Sandbox, worker: Worker) -> None:
    data = b"\r\n--\x00\xff" * 50_000
    kept = worker.upload_artifact(
        data, "image/png", filename="é.png", job_id=1, review_id=2, expires_at="2999-01-01T00:00:00Z"
    )
    assert kept["success"] is True
    assert (kept["content_type"], kept["size_bytes"], kept["filename"]) == ("image/png", len(data), "é.png")
    assert requests.get(sandbox.url + kept["url"], timeout=30).content == data
    assert worker.upload_artifact(b"", "text/plain")["filename"] == "artifact.txt"
    review = worker.submit_review("image", "A picture", "c", preview=kept["url"], target="marketing", job_id=1)
    assert review == {"id": 1, "status": "pending", "mode": "review"}
    assert sandbox.store.reviews()[0]["created_by"] == "worker:w"


def test_run_works_through_the_inbox(sandbox: Sandbox, worker: Worker) -> None:
    for prompt in ("good", "bad", "stop"):
        sandbox.dispatch(prompt, worker="w")
    errors: list[tuple[str, str]] = []

    def handler(job: dict[str, Any]) -> str:
        if job["prompt"] == "bad":
            raise ValueError("cannot")
        if job["prompt"] == "stop":
            raise KeyboardInterrupt
        return str(job["prompt"]).upper()

    def on_error(job: dict[str, Any], error: Exception) -> None:
        errors.append((job["prompt"], str(error)))

    thread = threading.Thread(target=worker.run, args=(handler, on_error), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    good, bad, stop = reversed(sandbox.store.jobs())
    assert (good["status"], good["result"]) == ("done", "GOOD")
    assert (bad["status"], bad["result"]) == ("failed", "ValueError: cannot")
    assert stop["status"] == "running"
    assert errors == [("bad", "cannot")]
    assert [event["event"] for event in sandbox.store.events(1)] == ["dispatched", "claim", "close done"]
    assert [event["event"] for event in sandbox.store.events(2)] == ["dispatched", "claim", "close failed"]
