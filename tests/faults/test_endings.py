"""Handlers that end in every way, in every pool: each job ends once, for the true reason, and no slot is lost.

The fault tests of workers share an assumption with the code: a handler ends with an ``Exception``, or with a signal
that kills the process. The list here (``support.proj_endings.WAYS``) contains exceptions that do not derive from
``Exception``, that belong to Celery, billiard and gevent, that cannot be printed or pickled, and that are raised around
the handler: in ``result=``, ``review=``, ``arguments=``, ``on_error=``, and in creating ``Escalate`` and ``JobFailed``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet, Process
from support.ports import until
from support.servers import RedisServer

os.environ.setdefault("PROJ_BROKER", "memory://")
os.environ.setdefault("PROJ_RUNS", os.devnull)
from support.proj_endings import AROUND, WAYS

POOLS = ["prefork", "threads", "solo", "gevent", *(["eventlet"] if find_spec("eventlet") else [])]


def installation(sandbox: Sandbox, broker: str, redis_server: RedisServer, folder: Path) -> Fleet:
    made = Fleet(sandbox, broker=broker, ledger=redis_server.url(1), folder=folder, app="support.proj_endings")
    made.environment["PROJ_GATE"] = str(folder / "gate")
    return made


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    made = installation(sandbox, redis_server.url(0), redis_server, tmp_path)
    yield made
    made.stop()


def children(worker: Process) -> set[int]:
    return {child.pid for child in psutil.Process(worker.popen.pid).children(recursive=True)}


@pytest.mark.timeout(420)  # about fifty jobs, some of which lose their process
@pytest.mark.parametrize("pool", POOLS)
def test_whatever_leaves_a_handler_ends_its_job_once(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("-P", pool, "-c", "2")
    fleet.bridge()
    processes = children(worker)
    ids = {how: fleet.dispatch(how, "ends", how=how) for how in WAYS}
    around = {where: fleet.dispatch(where, where) for where in AROUND}
    fleet.ended(*ids.values(), *around.values(), seconds=60)
    wrong = []
    for how, job_id in ids.items():
        job, (_, status, text) = fleet.job(job_id), WAYS[how]
        if job["status"] != status or text not in job["result"] or fleet.started(how) != 1:
            wrong.append((how, job["status"], fleet.started(how), job["result"][-300:]))
    for where, job_id in around.items():
        job = fleet.job(job_id)
        if job["status"] != "failed" or AROUND[where] not in job["result"]:
            wrong.append((where, job["status"], fleet.started(where), job["result"][-300:]))
    assert wrong == []
    assert all(fleet.events(job_id).count(f"close {fleet.job(job_id)['status']}") == 1 for job_id in ids.values())
    fine = [fleet.dispatch(f"fine {number}", "fine") for number in range(6)]
    assert {job["status"] for job in fleet.ended(*fine)} == {"done"}
    assert worker.popen.poll() is None
    assert children(worker) == processes, "a pool process has ended"


@pytest.mark.parametrize("own", [False, True], ids=["as it was", "with arguments"])
def test_a_retry_while_the_broker_is_away(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path, own: bool
) -> None:
    """The broker is unreachable just when the handler retries: a running worker cannot always publish."""
    broker = RedisServer("--appendonly", "yes")
    fleet = installation(sandbox, broker.url(), redis_server, tmp_path)
    try:
        worker = fleet.worker("-c", "1")
        fleet.bridge()
        ids = [fleet.dispatch("again", "own-retry" if own else "retry", countdown=3)]
        until(lambda: fleet.started("again 0") == 1, what="it runs")
        broker.kill()
        Path(fleet.environment["PROJ_GATE"]).touch()
        worker.says("the broker did" if not own else "the broker does not accept the retry")
        asked = time.monotonic()
        assert fleet.job(ids[0])["status"] == "running"
        broker.start()
        (job,) = fleet.ended(*ids)
        assert (job["status"], job["result"]) == ("done", "again at stage 1" if own else "again after 1")
        assert own or time.monotonic() - asked > 2, "its countdown was kept"
        assert (fleet.started("again 0"), fleet.started("again 1")) == (1, 1)
        assert fleet.events(ids[0]).count("close done") == 1
        assert worker.popen.poll() is None
    finally:
        fleet.stop()
        broker.stop()


def test_a_gevent_worker_distinguishes_a_time_limit_from_a_timeout(fleet: Fleet) -> None:
    """Both raise the same class, and so do the kill of an abort and the handler's own kill."""
    worker = fleet.worker("-P", "gevent", "-c", "4")
    fleet.bridge()
    limited, own = fleet.dispatch("limited", "limited"), fleet.dispatch("timeout", "ends", how="timeout")
    jobs = fleet.ended(limited, own)
    assert "the task's hard time limit of " in jobs[0]["result"]
    assert "Timeout: 0.01 second" in jobs[1]["result"]
    aborted = fleet.dispatch("aborted", "gated")
    until(lambda: fleet.started("aborted") == 1, what="it runs")
    fleet.sandbox.store.abort(aborted)
    worker.says("interrupted: it was aborted")
    fine = [fleet.dispatch(f"fine {number}", "fine") for number in range(4)]
    assert {job["status"] for job in fleet.ended(*fine)} == {"done"}
    assert not [event for event in fleet.events(aborted) if event.startswith("close")]


def test_a_signal_to_a_solo_worker_ends_it_though_a_handlers_own_does_not(fleet: Fleet) -> None:
    worker = fleet.worker("-P", "solo")
    fleet.bridge()
    (job,) = fleet.ended(fleet.dispatch("keyboard", "ends", how="keyboard"))
    assert job["status"] == "failed"
    running = fleet.dispatch("running", "gated")
    until(lambda: fleet.started("running") == 1, what="it runs")
    worker.popen.send_signal(signal.SIGINT)
    worker.says("Hitting Ctrl+C again")
    Path(fleet.environment["PROJ_GATE"]).touch()
    worker.popen.wait(30)
    (job,) = fleet.ended(running)
    assert (job["status"], fleet.started("running")) == ("done", 1)
