"""What has become of a job on the server, as far as a worker can find out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ..errors import WorkerError
from .api import Api, Listing


def status_of(api: Api, job_id: int, *, listing: Callable[[str], Listing] | None = None) -> str | None:
    """A job's status on the server, in its words, or ``None`` where nothing tells it.

    The lists of running and pending jobs come first. Where neither has the job, the server is asked for it alone
    (documented for user API keys: a worker may be refused), and for its lists of jobs that are over. So a status
    is positive knowledge; that lists do not show a job is none.

    Args:
        api: the server.
        job_id: the job.
        listing: gives the list of one status, where the caller has some of them already.

    Raises:
        WorkerError: there is no answer, or the server is in trouble.
    """
    listing = listing or cache(api.jobs)
    for status in ("running", "pending"):
        if job_id in listing(status).ids:
            return status
    told = (api.job(job_id) or {}).get("status")
    if isinstance(told, str) and told:
        return told
    try:
        return next((each for each in ("failed", "done", "escalated") if job_id in listing(each).ids), None)
    except WorkerError as error:
        if error.retryable:
            raise
        return None  # the server gives a worker no list of jobs that are over
