"""Controls claiming and single jobs: pause, drain, requeue and fail."""

from __future__ import annotations

import getpass
import logging
import socket
import time
from collections.abc import Callable, Sequence

from ..errors import MrCeleryError
from ..ledger import Ledger, Pause, Record
from ..outcome import Outcome
from ..telemetry.logs import JobLog
from ..telemetry.printing import printable
from .jobs import OPEN

logger = logging.getLogger("mr_celery.operations")

DRAIN_POLL_SECONDS = 0.5
"""Polling interval of a drain, in seconds."""

ENDED = "Only the server starts an ended job again: on its page, or by its API with a user's API key"
"""The advice for jobs that have ended. A worker token cannot reopen them."""

Announce = Callable[[str, str], None]
"""Notifies the worker that runs a task: called with the task id and the worker's node name. See ``Publisher``."""


class NotPossible(MrCeleryError):
    """The operation is not possible in the job's state. The message gives the reason and an alternative."""


def operator() -> str:
    """The operator, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def pause(ledger: Ledger, why: str = "") -> None:
    """Stop claiming for the worker name, on all bridges and across restarts, until ``ledger.resume()``.

    Jobs in flight continue and are delivered.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    ledger.pause(Pause(by=operator(), at=ledger.survey().now, why=why))


def drain(
    ledgers: Sequence[Ledger],
    *,
    why: str = "",
    timeout: float | None = None,
    deferred: bool = False,
    report: Callable[[int], object] = lambda left: None,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Pause claiming and wait until no job is in flight, apart from deferred ones. Claiming stays paused.

    Args:
        ledgers: the ledgers of the worker names.
        why: the reason that ``status`` shows.
        timeout: maximum seconds to wait; ``None`` for no limit.
        deferred: also wait for deferred jobs.
        report: called with the number of remaining jobs whenever it changes.
        wait: sleeps for a number of seconds.
        clock: a monotonic clock, in seconds.

    Returns:
        The number of remaining jobs; 0 if drained.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    for ledger in ledgers:
        pause(ledger, why)
    ends_at, reported = (float("inf") if timeout is None else clock() + timeout), -1
    while True:
        surveys = [ledger.survey() for ledger in ledgers]
        left = sum(each.in_flight - (0 if deferred else each.states["deferred"]) for each in surveys)
        if left != reported:
            report(left)
            reported = left
        if not left or clock() >= ends_at:
            return left
        wait(min(DRAIN_POLL_SECONDS, max(0.0, ends_at - clock())))


def requeue(ledger: Ledger, job_id: int, *, announce: Announce, lease: float, force: bool = False) -> Record:
    """Start a job again, as a new attempt that does not count towards ``max_attempts``.

    A current run loses the job. It is interrupted if its pool supports that, and has one lease in which to stop.

    Args:
        ledger: the ledger.
        job_id: the job.
        announce: notifies the worker of a current run.
        lease: the lease, in seconds.
        force: also requeue a running or deferred job whose handler must not run twice (``on_lost="fail"``).

    Returns:
        The job's previous record.

    Raises:
        NotPossible: the job cannot be requeued in its state.
        LedgerUnavailable: the ledger cannot be reached.
    """
    record = _open(ledger, job_id, "requeued")
    nodes = ledger.nodes(record)
    answer = ledger.requeue(job_id, record.task_id, f"by {operator()}", wait_seconds=lease, force=force)
    if answer == "refused":
        raise NotPossible(
            f"job {job_id} is running or deferred, and its handler must not run twice (on_lost='fail'). Use --force to "
            "requeue it anyway"
        )
    if answer == "kept":
        raise NotPossible(_changed(job_id))
    _log(ledger, record).info("requeued", f"requeued by {operator()}", by=operator())
    _announce(announce, _log(ledger, record), record, nodes)
    return record


def fail(ledger: Ledger, job_id: int, why: str, *, announce: Announce) -> Record:
    """End a job as failed, with ``why`` as its output. Its run is interrupted if its pool supports that.

    The job's history, its reason and the log show the operator and the first 200 characters of ``why``.

    Returns:
        The job's previous record.

    Raises:
        NotPossible: the job cannot be failed in its state.
        LedgerUnavailable: the ledger cannot be reached.
    """
    record = _open(ledger, job_id, "failed")
    by, nodes = f"by {operator()}: {printable(why, 200)}", ledger.nodes(record)
    if not ledger.fail(job_id, record.task_id, Outcome.failed(why, reason=by)):
        raise NotPossible(_changed(job_id))
    _log(ledger, record).info("failed", f"failed {by}", by=operator(), reason=printable(why, 200))
    _announce(announce, _log(ledger, record), record, nodes)
    return record


def _changed(job_id: int) -> str:
    return f"the state of job {job_id} has just changed; see `celery -A proj modelreins jobs {job_id}`"


def _log(ledger: Ledger, record: Record) -> JobLog:
    return JobLog(
        logger, record.id, worker_name=ledger.worker_name, task_id=record.task_id, task_name=record.route.task_name
    )


def _open(ledger: Ledger, job_id: int, what: str) -> Record:
    record = ledger.read(job_id)
    if record is None:
        if ledger.listed(job_id):
            raise NotPossible(
                f"the record of job {job_id} is gone: Redis lost a part of the ledger. A bridge will adopt the job "
                "again from the server's list; try again in a few seconds"
            )
        raise NotPossible(
            f"job {job_id} is not in the ledger of {ledger.worker_name!r}: it is another worker name's, or Redis lost "
            "it. If the server lists it as running for this name, a bridge adopts it within seconds"
        )
    if record.state == "admitted":
        raise NotPossible(f"job {job_id} is being claimed; try again in a few seconds")
    if record.state == "finished" and record.outcome is None:
        raise NotPossible(
            f"the outcome of job {job_id} ({record.status}) is gone: Redis lost a part of the ledger. Unless it is "
            "being delivered, the job is adopted again from the server's list; try again in a few seconds"
        )
    if record.state == "finished":
        raise NotPossible(
            f"job {job_id} cannot be {what}: its outcome ({record.status}) is recorded and waits for delivery"
        )
    if record.state not in OPEN:
        raise NotPossible(f"job {job_id} cannot be {what}: it has ended ({record.status or record.state}). {ENDED}")
    return record


def _announce(announce: Announce, log: JobLog, record: Record, nodes: Sequence[str]) -> None:
    if record.state != "running":
        return
    try:
        for node in nodes:
            announce(record.task_id, node)
    except Exception as error:
        # The worker notices when it renews the lease.
        why = type(error).__name__
        log.warning("not_announced", f"its worker could not be notified at once: {why}", reason=why)
