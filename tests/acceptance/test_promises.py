"""The guarantees, each tested by the failures that would break it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
import pytest

from mr_celery import ledger
from mr_celery.ledger import Node
from mr_celery.sandbox import Rule
from support.counted import CountedSandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer


@pytest.fixture
def sandbox() -> Iterator[CountedSandbox]:
    with CountedSandbox() as running:
        yield running


@pytest.fixture(params=["redis", "rabbitmq"])
def any_fleet(
    request: pytest.FixtureRequest, sandbox: CountedSandbox, redis_server: RedisServer, tmp_path: Path
) -> Iterator[Fleet]:
    """An installation on each broker."""
    broker = redis_server.url(0)
    if request.param == "rabbitmq":
        rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
        broker = rabbit.url
    made = Fleet(sandbox, broker=broker, ledger=redis_server.url(1), folder=tmp_path)
    yield made
    made.stop()


def test_500_jobs_are_claimed_and_closed_once_each_by_two_bridges(any_fleet: Fleet, sandbox: CountedSandbox) -> None:
    ids = {any_fleet.dispatch(f"job number {n}"): f"JOB NUMBER {n}" for n in range(500)}
    any_fleet.worker("-c", "4")
    any_fleet.bridge()
    any_fleet.bridge()
    for job in any_fleet.ended(*ids, seconds=120):
        assert job["result"] == ids[job["id"]]
    for job_id, text in ids.items():
        assert any_fleet.events(job_id) == ["dispatched", "claim", "close done"]
        assert any_fleet.started(text.lower()) == 1
    assert sandbox.counts()["POST /jobs/N/claim"] == 500
    assert sandbox.counts()["POST /jobs/N/close"] == 500


def test_a_worker_killed_in_mid_job_costs_one_lease(any_fleet: Fleet) -> None:
    any_fleet.bridge()
    victim = any_fleet.worker("-c", "1")
    job_id = any_fleet.dispatch("long", "sleep", seconds=2)
    until(lambda: any_fleet.started("long") == 1, what="the first run")
    victim.kill()
    any_fleet.worker("-c", "1")
    (job,) = any_fleet.ended(job_id, seconds=30)
    assert job["result"] == "long"
    assert any_fleet.started("long") == 2
    assert any_fleet.events(job_id) == ["dispatched", "claim", "close done"]


def test_a_worker_process_that_dies_is_noticed_before_the_lease_ends(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_LEASE"] = "60"
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("once", "sleep", seconds=3)
    until(lambda: fleet.started("once") == 1, what="the first run")
    (child,) = psutil.Process(fleet.processes[0].popen.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGKILL)
    (job,) = fleet.ended(job_id, seconds=45)
    assert job["result"] == "once"
    assert fleet.started("once") == 2


def test_a_job_that_keeps_killing_its_worker_fails_after_three_attempts(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    (job,) = fleet.ended(fleet.dispatch("deadly", "die"), seconds=90)
    assert job["status"] == "failed"
    assert "max_attempts" in job["result"]
    assert fleet.started("deadly") == 3


def test_a_handler_that_must_not_run_again_is_not(fleet: Fleet) -> None:
    victim = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("delicate", "hang")
    until(lambda: fleet.started("delicate") == 1, what="the run")
    victim.kill()
    fleet.worker("-c", "1")
    (job,) = fleet.ended(job_id)
    assert job["status"] == "failed"
    assert "on_lost='fail'" in job["result"]
    assert fleet.started("delicate") == 1


def test_a_hard_time_limit_ends_the_job(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    (job,) = fleet.ended(fleet.dispatch("slow", "limit"))
    assert job["status"] == "failed"
    assert "hard time limit" in job["result"]
    assert fleet.started("slow") == 1


def test_a_revoked_task_ends_its_job(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("revoke me", "sleep", seconds=60)
    until(lambda: fleet.started("revoke me") == 1, what="the run")
    task_id = next(
        word.split("[")[1].split("]")[0] for word in fleet.processes[0].output.split() if "proj.sleep[mr-" in word
    )
    fleet._start("revoke", ["celery", "-A", "support.proj", "control", "terminate", "SIGTERM", task_id])
    (job,) = fleet.ended(job_id)
    assert job["status"] == "failed"
    assert "revoked" in job["result"]


def test_a_task_that_no_worker_knows_ends_with_what_happened(fleet: Fleet) -> None:
    # As in a rolling release: one worker has announced the task, but another one without it gets the message.
    ghost = Node("ghost@test", 1, ("celery",), ("support.proj.sleep",))
    ledger.Fleet(fleet.environment["MODELREINS_LEDGER_URL"]).announce(ghost, seconds=300)
    fleet.worker("-c", "1", app="support.proj_few")
    fleet.bridge()
    (job,) = fleet.ended(fleet.dispatch("who", "sleep"))
    assert job["status"] == "failed"
    assert "the worker w0@test could not read its message" in job["result"]
    assert "or runs code from before @modelreins_job" in job["result"]


def test_a_message_that_the_broker_lost_is_sent_again(fleet: Fleet, redis_server: RedisServer) -> None:
    ghost = Node("ghost@test", 1, ("celery",), ("support.proj.upper",))
    ledger.Fleet(fleet.environment["MODELREINS_LEDGER_URL"]).announce(ghost, seconds=300)
    bridge = fleet.bridge()
    job_id = fleet.dispatch("purged")
    until(lambda: redis_server.client(0).llen("celery") + redis_server.client(0).llen("celery\x06\x163"), what="queued")
    redis_server.client(0).flushdb()
    bridge.says("it is sent again")
    fleet.worker("-c", "1")
    assert fleet.ended(job_id)[0]["result"] == "PURGED"


def test_a_job_that_nobody_ever_starts_fails_with_the_likely_causes(fleet: Fleet, redis_server: RedisServer) -> None:
    fleet.environment["MODELREINS_LEASE"] = "3"
    ghost = Node("ghost@test", 1, ("celery",), ("support.proj.upper",))
    ledger.Fleet(fleet.environment["MODELREINS_LEDGER_URL"]).announce(ghost, seconds=300)
    fleet.bridge()
    job_id = fleet.dispatch("nobody")

    def purged_until_over() -> bool:
        redis_server.client(0).flushdb()
        return bool(fleet.job(job_id)["status"] == "failed")

    until(purged_until_over, seconds=60, what="the job fails")
    assert "no worker started the job, though it was sent 4 times" in fleet.job(job_id)["result"]


def test_presence_continues_while_handlers_are_slow_and_ends_with_a_last_report(
    fleet: Fleet, sandbox: CountedSandbox
) -> None:
    interval = 2.0
    fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = str(interval)
    fleet.worker("-c", "1")
    bridge = fleet.bridge()
    handler_seconds = 7.0
    fleet.ended(fleet.dispatch("a", "sleep", seconds=handler_seconds), fleet.dispatch("b", "sleep", seconds=1))
    assert max(sandbox.gaps("PUT /presence")) < handler_seconds
    assert bridge.terminate() == 0
    assert sandbox.store.workers()[0]["status"] == "idle"


@pytest.mark.parametrize("fault", ["latency", "trickle", "hang"])
def test_presence_continues_while_the_server_is_slow(fleet: Fleet, sandbox: CountedSandbox, fault: str) -> None:
    late = 5.0
    fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = "2"
    sandbox.chaos.set([Rule(fault, routes=("presence",), delay=late)])
    fleet.bridge()
    until(lambda: sandbox.counts()["PUT /presence"] >= 5, what="five reports")
    assert median(sandbox.gaps("PUT /presence")) < late


def test_a_slow_handler_does_not_delay_others(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    slow = fleet.dispatch("slow", "sleep", seconds=20)
    until(lambda: fleet.started("slow") == 1, what="the slow one runs")
    fleet.ended(*[fleet.dispatch(f"quick {n}") for n in range(30)], seconds=15)
    assert fleet.job(slow)["status"] == "running"


def test_an_idle_bridge_polls_once_per_interval(fleet: Fleet, sandbox: CountedSandbox) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    until(lambda: sandbox.counts()["PUT /presence"] >= 2, what="presence")
    before = sandbox.counts()
    until(lambda: sandbox.counts()["PUT /presence"] - before["PUT /presence"] >= 6, what="six intervals")
    asked = sandbox.counts() - before
    assert asked["GET /my-jobs"] <= 7
    assert set(asked) == {"PUT /presence", "GET /my-jobs"}


def test_two_bridges_killed_in_turn_lose_nothing(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    ids = [fleet.dispatch(f"job {n}") for n in range(200)]
    for _ in range(3):
        bridge = fleet.bridge(ready=False)
        bridge.says("sent to queue")
        bridge.kill()
    fleet.bridge()
    for job in fleet.ended(*ids, seconds=120):
        assert job["status"] == "done"
        assert fleet.events(job["id"]).count("close done") == 1
        assert fleet.started(job["prompt"]) == 1


def test_workers_without_a_token_leave_the_delivery_to_the_bridge(fleet: Fleet) -> None:
    fleet.worker("-c", "2", MODELREINS_DELIVERY="bridge", MODELREINS_TOKEN="", MODELREINS_URL="http://127.0.0.1:9")
    fleet.bridge(MODELREINS_DELIVERY="bridge")
    ids = [fleet.dispatch(f"job {n}") for n in range(20)] + [fleet.dispatch("picture", "image")]
    assert {job["status"] for job in fleet.ended(*ids)} == {"done"}
    assert len(fleet.sandbox.store.artifacts(ids[-1])) == 1


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_every_pool_holds_its_leases(fleet: Fleet, pool: str) -> None:
    fleet.worker("-P", pool, "-c", "1" if pool == "solo" else "4")
    fleet.bridge()
    ids = [
        fleet.dispatch("longer than the lease", "sleep", seconds=7),
        fleet.dispatch("x"),
        fleet.dispatch("r", "retry"),
    ]
    longer, quick, retried = fleet.ended(*ids)
    assert longer["result"] == "longer than the lease"
    assert fleet.started("longer than the lease") == 1
    assert quick["result"] == "X"
    assert retried["result"] == "r after 2 retries"


def test_a_warm_shutdown_holds_the_leases_of_what_still_runs(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("longer than the lease", "sleep", seconds=8)
    until(lambda: fleet.started("longer than the lease") == 1, what="the run")
    fleet.worker("-c", "1")
    assert worker.terminate() == 0
    (job,) = fleet.ended(job_id)
    assert job["result"] == "longer than the lease"
    assert fleet.started("longer than the lease") == 1


def test_an_abort_on_the_server_reaches_the_handler(fleet: Fleet, redis_server: RedisServer) -> None:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("abort me", "sleep", seconds=60)
    until(lambda: fleet.started("abort me") == 1, what="the run")
    bystander = fleet.dispatch("bystander", "sleep", seconds=1)
    fleet.sandbox.store.abort(job_id)
    worker.says(f"job={job_id} attempt=1 task_id=", seconds=20)
    worker.says(" interrupted: it was aborted", seconds=20)
    assert fleet.ended(bystander)[0]["result"] == "bystander"
    assert fleet.job(job_id)["result"] == "aborted by an operator"
    assert redis_server.client(1).zcard("modelreins:{w}:running") == 0
    assert fleet.started("abort me") == 1


def test_a_job_that_the_server_puts_back_is_claimed_again_and_not_run_again(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("put back", "sleep", seconds=4)
    until(lambda: fleet.started("put back") == 1, what="the run")
    fleet.sandbox.store.requeue(job_id)
    (job,) = fleet.ended(job_id)
    assert job["result"] == "put back"
    assert fleet.started("put back") == 1
    assert fleet.events(job_id) == ["dispatched", "claim", "requeue", "claim", "close done"]


def test_jobs_of_a_lost_ledger_are_adopted(fleet: Fleet, redis_server: RedisServer) -> None:
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("lost", "sleep", seconds=3)
    until(lambda: fleet.started("lost") == 1, what="the run")
    redis_server.client().flushall()
    (job,) = fleet.ended(job_id, seconds=60)
    assert job["result"] == "lost"
    assert fleet.events(job_id).count("close done") == 1


def test_pool_processes_that_are_spawned_take_jobs(fleet: Fleet) -> None:
    """Spawning is the default on macOS. Celery versions without ``worker_pool_start_method`` fork the processes."""
    fleet.environment["PROJ_CONF"] = json.dumps({"worker_pool_start_method": "spawn"})
    worker = fleet.worker("-c", "2", ready=False)
    worker.says("ready.", seconds=60)
    fleet.bridge()
    jobs = [fleet.dispatch("a"), fleet.dispatch("b", "retry"), fleet.dispatch("c", "raise")]
    done, retried, failed = fleet.ended(*jobs)
    assert (done["status"], done["result"]) == ("done", "A")
    assert (retried["status"], retried["result"]) == ("done", "b after 2 retries")
    assert failed["status"] == "failed"
    assert "ValueError: cannot do c" in failed["result"]
    assert "cannot do c" not in worker.output
    aborted = fleet.dispatch("abort me", "sleep", seconds=60)
    until(lambda: fleet.started("abort me") == 1, what="the run")
    fleet.sandbox.store.abort(aborted)
    worker.says(" interrupted: it was aborted")
