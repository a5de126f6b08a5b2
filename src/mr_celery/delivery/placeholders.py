"""Replaces the placeholders in an outcome's texts with the slugs and ids that the server gave."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..outcome import Outcome, ReviewItem
from ..stored import known_fields

_SLUG = re.compile(r"[0-9A-Za-z_-]+")

_BEGINNING = r"https?://(?:(?!https?://)[^\s\"'<>]){0,2000}?"
"""The start of the nearest address before a match. The lookahead keeps the search linear."""


@dataclass(frozen=True)
class Stored:
    """An uploaded artifact: its slug, and its path (``/s/<slug>``)."""

    slug: str
    url: str


class Placeholders:
    """The server's responses to the parts of an outcome, which replace the placeholders in its texts.

    Args:
        server: the server's address.
        outcome: the outcome.
        parts: the responses so far, as the ledger recorded them.
    """

    def __init__(self, server: str, outcome: Outcome, parts: Mapping[str, str]) -> None:
        self._server = server
        self._outcome = outcome
        self.uploads: dict[int, Stored] = {
            index: Stored(upload.slug, upload.url or f"/s/{upload.slug}")
            for index, upload in enumerate(outcome.uploads)
            if upload.slug
        }
        """The uploaded artifacts, by index."""
        self.reviews: dict[int, str] = {}
        """The ids of the filed reviews, by index."""
        for part, answer in parts.items():
            kind, _, index = part.partition(":")
            if kind == "artifact":
                self.uploads[int(index)] = Stored(**known_fields(Stored, json.loads(answer)))
            else:
                self.reviews[int(index)] = answer

    def has(self, part: str) -> bool:
        """Whether the server has a part."""
        kind, _, index = part.partition(":")
        return int(index) in (self.uploads if kind == "artifact" else self.reviews)

    def absolute(self, path: str) -> str:
        """The absolute address of a path on the server."""
        return f"{self._server}{path}" if path.startswith("/") else path

    def preview(self, review: ReviewItem) -> str | None:
        """The preview of a review: the address of its artifact, or the given value."""
        if review.preview_upload is not None:
            stored = self.uploads.get(review.preview_upload)
            return self.absolute(stored.url) if stored else None
        preview = self.resolved(review.preview) if review.preview else review.preview
        if preview and _SLUG.fullmatch(preview):
            preview = f"/s/{preview}"
        return self.absolute(preview) if preview else preview

    def resolved(self, text: str) -> str:
        """A text of the handler, with placeholders replaced by the server's slugs, paths and ids."""
        for index, upload in enumerate(self._outcome.uploads):
            stored = self.uploads.get(index)
            if stored and upload.promised and upload.promised in text:
                path = f"/s/{upload.promised}"
                # A worker that cannot reach the server may not know its address.
                text = re.sub(rf"{_BEGINNING}{path}", lambda _: self.absolute(stored.url), text)  # noqa: B023
                text = text.replace(path, stored.url).replace(upload.promised, stored.slug)
        for index, review in enumerate(self._outcome.reviews):
            if self.reviews.get(index) and review.promised:
                text = text.replace(str(review.promised), self.reviews[index])
        return text

    def kept(self) -> str:
        """One line for each uploaded artifact."""
        names = [upload.filename for upload in self._outcome.uploads]
        return "\n".join(
            f"- {names[index]}: {self.absolute(stored.url)}" for index, stored in sorted(self.uploads.items())
        )
