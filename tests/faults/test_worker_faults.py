"""Workers that die, are told to stop, or get their messages twice.

Assumptions shared with the code: an ``Exception`` or a signal ends a handler, and all workers are set up alike.
``test_endings.py`` and ``test_mixed_fleets.py`` drop them.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import psutil

from support.campaign import Campaign
from support.fleet import Fleet
from support.ports import until


def conf(**settings: Any) -> dict[str, str]:
    """Settings of the application, for the environment of one process."""
    return {"PROJ_CONF": json.dumps(settings)}


def test_a_parent_that_is_killed_alone(fleet: Fleet) -> None:
    """Its children end with it, as Celery requests from Linux, so no second run overlaps with theirs."""
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("orphan", "nap", seconds=5)
    until(lambda: fleet.started("orphan") == 1, what="it runs")
    os.kill(worker.popen.pid, signal.SIGKILL)
    fleet.worker("-c", "1")
    (job,) = fleet.ended(job_id)
    assert job["result"] == "ORPHAN"
    assert fleet.started("orphan") == 2
    assert "done after" not in worker.output
    assert fleet.events(job_id).count("close done") == 1


def test_a_node_that_is_killed_with_prefetched_messages(fleet: Fleet) -> None:
    victim = fleet.worker("-c", "1")
    fleet.bridge()
    first = fleet.dispatch("first", "nap", seconds=8)
    until(lambda: fleet.started("first") == 1, what="it runs")
    others = [fleet.dispatch(f"other {n}", "nap") for n in range(1, 4)]
    until(lambda: victim.output.count("] received") >= 2, what="messages are prefetched")
    victim.kill()
    fleet.worker("-c", "1")
    jobs = fleet.ended(first, *others, seconds=40)
    assert {job["status"] for job in jobs} == {"done"}
    assert fleet.started("first") == 2
    assert [fleet.started(f"other {n}") for n in range(1, 4)] == [1, 1, 1]


def test_a_child_that_is_replaced_after_each_task(fleet: Fleet) -> None:
    fleet.worker("-c", "2", "--max-tasks-per-child", "1")
    fleet.bridge()
    campaign = Campaign(fleet)
    campaign.dispatch(30)
    campaign.audit()


def test_a_soft_shutdown_that_ends_before_the_handler(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1", **conf(worker_soft_shutdown_timeout=1.0))
    fleet.bridge()
    job_id = fleet.dispatch("interrupted", "nap", seconds=8)
    until(lambda: fleet.started("interrupted") == 1, what="it runs")
    worker.popen.send_signal(signal.SIGQUIT)
    worker.popen.wait(30)
    fleet.worker("-c", "1")
    (job,) = fleet.ended(job_id, seconds=40)
    assert job["result"] == "INTERRUPTED"
    assert fleet.started("interrupted") == 2
    assert fleet.events(job_id).count("close done") == 1


def test_a_handler_that_takes_longer_than_the_visibility_timeout_runs_once(fleet: Fleet) -> None:
    eager = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}  # otherwise kombu checks only every 100 s
    settings = conf(broker_transport_options={"visibility_timeout": 5, **eager})
    first = fleet.worker("-c", "2", **settings)
    second = fleet.worker("-c", "2", **settings)
    fleet.bridge(**settings)
    job_id = fleet.dispatch("long", "late", seconds=14)
    (job,) = fleet.ended(job_id, seconds=40)
    assert job["result"] == "LONG"
    assert fleet.started("long") == 1
    copies = first.output.count(f"[mr-{job_id}-1") + second.output.count(f"[mr-{job_id}-1")
    assert copies > 2, "the broker brought the message again, or this test shows nothing"


def test_a_late_acknowledged_job_that_keeps_killing_its_child_fails(fleet: Fleet) -> None:
    """Celery alone runs such a task for ever."""
    fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("deadly", "late", deadly=True)
    (job,) = fleet.ended(job_id, seconds=90)
    assert job["status"] == "failed"
    assert "max_attempts" in job["result"]
    assert fleet.started("deadly") == 3
    (other,) = fleet.ended(fleet.dispatch("harmless"))
    assert other["result"] == "HARMLESS"


def test_children_killed_at_random_under_load(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_MAX_ATTEMPTS"] = "20"
    worker = fleet.worker("-c", "3")
    fleet.bridge()
    campaign = Campaign(fleet)
    campaign.dispatch(60, "nap", seconds=0.3)
    kills = 0
    while (done := campaign.done()) < 50:
        children = psutil.Process(worker.popen.pid).children()
        if children and done >= 10 * kills:
            os.kill(children[kills % len(children)].pid, signal.SIGKILL)
            kills += 1
    campaign.audit(reruns=kills)
    assert kills == 5
