"""Prepares data of the store for the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .. import downloads
from ..states import AWAITING, OPEN, PENDING, RUNNING
from ..store import Store, given_fields
from ..values import MalformedError, NotFoundError, timestamp
from . import queries, shell_lines, text
from .timeline import timeline

_TEXT_SHOWN = 20_000
"""Number of bytes of a text file that are shown."""

_MANY_PROMPT_CHARACTERS = 1500
_LINE = 300
_SUFFIX = 12
_TEXTS = ("text/", "application/json", "application/x-ndjson", "application/xml", "application/yaml")


@dataclass(frozen=True)
class File:
    """An artifact, prepared for the page.

    Attributes:
        kind: ``image``, ``video``, ``audio``, ``pdf``, ``text``, ``other``, or ``gone``.
        row: the row of the store.
        text: the beginning of a text file.
        cut: whether the file is longer.
    """

    kind: str
    row: dict[str, Any]
    text: str = ""
    cut: bool = False

    @property
    def suffix(self) -> str:
        """The suffix of its name, or the last part of its type, for a file without a preview."""
        suffix = PurePosixPath(self.row["filename"]).suffix.lstrip(".")
        return (suffix or str(self.row["content_type"]).split("/")[-1])[:_SUFFIX] or "file"


def available(store: Store, job_id: int) -> list[dict[str, Any]]:
    """List the artifacts of a job that can be downloaded, each with the ``path`` of its file."""
    rows = [(row, _path(store, row)) for row in store.artifacts(job_id)]
    return [{**row, "path": path} for row, path in rows if path is not None]


def _path(store: Store, row: dict[str, Any]) -> Path | None:
    """The file of an artifact; ``None`` if it has expired or is gone."""
    try:
        path: Path = store.artifact(row["slug"])["path"]
        is_expired = row["expires_at"] and timestamp(row["expires_at"], "expires_at") <= store.clock()
    except (NotFoundError, MalformedError):
        return None
    return None if is_expired else path


def file(store: Store, row: dict[str, Any]) -> File:
    """Prepare an artifact."""
    path = _path(store, row)
    if path is None:
        return File("gone", row)
    essence = downloads.media_type(row["content_type"]).split(";")[0].strip().lower()
    family = essence.split("/")[0]
    if family in ("image", "video", "audio"):  # includes SVG, which runs no script in an <img>
        return File(family, row)
    if essence == "application/pdf":
        return File("pdf", row)
    if essence.startswith(_TEXTS):
        with path.open("rb") as source:
            data = source.read(_TEXT_SHOWN + 1)
        return File("text", row, data[:_TEXT_SHOWN].decode("utf-8", "replace"), len(data) > _TEXT_SHOWN)
    return File("other", row)


def review(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """Prepare a review with its preview."""
    preview = row["preview"] or ""
    shown, link = None, None
    if slug := text.slug_in(preview):
        rows = store.rows("SELECT * FROM artifacts WHERE slug = ?", slug)
        shown = file(store, rows[0]) if rows else None
    if shown is None and preview.lower().startswith(("http://", "https://")):
        link = preview
    return {**row, "shown": shown, "link": link, "content_shown": text.output(row["content"])}


def requirements(fields: dict[str, Any]) -> list[str]:
    """The capabilities and tags that a job requires."""
    found: list[Any] = []
    for name in ("capability", "capabilities", "tags"):
        value = fields.get(name)
        found += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(each for each in found if isinstance(each, str) and each))


def times(job: dict[str, Any], now: float) -> dict[str, Any]:
    """The times that a job waited and ran, so far or in total."""
    end = now if job["status"] in OPEN else job["closed_at"]
    claimed = job["claimed_at"]
    return {
        "waited": max((claimed or end or now) - job["created_at"], 0.0),
        "ran": None if claimed is None else max((end or now) - claimed, 0.0),
        "is_waiting": job["status"] in (AWAITING, PENDING),
        "is_running": job["status"] == RUNNING,
    }


def listed(job: dict[str, Any], now: float) -> dict[str, Any]:
    """Prepare a job for a list."""
    lines = job["prompt"].strip().splitlines()
    return {**job, **times(job, now), "line": lines[0] if lines else "", "requires": requirements(job["fields"])}


def declared(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The capabilities and tags that workers declare, as :func:`~.queries.workers` lists them."""
    return sorted({each for worker in workers for each in (*worker["risk_tiers"], *worker["own_tags"])})


def approval(store: Store, job: dict[str, Any]) -> dict[str, Any]:
    """Prepare a job that waits for an approval."""
    lines = job["prompt"].strip().splitlines()
    needed = store.approvals.needed(job["assigned_to"], job)
    return {**job, "line": lines[0][:_LINE] if lines else "", "approval": needed}


def job(store: Store, job_id: int, url: str) -> dict[str, Any]:
    """Prepare a job with its files, reviews and timeline.

    Args:
        store: the state.
        job_id: the job.
        url: the base URL of the sandbox.

    Raises:
        NotFoundError: the job does not exist.
    """
    found, now = store.job(job_id), store.clock()
    fields = given_fields(found)
    del fields["prompt"], fields["priority"]
    artifacts, reviews = store.artifacts(job_id), queries.reviews_of(store, job_id)
    files = [file(store, each) for each in artifacts]
    return {
        "job": {**found, **times(found, now)},
        "requires": requirements(fields),
        "approval": store.approvals.needed(found["assigned_to"], found) if found["status"] == AWAITING else {},
        "fields": fields,
        "fields_fold": text.foldable(fields),
        "long_prompt": len(found["prompt"]) > _MANY_PROMPT_CHARACTERS,
        "output": None if found["result"] is None else text.output(found["result"]),
        "files": files,
        "downloads": sum(each.kind != "gone" for each in files),
        "reviews": [review(store, each) for each in reviews],
        "timeline": timeline(store.events(job_id), artifacts, reviews, word=store.options.word),
        "commands": [("curl", shell_lines.curl_line(found, url)), ("mr-celery", shell_lines.dispatch_line(found, url))],
        "is_open": found["status"] in OPEN,
        "can_requeue": found["status"] not in (AWAITING, PENDING),
    }
