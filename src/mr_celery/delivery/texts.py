"""Texts in a job's output about parts that could not be delivered."""

from __future__ import annotations

from typing import Literal

from ..errors import WorkerError
from ..outcome import Outcome
from ..telemetry.printing import printable
from ..telemetry.quantities import counted, data_size, duration
from .giving_up import Streak

REFUSAL = "the server refused"
"""Start of the output of a job with a part that the server refused."""

THE_OUTPUT = "the job's output"
OUTPUT_REFUSED = f"{REFUSAL} {THE_OUTPUT}"

GIVEN_UP = "mr-celery could not deliver"
"""Start of the output of a job with a part that was given up after too many attempts."""

NEEDS = "ModelReins server 4.6.0 or later"
"""The servers that accept artifacts and reviews."""

MOST_LISTED = 50
"""Maximum number of parts that are listed by name."""


def name_of(outcome: Outcome, part: str) -> str:
    """The name of a part in a sentence: ``the artifact 'a.png'``."""
    kind, _, index = part.partition(":")
    if kind == "artifact":
        return f"the artifact {printable(outcome.uploads[int(index)].filename)!r}"
    return f"the review {printable(outcome.reviews[int(index)].title)!r}"


def given_up(what: str, error: Exception, streak: Streak) -> str:
    """The output's first line if a delivery failed too often.

    Args:
        what: the undelivered parts.
        error: the last error.
        streak: the streak of failures.
    """
    words = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
    others_succeeded = streak.evidence in ("passes", "away", "blocked")
    meanwhile = f"; {counted(streak.others, 'other delivery')} succeeded in the meantime" if others_succeeded else ""
    often = f"{counted(streak.times, 'time')} in {duration(streak.seconds)}"
    return f"{GIVEN_UP} {what}: {printable(words)} ({often}{meanwhile})"


def not_attached(outcome: Outcome, parts: tuple[str, ...], error: WorkerError) -> str:
    """A list of the parts that the server has no route for, with the server version that has one."""
    lines = [_line(outcome, part) for part in parts[:MOST_LISTED]]
    if len(parts) > MOST_LISTED:
        lines.append(f"- and {len(parts) - MOST_LISTED} more")
    listed = "\n".join(lines)
    return (
        f"The server does not support artifacts and reviews, which need {NEEDS} ({printable(str(error))}). "
        f"Not attached:\n{listed}"
    )


def _line(outcome: Outcome, part: str) -> str:
    kind, _, index = part.partition(":")
    if kind == "artifact":
        upload = outcome.uploads[int(index)]
        return f"- artifact {printable(upload.filename)!r} ({printable(upload.content_type)}, {data_size(upload.size)})"
    review = outcome.reviews[int(index)]
    return f"- review {printable(review.title)!r} ({printable(review.type)})"


def too_old(error: WorkerError) -> WorkerError:
    """The error of a request for a missing route, with the server version that has the route added to its message."""
    explained = WorkerError(
        f"{error} (the server does not support artifacts and reviews, which need {NEEDS})", status=error.status
    )
    explained.route = error.route
    return explained


def without_attachments(
    outcome: Outcome, parts: tuple[str, ...], error: WorkerError, how: Literal["fail", "close"]
) -> Outcome:
    """The outcome without its undelivered parts, for a server that has no route for artifacts or reviews.

    Args:
        outcome: the original outcome.
        parts: the undelivered parts: ``artifact:0``, ``review:0``, …
        error: the server's response.
        how: ``fail`` fails the job, ``close`` closes it with the handler's status.
    """
    note = not_attached(outcome, parts, error)
    bare = outcome.without(parts)
    if how == "close":
        return bare.saying(f"{outcome.text}\n\n{note}".lstrip())
    return bare.failing(outcome.text_after(note), reason=f"the server does not support artifacts: {error.summary}")
