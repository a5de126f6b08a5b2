"""The loop of ``Worker.run``: presence, inbox, then claim, handler and close, one job after the other."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..backoff import backoff
from ..errors import WorkerError
from ..log import JobLog, unexpected

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger("mr_celery.worker")

Handler = Callable[[dict[str, Any]], Any]
OnError = Callable[[dict[str, Any], Exception], object]

MOST_BACKOFF = 60.0
"""Seconds between two tries while the server fails; more only if it asks for more."""

CLOSE_SECONDS = 3600.0
"""How long a finished job's close is tried."""

LEAST_INTERVAL = 0.05
"""Seconds between two signs of presence at least."""


def pause_after(error: WorkerError, failures: int, *, first: float) -> float:
    """Seconds to wait after the given number of failures in a row, and as long as the server asks."""
    pause = backoff(failures, first=max(first, LEAST_INTERVAL), most=MOST_BACKOFF)
    return max(pause, error.retry_after or 0.0)


class Presence:
    """Keeps telling that the worker is there, from a thread of its own, within a ``with`` block.

    Args:
        beat: tells it once.
        interval: seconds between two times; the first is one interval after the block began.
    """

    def __init__(self, beat: Callable[[], object], interval: float) -> None:
        self._beat = beat
        self._interval = max(interval, LEAST_INTERVAL)
        self._failures = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="modelreins-presence", daemon=True)

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()

    def turn(self) -> float:
        """Tell it once, whatever comes of it. Returns seconds until the next time."""
        try:
            self._beat()
        except WorkerError as error:
            self._failures += 1
            logger.info("presence: %s", error.summary)
            return max(self._interval, pause_after(error, self._failures, first=self._interval))
        except Exception as error:
            self._failures += 1
            unexpected(logger, "presence: unexpected error", error)
            return max(self._interval, backoff(self._failures, first=self._interval, most=MOST_BACKOFF))
        self._failures = 0
        return self._interval

    def _loop(self) -> None:
        pause = self._interval
        while not self._over.wait(pause):
            pause = self.turn()


class Polling:
    """Works on a worker's jobs until it is interrupted. No answer of the server ends it.

    Args:
        worker: the worker; its methods are called, so that a subclass may change them.
        handler: takes a job, returns its result. What it raises fails the job.
        on_error: called with the job and the exception after a failed job is closed.
        wait: waits that many seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        worker: Worker,
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
        """Repeat until a ``KeyboardInterrupt``; a job that was finished by then is still closed if possible."""
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
        """Wait, and stay present where that takes longer than presence lasts."""
        worker = self._worker
        if seconds <= worker.poll_interval:
            self._wait(seconds)
            return
        with Presence(worker.heartbeat, worker.poll_interval):
            self._wait(seconds)

    def turn(self) -> float:
        """Do it once, whatever the server answers. Returns seconds until the next time."""
        try:
            pause = self.run_once()
        except WorkerError as error:
            self._failures += 1
            pause = pause_after(error, self._failures, first=self._worker.poll_interval)
            level = logging.ERROR if error.unauthorized else logging.WARNING
            logger.log(level, "%s; next try in %.1f s", error.summary, pause)
            return pause
        except Exception as error:
            self._failures += 1
            unexpected(logger, "unexpected error, the loop goes on", error)
            return backoff(self._failures, first=max(self._worker.poll_interval, 1.0), most=MOST_BACKOFF)
        self._failures = 0
        return pause

    def run_once(self) -> float:
        """Take what is in the inbox, and work on it. Returns seconds until the next look.

        Raises:
            WorkerError: the server does not answer, or asks to come back later.
        """
        worker = self._worker
        worker.heartbeat()
        jobs = worker.inbox()
        if not jobs:
            return worker.poll_interval
        worked = False
        with Presence(worker.heartbeat, worker.poll_interval):
            for job in jobs:
                if self.claim(job["id"]):
                    self.work(job)
                    worked = True
        # Where nothing could be claimed, the same list would come again at once.
        return 0.0 if worked else worker.poll_interval

    def claim(self, job_id: int) -> bool:
        """Claim a job. Returns whether it is ours.

        Raises:
            WorkerError: the server asks to come back later.
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
        """Run the handler on a claimed job, and close it with what came of it."""
        job_id = job["id"]
        try:
            result = str(self._handler(job) or "")
        except Exception as error:
            why = type(error).__name__
            self._log(job_id).warning("finished", f"failed: {why}", status="failed", reason=why)
            self.close(job_id, traceback.format_exc(), "failed")
            self._tell(job, error)
            return
        if self.close(job_id, result, "done"):
            self._log(job_id).info("delivered", "done", status="done")

    def close(self, job_id: int, result: str, status: str) -> bool:
        """Close a job, however often that takes. Returns whether the server has taken it."""
        self._finished = finished = (job_id, result, status)
        closed = self._close_patiently(finished)
        self._finished = None
        return closed

    def close_finished(self) -> bool:
        """Close the job whose close was interrupted, in one try. Returns whether none is left."""
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

    def _close_patiently(self, finished: tuple[int, str, str]) -> bool:
        job_id, _, status = finished
        deadline = self._clock() + CLOSE_SECONDS
        failures = 0
        while (error := self._try_to_close(finished)) is not None:
            if failures and error.status == 409:
                self._log(job_id).info("closed_before", "an earlier close got through")
                return True
            failures += 1
            pause = pause_after(error, failures, first=1.0)
            if not error.retryable or self._clock() + pause > deadline:
                log = self._log(job_id)
                tell = log.warning if error.status in (404, 409) else log.error
                why = f"finished ({status}), but not closed: {error.summary}"
                tell("not_closed", why, status=status, reason=error.summary)
                return False
            why = f"not closed yet, next try in {pause:.1f} s: {error.summary}"
            self._log(job_id).warning("put_off", why, reason=error.summary, seconds=pause)
            self._wait(pause)
        return True

    def _tell(self, job: dict[str, Any], error: Exception) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(job, error)
        except Exception as failure:
            self._log(job["id"]).error("on_error_raised", "on_error raised", error=failure)

    def _log(self, job_id: int) -> JobLog:
        return JobLog(logger, job_id, worker_name=self._worker.name)
