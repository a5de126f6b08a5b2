"""The requests of the worker protocol as typed methods."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Literal, Protocol, TypeVar
from urllib.parse import quote

from ..errors import WorkerError
from ..telemetry import tracing
from ..version import __version__
from .job_list import LeftOut, Listing, PartialList, Reader, Take, keep_nothing, shape_of
from .list_parser import NotAList
from .multipart import form
from .token import Token
from .transport import MIN_RATE, Transport

logger = logging.getLogger("mr_celery")

UPLOAD_TIMEOUT = 120.0
"""Minimum timeout of an upload in seconds."""

NOT_KNOWN = (300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405)
"""Statuses of a server that does not let workers read a single job."""


T = TypeVar("T")


def job_path(job_id: int) -> str:
    """The path of a job under the server's address."""
    return f"/jobs/{quote(str(job_id), safe='')}"


def job_address(url: str, job_id: int) -> str:
    """The address under which the server has a job, with its output."""
    return url + job_path(job_id)


class Refusals(Protocol):
    """Decides whether a refused token may be tried.

    Attributes:
        sure: the id of a token that is not known to be refused (empty if there is none), and the monotonic time, in
            seconds, until which to rely on it. Until then, :meth:`before` need not be called for this token.
            :meth:`accepted` need not be called at all while its id stands here.
    """

    sure: tuple[str, float]

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

    A response of more than 64 KiB, other than a list, is not parsed as a whole: only the needed members are read.

    Args:
        url: the server's address.
        token: the worker's token.
        name: the worker's name.
        timeout: seconds to wait for each part of a response.
        on_error: called with the error of each failed request.
        on_success: called after each other request.
        refusals: decides whether a refused token may be tried, for all processes; ``None``: always.
        min_rate: bytes per second at which the server must read a request that takes longer than its timeout.

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
        self._token = token if isinstance(token, Token) else Token(token)
        self._transport = Transport(url, self._token, agent, timeout, min_rate=min_rate)
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
        """The ``Date`` of the server's last response; empty if there was none."""
        return self._transport.date

    def _request(self, route: str, send: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Make a request, unless its token was refused and must not be tried again yet.

        Args:
            route: the kind of request, which its error gets.
            send: sends it, with the other arguments.

        Raises:
            WorkerError: the request was not sent, or failed.
        """
        refusals, trying = self._refusals, False
        if refusals is not None:
            token_id, until = refusals.sure
            if token_id != self._token.id or time.monotonic() >= until:
                trying = refusals.before(self.token_id, route)
        try:
            answer = send(*arguments, **options)
        except WorkerError as error:
            error.route = route
            if refusals is not None and error.unauthorized:
                refusals.refused(self.token_id, error, trying=trying)
            self._on_error(error)
            raise
        if refusals is not None and refusals.sure[0] != self._token.id:
            refusals.accepted(self.token_id, route)
        self._on_success()
        return answer

    def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The response to a request, which must be an object.

        Raises:
            WorkerError: it is another value; or there was no response.
        """
        answer = self._transport.request(method, path, **options)
        if isinstance(answer, dict):
            return answer
        fault = f"not a JSON object but {shape_of(answer)}"
        error = WorkerError(f"{method} {path} -> 200: {fault}", status=200, retryable=True)
        error.fault = fault
        raise error

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
        return self._request("presence", self._object, "PUT", "/presence", json=body)

    def jobs(
        self, status: str = "pending", *, take: Take | None = None, about: Collection[int] | None = None
    ) -> Listing:
        """``GET /my-jobs``: list the worker's jobs in one status.

        The response is read entry by entry, so that only entries that are kept need memory. An unusable entry is left
        out and logged once. Without ``take``, the list keeps up to 10,000 entries in up to 16 MiB, and ``count`` counts
        all of them.

        Args:
            status: ``pending``, ``running``, or a final one.
            take: called with each entry in that status; the list then does not keep it.
            about: the jobs whose status is needed; default: all.

        Raises:
            PartialList: the response broke off after its first entries.
            WorkerError: there was no response, or it was not a list of jobs.
        """
        reader = Reader(status, take, about)
        self._request("inbox", self._read_list, reader, status, by_caller=take not in (None, keep_nothing))
        return reader.listing()

    def _read_list(self, reader: Reader, status: str, *, by_caller: bool) -> None:
        try:
            self._transport.request("GET", "/my-jobs", params={"worker": self.name, "status": status}, read=reader.read)
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
            if by_caller:
                self._left_out.log(status, reader.refused, by="caller")

    def claim(self, job_id: int) -> dict[str, Any]:
        """``POST /jobs/ID/claim``: claim a pending job for this worker.

        Raises:
            WorkerError: another worker has the job, it is no longer pending, or there was no response.
        """
        path, body = f"{job_path(job_id)}/claim", {"worker": self.name}
        answer = self._request("claim", self._transport.request, "POST", path, json=body)
        return answer if isinstance(answer, dict) else {}

    def close(self, job_id: int, result: str, status: str) -> dict[str, Any]:
        """``POST /jobs/ID/close``: close a running job with a final status.

        Args:
            job_id: the job.
            result: its output.
            status: ``done``, ``failed`` or ``escalated``.

        Raises:
            WorkerError: the job is not running, or there was no response.
        """
        answer = self._request("close", self._close, job_id, {"result": result, "status": status})
        return answer if isinstance(answer, dict) else {}

    def _close(self, job_id: int, body: dict[str, Any]) -> Any:
        with self._traced("close", job_id, "/jobs/{id}/close"):
            return self._transport.request("POST", f"{job_path(job_id)}/close", json=body)

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
            WorkerError: the server refused it, or there was no response.
        """
        about = {"job_id": job_id, "review_id": review_id, "expires_at": expires_at}
        return self._request(
            "upload", self._upload, source, content_type, filename, _idempotency(idempotency_key), **about
        )

    def _upload(
        self,
        source: bytes | BinaryIO,
        content_type: str,
        filename: str | None,
        headers: dict[str, str],
        *,
        job_id: int | None,
        **about: Any,
    ) -> dict[str, Any]:
        with (
            self._traced("upload", job_id, "/artifacts/upload") as span,
            form(source, content_type, filename, job_id=job_id, **about) as body,
        ):
            span.set({"http.request.body.size": body.len})
            return self._object(
                "POST",
                "/artifacts/upload",
                data=body,
                headers={"Content-Type": body.content_type, **headers},
                timeout=max(self._transport.timeout, UPLOAD_TIMEOUT),
                needed=("slug", "url"),
            )

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
            WorkerError: the server refused it, or there was no response.
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
        return self._request("review", self._review, job_id, body, _idempotency(idempotency_key))

    def _review(self, job_id: int | None, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        with self._traced("review", job_id, "/review"):
            return self._object("POST", "/review", json=body, headers=headers, needed=("id", "status"))

    def job(self, job_id: int) -> dict[str, Any] | None:
        """``GET /jobs/ID``: read one job with its status; ``None`` if the server does not let workers read it.

        Of a job longer than 64 KiB, only the status is returned.

        Raises:
            WorkerError: there was no response, or the server failed.
        """
        answer = self._request("job", self._read_job, job_id)
        return answer if isinstance(answer, dict) else None

    def _read_job(self, job_id: int) -> Any:
        try:
            return self._transport.request("GET", job_path(job_id), needed=("status",))
        except WorkerError as error:
            if error.status in NOT_KNOWN or (error.status is not None and error.status < 300):
                return None
            raise

    def _traced(
        self, name: Literal["upload", "review", "close"], job_id: int | None, path: str
    ) -> AbstractContextManager[tracing.Span]:
        """The trace span of a request that delivers a part of a job."""
        return tracing.request(name, self.name, job_id, method="POST", server=self.url, path=path)


def _idempotency(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
