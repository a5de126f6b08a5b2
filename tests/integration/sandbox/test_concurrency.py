"""Concurrent workers: each job is claimed and closed once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from mr_celery.sandbox import Sandbox

JOBS, WORKERS = 60, 8


def test_jobs_are_claimed_and_closed_once(sandbox: Sandbox, talk: Any) -> None:
    ids = [sandbox.dispatch(str(number), worker="w")["id"] for number in range(JOBS)]

    def work(name: int) -> Counter[tuple[str, int]]:
        answers: Counter[tuple[str, int]] = Counter()
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {sandbox.token}"
            for job_id in ids:
                url = f"{sandbox.url}/jobs/{job_id}"
                answers["claim", session.post(f"{url}/claim", json={"worker": "w"}, timeout=30).status_code] += 1
                body = {"result": str(name), "status": "done"}
                answers["close", session.post(f"{url}/close", json=body, timeout=30).status_code] += 1
        return answers

    with ThreadPoolExecutor(WORKERS) as pool:
        answers = sum(pool.map(work, range(WORKERS)), Counter[tuple[str, int]]())
    refused = JOBS * (WORKERS - 1)
    assert answers == {("claim", 200): JOBS, ("claim", 409): refused, ("close", 200): JOBS, ("close", 409): refused}
    for job_id in ids:
        accepted = [event for event in talk.events(job_id) if not event.startswith("refused")]
        assert accepted == ["dispatched", "claim", "close done"]


def test_concurrent_abort_and_close_have_one_winner(sandbox: Sandbox, talk: Any) -> None:
    ids = [sandbox.dispatch("x", worker="w")["id"] for _ in range(30)]
    for job_id in ids:
        sandbox.store.claim(job_id, "w")

    def act(path: str, body: Any) -> list[int]:
        headers = {"Authorization": f"Bearer {sandbox.token}"}
        return [
            requests.post(f"{sandbox.url}/jobs/{job_id}/{path}", json=body, headers=headers, timeout=30).status_code
            for job_id in ids
        ]

    with ThreadPoolExecutor(2) as pool:
        closed = pool.submit(act, "close", {"result": "mine", "status": "done"})
        aborted = pool.submit(act, "abort", {})
    for job_id, close, abort in zip(ids, closed.result(), aborted.result(), strict=True):
        assert sorted((close, abort)) == [200, 409]
        job = talk.get(f"/jobs/{job_id}").json()
        expected = ("done", "mine") if close == 200 else ("failed", "aborted by an operator")
        assert (job["status"], job["result"]) == expected
