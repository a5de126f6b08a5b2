"""Dispatches jobs as a user of the server, with a user's API key or a token that may dispatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import WorkerError
from ..version import __version__
from .address import absolute
from .api import job_path
from .transport import Transport

DISPATCH = "/dispatch"


class Dispatcher:
    """Client of the routes for users.

    Args:
        url: the server's address.
        token: a user's API key, or another token that may dispatch.
        timeout: seconds to wait for each part of a response.

    Raises:
        WorkerError: the address or the token is invalid.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 30.0) -> None:
        self._transport = Transport(url, token, f"mr-celery/{__version__}", timeout, called="the API key")

    def dispatch(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /dispatch``: create a pending job. Returns the job, with its integer ``id``.

        Args:
            fields: the job's fields: ``prompt``, ``worker``, and any further ones.

        Raises:
            WorkerError: the server refused it, or there was no response with a job.
        """
        needed = ("job", "id", "job_id")
        answer = self._transport.request("POST", DISPATCH, json=dict(fields), needed=needed)
        job = answer.get("job", answer) if isinstance(answer, dict) else None
        job_id = job.get("id", job.get("job_id")) if isinstance(job, dict) else None
        if isinstance(job_id, str) and job_id.isascii() and job_id.isdigit():
            job_id = int(job_id)
        if not isinstance(job, dict) or not isinstance(job_id, int):
            raise WorkerError(f"POST {DISPATCH} -> 200: the response names no job", status=200)
        return {**job, "id": job_id}

    def job(self, job_id: int) -> dict[str, Any]:
        """``GET /jobs/ID``: read a job with its status and output. An output that is too long is not shown.

        Raises:
            WorkerError: the server refused it, or there was no response with a job.
        """
        path = job_path(job_id)
        problems: dict[str, str] = {}
        needed = ("job", "id", "status", "result", "output")
        answer = self._transport.request("GET", path, needed=needed, problems=problems)
        job = answer.get("job", answer) if isinstance(answer, dict) else None
        if not isinstance(job, dict):
            raise WorkerError(f"GET {path} -> 200: the response is not a job", status=200, retryable=True)
        for name, problem in problems.items():
            job = {**job, "result" if name == "job" else name: f"(not shown: {problem})"}
        return job

    def artifacts(self, job_id: int) -> list[str] | None:
        """``GET /artifacts``: the addresses of a job's artifacts; ``None`` if the server has no such list.

        Raises:
            WorkerError: there was no response, or the server failed.
        """
        try:
            answer = self._transport.request("GET", "/artifacts", params={"job_id": str(job_id)}, needed=("artifacts",))
        except WorkerError as error:
            if error.retryable:
                raise
            return None
        listed = answer.get("artifacts") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            return None
        found = (each.get("url") for each in listed if isinstance(each, dict) and each.get("job_id") == job_id)
        return [self.address(url) for url in found if isinstance(url, str)]

    def address(self, path: str) -> str:
        """The absolute address of a path on the server."""
        return absolute(self._transport.url, path) or path

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
