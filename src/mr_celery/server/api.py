"""The requests of the worker protocol as typed methods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, BinaryIO, Literal, Protocol
from urllib.parse import quote

from ..errors import WorkerError
from ..telemetry import tracing
from ..version import __version__
from .address import job_path
from .answers import read_answer
from .job_list import LeftOut, Listing, PartialList, Reader, Take, keep_nothing, shape_of
from .list_parser import NotAList
from .multipart import form
from .token import Token
from .transport import MIN_RATE, READ_BYTES, Transport

logger = logging.getLogger("mr_celery")

UPLOAD_TIMEOUT = 120.0
"""Minimum time-out of an upload in seconds."""

NOT_KNOWN = (300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405)
"""Statuses of a server that does not let workers read a single job."""


class Refusals(Protocol):
    """Decides whether a refused token may be tried."""

    def before(self, token_id: str, route: str) -> bool:
        """Check that a request may be sent. Returns whether it tries a refused token.

        Raises:
            WorkerError: it must not be sent.
        """
        ...  # pragma: no cover

    def refused(self, token_id: str, error: WorkerError, *, trying: bool) -> None:
        """Record that the server refused the token."""

    def accepted(self, token_id: str, route: str) -> None:
        """Record that the server accepted the token."""


class Api:
    """Client of the server for one worker name.

    An answer of more than 64 KiB, other than a list, is not parsed. It is then reduced to the members that are needed.

    Args:
        url: the server's address.
        token: the worker's token.
        name: the worker's name.
        timeout: seconds to wait for each part of an answer.
        on_error: called with the error of each failed request.
        on_success: called after each other request.
        refusals: decides whether a refused token may be tried, for all processes; ``None``: always.
        min_rate: bytes per second at which the server must read a request that takes longer than its time-out.

    Raises:
        WorkerError: the address or the token is invalid.

    Example::

        api = Api("https://app.modelreins.com", token, "render-1")
        for job in api.jobs("pending"):
            api.claim(job["id"])
            api.close(job["id"], "rendered", "done")
    """

    def __init__(
        self,
        url: str,
        token: str | Token,
        name: str,
        *,
        timeout: float = 30.0,
        on_error: Callable[[WorkerError], object] = lambda error: None,
        on_success: Callable[[], object] = lambda: None,
        refusals: Refusals | None = None,
        min_rate: float = MIN_RATE,
    ) -> None:
        self._refusals = refusals
        self._on_error = on_error
        self._on_success = on_success
        self._left_out = LeftOut(name)
        self.name = name
        """The worker's name."""
        agent = f"mr-celery/{__version__} ({quote(name, safe=' :@', errors='replace')})"
        self._transport = Transport(url, token, agent, timeout, min_rate=min_rate)
        self.url = self._transport.url
        """The server's address, without a slash at its end."""

    def __repr__(self) -> str:
        return f"Api({self.url!r}, name={self.name!r})"

    @property
    def token_id(self) -> str:
        """Identifies the token that the next request has, among those of the worker name."""
        return self._transport.token_id

    @property
    def date(self) -> str:
        """The ``Date`` of the server's last answer; empty if there was none."""
        return self._transport.date

    @contextmanager
    def _route(self, route: str) -> Iterator[None]:
        """Context manager that adds the kind of request to its error, and keeps from trying a refused token often.

        Raises:
            WorkerError: the request was not sent, or failed.
        """
        refusals = self._refusals
        trying = refusals is not None and refusals.before(self.token_id, route)
        try:
            yield
        except WorkerError as error:
            error.route = route
            if refusals is not None and error.unauthorized:
                refusals.refused(self.token_id, error, trying=trying)
            self._on_error(error)
            raise
        if refusals is not None:
            refusals.accepted(self.token_id, route)
        self._on_success()

    def presence(
        self,
        status: str = "active",
        details: str | None = None,
        tags: str | None = None,
        *,
        provider: str | None = None,
    ) -> dict[str, Any]:
        """``PUT /presence``: report the worker's presence.

        Args:
            status: ``active``, ``idle`` or ``busy``.
            details: text to show with it.
            tags: tags, separated by commas.
            provider: the model provider that the worker uses; it is left out if it is ``None``.
        """
        body = {
            "instance": self.name,
            "status": status,
            "details": details,
            "tags": tags,
            "worker_type": "silicon",
        }
        if provider is not None:
            body["provider"] = provider
        with self._route("presence"):
            return _mapping("PUT /presence", self._transport.request("PUT", "/presence", json=body))

    def jobs(
        self, status: str = "pending", *, take: Take | None = None, about: Collection[int] | None = None
    ) -> Listing:
        """``GET /my-jobs``: list the worker's jobs in one status.

        The answer is read entry by entry, so that only entries that are kept need memory. An unusable entry is left out
        and logged once. Without ``take``, the list keeps up to 10,000 entries in up to 16 MiB, and ``count`` counts
        all of them.

        Args:
            status: ``pending``, ``running``, or a final one.
            take: called with each entry in that status; the list then does not keep it.
            about: the jobs whose status is needed; default: all.

        Raises:
            PartialList: the answer broke off after its first entries.
            WorkerError: there was no answer, or it was not a list of jobs.
        """
        reader = Reader(status, take, about)
        with self._route("inbox"):
            try:
                self._transport.request(
                    "GET",
                    "/my-jobs",
                    params={"worker": self.name, "status": status},
                    read=reader.read,
                    chunk_bytes=READ_BYTES,
                )
            except NotAList as other:
                error = WorkerError(
                    f'GET /my-jobs -> 200: not {{"jobs": […]}} but {other.shape}', status=200, retryable=True
                )
                error.fault = f'not {{"jobs": […]}} but {other.shape.partition(" with ")[0]}'
                raise error from None
            except WorkerError as error:
                if not reader.entries:
                    raise
                raise PartialList(error, reader.listing(whole=False)) from None
            finally:
                self._left_out.log(status, reader.left_out, by="list")
                if take not in (None, keep_nothing):
                    self._left_out.log(status, reader.refused, by="caller")
        return reader.listing()

    def claim(self, job_id: int) -> dict[str, Any]:
        """``POST /jobs/ID/claim``: claim a pending job for this worker.

        Raises:
            WorkerError: another worker has the job, it is no longer pending, or there was no answer.
        """
        with self._route("claim"):
            return _anything(self._transport.request("POST", f"{job_path(job_id)}/claim", json={"worker": self.name}))

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        """``POST /jobs/ID/close``: close a running job with a final status.

        Args:
            job_id: the job.
            result: its output.
            status: ``done``, ``failed`` or ``escalated``.

        Raises:
            WorkerError: the job is not running, or there was no answer.
        """
        body = {"result": result, "status": status}
        with self._route("close"), self._traced("close", job_id, "/jobs/{id}/close"):
            return _anything(self._transport.request("POST", f"{job_path(job_id)}/close", json=body))

    def upload(
        self,
        source: bytes | BinaryIO,
        *,
        content_type: str,
        filename: str | None = None,
        job_id: int | None = None,
        review_id: int | str | None = None,
        expires_at: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """``POST /artifacts/upload``: upload a file. Returns ``slug``, ``url``, ``size_bytes``, …

        Args:
            source: bytes, or a binary file, which is streamed from its position to its end.
            content_type: the media type.
            filename: the file name; by default it is derived from the media type.
            job_id: the job to link it to.
            review_id: the review to link it to.
            expires_at: time after which the server deletes it, in the server's format.
            idempotency_key: the same for each attempt of one upload.

        Raises:
            WorkerError: the server refused it, or there was no answer.
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
                read=partial(read_answer, needed=("slug", "url")),
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
        """``POST /review``: queue an item for a human's approval. Returns its ``id`` and ``status``.

        Args:
            type: the kind of item, for instance ``email``.
            title: the headline.
            content: the text to review.
            preview: slug or address to show with it.
            target: destination once approved.
            job_id: the job to link it to.
            idempotency_key: the same for each attempt of one review.

        Raises:
            WorkerError: the server refused it, or there was no answer.
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
            read = partial(read_answer, needed=("id", "status"))
            answer = self._transport.request("POST", "/review", json=body, headers=headers, read=read)
            return _mapping("POST /review", answer)

    def job(self, job_id: int) -> dict[str, Any] | None:
        """``GET /jobs/ID``: read one job with its status; ``None`` if the server does not let workers read it.

        A long job has only its status.

        Raises:
            WorkerError: there was no answer, or the server failed.
        """
        with self._route("job"):
            try:
                answer = self._transport.request("GET", job_path(job_id), read=partial(read_answer, needed=("status",)))
            except WorkerError as error:
                if error.status in NOT_KNOWN or (error.status is not None and error.status < 300):
                    return None
                raise
        return answer if isinstance(answer, dict) else None

    def _traced(
        self, name: Literal["upload", "review", "close"], job_id: int | None, path: str
    ) -> AbstractContextManager[tracing.Span]:
        """The trace span of a request that delivers a part of a job."""
        return tracing.request(name, self.name, job_id, method="POST", server=self.url, path=path)


def _idempotency(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _anything(answer: object) -> dict[str, Any]:
    """The answer as an object; empty if it is another value."""
    return answer if isinstance(answer, dict) else {}


def _mapping(call: str, answer: object) -> dict[str, Any]:
    """The answer, which must be an object.

    Raises:
        WorkerError: it is another value.
    """
    if not isinstance(answer, dict):
        error = WorkerError(f"{call} -> 200: not a JSON object but {shape_of(answer)}", status=200, retryable=True)
        error.fault = f"not a JSON object but {shape_of(answer)}"
        raise error
    return answer
