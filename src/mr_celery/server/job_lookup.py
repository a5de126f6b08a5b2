"""Looks up a job's status on the server, by the requests that a worker may make."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

from ..errors import WorkerError
from .api import Api
from .job_list import Listing, keep_nothing
from .job_status import Phase, phase_of, status_word

_PHASES: tuple[Phase, ...] = ("running", "pending", "unknown", "over")
"""Precedence of phases if lists contradict each other. A job is over only if no list contradicts that."""


def listed_status(job_id: int, listings: Iterable[Listing]) -> str | None:
    """A job's status in the given lists; empty if it is ambiguous, ``None`` if no list has the job."""
    words = {phase_of(word): word for each in listings if (word := each.statuses.get(job_id)) is not None}
    return next((words[phase] for phase in _PHASES if phase in words), None)


def status_of(api: Api, job_id: int, *, listing: Callable[[str], Listing] | None = None) -> str | None:
    """A job's status in the server's own word; ``None`` if it cannot be determined.

    The lists of running and pending jobs come first. If neither has the job, the function reads the job itself, and
    then the lists of finished jobs. (Reading one job is documented for user API keys; a worker may be refused.) A
    status is returned only if the server names it. Nothing is concluded from a job's absence in a list.

    Args:
        api: the server.
        job_id: the job.
        listing: returns the list of one status, for callers that have some of them already.

    Raises:
        WorkerError: there was no response, or the server failed.
    """
    listing = listing or cache(partial(api.jobs, take=keep_nothing, about={job_id}))
    read: list[Listing] = []
    for status in ("running", "pending"):
        read.append(listing(status))
        listed = listed_status(job_id, read)
        if listed and phase_of(listed) == status:
            return listed
    listed = listed_status(job_id, read)
    if listed:
        return listed
    alone = status_word((api.job(job_id) or {}).get("status"))
    if alone:
        return alone
    try:
        for status in ("failed", "done", "escalated"):
            listed = listed_status(job_id, [listing(status)])
            if listed:
                return listed
    except WorkerError as error:
        if error.retryable:
            raise
    return None  # also if the server gives workers no lists of finished jobs
