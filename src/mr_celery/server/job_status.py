"""Interprets the server's words for the status of a job."""

from __future__ import annotations

import unicodedata
from typing import Literal

from ..telemetry.printing import printable

Phase = Literal["pending", "running", "over", "unknown"]

MOST_CHARACTERS = 40
"""Maximum length of a status in characters. Statuses are shown in logs."""

_SAME_END = {"completed": "done"}
"""Older product pages' words for the statuses with which a worker closes a job."""


def status_word(value: object) -> str:
    """Normalize a status: lower case, stripped, printable, of limited length.

    Returns an empty text if the value is not a string, or has no letter.
    """
    if not isinstance(value, str):
        return ""
    plain = unicodedata.normalize("NFKC", value.strip()[: 2 * MOST_CHARACTERS]).casefold()
    word = printable(plain, MOST_CHARACTERS, instead="")
    return word if any(character.isalpha() for character in word) else ""


def phase_of(value: object) -> Phase:
    """The phase that a status stands for.

    Any word other than ``pending`` and ``running`` means that the job is over. A value without a word is ``unknown``,
    and nothing may be concluded from it.

    Args:
        value: the status as received, of any JSON type.
    """
    word = status_word(value)
    if word == "pending":
        return "pending"
    if word == "running":
        return "running"
    return "over" if word else "unknown"


def is_same_end(value: object, status: str) -> bool:
    """Whether the server's status means the given final status: ``done``, ``failed`` or ``escalated``."""
    word = status_word(value)
    return _SAME_END.get(word, word) == status
