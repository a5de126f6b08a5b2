"""Actions on many jobs at once, with the question before and the report afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...web.formats import count
from ..states import TransitionError, check
from ..store import Store
from ..values import NotFoundError


@dataclass(frozen=True)
class Act:
    """An action on a job.

    Attributes:
        verb: the label of its button.
        done: its participle, for the report.
        obstacle: why it does not apply to other jobs.
        run: performs it. Returns the ids of all jobs to which it applied.
    """

    verb: str
    done: str
    obstacle: str
    run: Callable[[Store, int], Iterable[int]]


def _requeue(store: Store, job_id: int) -> Iterable[int]:
    store.requeue(job_id)
    return (job_id,)


def _abort(store: Store, job_id: int) -> Iterable[int]:
    store.abort(job_id)
    return (job_id,)


def _approve(store: Store, job_id: int) -> Iterable[int]:
    return store.approvals.approve(job_id)


ACTS: Mapping[str, Act] = {
    "requeue": Act("Requeue", "requeued", "had not started yet", _requeue),
    "abort": Act("Abort", "aborted", "had already ended", _abort),
    "approve": Act("Approve", "approved", "did not wait for an approval", _approve),
}
"""The actions, by their names in :func:`~mr_celery.sandbox.states.check`."""


def possible(statuses: Iterable[str]) -> dict[str, Act]:
    """The actions that apply to jobs in at least one of these statuses."""
    return {name: act for name, act in ACTS.items() if any(_applies(status, name) for status in statuses)}


def _applies(status: str, name: str) -> bool:
    try:
        check(status, name)
    except TransitionError:
        return False
    return True


def jobs_in_words(number: int) -> str:
    """``1 job``, ``12 jobs``."""
    return f"{count(number)} {'job' if number == 1 else 'jobs'}"


def statuses(store: Store, ids: Sequence[int]) -> dict[int, str]:
    """The statuses of the jobs that exist."""
    found: dict[int, str] = {}
    for first in range(0, len(ids), 500):
        some = ids[first : first + 500]
        query = f"SELECT id, status FROM jobs WHERE id IN ({', '.join('?' * len(some))})"  # noqa: S608 - question marks
        found.update((row["id"], row["status"]) for row in store.rows(query, *some))
    return found


def question(store: Store, name: str, ids: Sequence[int]) -> tuple[str, str]:
    """The question before an action, with the number of jobs; and the number of jobs in each status."""
    act, found = ACTS[name], Counter(statuses(store, ids).values())
    details = ", ".join(f"{count(number)} {status.replace('_', ' ')}" for status, number in found.most_common())
    jobs = f"job {ids[0]}" if len(ids) == 1 else jobs_in_words(len(ids))
    return f"{act.verb} {jobs}?", details


def apply(store: Store, name: str, ids: Sequence[int]) -> str:
    """Apply an action to each job. Returns the result in words: ``11 requeued, 1 had not started yet``.

    Jobs to which it does not apply are left as they are, without an event.

    Raises:
        KillswitchError: the killswitch is on, and no job can be requeued.
    """
    act, done, left = ACTS[name], set[int](), 0
    for job_id in ids:
        if job_id in done:  # approved with another job of its session
            continue
        try:
            if _applies(statuses(store, [job_id]).get(job_id, ""), name):
                done.update(act.run(store, job_id))
                continue
        except (TransitionError, NotFoundError):  # the job has changed in the meantime, or does not exist
            pass
        left += 1
    words = [f"{count(len(done))} {act.done}"] if done or not left else []
    return ", ".join([*words, *([f"{count(left)} {act.obstacle}"] if left else [])])
