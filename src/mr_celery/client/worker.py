"""``Worker``: the official SDK's class, with its faults mended."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from ..backoff import backoff
from ..errors import WorkerError
from ..result import Status
from .api import Api

logger = logging.getLogger("mr_celery.worker")

CLOSE_PATIENCE = 3600.0
"""Seconds for which the close of a finished job is repeated."""


class Worker:
    """Drop-in for ``modelreins_worker.Worker`` 0.2.0: same constructor, methods, answers and errors.

    Args:
        token: the worker token; default ``MODELREINS_TOKEN``.
        url: the server; default ``MODELREINS_URL``, or https://app.modelreins.com.
        name: the worker name; default ``<host>-<pid>``.
        poll_interval: seconds between two looks at an empty inbox in :meth:`run`.
        timeout: seconds that one request may take.

    Raises:
        WorkerError: there is no token, or the URL or token is unusable. Every method raises it for each
            request that failed.

    Example::

        Worker(name="my-first-worker").run(handler=lambda job: job["prompt"].upper())
    """

    def __init__(
        self,
        token: str | None = None,
        url: str | None = None,
        name: str | None = None,
        poll_interval: float = 5.0,
        timeout: float = 30.0,
    ) -> None:
        self.token = token or os.environ.get("MODELREINS_TOKEN") or ""
        if not self.token:
            raise WorkerError("No token — pass token=... or set MODELREINS_TOKEN")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.poll_interval = poll_interval
        self.timeout = timeout
        address = url or os.environ.get("MODELREINS_URL") or "https://app.modelreins.com"
        self._api = Api(address, self.token, self.name, timeout=timeout)
        self.url = self._api.url

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} at {self.url}>"

    def heartbeat(self, status: str = "active", details: str | None = None, tags: str | None = None) -> dict[str, Any]:
        """``PUT /presence``: this worker name is here."""
        return self._api.presence(status, details, tags)

    def inbox(self, status: str = "pending") -> list[dict[str, Any]]:
        """``GET /my-jobs``: the jobs assigned to this worker name."""
        return self._api.jobs(status)

    def claim(self, job_id: int) -> dict[str, Any]:
        """``POST /jobs/ID/claim``: pending → running, with us as the assignee."""
        return cast(dict[str, Any], self._api.claim(job_id))

    def complete(self, job_id: int, result: str = "", status: str = "done") -> dict[str, Any]:
        """``POST /jobs/ID/close``: done, failed or escalated."""
        return cast(dict[str, Any], self._api.close(job_id, result, cast(Status, status)))

    def upload_artifact(
        self,
        data: bytes | BinaryIO,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | None = None,
        expires_at: str | None = None,
    ) -> dict[str, Any]:
        """``POST /artifacts/upload``: a file; the answer has ``slug``, ``url``, ``content_type``, ``size_bytes``."""
        return self._api.upload(
            data,
            content_type=content_type,
            filename=filename,
            job_id=job_id,
            review_id=review_id,
            expires_at=expires_at,
        )

    def submit_review(
        self,
        type: str,
        title: str,
        content: str,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
    ) -> dict[str, Any]:
        """``POST /review``: an item for the human-review queue."""
        return self._api.review(type, title, content, preview=preview, target=target, job_id=job_id)

    def run(
        self,
        handler: Callable[[dict[str, Any]], Any],
        on_error: Callable[[dict[str, Any], Exception], Any] | None = None,
    ) -> None:
        """The SDK's blocking loop: presence, then each pending job: claim → ``handler(job)`` → close.

        Presence goes on while a handler runs. No answer of the server ends the loop, and a close that
        fails is repeated: it never makes a finished job a failed one. KeyboardInterrupt ends it.

        Args:
            handler: called with the job; its return value is the result. An exception fails the job, with
                the traceback as its output.
            on_error: called with the job and that exception.
        """
        _Run(self, handler, on_error).forever()


class _Run:
    """One :meth:`Worker.run`."""

    def __init__(
        self,
        worker: Worker,
        handler: Callable[[dict[str, Any]], Any],
        on_error: Callable[[dict[str, Any], Exception], Any] | None,
    ) -> None:
        self._worker = worker
        self._handler = handler
        self._on_error = on_error
        self._ended = threading.Event()

    def forever(self) -> None:
        worker = self._worker
        logger.info("%s starting — polling %s every %ss", worker.name, worker.url, worker.poll_interval)
        threading.Thread(target=self._presence, name="modelreins-presence", daemon=True).start()
        failures = 0
        try:
            while True:
                try:
                    jobs = worker.inbox()
                    failures = 0
                except WorkerError as error:
                    failures += 1
                    pause = max(backoff(failures, first=worker.poll_interval, most=60.0), error.retry_after or 0.0)
                    logger.warning("transient error: %s (retry in %.1fs)", error, pause)
                    self._ended.wait(pause)
                    continue
                for job in jobs:
                    self._take(job)
                if not jobs:
                    self._ended.wait(worker.poll_interval)
        except KeyboardInterrupt:
            logger.info("interrupted")
        finally:
            self._ended.set()

    def _presence(self) -> None:
        while not self._ended.is_set():
            try:
                self._worker.heartbeat()
            except WorkerError as error:
                logger.warning("presence not reported: %s", error)
            self._ended.wait(self._worker.poll_interval)

    def _take(self, job: dict[str, Any]) -> None:
        job_id = job["id"]
        try:
            self._worker.claim(job_id)
        except WorkerError as error:
            logger.info("claim skipped id=%s: %s", job_id, error)
            return
        try:
            result = str(self._handler(job) or "")
        except Exception as error:
            text = "".join(traceback.format_exception(error)).strip()
            self._close(job_id, text, "failed")
            if self._on_error is not None:
                self._report(job, error)
        else:
            self._close(job_id, result, "done")

    def _report(self, job: dict[str, Any], error: Exception) -> None:
        assert self._on_error is not None  # noqa: S101 - the caller has looked
        try:
            self._on_error(job, error)
        except Exception:
            logger.exception("on_error raised id=%s", job["id"])

    def _close(self, job_id: int, result: str, status: str) -> None:
        deadline = time.monotonic() + CLOSE_PATIENCE
        failures = 0
        while True:
            try:
                self._worker.complete(job_id, result, status)
                logger.info("%s id=%s", status, job_id)
                return
            except WorkerError as error:
                failures += 1
                if failures > 1 and error.status == 409:
                    logger.info("%s id=%s (an earlier close got through)", status, job_id)
                    return
                pause = max(backoff(failures, first=1.0, most=60.0), error.retry_after or 0.0)
                if not error.retryable or time.monotonic() + pause > deadline:
                    logger.error("close failed id=%s: %s", job_id, error)  # noqa: TRY400 - the request says it all
                    return
                logger.warning("close failed id=%s: %s (retry in %.1fs)", job_id, error, pause)
                self._ended.wait(pause)
