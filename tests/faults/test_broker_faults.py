"""A broker that goes away takes no running job with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer


def test_a_run_keeps_its_lease_while_its_worker_looks_for_the_broker(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    rabbit = RabbitServer()
    fleet = Fleet(sandbox, broker=rabbit.url, ledger=redis_server.url(1), folder=tmp_path)
    try:
        worker = fleet.worker("-c", "1")
        fleet.bridge()
        job_id = fleet.dispatch("longer than the lease", "sleep", seconds=12)
        until(lambda: fleet.started("longer than the lease") == 1, what="the run")
        os.killpg(rabbit.process.pid, signal.SIGKILL)
        worker.says("lost")
        (job,) = fleet.ended(job_id)
        assert job["result"] == "longer than the lease"
        assert "attempt=2" not in worker.output
        assert redis_server.client(1).hget(f"modelreins:{{w}}:job:{job_id}", "attempt") == b"1"
    finally:
        fleet.stop()
        rabbit.stop()
