"""The loop of ``Worker.run``: reports presence, reads the inbox, then claims, runs and closes one job at a time."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from ..backoff import backoff, pause_after
from ..errors import WorkerError
from ..telemetry.logs import JobLog, unexpected
from ..telemetry.quantities import duration
from ..telemetry.tracebacks import call_application, hide_variables

logger = logging.getLogger("mr_celery.worker")

Handler = Callable[[dict[str, Any]], Any]
OnError = Callable[[dict[str, Any], Exception], object]


class PollingWorker(Protocol):
    """The part of :class:`~mr_celery.Worker` that its loop uses."""

    name: str
    url: str
    poll_interval: float

    def heartbeat(self) -> object:
        """Report presence."""

    def inbox(self) -> list[dict[str, Any]]:
        """The pending jobs."""

    def claim(self, job_id: int) -> object:
        """Claim a job."""

    def complete(self, job_id: int, result: str, status: str) -> object:
        """Close a job."""


MOST_BACKOFF = 60.0
"""Maximum pause in seconds between two attempts while the server fails. It also limits a ``Retry-After``."""

CLOSE_SECONDS = 3600.0
"""Seconds for which the close of a finished job is retried."""

LEAST_INTERVAL = 0.05
"""Minimum interval in seconds between two presence reports."""


def next_try(error: WorkerError, failures: int, *, first: float) -> tuple[float, str]:
    """The pause before the next attempt after the given number of consecutive failures.

    Returns:
        The pause in seconds, and a text for the log: the error, a longer pause that the server asked for, and the
        seconds.
    """
    usual = backoff(failures, first=max(first, LEAST_INTERVAL), most=MOST_BACKOFF)
    pause = pause_after(error, usual, most=MOST_BACKOFF)
    longer = error.longer_than(usual)
    return pause, f"{error.summary}; {longer + ', ' if longer else ''}next try in {duration(pause)}"


def report(beat: Callable[[], object]) -> None:
    """Report presence once. Errors are logged and not raised."""
    try:
        beat()
    except WorkerError as error:
        logger.info("presence: %s", error.summary)
    except Exception as error:
        unexpected(logger, "presence: unexpected error", error)


class Presence:
    """Context manager that reports presence at an interval, from a separate thread.

    Failed reports do not change the interval.

    Args:
        beat: reports presence once.
        interval: seconds between two reports, and before the first.
    """

    def __init__(self, beat: Callable[[], object], interval: float) -> None:
        self._beat = beat
        self._interval = max(interval, LEAST_INTERVAL)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="modelreins-presence", daemon=True)

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()

    def _loop(self) -> None:
        while not self._over.wait(self._interval):
            report(self._beat)


class Polling:
    """Polls the inbox and works on jobs until it is interrupted. Errors of the server do not end it.

    Args:
        worker: the worker; its methods are called, so that a subclass may override them.
        handler: takes a job and returns its result. An exception fails the job.
        on_error: called with the job and the exception once a failed job is closed.
        wait: waits for a number of seconds.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        worker: PollingWorker,
        handler: Handler,
        on_error: OnError | None = None,
        *,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._handler = handler
        self._on_error = on_error
        self._wait = wait or threading.Event().wait
        self._clock = clock
        self._failures = 0
        self._finished: tuple[int, str, str] | None = None

    def run(self) -> None:
        """Repeat until a ``KeyboardInterrupt``, then try once to close a job that has already finished."""
        worker = self._worker
        logger.info("%s starting, polling %s every %s s", worker.name, worker.url, worker.poll_interval)
        try:
            while True:
                pause = self.turn()
                if pause > 0:
                    self.pause(pause)
        except KeyboardInterrupt:
            logger.info("%s interrupted", worker.name)
            self.close_finished()

    def pause(self, seconds: float) -> None:
        """Wait, and report presence meanwhile if the pause is longer than the poll interval."""
        worker = self._worker
        if seconds <= worker.poll_interval:
            self._wait(seconds)
            return
        with Presence(worker.heartbeat, worker.poll_interval):
            self._wait(seconds)

    def turn(self) -> float:
        """Poll once and handle every error. Returns the seconds until the next poll."""
        try:
            pause = self.run_once()
        except WorkerError as error:
            self._failures += 1
            pause, why = next_try(error, self._failures, first=self._worker.poll_interval)
            logger.log(logging.ERROR if error.unauthorized else logging.WARNING, "%s", why)
            return pause
        except Exception as error:
            self._failures += 1
            unexpected(logger, "unexpected error, the loop continues", error)
            return backoff(self._failures, first=max(self._worker.poll_interval, 1.0), most=MOST_BACKOFF)
        self._failures = 0
        return pause

    def run_once(self) -> float:
        """Work on the jobs in the inbox. Returns the seconds until the next poll.

        The inbox is read even if reporting presence fails.

        Raises:
            WorkerError: the server does not respond, or asks to wait.
        """
        worker = self._worker
        report(worker.heartbeat)
        jobs = worker.inbox()
        if not jobs:
            return worker.poll_interval
        worked = False
        with Presence(worker.heartbeat, worker.poll_interval):
            for job in jobs:
                if self.claim(job["id"]):
                    self.work(job)
                    worked = True
        # If nothing could be claimed, an immediate poll would return the same list.
        return 0.0 if worked else worker.poll_interval

    def claim(self, job_id: int) -> bool:
        """Claim a job. Returns whether that succeeded.

        Raises:
            WorkerError: the server asks to wait.
        """
        try:
            self._worker.claim(job_id)
        except WorkerError as error:
            if error.retry_after is not None:
                raise
            self._log(job_id).info("claim_skipped", f"claim skipped: {error.summary}", reason=error.summary)
            return False
        return True

    def work(self, job: dict[str, Any]) -> None:
        """Run the handler on a claimed job, and close the job with the result or the error."""
        job_id = job["id"]
        try:
            result = str(call_application(self._handler, job) or "")
        except Exception as error:
            why = type(error).__name__
            self._log(job_id).warning("finished", f"failed: {why}", status="failed", reason=why)
            self.close(job_id, traceback.format_exc(), "failed")
            self._call_on_error(job, error)
            return
        if self.close(job_id, result, "done"):
            self._log(job_id).info("delivered", "done", status="done")

    def close(self, job_id: int, result: str, status: str) -> bool:
        """Close a job, and retry until the server accepts or rejects it. Returns whether the job is closed."""
        self._finished = finished = (job_id, result, status)
        closed = self._close_with_retries(finished)
        self._finished = None
        return closed

    def close_finished(self) -> bool:
        """Try once to close the job whose close was interrupted. Returns ``False`` if it is still not closed."""
        finished, self._finished = self._finished, None
        if finished is None:
            return True
        try:
            error = self._try_to_close(finished)
        except KeyboardInterrupt:
            error = WorkerError("interrupted again")
        if error is not None:
            job_id, _, status = finished
            why = f"finished ({status}), but not closed: {error.summary}"
            self._log(job_id).error("not_closed", why, status=status, reason=error.summary)
        return error is None

    def _try_to_close(self, finished: tuple[int, str, str]) -> WorkerError | None:
        job_id, result, status = finished
        try:
            self._worker.complete(job_id, result=result, status=status)
        except WorkerError as error:
            return error
        return None

    def _close_with_retries(self, finished: tuple[int, str, str]) -> bool:
        job_id, _, status = finished
        deadline = self._clock() + CLOSE_SECONDS
        failures = 0
        while (error := self._try_to_close(finished)) is not None:
            if failures and error.status == 409:
                self._log(job_id).info("closed_before", "an earlier close got through")
                return True
            failures += 1
            pause, later = next_try(error, failures, first=1.0)
            if not error.retryable or self._clock() + pause > deadline:
                log = self._log(job_id)
                write = log.warning if error.status in (404, 409) else log.error
                why = f"finished ({status}), but not closed: {error.summary}"
                write("not_closed", why, status=status, reason=error.summary)
                return False
            self._log(job_id).warning("put_off", f"not closed yet: {later}", reason=error.summary, seconds=pause)
            self._wait(pause)
        return True

    def _call_on_error(self, job: dict[str, Any], error: Exception) -> None:
        if self._on_error is None:
            return
        hide_variables(error)
        try:
            self._on_error(job, error)
        except Exception as failure:
            self._log(job["id"]).error("on_error_raised", "on_error raised", error=failure)

    def _log(self, job_id: int) -> JobLog:
        return JobLog(logger, job_id, worker_name=self._worker.name)
