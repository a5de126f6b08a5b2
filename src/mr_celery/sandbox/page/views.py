"""What the templates show, made of what the store says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import downloads
from ..states import CLOSED, PENDING, RUNNING
from ..store import SERVER_FIELDS, NotFoundError, Store
from ..values import MalformedError, timestamp
from . import queries, text

_TEXT_SHOWN = 20_000
"""Bytes of a text file that are shown."""

_MANY_PROMPT_CHARACTERS = 1500
_TEXTS = ("text/", "application/json", "application/x-ndjson", "application/xml", "application/yaml")


@dataclass(frozen=True)
class File:
    """An artifact as it is shown.

    Attributes:
        kind: ``image``, ``video``, ``audio``, ``pdf``, ``text``, ``other``, or ``gone``.
        row: what the store says.
        text: the beginning of a text.
        cut: whether it is only the beginning.
    """

    kind: str
    row: dict[str, Any]
    text: str = ""
    cut: bool = False


def file(store: Store, row: dict[str, Any]) -> File:
    """An artifact as it is shown."""
    try:
        path = store.artifact(row["slug"])["path"]
        if row["expires_at"] and timestamp(row["expires_at"], "expires_at") <= store.clock():
            return File("gone", row)
    except (NotFoundError, MalformedError):
        return File("gone", row)
    essence = downloads.media_type(row["content_type"]).split(";")[0].strip().lower()
    family = essence.split("/")[0]
    if family in ("image", "video", "audio"):  # an image may be SVG: as an image it runs nothing
        return File(family, row)
    if essence == "application/pdf":
        return File("pdf", row)
    if essence.startswith(_TEXTS):
        with path.open("rb") as source:
            data = source.read(_TEXT_SHOWN + 1)
        return File("text", row, data[:_TEXT_SHOWN].decode("utf-8", "replace"), len(data) > _TEXT_SHOWN)
    return File("other", row)


def review(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """A review, with what it previews."""
    preview = row["preview"] or ""
    shown, link = None, None
    if slug := text.slug_in(preview):
        rows = store.rows("SELECT * FROM artifacts WHERE slug = ?", slug)
        shown = file(store, rows[0]) if rows else None
    if shown is None and preview.lower().startswith(("http://", "https://")):
        link = preview
    return {**row, "shown": shown, "link": link, "content_shown": text.output(row["content"])}


def asked_for(fields: dict[str, Any]) -> list[str]:
    """What a job asks for: its capabilities, and its tags."""
    found: list[Any] = []
    for name in ("capability", "capabilities", "tags"):
        value = fields.get(name)
        found += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(each for each in found if isinstance(each, str) and each))


def times(job: dict[str, Any], now: float) -> dict[str, Any]:
    """How long a job waited and ran, and what still goes on."""
    end = job["closed_at"] if job["status"] in CLOSED else now
    claimed = job["claimed_at"]
    return {
        "waited": max((claimed or end or now) - job["created_at"], 0.0),
        "ran": None if claimed is None else max((end or now) - claimed, 0.0),
        "waits": job["status"] == PENDING,
        "runs": job["status"] == RUNNING,
    }


def listed(job: dict[str, Any], now: float) -> dict[str, Any]:
    """A job in a list."""
    lines = job["prompt"].strip().splitlines()
    return {**job, **times(job, now), "line": lines[0] if lines else "", "asks": asked_for(job["fields"])}


def job(store: Store, job_id: int) -> dict[str, Any]:
    """A job and all that belongs to it.

    Raises:
        NotFoundError: there is none with that id.
    """
    found, now = store.job(job_id), store.clock()
    fields = {name: value for name, value in found.items() if name not in {*SERVER_FIELDS, "prompt", "priority"}}
    events = store.events(job_id)
    before = [None, *(each["at"] for each in events)]
    return {
        "job": {**found, **times(found, now)},
        "asks": asked_for(fields),
        "fields": fields,
        "fields_fold": text.foldable(fields),
        "long_prompt": len(found["prompt"]) > _MANY_PROMPT_CHARACTERS,
        "output": None if found["result"] is None else text.output(found["result"]),
        "files": [file(store, each) for each in store.artifacts(job_id)],
        "reviews": [review(store, each) for each in queries.reviews_of(store, job_id)],
        "events": [
            {**each, "later": None if last is None else each["at"] - last}
            for each, last in zip(events, before, strict=False)
        ],
        "is_open": found["status"] in (PENDING, RUNNING),
        "can_requeue": found["status"] != PENDING,
    }
