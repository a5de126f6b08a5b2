"""A drop-in for the SDK's worker object that survives failures of the server."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..errors import WorkerError
from ..server.api import Api
from ..telemetry.tracebacks import hides_variables
from .loop import Handler, OnError, Polling


class Worker:
    """Drop-in for ``modelreins_worker.Worker``: same parameters, attributes, methods and return values.

    Failures are handled differently. Each is a `WorkerError`. The token is never sent to another host. An inbox that is
    not a list of jobs is an error, and does not count as empty. `run` lists the differences of the loop.

    Args:
        token: the worker's token; default ``MODELREINS_TOKEN``.
        url: the server's address; default ``MODELREINS_URL``, else ``https://app.modelreins.com``.
        name: the worker's name; default host name and process id.
        poll_interval: seconds between two polls of an empty inbox.
        timeout: seconds to wait for each part of a response.

    Raises:
        WorkerError: the token is missing or invalid, or the address is invalid.

    Example::

        from mr_celery import Worker

        Worker(name="summarizer").run(lambda job: job["prompt"].upper())
    """

    @hides_variables
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
        """Seconds between two polls of an empty inbox."""
        self.timeout = timeout
        """Seconds to wait for each part of a response."""
        self._made: tuple[tuple[str, str, str, float], Api] | None = None
        self.url = self._api().url

    def __repr__(self) -> str:
        return f"Worker(url={self.url!r}, name={self.name!r})"

    def _api(self) -> Api:
        """The server's client, created again after an attribute was changed."""
        key = (self.url, self.token, self.name, self.timeout)
        made = self._made
        if made is None or made[0] != key:
            made = self._made = (key, Api(self.url, self.token, self.name, timeout=self.timeout))
        return made[1]

    @hides_variables
    def heartbeat(self, status: str = "active", details: str | None = None, tags: str | None = None) -> dict[str, Any]:
        """Report the worker's presence to the server."""
        return self._api().presence(status, details, tags)

    @hides_variables
    def inbox(self, status: str = "pending") -> list[dict[str, Any]]:
        """The jobs with a given status that are assigned to this worker."""
        return list(self._api().jobs(status, about=()).jobs)

    @hides_variables
    def claim(self, job_id: int) -> dict[str, Any]:
        """Claim a pending job for this worker. Its status becomes ``running``."""
        return self._api().claim(job_id)

    @hides_variables
    def complete(self, job_id: int, result: str = "", status: str = "done") -> dict[str, Any]:
        """Close a job as ``done``, ``failed`` or ``escalated``."""
        return self._api().close(job_id, result, status)

    @hides_variables
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

    @hides_variables
    def submit_review(
        self,
        type: str,
        title: str,
        content: str,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
    ) -> dict[str, Any]:
        """Queue an item for a human's approval."""
        return self._api().review(type, title, content, preview=preview, target=target, job_id=job_id)

    @hides_variables
    def run(self, handler: Handler, on_error: OnError | None = None) -> None:
        """Work on jobs one at a time until interrupted.

        It differs from the SDK's in four ways. Presence is reported while a handler runs. Errors of the server do not
        end the loop; it waits longer after each consecutive failure. A finished job is not run again if its close
        fails; the close is retried. A failed job's output is the whole traceback.

        Args:
            handler: takes a job and returns its result. An exception fails the job.
            on_error: called with the job and the exception once a failed job is closed.
        """
        Polling(self, handler, on_error).run()
