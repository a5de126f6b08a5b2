"""Runs that have lost their job: an operator aborted it, or another worker has it. The handler must stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest
from celery import Celery

from mr_celery.abort_command import announce_abort
from mr_celery.ledger import Ledger
from support.fleet import Fleet, Process
from support.ports import until

RARELY = "60"
"""A lease so long that nothing is noticed by renewing it while a test waits."""


def ledger_of(fleet: Fleet) -> Ledger:
    return Ledger(fleet.environment["MODELREINS_LEDGER_URL"], "w")


def abort(fleet: Fleet, job_id: int) -> str:
    """Abort a job on the server and in the ledger, as if a bridge had noticed. Returns the task id."""
    fleet.sandbox.store.abort(job_id)
    ledger = ledger_of(fleet)
    task_id = ledger.abort(job_id, "for a test")
    if task_id is None:  # the bridge was faster
        record = ledger.read(job_id)
        assert record is not None
        task_id = record.task_id
    return task_id


def announced_abort(fleet: Fleet, job_id: int) -> None:
    """The same, with a notification to the workers."""
    with Celery("operator", broker=fleet.environment["PROJ_BROKER"], set_as_current=False) as app:
        announce_abort(app, [abort(fleet, job_id)])


def still_aborted(fleet: Fleet, job_id: int) -> bool:
    """Whether nothing has changed an aborted job since."""
    record = ledger_of(fleet).read(job_id)
    assert record is not None
    return (
        (record.state, record.attempt, record.outcome) == ("aborted", 1, None)
        and fleet.job(job_id)["result"] == "aborted by an operator"
        and not [event for event in fleet.events(job_id) if event.startswith("close")]
    )


def children(worker: Process) -> set[int]:
    """The pool processes of a worker."""
    return {process.pid for process in psutil.Process(worker.popen.pid).children(recursive=True)}


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_an_abort_interrupts_the_handler_at_once(fleet: Fleet, pool: str) -> None:
    fleet.environment["MODELREINS_LEASE"] = RARELY
    worker = fleet.worker("-P", pool, "-c", "1")
    fleet.bridge()
    before = children(worker)
    job_id = fleet.dispatch("abort me", "tidy")
    until(lambda: fleet.started("abort me") == 1, what="the run")
    announced_abort(fleet, job_id)
    worker.says(" interrupted: it was aborted", seconds=10)
    until(lambda: fleet.started("abort me tidied") == 1, seconds=10, what="the handler's own end")
    (next_one,) = fleet.ended(fleet.dispatch("next"), seconds=20)
    assert next_one["result"] == "NEXT"
    assert (children(worker) != before) is (pool == "prefork")
    assert still_aborted(fleet, job_id)
    assert fleet.started("abort me") == 1
    assert fleet.started("abort me failed") == 0
    assert "Traceback" not in worker.output


def test_an_abort_that_was_not_announced_is_noticed_when_the_lease_is_renewed(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    bridge = fleet.bridge()
    job_id = fleet.dispatch("abort me", "tidy")
    until(lambda: fleet.started("abort me") == 1, what="the run")
    bridge.kill()
    abort(fleet, job_id)
    worker.says(" interrupted: it was aborted", seconds=10)
    until(lambda: fleet.started("abort me tidied") == 1, seconds=10, what="the handler's own end")
    assert still_aborted(fleet, job_id)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_handler_that_checks_stops_without_an_interruption(fleet: Fleet, pool: str) -> None:
    fleet.environment["MODELREINS_LEASE"] = RARELY
    worker = fleet.worker("-P", pool, "-c", "1")
    bridge = fleet.bridge()
    job_id = fleet.dispatch("ask", "ask")
    until(lambda: fleet.started("ask") == 1, what="the run")
    bridge.kill()
    abort(fleet, job_id)
    until(lambda: fleet.started("ask stopped") == 1, seconds=10, what="the handler stops")
    worker.says(" stopped by its handler", seconds=10)
    fleet.bridge()
    assert fleet.ended(fleet.dispatch("next"), seconds=20)[0]["result"] == "NEXT"
    assert still_aborted(fleet, job_id)
    assert "Traceback" not in worker.output


def test_a_pool_of_threads_logs_that_the_handler_has_to_check(fleet: Fleet) -> None:
    worker = fleet.worker("-P", "threads", "-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("unasking", "sleep", seconds=10)
    until(lambda: fleet.started("unasking") == 1, what="the run")
    announced_abort(fleet, job_id)
    worker.says("a handler has to check job.aborted", seconds=10)
    assert fleet.ended(fleet.dispatch("next"), seconds=20)[0]["result"] == "NEXT"
    worker.says("outcome dropped: the job is aborted", seconds=20)
    assert worker.output.count("has to check job.aborted") == 1
    assert still_aborted(fleet, job_id)
    assert "Traceback" not in worker.output


def test_an_aborted_job_that_waits_in_a_worker_does_not_start(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_LEASE"] = RARELY
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    first = fleet.dispatch("first", "sleep", seconds=4)
    until(lambda: fleet.started("first") == 1, what="the first run")
    waiting = fleet.dispatch("waiting", "tidy")
    until(lambda: ledger_of(fleet).in_flight().get(waiting) == "sent", what="it is sent")
    until(lambda: worker.output.count("received") == 2, what="it is received")
    announced_abort(fleet, waiting)
    assert fleet.ended(first, fleet.dispatch("next"), seconds=20)[1]["result"] == "NEXT"
    worker.says("not run: aborted")
    assert fleet.started("waiting") == 0
    assert still_aborted(fleet, waiting)


# -- frozen ------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(fleet: Fleet) -> Callable[..., tuple[int, Process]]:
    """A function that freezes a worker until another one has done its job. Returns the job's id and the worker."""

    def freeze(*options: str, seconds: float) -> tuple[int, Process]:
        first = fleet.worker(*options, PROJ_WHO="first", PROJ_SECONDS=str(seconds))
        fleet.bridge()
        job_id = fleet.dispatch("who are you", "who")
        until(lambda: fleet.started("who are you") == 1, what="the first run")
        first.signal(signal.SIGSTOP)
        second = fleet.worker("-c", "1", PROJ_WHO="second", PROJ_SECONDS="1")
        assert fleet.ended(job_id, seconds=40)[0]["result"] == "second"
        second.terminate()
        first.signal(signal.SIGCONT)
        return job_id, first

    return freeze


