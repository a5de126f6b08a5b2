"""Fleets in which some workers can take jobs, and others only have the tasks.

The fault tests share an assumption with the code: all workers of a fleet are set up alike, and a task without its
arguments fails. Here some workers run code without the decorator, some have it on another task only, and some lack the
ledger's address. Every task can be called without arguments: by defaults, ``**kwargs``, ``bind``, ``typing=False``, and
as a class.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.servers import RabbitServer, RedisServer

TASKS = ("mail", "anything", "bound", "untyped", "of_a_class")
UNREADABLE = "Can't decode message body"


def mixed(fleet: Fleet, *others: dict[str, str], jobs: int = 15) -> None:
    """Run jobs on a fleet with one worker that takes them, and others that do not."""
    try:
        processes = [fleet.worker("-P", "threads", "-c", "1", **changes) for changes in others]
        able = fleet.worker("-P", "threads", "-c", "2")
        fleet.bridge()
        names = [TASKS[number % len(TASKS)] for number in range(jobs)]
        ids = {fleet.dispatch(f"job {number}", name): f"{name} job {number}" for number, name in enumerate(names)}
        jobs_ended = fleet.ended(*ids, seconds=120)
        assert [line for line in fleet.starts() if "everybody" in line] == []
        for job in jobs_ended:
            expected = ids[job["id"]]
            if job["status"] == "done":
                assert job["result"] == expected
                assert fleet.started(expected) == 1
            else:  # all four of its messages went to the other workers
                assert "no worker started the job" in job["result"]
                assert "from before @modelreins_job" in job["result"]
                assert fleet.started(expected) == 0
            assert fleet.events(job["id"]).count(f"close {job['status']}") == 1
        assert sum(fleet.starts().values()) >= jobs // 2
        assert all(process.output.count(UNREADABLE) > 0 for process in processes), "it got no message: a poor test"
        assert UNREADABLE not in able.output
        assert all(process.popen.poll() is None for process in processes)
        assert all("Traceback" not in process.output or UNREADABLE in process.output for process in processes)
    finally:
        fleet.stop()


@pytest.mark.long
def test_with_redis(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> None:
    fleet = Fleet(
        sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path, app="support.proj_mixed"
    )
    mixed(fleet, {"PROJ_CODE": "old"}, {"PROJ_CODE": "other"})


@pytest.mark.long
def test_with_rabbitmq(
    sandbox: Sandbox, rabbit_server: RabbitServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    fleet = Fleet(
        sandbox, broker=rabbit_server.url, ledger=redis_server.url(1), folder=tmp_path, app="support.proj_mixed"
    )
    mixed(fleet, {"PROJ_CODE": "old"}, {"MODELREINS_LEDGER_URL": ""})


@pytest.mark.parametrize("code", ["old", "other"])
def test_a_worker_that_is_updated_to_take_jobs_takes_those_that_it_dropped(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path, code: str
) -> None:
    """A dropped message does not count as revoked, even for later workers, which copy the revokes of others."""
    fleet = Fleet(
        sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path, app="support.proj_mixed"
    )
    try:
        able = fleet.worker("-P", "solo")
        fleet.bridge("--poll-interval", "1")
        unable = fleet.worker("-P", "solo", PROJ_CODE=code)
        able.kill()  # it still counts as online for one lease, so the bridge claims
        job_id = fleet.dispatch("late", "mail")
        unable.says(UNREADABLE)
        fleet.worker("-P", "solo")
        unable.kill()
        (job,) = fleet.ended(job_id)
        assert (job["status"], job["result"]) == ("done", "mail late")
        assert fleet.starts()["mail late"] == 1
    finally:
        fleet.stop()
