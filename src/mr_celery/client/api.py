"""The server's requests as typed functions, one for each request of the worker protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

from .. import tracing
from ..errors import WorkerError
from ..job import MAX_JOB_ID
from ..version import __version__
from .http import Transport
from .parts import form

logger = logging.getLogger("mr_celery")

UPLOAD_TIMEOUT = 120.0
"""Seconds that an upload waits at least."""

TERMINAL = ("done", "failed", "escalated")
"""The statuses of a job that is over (product documentation)."""

STATUSES = ("pending", "running", *TERMINAL)

NOT_KNOWN = (300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405)
"""Statuses with which a server tells that a worker cannot ask for a single job."""


@dataclass(frozen=True)
class Listing:
    """What the server lists of a worker's jobs in one status.

    Args:
        jobs: the entries that can be worked with, each with an integer ``id``.
        whole: whether that was all of it: then a job that is not in ``jobs`` was not listed. It is not whole if an
            entry had no usable id, or a status that there is not.
    """

    jobs: tuple[dict[str, Any], ...]
    whole: bool = True

    @property
    def ids(self) -> frozenset[int]:
        """The ids of the jobs."""
        return frozenset(job["id"] for job in self.jobs)


class Api:
    """The server, on behalf of one worker name.

    Args:
        url: the server's address.
        token: the worker's token.
        name: the worker's name.
        timeout: seconds to wait for each part of an answer.
        on_error: called with each error that a request ends with.

    Raises:
        WorkerError: the address or the token cannot be used.

    Example::

        api = Api("https://app.modelreins.com", token, "render-1")
        for job in api.jobs("pending"):
            api.claim(job["id"])
            api.close(job["id"], "rendered", "done")
    """

    def __init__(
        self,
        url: str,
        token: str,
        name: str,
        *,
        timeout: float = 30.0,
        on_error: Callable[[WorkerError], object] = lambda error: None,
    ) -> None:
        self._on_error = on_error
        self.name = name
        """The worker's name."""
        agent = f"mr-celery/{__version__} ({quote(name, safe=' :@', errors='replace')})"
        self._transport = Transport(url, token, agent, timeout)
        self.url = self._transport.url
        """The server's address, without a slash at its end."""

    def __repr__(self) -> str:
        return f"Api({self.url!r}, name={self.name!r})"

    @contextmanager
    def _route(self, route: str) -> Iterator[None]:
        """Around a request of that kind: its error says so."""
        try:
            yield
        except WorkerError as error:
            error.route = route
            self._on_error(error)
            raise

    def presence(self, status: str = "active", details: str | None = None, tags: str | None = None) -> dict[str, Any]:
        """``PUT /presence``: tell that the worker is there.

        Args:
            status: ``active``, ``idle`` or ``busy``.
            details: what to show with it.
            tags: separated by commas.
        """
        body = {
            "instance": self.name,
            "status": status,
            "details": details,
            "tags": tags,
            "worker_type": "silicon",
        }
        with self._route("presence"):
            return _mapping("PUT /presence", self._transport.request("PUT", "/presence", json=body))

    def jobs(self, status: str = "pending") -> Listing:
        """``GET /my-jobs``: the jobs assigned to the worker in that status.

        An entry without a usable id is left out, as is one that says itself that its status is another.

        Args:
            status: ``pending``, ``running``, or a final one.

        Raises:
            WorkerError: there is no answer, or it is no list of jobs.
        """
        with self._route("inbox"):
            answer = self._transport.request("GET", "/my-jobs", params={"worker": self.name, "status": status})
            listed = answer.get("jobs") if isinstance(answer, dict) else None
            if not isinstance(listed, list):
                raise WorkerError(
                    f'GET /my-jobs -> 200: not {{"jobs": […]}} but {_shape(answer)}', status=200, retryable=True
                )
        fitting, unusable, whole = [], 0, True
        for job in listed:  # there may be very many: each is looked at once, and not copied without need
            job_id = _job_id(job)
            if job_id is None:
                unusable += 1
                continue
            told = job.get("status")
            if told != status:
                whole = whole and _status_known(told)
                if isinstance(told, str):
                    continue
            fitting.append(job if job["id"] is job_id else {**job, "id": job_id})
        if unusable:
            logger.warning("GET /my-jobs: %d entries without a usable id left out", unusable)
        return Listing(tuple(fitting), whole=whole and not unusable)

    def claim(self, job_id: int) -> dict[str, Any]:
        """``POST /jobs/ID/claim``: pending → running, for this worker.

        Raises:
            WorkerError: somebody else has the job, or it is not pending any more, or there is no answer.
        """
        with self._route("claim"):
            return _anything(self._transport.request("POST", f"{_path(job_id)}/claim", json={"worker": self.name}))

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        """``POST /jobs/ID/close``: running → a final status.

        Args:
            job_id: the job.
            result: its output.
            status: ``done``, ``failed`` or ``escalated``.

        Raises:
            WorkerError: the job is not running any more, or there is no answer.
        """
        body = {"result": result, "status": status}
        with self._route("close"), self._traced("close", job_id, "/jobs/{id}/close"):
            return _anything(self._transport.request("POST", f"{_path(job_id)}/close", json=body))

    def upload(
        self,
        source: bytes | BinaryIO,
        *,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | None = None,
        expires_at: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """``POST /artifacts/upload``: upload a file. Returns ``slug``, ``url``, ``size_bytes``, …

        Args:
            source: bytes, or a binary file, which is streamed from where it stands to its end.
            content_type: the media type.
            filename: its name; without one it is made from the media type.
            job_id: the job it belongs to.
            review_id: the review it belongs to.
            expires_at: when it is deleted, as the server reads times.
            idempotency_key: the same for each try of the same upload.

        Raises:
            WorkerError: it is refused, or there is no answer.
        """
        with (
            self._route("upload"),
            self._traced("upload", job_id, "/artifacts/upload") as span,
            form(source, content_type, filename, job_id=job_id, review_id=review_id, expires_at=expires_at) as body,
        ):
            span.set({"http.request.body.size": body.len})
            answer = self._transport.request(
                "POST",
                "/artifacts/upload",
                data=body,
                headers={"Content-Type": body.content_type, **_idempotency(idempotency_key)},
                timeout=max(self._transport.timeout, UPLOAD_TIMEOUT),
            )
            return _mapping("POST /artifacts/upload", answer)

    def review(
        self,
        type: str,
        title: str,
        content: str,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """``POST /review``: queue something for a human's approval. Returns its ``id`` and ``status``.

        Args:
            type: what it is, for instance ``email``.
            title: its headline.
            content: what to approve.
            preview: what to show of it.
            target: where it goes when approved.
            job_id: the job it belongs to.
            idempotency_key: the same for each try of the same review.

        Raises:
            WorkerError: it is refused, or there is no answer.
        """
        body = {
            "type": type,
            "title": title,
            "content": content,
            "preview": preview,
            "target": target,
            "job_id": job_id,
            "created_by": f"worker:{self.name}",
        }
        headers = _idempotency(idempotency_key)
        with self._route("review"), self._traced("review", job_id, "/review"):
            return _mapping("POST /review", self._transport.request("POST", "/review", json=body, headers=headers))

    def job(self, job_id: int) -> dict[str, Any] | None:
        """``GET /jobs/ID``: one job with its status; ``None`` where the server does not tell it to a worker.

        Raises:
            WorkerError: there is no answer, or the server is in trouble.
        """
        with self._route("job"):
            try:
                answer = self._transport.request("GET", _path(job_id))
            except WorkerError as error:
                if error.status in NOT_KNOWN or (error.status is not None and error.status < 300):
                    return None
                raise
        return answer if isinstance(answer, dict) else None

    def _traced(
        self, name: Literal["upload", "review", "close"], job_id: int | None, path: str
    ) -> AbstractContextManager[tracing.Span]:
        """A span around a request that brings the server something of a job."""
        return tracing.request(name, self.name, job_id, method="POST", server=self.url, path=path)


def _path(job_id: int) -> str:
    return f"/jobs/{quote(str(job_id), safe='')}"


def _idempotency(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _anything(answer: object) -> dict[str, Any]:
    """The answer where any will do."""
    return answer if isinstance(answer, dict) else {}


def _mapping(call: str, answer: object) -> dict[str, Any]:
    """The answer where it has to be an object.

    Raises:
        WorkerError: it is none.
    """
    if not isinstance(answer, dict):
        raise WorkerError(f"{call} -> 200: not a JSON object but {_shape(answer)}", status=200, retryable=True)
    return answer


def _shape(answer: object) -> str:
    """What an answer is, in a few words and without its contents."""
    if isinstance(answer, dict):
        fields = ", ".join(sorted(map(repr, answer))[:5])
        return f"an object with {fields[:100]}" if fields else "an empty object"
    return "null" if answer is None else type(answer).__name__


def _status_known(status: object) -> bool:
    """Whether an entry's status is one that there is, or is not told."""
    return status is None or status in STATUSES


def _job_id(job: object) -> int | None:
    """The id of an entry of the inbox, if it has one that can be worked with."""
    job_id = job.get("id") if isinstance(job, dict) else None
    if isinstance(job_id, str) and job_id.isascii() and job_id.isdigit() and len(job_id) <= 19:
        job_id = int(job_id)
    usable = isinstance(job_id, int) and not isinstance(job_id, bool) and 0 <= job_id <= MAX_JOB_ID
    return job_id if usable else None
