"""Jobs as a test looks at them: what the server knows of them, now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..sandbox.store import Store

ENDED = ("done", "failed", "escalated")


@dataclass(frozen=True)
class SeenArtifact:
    """A file that the server has.

    Attributes:
        slug: what the server calls it.
        filename: its name for people.
        content_type: its media type.
        expires_at: when the server may delete it; ``None``: never.
    """

    slug: str
    filename: str
    content_type: str
    expires_at: str | None
    path: Path = field(repr=False, compare=False)

    @property
    def data(self) -> bytes:
        """Its content."""
        return self.path.read_bytes()

    @property
    def text(self) -> str:
        """Its content as UTF-8 text."""
        return self.data.decode()


@dataclass(frozen=True)
class SeenReview:
    """An item of the human-review queue.

    Attributes:
        type: what kind of thing it is.
        title: one line for the queue.
        content: what the reviewer reads.
        preview: what the reviewer looks at: the artifact, where the server has it; else the text that was given.
        target: where it goes once approved.
        status: ``pending``, ``approved`` or ``rejected``.
    """

    type: str
    title: str
    content: str
    preview: SeenArtifact | str | None
    target: str | None
    status: str


class SeenJob:
    """A job on the sandbox. Each look asks anew.

    Example::

        assert job.done
        assert job.result == "made it"
        assert job.artifacts[0].filename == "poster.png"
    """

    def __init__(self, store: Store, job_id: int) -> None:
        self._store = store
        self.id = job_id
        """The server's number of this job."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """All that the server knows of it."""
        return self._store.job(self.id)

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``done``, ``failed`` or ``escalated``."""
        return str(self.fields["status"])

    @property
    def result(self) -> str:
        """Its output; empty while it has none."""
        return self.fields["result"] or ""

    def json(self) -> Any:
        """Its output, read as JSON: what a handler that returns data has returned."""
        return json.loads(self.result)

    @property
    def done(self) -> bool:
        """Whether it was closed as done."""
        return self.status == "done"

    @property
    def failed(self) -> bool:
        """Whether it was closed as failed, or aborted."""
        return self.status == "failed"

    @property
    def escalated(self) -> bool:
        """Whether it was closed as escalated: a human has to decide."""
        return self.status == "escalated"

    @property
    def ended(self) -> bool:
        """Whether it is over, in one of these ways."""
        return self.status in ENDED

    @property
    def artifacts(self) -> list[SeenArtifact]:
        """Its files, in the order of their upload."""
        return _artifacts(self._store, self.id)

    @property
    def reviews(self) -> list[SeenReview]:
        """Its reviews, in the order of their filing."""
        return [each for job_id, each in all_reviews(self._store) if job_id == self.id]

    @property
    def events(self) -> list[str]:
        """What happened to it on the server: ``dispatched``, ``claim``, ``close done``, …; refusals too."""
        return [str(row["event"]) for row in self._store.events(self.id)]

    def __repr__(self) -> str:
        told = self.result
        if told.startswith("Traceback "):
            told = told.splitlines()[-1]  # what was raised: the test shows the rest elsewhere
        return f"<job {self.id} {self.status}: {told!r}>" if told else f"<job {self.id} {self.status}>"


class RanJob(SeenJob):
    """A job that ``modelreins_run`` has run.

    Attributes:
        task: the name of the task that took it; ``None``: no task takes it.
        exception: what the handler raised at last, where the job has failed for that.
        retries: how often Celery has retried the task.
    """

    def __init__(
        self, store: Store, job_id: int, task: str | None, exception: BaseException | None, retries: int
    ) -> None:
        super().__init__(store, job_id)
        self.task = task
        self.exception = exception
        self.retries = retries


def all_reviews(store: Store) -> list[tuple[int | None, SeenReview]]:
    """The review queue, the oldest first, with the job of each."""
    artifacts = {each.slug: each for each in _artifacts(store)}
    return [
        (
            row["job_id"],
            SeenReview(
                type=row["type"],
                title=row["title"],
                content=row["content"],
                # An address, whose last part is the slug, or a slug.
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
