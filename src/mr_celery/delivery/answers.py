"""What the server has answered to the parts of an outcome, and the texts in which that is found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..outcome import Outcome, ReviewItem

_SLUG = re.compile(r"[0-9A-Za-z_-]+")

_BEGINNING = r"https?://(?:(?!https?://)[^\s\"'<>]){0,2000}?"
"""The nearest address before something in it: so, each character of a text is looked at once."""


@dataclass(frozen=True)
class Stored:
    """An artifact that the server has: its slug, and its path (``/s/<slug>``)."""

    slug: str
    url: str


class Answers:
    """The server's answers to the parts of an outcome.

    Args:
        server: the server's address.
        outcome: the outcome.
        parts: the answers so far, as the ledger has them.
    """

    def __init__(self, server: str, outcome: Outcome, parts: Mapping[str, str]) -> None:
        self._server = server
        self._outcome = outcome
        self.uploads: dict[int, Stored] = {
            index: Stored(upload.slug, upload.url or f"/s/{upload.slug}")
            for index, upload in enumerate(outcome.uploads)
            if upload.slug
        }
        """The artifacts that the server has, by their index."""
        self.reviews: dict[int, str] = {}
        """The ids of the reviews that are filed, by their index."""
        for part, answer in parts.items():
            kind, _, index = part.partition(":")
            if kind == "artifact":
                self.uploads[int(index)] = Stored(**json.loads(answer))
            else:
                self.reviews[int(index)] = answer

    def absolute(self, path: str) -> str:
        """The absolute address of a path that the server gave."""
        return f"{self._server}{path}" if path.startswith("/") else path

    def preview(self, review: ReviewItem) -> str | None:
        """What a review shows: the address of its artifact, or what was given."""
        if review.preview_upload is not None:
            stored = self.uploads.get(review.preview_upload)
            return self.absolute(stored.url) if stored else None
        preview = self.resolved(review.preview) if review.preview else review.preview
        if preview and _SLUG.fullmatch(preview):
            preview = f"/s/{preview}"
        return self.absolute(preview) if preview else preview

    def resolved(self, text: str) -> str:
        """A text of the handler's, with what it was promised replaced by what the server answered."""
        for index, upload in enumerate(self._outcome.uploads):
            stored = self.uploads.get(index)
            if stored and upload.promised and upload.promised in text:
                path = f"/s/{upload.promised}"
                # A worker without a way to the server may not know its address.
                text = re.sub(rf"{_BEGINNING}{path}", lambda _: self.absolute(stored.url), text)  # noqa: B023
                text = text.replace(path, stored.url).replace(upload.promised, stored.slug)
        for index, review in enumerate(self._outcome.reviews):
            if self.reviews.get(index) and review.promised:
                text = text.replace(str(review.promised), self.reviews[index])
        return text

    def kept(self) -> str:
        """One line for each artifact that the server has."""
        names = [upload.filename for upload in self._outcome.uploads]
        return "\n".join(
            f"- {names[index]}: {self.absolute(stored.url)}" for index, stored in sorted(self.uploads.items())
        )
