"""Bringing an outcome to the server: artifacts, then reviews, then the close."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..backoff import backoff
from ..client import TERMINAL, Api, status_of
from ..errors import JobError, WorkerError
from ..ledger import DeliveryKey, Ledger
from ..outcome import Outcome, Upload

logger = logging.getLogger("mr_celery.delivery")

REFUSED = (400, 413, 415, 422)
"""Statuses with which a server says that this very content will never do."""

NOT_RUNNING = (404, 409, 410)
"""Statuses with which a server says that there is no such job to close."""

UNHEARD_OF = 5
"""How many deliveries a server may answer with 404 and a job it lists nowhere, before the job counts as gone."""

HOLD_SECONDS = 15.0
"""How long a delivery keeps its job from others, from one sign of life to the next; but no longer than a lease."""

REFUSAL = "the server refused what this job made"


@dataclass(frozen=True)
class Consignment:
    """An outcome on its way to the server.

    Args:
        key: which delivery of which job it is: the fencing token of what is written down.
        outcome: what to deliver.
        blob: gives an upload's bytes by its index.
        parts: what is delivered already: ``artifact:0``, ``review:0``, … with the server's answers.
    """

    key: DeliveryKey
    outcome: Outcome
    blob: Callable[[int], bytes | None]
    parts: Mapping[str, str]

    @property
    def job_id(self) -> int:
        """The job."""
        return self.key.job_id

    @property
    def number(self) -> int:
        """Which delivery of the job it is, from 1."""
        return self.key.number

    @property
    def parts_left(self) -> bool:
        """Whether an artifact or a review is still to be delivered."""
        uploads = (f"artifact:{index}" for index, upload in enumerate(self.outcome.uploads) if upload.slug is None)
        reviews = (f"review:{index}" for index in range(len(self.outcome.reviews)))
        return any(part not in self.parts for part in (*uploads, *reviews))


class _Refused(Exception):
    """The server will never take this very content."""

    def __init__(self, error: WorkerError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _content() -> Iterator[None]:
    """Around a request that brings the server what the job made.

    Raises:
        _Refused: the server says that it will never take it.
    """
    try:
        yield
    except WorkerError as error:
        if error.status in REFUSED:
            raise _Refused(error) from error
        raise


class _Overtaken(Exception):
    """Somebody else delivers the job now, or it was aborted."""


class _Hold:
    """That a delivery is still the one that delivers its job, made sure before each of its steps.

    Args:
        ledger: the ledger.
        key: the delivery.
        seconds: how long the hold lasts without being renewed.
    """

    def __init__(self, ledger: Ledger, key: DeliveryKey, seconds: float) -> None:
        self._ledger = ledger
        self._key = key
        self._seconds = seconds
        self._confirmed_at = time.monotonic()

    def confirm(self) -> None:
        """Ask the ledger, where the last answer is not fresh: this process may have been frozen for a while.

        Raises:
            _Overtaken: it is not.
        """
        now = time.monotonic()
        if now - self._confirmed_at < self._seconds / 3:
            return
        if not self._ledger.carry(self._key, hold_seconds=self._seconds):
            raise _Overtaken
        self._confirmed_at = now

    def record(self, part: str, answer: str) -> None:
        """Write down that a part is delivered.

        Raises:
            _Overtaken: it is not this delivery's any more.
        """
        now = time.monotonic()
        if not self._ledger.delivered_part(self._key, part, answer, hold_seconds=self._seconds):
            raise _Overtaken
        self._confirmed_at = now


class Delivery:
    """Delivers outcomes; each step is written down, so that a later try goes on where the last one stopped.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
        hold_seconds: how long a delivery keeps its job from others, from one sign of life to the next.
    """

    def __init__(self, api: Api, ledger: Ledger, *, hold_seconds: float = HOLD_SECONDS) -> None:
        self._api = api
        self._ledger = ledger
        self._hold_seconds = hold_seconds

    def deliver(self, consignment: Consignment) -> WorkerError | None:
        """Deliver what is left, and record the close. Returns the error that put the rest off; ``None`` if none did.

        A delivery that was put off is recorded with the time of the next one, which is the courier's.

        Raises:
            LedgerUnavailable: a step could not be written down; it is repeated by the courier.
        """
        job_id, hold = consignment.job_id, _Hold(self._ledger, consignment.key, self._hold_seconds)
        try:
            how = self._deliver(consignment, hold)
        except _Overtaken:
            logger.info("job=%d delivery %d ended: the job is not its any more", job_id, consignment.number)
            return None
        except JobError as error:
            self._ledger.replace_outcome(consignment.key, Outcome.failed(str(error)))
            return None
        except _Refused as refused:
            self._replace(consignment, refused.error)
            return refused.error
        except WorkerError as error:
            self._put_off(consignment, error)
            return error
        self._ledger.close(job_id, consignment.key.task_id, how)
        return None

    def _deliver(self, consignment: Consignment, hold: _Hold) -> str:
        """Deliver. Returns how the job is closed then."""
        if consignment.number > 1 and consignment.parts_left:
            # It waited: for a job that was aborted meanwhile nothing is uploaded or filed.
            status = status_of(self._api, consignment.job_id)
            if status in TERMINAL:
                return self._superseded(consignment, status)
        self._ship(consignment, hold)
        hold.confirm()
        return self._close(consignment)

    def _ship(self, consignment: Consignment, hold: _Hold) -> None:
        job_id, outcome = consignment.job_id, consignment.outcome
        uploaded: dict[int, Upload] = {}
        for index, upload in enumerate(outcome.uploads):
            part = f"artifact:{index}"
            if upload.slug is None and part in consignment.parts:
                upload = replace(upload, **json.loads(consignment.parts[part]))
            elif upload.slug is None:
                hold.confirm()
                answer = self._upload(consignment, index, upload)
                upload = replace(upload, **answer)
                hold.record(part, json.dumps(answer))
            uploaded[index] = upload
        for index, review in enumerate(outcome.reviews):
            part = f"review:{index}"
            if part in consignment.parts:
                continue
            preview = review.preview
            if review.preview_upload is not None:
                preview = self.absolute(uploaded[review.preview_upload].url)
            hold.confirm()
            with _content():
                filed = self._api.review(
                    review.type,
                    review.title,
                    review.content,
                    preview=preview,
                    target=review.target,
                    job_id=job_id,
                    idempotency_key=f"job-{job_id}-{part}",
                )
            hold.record(part, str(filed.get("id", "")))

    def _upload(self, consignment: Consignment, index: int, upload: Upload) -> dict[str, Any]:
        blob = consignment.blob(index)
        if blob is None:
            raise JobError(f"the artifact {upload.filename!r} is not in the ledger any more")
        with _content():
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

    def _close(self, consignment: Consignment) -> str:
        job_id, outcome = consignment.job_id, consignment.outcome
        try:
            with _content():
                self._api.close(job_id, outcome.text, outcome.status)
        except WorkerError as error:
            if error.status in NOT_RUNNING:
                return self._close_refused(consignment, error)
            raise
        return "delivered"

    def _close_refused(self, consignment: Consignment, refusal: WorkerError) -> str:
        """What it means that the server has no such job to close, by its own lists."""
        job_id, outcome = consignment.job_id, consignment.outcome
        status = status_of(self._api, job_id)
        if status == "pending":
            # The server gave the job up and put it back: it is ours as soon as we claim it again.
            self._api.claim(job_id)
            with _content():
                self._api.close(job_id, outcome.text, outcome.status)
            return "delivered"
        if status is not None and status not in TERMINAL:
            raise WorkerError(
                f"{refusal} (though the server says that the job is {status})", status=refusal.status, retryable=True
            )
        if status is None and refusal.status == 404 and consignment.number < UNHEARD_OF:
            raise refusal  # it may as well be a lapse of whatever stands before the server
        return self._superseded(consignment, status)

    def _superseded(self, consignment: Consignment, status: str | None) -> str:
        """The job is over on the server: by an earlier delivery whose answer was lost, or by somebody else."""
        if consignment.number > 1 and status in (None, consignment.outcome.status):
            return "delivered"
        logger.warning("job=%d superseded: the server says it was closed by somebody else", consignment.job_id)
        return "superseded"

    def _replace(self, consignment: Consignment, refusal: WorkerError) -> None:
        """The job fails with the server's words; if it does not take those either, they are tried again later."""
        if consignment.outcome.text.startswith(REFUSAL):
            self._put_off(consignment, refusal)
            return
        why = f"{REFUSAL} ({refusal})"
        self._ledger.replace_outcome(consignment.key, Outcome.failed(why))
        logger.error("job=%d failed: its result was refused: %s", consignment.job_id, refusal.summary)

    def _put_off(self, consignment: Consignment, error: WorkerError) -> None:
        job_id = consignment.job_id
        pause = backoff(consignment.number, first=0.5, most=15.0)
        if error.unauthorized:
            pause = max(pause, 5.0)
        if error.retry_after is not None:
            pause = max(pause, error.retry_after)
        self._ledger.undelivered(consignment.key, str(error)[:500], wait_seconds=pause)
        logger.warning("job=%d not delivered yet, next try in %.1f s: %s", job_id, pause, error.summary)
