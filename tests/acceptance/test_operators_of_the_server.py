"""Actions of the server's operators, with a real bridge and worker: approvals, pause, killswitch, another server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox, ServerOptions
from support.fleet import Fleet
from support.ports import until
from support.servers import RedisServer


def worker_id(fleet: Fleet) -> int:
    until(lambda: fleet.sandbox.store.directory.named("w") is not None, what="presence")
    worker = fleet.sandbox.store.directory.named("w")
    assert worker is not None
    return int(worker["id"])


def test_job_runs_after_its_approval(fleet: Fleet) -> None:
    tiers = [{"name": "sleep", "risk_tier": "approve"}, {"name": "gated", "risk_tier": "auto"}]
    fleet.sandbox.store.directory.register("w", None, tiers)
    fleet.bridge()
    fleet.worker()
    approved, rejected = fleet.dispatch("0", "sleep"), fleet.dispatch("0", "sleep")
    fleet.ended(fleet.dispatch("after these"))
    assert [fleet.job(job_id)["status"] for job_id in (approved, rejected)] == ["awaiting_approval"] * 2
    fleet.sandbox.store.reject(rejected)
    fleet.sandbox.store.approvals.approve(approved)
    until(lambda: fleet.job(approved)["status"] == "done", what="the approved job is done")
    assert fleet.events(approved) == ["dispatched", "approve", "claim", "close done"]
    assert fleet.events(rejected) == ["dispatched", "reject"]


@pytest.mark.parametrize("by", ["pause", "killswitch"])
def test_paused_worker_gets_no_jobs_until_it_is_resumed(fleet: Fleet, by: str) -> None:
    store = fleet.sandbox.store
    fleet.bridge()
    fleet.worker()
    fleet.ended(fleet.dispatch("before"))
    if by == "pause":
        store.directory.pause(worker_id(fleet), paused=True)
    else:
        store.killswitch.switch_on("stop")
    waiting = store.create("waits", "w", {})["id"]
    asked = store.workers()[0]["seen_at"]
    until(lambda: store.workers()[0]["seen_at"] > asked + 2, what="further reports")
    assert fleet.events(waiting) == ["dispatched"], "it was neither claimed nor refused"
    if by == "pause":
        store.directory.pause(worker_id(fleet), paused=False)
    else:
        store.killswitch.clear()
    assert [job["status"] for job in fleet.ended(waiting)] == ["done"]


@pytest.fixture
def other_words(redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation on a server with other status names, separate API keys, and no artifacts."""
    options = ServerOptions(version="4.5", words={"done": "completed", "failed": "error", "aborted": "cancelled"})
    with Sandbox(api_key="key", options=options) as sandbox:
        fleet = Fleet(sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)
        yield fleet
        fleet.stop()


def test_another_server(other_words: Fleet) -> None:
    other_words.bridge()
    other_words.worker()
    done = other_words.dispatch("hello")
    other_words.ended(done)
    assert other_words.job(done)["status"] == "completed"
    aborted = other_words.dispatch("30", "sleep")
    until(lambda: other_words.job(aborted)["status"] == "running", what="the job runs")
    other_words.sandbox.store.abort(aborted)
    after = other_words.dispatch("afterwards")
    other_words.ended(after)
    assert other_words.job(aborted)["status"] == "cancelled"
    assert not [event for event in other_words.events(aborted) if event.startswith("close")]
