"""A server that fails at random costs time, and never a job."""

from __future__ import annotations

import os
import random
from pathlib import Path

from support.faulty import FaultySandbox
from support.fleet import Fleet
from support.servers import RedisServer


def test_jobs_survive_a_server_that_fails_one_request_in_ten(redis_server: RedisServer, tmp_path: Path) -> None:
    seed = int(os.environ.get("MR_CELERY_SEED") or random.randrange(10**6))
    print(f"seed {seed}")
    with FaultySandbox(rate=0.1, seed=seed) as sandbox:
        fleet = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
        try:
            bridge, worker = fleet.bridge(), fleet.worker("-c", "4")
            ids = {fleet.dispatch(f"job number {n}"): f"JOB NUMBER {n}" for n in range(200)}
            for job in fleet.ended(*ids, seconds=150):
                assert job["status"] == "done", job
                assert job["result"] == ids[job["id"]]
                assert fleet.started(job["prompt"]) == 1
                assert fleet.events(job["id"]).count("close done") == 1
            assert sum(sandbox.faults.values()) > 20
            assert bridge.terminate() == 0
            assert worker.terminate() == 0
        finally:
            fleet.stop()
