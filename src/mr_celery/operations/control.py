"""What an operator decides: pause and drain the claiming, start a job again, or fail it."""

from __future__ import annotations

import getpass
import logging
import socket
import time
from collections.abc import Callable, Sequence

from ..errors import MrCeleryError
from ..ledger import Ledger, Pause, Record
from ..log import JobLog
from ..outcome import Outcome

logger = logging.getLogger("mr_celery.operations")

LOOK_SECONDS = 0.5
"""Seconds between two looks while the ledger drains."""

OPEN = ("claimed", "sent", "running")
"""The states from which a job can be started again, or failed."""

Announce = Callable[[str, str], None]
"""Tells the worker that runs a task (its id, the worker's node name) that the job is over; see ``Sender``."""


class NotPossible(MrCeleryError):
    """What an operator asked for cannot be done to that job in its state; the message says why, and what can."""


def operator() -> str:
    """Who gives the command: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def pause(ledger: Ledger, why: str = "") -> None:
    """No bridge of the worker name claims from now on, until ``ledger.resume()``; also after restarts.

    What is in flight goes on, and is delivered.

    Raises:
        LedgerUnavailable: the ledger is away.
    """
    ledger.pause(Pause(by=operator(), at=ledger.survey().now, why=why))


def drain(
    ledgers: Sequence[Ledger],
    *,
    why: str = "",
    timeout: float | None = None,
    tell: Callable[[int], object] = lambda left: None,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Pause, and wait until nothing is in flight. It stays paused.

    Args:
        ledgers: the ledgers of the worker names.
        why: why, for others who look.
        timeout: seconds to wait at the most; ``None``: as long as it takes.
        tell: called with how many jobs are in flight, whenever that has changed.
        wait: waits for that many seconds.
        clock: seconds, monotonic.

    Returns:
        How many jobs are in flight; 0: it is drained.

    Raises:
        LedgerUnavailable: the ledger is away.
    """
    for ledger in ledgers:
        pause(ledger, why)
    ends_at, told = (float("inf") if timeout is None else clock() + timeout), -1
    while True:
        left = sum(ledger.survey().in_flight for ledger in ledgers)
        if left != told:
            tell(left)
            told = left
        if not left or clock() >= ends_at:
            return left
        wait(min(LOOK_SECONDS, max(0.0, ends_at - clock())))


def requeue(ledger: Ledger, job_id: int, *, announce: Announce, lease: float, force: bool = False) -> Record:
    """Start a job again: as a new attempt, that counts as none of its ``max_attempts``.

    A run that goes on loses the job, is interrupted where its pool can do that, and gets one lease to stop.

    Args:
        ledger: the ledger.
        job_id: the job.
        announce: tells the worker.
        lease: seconds.
        force: also where its handler says that it must not be run again (``on_lost="fail"``) and was started.

    Returns:
        The job's record before that.

    Raises:
        NotPossible: there is nothing to start again.
        LedgerUnavailable: the ledger is away.
    """
    record = _open(ledger, job_id, "started again")
    if record.state == "running" and record.route.on_lost == "fail" and not force:
        raise NotPossible(
            f"job {job_id} runs, and its handler is declared with on_lost='fail': it must not be started twice. "
            "With --force it is"
        )
    task_id = ledger.requeue(job_id, f"by {operator()}", wait_seconds=lease)
    if task_id is None:
        raise NotPossible(f"job {job_id} has just ended: look at it again")
    _log(ledger, record).info("requeued", f"to be started again, by {operator()}", by=operator())
    _announce(announce, _log(ledger, record), record)
    return record


def fail(ledger: Ledger, job_id: int, why: str, *, announce: Announce) -> Record:
    """End a job as failed, with ``why`` as its output. Its run is interrupted where its pool can do that.

    Returns:
        The job's record before that.

    Raises:
        NotPossible: it has ended already.
        LedgerUnavailable: the ledger is away.
    """
    record = _open(ledger, job_id, "failed")
    if not ledger.fail(job_id, record.task_id, Outcome.failed(why), note=f"by {operator()}"):
        raise NotPossible(f"job {job_id} has just come to another state: look at it again")
    _log(ledger, record).info("failed", f"failed by {operator()}", by=operator())
    _announce(announce, _log(ledger, record), record)
    return record


def _log(ledger: Ledger, record: Record) -> JobLog:
    return JobLog(logger, record.id, worker_name=ledger.worker, task_id=record.task_id, task=record.route.task)


def _open(ledger: Ledger, job_id: int, what: str) -> Record:
    record = ledger.read(job_id)
    if record is None:
        raise NotPossible(f"job {job_id} is not in the ledger of {ledger.worker!r}: is it another worker name's?")
    if record.state == "admitted":
        raise NotPossible(f"job {job_id} is being claimed right now: try again in a few seconds")
    if record.state == "finished":
        raise NotPossible(
            f"job {job_id} cannot be {what}: its outcome ({record.status}) is recorded and waits for its delivery"
        )
    if record.state not in OPEN:
        raise NotPossible(f"job {job_id} cannot be {what}: it is {record.state}. On the server it can be put back")
    return record


def _announce(announce: Announce, log: JobLog, record: Record) -> None:
    if record.state != "running":
        return
    try:
        announce(record.task_id, record.node)
    except Exception as error:
        # The worker finds out when it renews the lease.
        why = type(error).__name__
        log.warning("not_announced", f"its worker could not be told at once: {why}", reason=why)