def closed_once_by_the_second(fleet: Fleet, job_id: int) -> bool:
    record = ledger_of(fleet).read(job_id)
    assert record is not None
    return (
        (record.state, record.attempt) == ("closed", 2)
        and fleet.job(job_id)["result"] == "second"
        and fleet.events(job_id) == ["dispatched", "claim", "close done"]
    )


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_thawed_worker_interrupts_a_run_that_another_has_taken_over(
    fleet: Fleet, frozen: Callable[..., tuple[int, Process]], pool: str
) -> None:
    job_id, first = frozen("-P", pool, "-c", "1", seconds=600)
    first.says(" interrupted: it was given to another worker", seconds=20)
    assert fleet.ended(fleet.dispatch("next"), seconds=30)[0]["result"] == "NEXT"
    assert closed_once_by_the_second(fleet, job_id)
    assert fleet.started("who are you") == 2


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_outcome_of_a_thawed_worker_is_dropped(
    fleet: Fleet, frozen: Callable[..., tuple[int, Process]], pool: str
) -> None:
    job_id, first = frozen("-P", pool, "-c", "1", seconds=3)
    first.says("outcome dropped: the job is superseded", seconds=20)
    assert fleet.ended(fleet.dispatch("next"), seconds=30)[0]["result"] == "NEXT"
    assert closed_once_by_the_second(fleet, job_id)


# -- ended from outside ------------------------------------------------------------------------------------


def test_a_pool_process_that_the_system_ends_does_not_fail_its_job(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_LEASE"] = RARELY
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("ended", "sleep", seconds=3)
    until(lambda: fleet.started("ended") == 1, what="the run")
    for pid in children(worker):
        os.kill(pid, signal.SIGTERM)
    (job,) = fleet.ended(job_id, seconds=40)
    assert job["result"] == "ended"
    assert fleet.started("ended") == 2


def test_a_cold_shutdown_leaves_its_jobs_to_other_workers(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    fleet.bridge()
    job_id = fleet.dispatch("cold", "sleep", seconds=6)
    until(lambda: fleet.started("cold") == 1, what="the run")
    worker.popen.send_signal(signal.SIGQUIT)
    worker.popen.wait(20)
    fleet.worker("-c", "1")
    (job,) = fleet.ended(job_id, seconds=40)
    assert job["result"] == "cold"
    assert fleet.started("cold") == 2
