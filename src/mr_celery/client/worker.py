"""The SDK's worker object, on a transport that holds out."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..errors import WorkerError
from .api import Api
from .polling import Handler, OnError, Polling


class Worker:
    """Drop-in for ``modelreins_worker.Worker``: same parameters, attributes, methods and return values.

    What differs is what happens when things go wrong: every failure is a `WorkerError`; the token never
    leaves for another host; an inbox that is no list of jobs is an error and not empty; and see `run`.

    Args:
        token: the worker's token; else ``MODELREINS_TOKEN``.
        url: the server's address; else ``MODELREINS_URL``, else ``https://app.modelreins.com``.
        name: the worker's name; else host name and process id.
        poll_interval: seconds between two looks into an empty inbox.
        timeout: seconds to wait for each part of an answer.

    Raises:
        WorkerError: there is no token, or it or the address cannot be used.

    Example::

        from mr_celery import Worker

        Worker(name="summarizer").run(lambda job: job["prompt"].upper())
    """

    def __init__(
        self,
        token: str | None = None,
        url: str | None = None,
        name: str | None = None,
        poll_interval: float = 5.0,
        timeout: float = 30.0,
    ) -> None:
        token = token or os.environ.get("MODELREINS_TOKEN")
        if not token:
            raise WorkerError("No token — pass token=... or set MODELREINS_TOKEN")
        self.token = token
        """The worker's token."""
        self.url = (url or os.environ.get("MODELREINS_URL") or "https://app.modelreins.com").rstrip("/")
        """The server's address, without a slash at its end."""
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        """The worker's name."""
        self.poll_interval = poll_interval
        """Seconds between two looks into an empty inbox."""
        self.timeout = timeout
        """Seconds to wait for each part of an answer."""
        self._made: tuple[tuple[str, str, str, float], Api] | None = None
        self.url = self._api().url

    def __repr__(self) -> str:
        return f"Worker(url={self.url!r}, name={self.name!r})"

    def _api(self) -> Api:
        """The server; a new one when an attribute was changed."""
        key = (self.url, self.token, self.name, self.timeout)
        made = self._made
        if made is None or made[0] != key:
            made = self._made = (key, Api(self.url, self.token, self.name, timeout=self.timeout))
        return made[1]

    def heartbeat(self, status: str = "active", details: str | None = None, tags: str | None = None) -> dict[str, Any]:
        """Tell the server that the worker is there."""
        return self._api().presence(status, details, tags)

    def inbox(self, status: str = "pending") -> list[dict[str, Any]]:
        """The jobs assigned to this worker in that status."""
        return list(self._api().jobs(status).jobs)

    def claim(self, job_id: int) -> dict[str, Any]:
        """Take a pending job: it is running then, and ours."""
        return self._api().claim(job_id)

    def complete(self, job_id: int, result: str = "", status: str = "done") -> dict[str, Any]:
        """Close a job as ``done``, ``failed`` or ``escalated``."""
        return self._api().close(job_id, result, status)

    def upload_artifact(
        self,
        data: bytes,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | None = None,
        expires_at: str | None = None,
    ) -> dict[str, Any]:
        """Upload a file. Returns ``slug``, ``url`` (a path under `url`), ``content_type``, ``size_bytes``."""
        return self._api().upload(
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
        """Queue something for a human's approval."""
        return self._api().review(type, title, content, preview=preview, target=target, job_id=job_id)

    def run(self, handler: Handler, on_error: OnError | None = None) -> None:
        """Work on jobs until interrupted: claim, handler, close, one after the other.

        As the SDK's, except that presence continues while a handler runs; that no answer of the server
        ends it, but it waits longer after each failure in a row; that a finished job stays finished
        however often its close has to be tried; and that a failed job's output is the whole traceback.

        Args:
            handler: takes a job, returns its result. What it raises fails the job.
            on_error: called with the job and the exception after a failed job is closed.
        """
        Polling(self, handler, on_error).run()
