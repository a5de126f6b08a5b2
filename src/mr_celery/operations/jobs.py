"""The jobs that the ledger knows: a list of them, and one job's whole story."""

from __future__ import annotations

from ..errors import MrCeleryError
from ..ledger import ENDINGS, IN_FLIGHT, Ledger, Line, Record


def listed(ledger: Ledger, *, state: str | None = None, task: str | None = None, limit: int = 50) -> list[Record]:
    """Jobs: those in flight by state and id, then those that ended, the last one first.

    Args:
        ledger: the ledger.
        state: only those in that state: one in flight, or how they ended.
        task: only those of that task.
        limit: how many at the most.

    Raises:
        MrCeleryError: there is no such state.
        LedgerUnavailable: the ledger is away.
    """
    if state is not None and state not in (*IN_FLIGHT, *ENDINGS):
        raise MrCeleryError(f"there is no state {state!r}: it is one of {', '.join((*IN_FLIGHT, *ENDINGS))}")
    ids = [job_id for each in IN_FLIGHT if state in (None, each) for job_id in ledger.in_state(each)]
    # Where tasks are told apart, those that are passed over must not count.
    most = limit if task is None else 10_000
    ended = [found for each in ENDINGS if state in (None, each) for found in ledger.ended(each, most)]
    ids += [job_id for job_id, _ in sorted(ended, key=lambda found: found[1], reverse=True)]
    records: list[Record] = []
    for job_id in ids:
        if len(records) == limit:
            break
        record = ledger.read(job_id)
        if record is not None and task in (None, record.route.task):
            records.append(record)
    return records


def story_of(ledger: Ledger, job_id: int) -> tuple[Record, list[Line]]:
    """A job's record, and what has happened to it, in order.

    Raises:
        MrCeleryError: the ledger does not know the job.
        LedgerUnavailable: the ledger is away.
    """
    record = ledger.read(job_id)
    if record is None:
        raise MrCeleryError(
            f"job {job_id} is not in the ledger of {ledger.worker!r}: it was not claimed yet, it is another worker "
            "name's, or it ended longer ago than MODELREINS_HISTORY"
        )
    return record, ledger.story(job_id)
