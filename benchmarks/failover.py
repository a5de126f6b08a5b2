"""Seconds for which a failover stops claiming, and the cost of waiting for a replica.

    python benchmarks/failover.py [--rounds 3] [--jobs 600]

Prints the Markdown tables of docs/deploy.md, "A highly available ledger". Three Sentinels (down-after-milliseconds
1000), a Redis and two replicas, a bridge and a worker run on this machine.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from mr_celery.job import Job
from mr_celery.ledger import Ledger, Route, RunKey
from mr_celery.outcome import Outcome
from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer, SentinelServers

FAILURES: dict[str, Callable[[SentinelServers, RedisServer], None]] = {
    "killed": lambda _, master: master.kill(),
    "frozen": lambda _, master: master.process.send_signal(signal.SIGSTOP),
    "cut off from its replicas and the Sentinels": lambda sentinels, master: sentinels.cut_off(master),
}


def claim_after(fail: Callable[[SentinelServers, RedisServer], None], *, replicas: int) -> float:
    """Seconds from a failure of the master to the end of a job that was dispatched at that moment."""
    sentinels, broker = SentinelServers(replicas=2), RedisServer()
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        fleet = Fleet(sandbox, broker=broker.url(), ledger=sentinels.url, folder=Path(folder))
        fleet.environment |= {"MODELREINS_LEASE": "30", "MODELREINS_LEDGER_REPLICAS": str(replicas)}
        try:
            if replicas:
                for each in sentinels.redis:
                    each.client().config_set("min-replicas-max-lag", 2)
                    each.client().config_set("min-replicas-to-write", 1)
            fleet.worker("-c", "2")
            fleet.bridge()
            fleet.ended(fleet.dispatch("before"))
            fail(sentinels, sentinels.master())
            began = time.monotonic()
            job_id = fleet.dispatch("after")
            until(lambda: fleet.job(job_id)["status"] == "done", seconds=120)
            return time.monotonic() - began
        finally:
            fleet.stop()
            sentinels.stop()
            broker.stop()


def bring_to_its_end(ledger: Ledger, job_id: int) -> None:
    """Take all steps of a job."""
    ledger.admit([(Job({"id": job_id, "prompt": "hello"}), Route("proj.upper", "celery"))], asked_at=time.time())
    task_id = ledger.claimed(job_id) or ""
    ledger.sent({job_id: task_id}, wait_seconds=30.0)
    run = RunKey(job_id, task_id)
    ledger.start(run, task_name="", node="celery@bench", holder="bench", lease=30.0, nonce="bench")
    answer = ledger.finish(run, Outcome("done", "HELLO"), deliver_seconds=30.0)
    assert answer == "finished", answer
    ledger.close(job_id, task_id, "delivered")


def milliseconds_for_a_job(jobs: int) -> dict[int, float]:
    """The time of a job's ledger steps, without and with a replica to wait for, measured in turn.

    It is the time of the fastest tenth of the jobs, which are disturbed least by other work on the machine.
    """
    master = RedisServer()
    replica = RedisServer("--replicaof", "127.0.0.1", str(master.port))
    try:
        until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        ledgers = {count: Ledger(master.url(), f"w{count}", replicas=count) for count in (0, 1)}
        times: dict[int, list[float]] = {0: [], 1: []}
        for number in range(1, jobs + 1):
            for count, ledger in ledgers.items():
                began = time.perf_counter()
                bring_to_its_end(ledger, number)
                times[count].append((time.perf_counter() - began) * 1000)
        return {count: statistics.quantiles(found, n=10)[0] for count, found in times.items()}
    finally:
        replica.stop()
        master.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=600)
    given = parser.parse_args()
    price = milliseconds_for_a_job(given.jobs)
    print("| `MODELREINS_LEDGER_REPLICAS` | the ledger's steps of a job (fastest tenth) |\n| --- | --- |")
    for count, found in price.items():
        print(f"| {count} | {found:.1f} ms |")
    print("\n| the master is | a job that is dispatched then is done after | with `MODELREINS_LEDGER_REPLICAS=1` |")
    print("| --- | --- | --- |")
    for name, fail in FAILURES.items():
        columns = []
        for replicas in (0, 1):
            seconds = [claim_after(fail, replicas=replicas) for _ in range(given.rounds)]
            columns.append(f"{min(seconds):.1f} to {max(seconds):.1f} s")
        print(f"| {name} | {columns[0]} | {columns[1]} |")


if __name__ == "__main__":
    main()
