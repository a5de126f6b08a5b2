"""Options of the simulated server: its version, its words for the end of a job, and its timeouts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from ..errors import MrCeleryError
from .states import CLOSED, OPEN

OLDEST_VERSION = (4, 5)
"""The oldest version with the routes of the worker protocol."""

ARTIFACTS_SINCE = (4, 6)
"""The first version with artifacts and reviews."""

ENDS = (*CLOSED, "aborted")
"""The ends of a job for which the server may have another word."""

_VERSION = re.compile(r"\d{1,4}\.\d{1,4}(\.\d{1,4})?")
_WORD = re.compile(r"[^\W\d][\w .-]{0,39}")


@dataclass(frozen=True)
class ServerOptions:
    """Options of the simulated server.

    Args:
        version: the server's version. Servers before 4.6 have no artifacts and no reviews.
        words: other words for the ends of a job, by end: ``{"done": "completed", "aborted": "cancelled"}``. Without
            one, an aborted job is ``failed``.
        requeue_after: seconds without a presence report after which the running jobs of a worker become pending
            again; ``None`` for never.
        link_seconds: seconds for which the one-time link to a worker's token works.

    Raises:
        MrCeleryError: a value is not allowed.
    """

    _: KW_ONLY
    version: str = "4.6.0"
    words: Mapping[str, str] = field(default_factory=dict)
    requeue_after: float | None = 900.0
    link_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version) or self.version_numbers < OLDEST_VERSION:
            raise MrCeleryError(f"the server version {self.version!r} must be 4.5 or later, such as 4.6.0")
        for end, word in self.words.items():
            if end not in ENDS:
                raise MrCeleryError(f"{end!r} is not an end of a job: allowed are {', '.join(ENDS)}")
            if not _WORD.fullmatch(word) or word.strip().casefold() in OPEN:
                raise MrCeleryError(f"{word!r} cannot be the word for {end}: use a word such as 'completed'")
        for name in ("requeue_after", "link_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < 10**9:
                raise MrCeleryError(f"{name} must be a number of seconds above 0")

    @property
    def version_numbers(self) -> tuple[int, ...]:
        return tuple(int(number) for number in self.version.split("."))

    @property
    def has_artifacts(self) -> bool:
        """Whether the server has artifacts and reviews."""
        return self.version_numbers >= ARTIFACTS_SINCE

    def word(self, end: str) -> str:
        """The server's word for an end of a job, from :data:`ENDS`."""
        return self.words.get(end) or (self.word("failed") if end == "aborted" else end)

    @property
    def closed(self) -> tuple[str, ...]:
        """The server's words for jobs that are over."""
        return tuple(dict.fromkeys(self.word(end) for end in ENDS))


def parse_words(texts: tuple[str, ...]) -> dict[str, str]:
    """Parse words such as ``done=completed``.

    Raises:
        MrCeleryError: a text has another form.
    """
    words = {}
    for text in texts:
        end, separator, word = text.partition("=")
        if not separator:
            raise MrCeleryError(f"{text!r} must be END=WORD, such as done=completed")
        words[end.strip()] = word.strip()
    return words
