"""Time until a job continues after each kind of failure, with the default settings.

    python benchmarks/recovery.py [--lease 30] [--only TEXT]

Prints the Markdown table of docs/guarantees.md. Times are from the failure to the moment named in the table.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil

from mr_celery.sandbox import Sandbox
from support.campaign import Campaign
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer

LONG = 3600.0


def seconds_until(condition: Callable[[], object], at_most: float = 300.0) -> float:
    began = time.monotonic()
    until(condition, seconds=at_most)
    return time.monotonic() - began


def running(fleet: Fleet, prompt: str, capability: str = "nap", **fields: object) -> int:
    job_id = fleet.dispatch(prompt, capability, **fields)
    until(lambda: fleet.started(prompt) == 1, what="it runs")
    return job_id


def child_killed(fleet: Fleet, redis: RedisServer) -> float:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    running(fleet, "job", seconds=LONG)
    os.kill(psutil.Process(worker.popen.pid).children()[-1].pid, signal.SIGKILL)
    return seconds_until(lambda: fleet.started("job") == 2)


def node_killed(fleet: Fleet, redis: RedisServer) -> float:
    victim = fleet.worker("-c", "1")
    fleet.bridge()
    running(fleet, "job", seconds=LONG)
    fleet.worker("-c", "1")
    victim.kill()
    return seconds_until(lambda: fleet.started("job") == 2)


def prefetched(fleet: Fleet, redis: RedisServer) -> float:
    victim = fleet.worker("-c", "1")
    fleet.bridge()
    running(fleet, "first", seconds=LONG)
    fleet.dispatch("job", "nap")
    until(lambda: victim.output.count("] received") == 2, what="it is prefetched")
    fleet.worker("-c", "2")
    victim.kill()
    return seconds_until(lambda: fleet.started("job") == 1)


def message_lost(fleet: Fleet, redis: RedisServer) -> float:
    victim = fleet.worker("-c", "1")
    fleet.bridge()
    running(fleet, "first", seconds=LONG)
    victim.signal(signal.SIGSTOP)
    fleet.dispatch("job", "nap")
    until(lambda: redis.client(0).llen("celery") or redis.client(0).llen("celery\x06\x163"), what="it is queued")
    redis.client(0).flushdb()
    fleet.worker("-c", "2")
    return seconds_until(lambda: fleet.started("job") == 1)


def bridge_killed(fleet: Fleet, redis: RedisServer) -> float:
    fleet.worker("-c", "2")
    victim = fleet.bridge()
    fleet.bridge()
    fleet.ended(fleet.dispatch("warm"))
    campaign = Campaign(fleet)
    campaign.dispatch(300)
    until(lambda: campaign.done() > 20, what="work is under way")
    victim.kill()
    return seconds_until(lambda: campaign.done() == 300)


def server_back(fleet: Fleet, redis: RedisServer) -> float:
    fleet.worker("-c", "2")
    fleet.bridge()
    job_id = running(fleet, "job", seconds=2)
    fleet.sandbox.stop()
    time.sleep(60)
    fleet.sandbox.start()
    return seconds_until(lambda: fleet.job(job_id)["status"] == "done")


def redis_restarted(fleet: Fleet, redis: RedisServer) -> float:
    fleet.worker("-c", "2")
    fleet.bridge()
    fleet.ended(fleet.dispatch("warm"))
    redis.kill()
    redis.start()
    job_id = fleet.dispatch("job")
    return seconds_until(lambda: fleet.job(job_id)["status"] == "done")


def ledger_lost(fleet: Fleet, redis: RedisServer) -> float:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = running(fleet, "job", seconds=1)
    redis.client(1).flushdb()
    return seconds_until(lambda: fleet.job(job_id)["status"] == "done")


def aborted(fleet: Fleet, redis: RedisServer) -> float:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = running(fleet, "job", seconds=LONG)
    time.sleep(6)
    fleet.sandbox.store.abort(job_id)
    return seconds_until(lambda: "interrupted: it was aborted" in worker.output)


CASES: dict[str, Callable[[Fleet, RedisServer], float]] = {
    "a pool process is killed in the middle of a job: the job runs again": child_killed,
    "a worker node is killed in the middle of a job: the job runs on another": node_killed,
    "a worker node is killed with the message prefetched: the job runs on another": prefetched,
    "the broker loses a message: it is sent again, and runs": message_lost,
    "one of two bridges is killed with 300 jobs to claim: all 300 are done": bridge_killed,
    "the server is back after a minute: an outcome that waited is delivered": server_back,
    "Redis (broker and ledger) restarts with its data: a new job is done": redis_restarted,
    "the ledger loses its data in the middle of a job: the job is adopted, run again and done": ledger_lost,
    "an operator aborts a running job: its handler is interrupted": aborted,
}


def measure(case: Callable[[Fleet, RedisServer], float], lease: float) -> float:
    with tempfile.TemporaryDirectory() as folder, Sandbox(db=f"{folder}/server.db") as sandbox:
        redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        fleet = Fleet(sandbox, broker=redis.url(0), ledger=redis.url(1), folder=Path(folder))
        fleet.environment |= {"MODELREINS_LEASE": str(lease), "MODELREINS_POLL_INTERVAL": "5"}
        fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = "5"
        try:
            return case(fleet, redis)
        finally:
            fleet.stop()
            redis.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lease", type=float, default=30.0, help="MODELREINS_LEASE in seconds")
    parser.add_argument("--only", default="", help="run only cases whose name contains this text")
    options = parser.parse_args()
    print(f"| what fails (lease {options.lease:g} s) | recovered after |\n| --- | --- |")
    for name, case in CASES.items():
        if options.only in name:
            print(f"| {name} | {measure(case, options.lease):.1f} s |", flush=True)


if __name__ == "__main__":
    main()
