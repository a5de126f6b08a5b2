"""Bringing an outcome to the server: artifacts, then reviews, then the close."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..backoff import backoff
from ..client import Api
from ..errors import JobError, WorkerError
from ..ledger import Ledger
from ..outcome import Outcome, Upload

logger = logging.getLogger("mr_celery.delivery")

REFUSED = (400, 413, 415, 422)
"""Statuses with which a server says that this very content will never do."""

HOLD_SECONDS = 60.0
"""How long a courier keeps a job from the others, from one step of the delivery to the next."""


@dataclass(frozen=True)
class Consignment:
    """An outcome on its way to the server.

    Args:
        job_id: the job.
        outcome: what to deliver.
        blob: gives an upload's bytes by its index.
        parts: what is delivered already: ``artifact:0``, ``review:0``, … with the server's answers.
        tries: which delivery of this outcome it is, from 1.
    """

    job_id: int
    outcome: Outcome
    blob: Callable[[int], bytes | None]
    parts: Mapping[str, str]
    tries: int = 1


class _Aborted(Exception):
    """The job was aborted while it was being delivered."""


class Delivery:
    """Delivers outcomes; each step is written down, so that a later try goes on where the last one stopped.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
    """

    def __init__(self, api: Api, ledger: Ledger) -> None:
        self._api = api
        self._ledger = ledger

    def deliver(self, consignment: Consignment) -> bool:
        """Deliver what is left, and record the close. Returns whether the job is closed.

        A failed delivery is recorded with the time of the next one, which is the courier's.

        Raises:
            LedgerUnavailable: a step could not be written down; it is repeated by the courier.
        """
        try:
            self._ship(consignment)
            how = self._close(consignment)
        except _Aborted:
            return False
        except JobError as error:
            self._ledger.replace_outcome(consignment.job_id, Outcome.failed(str(error)))
            return False
        except WorkerError as error:
            self._try_later(consignment, error)
            return False
        self._ledger.close(consignment.job_id, how)
        return True

    def _ship(self, consignment: Consignment) -> None:
        job_id, outcome = consignment.job_id, consignment.outcome
        uploaded: dict[int, Upload] = {}
        for index, upload in enumerate(outcome.uploads):
            part = f"artifact:{index}"
            if upload.slug is None and part in consignment.parts:
                upload = replace(upload, **json.loads(consignment.parts[part]))
            elif upload.slug is None:
                answer = self._upload(consignment, index, upload)
                upload = replace(upload, **answer)
                self._record(job_id, part, json.dumps(answer))
            uploaded[index] = upload
        for index, review in enumerate(outcome.reviews):
            part = f"review:{index}"
            if part in consignment.parts:
                continue
            preview = review.preview
            if review.preview_upload is not None:
                preview = self.absolute(uploaded[review.preview_upload].url)
            answer = self._api.review(
                review.type,
                review.title,
                review.content,
                preview=preview,
                target=review.target,
                job_id=job_id,
                idempotency_key=f"job-{job_id}-{part}",
            )
            self._record(job_id, part, str(answer.get("id", "")))

    def _upload(self, consignment: Consignment, index: int, upload: Upload) -> dict[str, Any]:
        blob = consignment.blob(index)
        if blob is None:
            raise JobError(f"the artifact {upload.filename!r} is not in the ledger any more")
        return self.upload(consignment.job_id, index, upload, io.BytesIO(blob))

    def upload(self, job_id: int, index: int, upload: Upload, source: Any) -> dict[str, Any]:
        """Upload one artifact of a job. Returns its ``slug`` and ``url``.

        Raises:
            WorkerError: it could not be uploaded, or the answer names no slug.
        """
        answer = self._api.upload(
            source,
            content_type=upload.content_type,
            filename=upload.filename,
            job_id=job_id,
            expires_at=upload.expires_at,
            idempotency_key=f"job-{job_id}-artifact:{index}",
        )
        slug = answer.get("slug")
        if not isinstance(slug, str) or not slug:
            raise WorkerError("POST /artifacts/upload -> answer without a slug", retryable=True)
        url = answer.get("url")
        return {"slug": slug, "url": url if isinstance(url, str) and url else f"/s/{slug}"}

    def absolute(self, path: str | None) -> str | None:
        """The absolute address of a path that the server gave."""
        return f"{self._api.url}{path}" if path and path.startswith("/") else path

    def _record(self, job_id: int, part: str, answer: str) -> None:
        if not self._ledger.delivered_part(job_id, part, answer, hold_seconds=HOLD_SECONDS):
            raise _Aborted

    def _close(self, consignment: Consignment) -> str:
        job_id, outcome = consignment.job_id, consignment.outcome
        try:
            self._api.close(job_id, outcome.text, outcome.status)
        except WorkerError as error:
            if error.status == 409:
                return self._close_conflict(consignment, error)
            raise
        return "delivered"

    def _close_conflict(self, consignment: Consignment, conflict: WorkerError) -> str:
        """What a 409 on close means, by the server's own lists."""
        job_id, outcome = consignment.job_id, consignment.outcome
        if any(job["id"] == job_id for job in self._api.jobs("pending")):
            # The server gave the job up and put it back: it is ours as soon as we claim it again.
            self._api.claim(job_id)
            self._api.close(job_id, outcome.text, outcome.status)
            return "delivered"
        if any(job["id"] == job_id for job in self._api.jobs("running")):
            raise WorkerError(f"{conflict} (though the job is listed as running)", status=409, retryable=True)
        if consignment.tries > 1:
            return "delivered"  # an earlier try got through, and its answer was lost
        logger.warning("job=%d superseded: the server says it was closed by somebody else", job_id)
        return "superseded"

    def _try_later(self, consignment: Consignment, error: WorkerError) -> None:
        job_id = consignment.job_id
        if error.status in REFUSED and consignment.outcome.status != "failed":
            why = f"the server refused what this job made ({error})"
            self._ledger.replace_outcome(job_id, Outcome.failed(why))
            logger.error("job=%d failed: its result was refused: %s", job_id, error.summary)
            return
        pause = backoff(consignment.tries, first=0.5, most=15.0)
        if error.unauthorized:
            pause = max(pause, 15.0)
        if error.retry_after is not None:
            pause = max(pause, error.retry_after)
        self._ledger.undelivered(job_id, str(error)[:500], wait_seconds=pause)
        logger.warning("job=%d not delivered yet, next try in %.1f s: %s", job_id, pause, error.summary)
