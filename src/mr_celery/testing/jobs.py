"""Jobs, artifacts and reviews on the server, as a test sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..sandbox.store import Store

ENDED = ("done", "failed", "escalated")


@dataclass(frozen=True)
class SeenArtifact:
    """An uploaded file.

    Attributes:
        slug: the server's identifier.
        filename: the file name.
        content_type: the media type.
        expires_at: the time after which the server may delete it; ``None`` for never.
    """

    slug: str
    filename: str
    content_type: str
    expires_at: str | None
    path: Path = field(repr=False, compare=False)

    @property
    def data(self) -> bytes:
        """The content."""
        return self.path.read_bytes()

    @property
    def text(self) -> str:
        """The content as UTF-8 text."""
        return self.data.decode()


@dataclass(frozen=True)
class SeenReview:
    """An item of the human-review queue.

    Attributes:
        type: the kind of item.
        title: one line for the queue.
        content: the text for the reviewer.
        preview: the artifact to look at, or the given text if it names no artifact of this server.
        target: the destination once it is approved.
        status: ``pending``, ``approved`` or ``rejected``.
    """

    type: str
    title: str
    content: str
    preview: SeenArtifact | str | None
    target: str | None
    status: str


class SeenJob:
    """A job on the sandbox. Attributes always show its current state.

    Example::

        assert job.done
        assert job.result == "made it"
        assert job.artifacts[0].filename == "poster.png"
    """

    def __init__(self, store: Store, job_id: int) -> None:
        self._store = store
        self.id = job_id
        """The job's id."""

    def _look(self) -> Store:
        """The server's data."""
        return self._store

    @property
    def fields(self) -> Mapping[str, Any]:
        """All fields of the job on the server."""
        return self._look().job(self.id)

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``done``, ``failed`` or ``escalated``."""
        return str(self.fields["status"])

    @property
    def result(self) -> str:
        """The output, or empty if there is none yet."""
        return self.fields["result"] or ""

    def json(self) -> Any:
        """Parse the output as JSON, for handlers that return data."""
        return json.loads(self.result)

    @property
    def done(self) -> bool:
        """Whether the job was closed as done."""
        return self.status == "done"

    @property
    def failed(self) -> bool:
        """Whether the job was closed as failed, or aborted."""
        return self.status == "failed"

    @property
    def escalated(self) -> bool:
        """Whether the job was closed as escalated to a human."""
        return self.status == "escalated"

    @property
    def ended(self) -> bool:
        """Whether the job is done, failed or escalated."""
        return self.status in ENDED

    @property
    def artifacts(self) -> list[SeenArtifact]:
        """The job's files, in the order of their upload."""
        return _artifacts(self._look(), self.id)

    @property
    def reviews(self) -> list[SeenReview]:
        """The job's reviews, oldest first."""
        return [each for job_id, each in all_reviews(self._look()) if job_id == self.id]

    @property
    def events(self) -> list[str]:
        """Events on the server, including refused requests: ``dispatched``, ``claim``, ``close done``, …"""
        return [str(row["event"]) for row in self._look().events(self.id)]

    def __repr__(self) -> str:
        result = self.result
        if result.startswith("Traceback "):
            result = result.splitlines()[-1]  # the test report has the whole traceback
        return f"<job {self.id} {self.status}: {result!r}>" if result else f"<job {self.id} {self.status}>"


class RanJob(SeenJob):
    """A job that ``modelreins_run`` has run.

    If its handler has deferred it, ``complete(job.ref, …)`` ends it, as do ``fail`` and ``escalate``. Attributes then
    show its end.

    Attributes:
        task: the name of the task that ran the job; ``None`` if no task takes it.
        exception: the exception that failed the job, or ``None``.
        retries: the number of Celery's retries.
        ref: the reference of a job that was deferred; otherwise empty.
    """

    def __init__(
        self,
        store: Store,
        job_id: int,
        task: str | None,
        exception: BaseException | None,
        retries: int,
        *,
        ref: str = "",
        deliver: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(store, job_id)
        self.task = task
        self.exception = exception
        self.retries = retries
        self.ref = ref
        self._deliver = deliver

    @property
    def deferred(self) -> bool:
        """Whether the handler has deferred the job, and it waits for its outcome."""
        return bool(self.ref) and not self.ended

    def _look(self) -> Store:
        if self.ref and self._store.job(self.id)["status"] not in ENDED:
            self._deliver()
        return self._store


def all_reviews(store: Store) -> list[tuple[int | None, SeenReview]]:
    """The review queue, oldest first, as pairs of a job's id and a review."""
    artifacts = {each.slug: each for each in _artifacts(store)}
    return [
        (
            row["job_id"],
            SeenReview(
                type=row["type"],
                title=row["title"],
                content=row["content"],
                # A slug, or a URL that ends with one.
                preview=artifacts.get((row["preview"] or "").rpartition("/")[2], row["preview"]),
                target=row["target"],
                status=row["status"],
            ),
        )
        for row in reversed(store.reviews())
    ]


def _artifacts(store: Store, job_id: int | None = None) -> list[SeenArtifact]:
    kept = [store.artifact(row["slug"]) for row in store.artifacts(job_id)]
    return [
        SeenArtifact(row["slug"], row["filename"], row["content_type"], row["expires_at"], row["path"]) for row in kept
    ]
