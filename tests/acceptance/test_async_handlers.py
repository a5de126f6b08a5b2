"""``async def`` handlers in workers of each pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer

POOLS = ["prefork", "threads", "solo", "gevent"]


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(
        sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path, app="support.proj_async"
    )
    yield made
    made.stop()


@pytest.mark.parametrize("pool", POOLS)
def test_each_way_in_which_a_handler_can_end(fleet: Fleet, pool: str) -> None:
    fleet.worker("-P", pool, "-c", "1" if pool == "solo" else "4")
    fleet.bridge()
    expected = {
        ("wait", "a"): ("done", "A"),
        ("retry", "b"): ("done", "b after 2 retries"),
        ("autoretry", "c"): ("done", "c after 2 retries"),
        ("limited", "d"): ("failed", "SoftTimeLimitExceeded"),
        ("part", "e"): ("done", "a part of e"),
        ("fail", "f"): ("failed", "ValueError: cannot do f"),
        ("escalate", "g"): ("escalated", "look at job"),
        ("cancel-itself", "h"): ("failed", "CancelledError"),
        ("attach", "i"): ("done", "w "),
        ("group", "j"): ("done", "w\nmr-"),
    }
    jobs = {fleet.dispatch(prompt, capability): ended for (capability, prompt), ended in expected.items()}
    for job in fleet.ended(*jobs):
        status, text = jobs[job["id"]]
        assert (job["status"], text in job["result"]) == (status, True), job
        assert [event for event in fleet.events(job["id"]) if event.startswith("close")] == [f"close {status}"]
    assert fleet.started("end d") == 1
    assert len(fleet.sandbox.store.artifacts()) == 1
    assert len(fleet.sandbox.store.reviews()) == 2


def test_all_jobs_of_a_process_share_one_loop(fleet: Fleet) -> None:
    fleet.worker("-P", "threads", "-c", "8")
    fleet.bridge()
    jobs = fleet.ended(*(fleet.dispatch(f"loop {number}", "loop") for number in range(20)))
    assert {job["result"].partition(" ")[2] for job in jobs} == {"0"}


@pytest.mark.parametrize("pool", POOLS)
def test_an_abort_cancels_the_handler_and_its_cleanup_runs(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("-P", pool, "-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("abort me", "wait", seconds=60)
    until(lambda: fleet.started("abort me") == 1, what="the run")
    fleet.sandbox.store.abort(job_id)
    until(lambda: fleet.started("end abort me") == 1, what="the cleanup")
    (next_one,) = fleet.ended(fleet.dispatch("next", "wait"))
    assert next_one["result"] == "NEXT"
    assert fleet.started("cancelled abort me") == 1
    assert fleet.job(job_id)["result"] == "aborted by an operator"
    assert "Traceback" not in worker.output


def test_a_handler_that_ignores_its_cancellation_is_left_and_its_value_dropped(fleet: Fleet) -> None:
    worker = fleet.worker("-P", "threads", "-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("stubborn", "swallow")
    until(lambda: fleet.started("stubborn") == 1, what="the run")
    fleet.sandbox.store.abort(job_id)
    worker.says("still runs 10 s after its cancellation")
    (next_one,) = fleet.ended(fleet.dispatch("next", "wait"))
    assert next_one["result"] == "NEXT"
    assert fleet.job(job_id)["result"] == "aborted by an operator"
