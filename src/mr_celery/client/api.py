"""The protocol's requests as functions (WIRE.md; official SDK 0.2.0)."""

from __future__ import annotations

import io
import logging
import mimetypes
import uuid
from collections.abc import Mapping
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from requests_toolbelt.multipart.encoder import MultipartEncoder

from ..errors import WorkerError
from ..job import MAX_JOB_ID
from ..result import Status
from .http import Transport

logger = logging.getLogger("mr_celery")

UPLOAD_TIMEOUT = 120.0
"""Seconds that an upload may take at least, as in the SDK."""


class Api:
    """The server, on behalf of one worker name.

    Args:
        url: the server's base URL.
        token: the worker token.
        name: the worker name.
        timeout: seconds that one request may take.

    Raises:
        WorkerError: the URL or the token is unusable. Every method raises it for every failed request.
    """

    def __init__(self, url: str, token: str, name: str, *, timeout: float = 30.0) -> None:
        self._transport = Transport(url, token, f"modelreins-worker-py/{name}", timeout)
        self._timeout = timeout
        self.url = self._transport.url
        self.name = name

    def __repr__(self) -> str:
        return f"<Api {self.url} as {self.name!r}>"

    def presence(self, status: str = "active", details: str | None = None, tags: str | None = None) -> dict[str, Any]:
        """``PUT /presence``: this worker name is here."""
        body = {
            "instance": self.name,
            "status": status,
            "details": details,
            "tags": tags,
            "worker_type": "silicon",
        }
        return self._object("PUT", "/presence", body)

    def jobs(self, status: str = "pending") -> list[dict[str, Any]]:
        """``GET /my-jobs``: the jobs of this worker name in a status, each with an integer ``id``.

        Jobs without a usable id are left out, and so are jobs in another status than the one asked for.

        Raises:
            WorkerError: also if the answer is no such list: it is never read as an empty one.
        """
        path = f"/my-jobs?worker={quote(self.name, safe='')}&status={quote(status, safe='')}"
        answer = self._transport.request("GET", path)
        listed = answer.get("jobs") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            kind = f"an object without a list of jobs ({_kinds(answer)})" if isinstance(answer, dict) else _kind(answer)
            raise WorkerError(f"GET /my-jobs -> answer is {kind}", retryable=True)
        usable = [job for job in map(_usable, listed) if job is not None]
        if len(usable) < len(listed):
            logger.warning("GET /my-jobs: %d entries without a usable id left out", len(listed) - len(usable))
        return [job for job in usable if job.get("status", status) == status]

    def claim(self, job_id: int) -> Any:
        """``POST /jobs/ID/claim``: pending → running; a 409 says it is somebody else's or not pending."""
        return self._transport.request("POST", f"/jobs/{job_id}/claim", body={"worker": self.name})

    def close(self, job_id: int, result: str, status: Status = "done") -> Any:
        """``POST /jobs/ID/close``: running → done, failed or escalated; a 409 says it is not running."""
        return self._transport.request("POST", f"/jobs/{job_id}/close", body={"result": result, "status": status})

    def job(self, job_id: int) -> dict[str, Any] | None:
        """``GET /jobs/ID`` (product documentation): the job; ``None`` where the server does not tell workers."""
        try:
            answer = self._transport.request("GET", f"/jobs/{job_id}")
        except WorkerError as error:
            if error.status in (400, 401, 403, 404, 405):
                return None
            raise
        return answer if isinstance(answer, dict) else None

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
        """``POST /artifacts/upload``: multipart, sent as it is read, so that a file is never in memory whole.

        Args:
            source: the bytes, or a binary file at its start.
            content_type: the media type.
            filename: default ``artifact.<ext>`` by the content type, as in the SDK.
            job_id: the job that the artifact belongs to.
            review_id: the review that it belongs to.
            expires_at: ISO 8601 time at which it may be deleted.
            idempotency_key: the same whenever the same upload is repeated.
        """
        if any(ord(character) < 32 for character in content_type):
            raise WorkerError("POST /artifacts/upload -> the content type has control characters in it")
        filename = filename or f"artifact{mimetypes.guess_extension(content_type) or '.bin'}"
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
        fields: dict[str, Any] = {"file": (_escaped(filename), file, content_type)}
        texts = (("job_id", job_id), ("review_id", review_id), ("filename", filename), ("expires_at", expires_at))
        fields.update({name: str(value) for name, value in texts if value is not None})
        encoder = MultipartEncoder(fields, boundary=f"----WorkerBoundary{uuid.uuid4().hex}")
        return self._object(
            "POST",
            "/artifacts/upload",
            stream=encoder,
            headers={"Content-Type": encoder.content_type, **_key(idempotency_key)},
            timeout=max(self._timeout, UPLOAD_TIMEOUT),
        )

    def review(
        self,
        type: str,
        title: str,
        content: str,
        *,
        preview: str | None = None,
        target: str | None = None,
        job_id: int | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """``POST /review``: an item for the human-review queue."""
        body = {
            "type": type,
            "title": title,
            "content": content,
            "preview": preview,
            "target": target,
            "job_id": job_id,
            "created_by": f"worker:{self.name}",
        }
        return self._object("POST", "/review", body, headers=_key(idempotency_key))

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        answer = self._transport.request(method, path, body=body, **options)
        if not isinstance(answer, dict):
            raise WorkerError(f"{method} {path} -> answer is {_kind(answer)}, not an object", retryable=True)
        return cast(dict[str, Any], answer)


def _usable(entry: Any) -> dict[str, Any] | None:
    """The entry with an integer id; ``None`` where it has none."""
    if not isinstance(entry, dict):
        return None
    job_id = entry.get("id")
    if isinstance(job_id, str) and job_id.isascii() and job_id.isdigit() and len(job_id) < 20:
        job_id = int(job_id)
    if isinstance(job_id, bool) or not isinstance(job_id, int) or not 0 <= job_id <= MAX_JOB_ID:
        return None
    return {**entry, "id": job_id}


def _kind(answer: Any) -> str:
    return "null" if answer is None else f"a {type(answer).__name__}"


def _kinds(answer: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(key)[:30]}: {type(value).__name__}" for key, value in list(answer.items())[:5]) or "empty"


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}


def _escaped(filename: str) -> bytes:
    """A file name as browsers write it into a multipart header (WHATWG HTML, multipart/form-data)."""
    text = filename.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    return text.encode("utf-8", errors="replace")
