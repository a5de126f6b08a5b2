"""Reads of the ledger. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ..outcome import Outcome
from .records import ENDINGS, IN_FLIGHT, Aged, Deferring, Pause, Record, RunKey, Snapshot, Tally, read_record
from .scripts import PAGE, LedgerBase
from .stats import Stats

COMPARED = PAGE
"""Jobs of each state that are compared to find the oldest."""


class Queries(LedgerBase):
    """Reads of single jobs, and of all of them."""

    # -- one job -------------------------------------------------------------------------------------

    def read(self, job_id: int) -> Record | None:
        """A job's record; ``None`` if the ledger does not know it."""
        record, payload = self._script(("record", "read"), job_id, ())
        return read_record(job_id, dict(zip(*[iter([*record, *payload])] * 2, strict=True)))

    def outlines(self, job_ids: Iterable[int]) -> Iterator[Record]:
        """The records of jobs, read in pages, without the jobs and their outcomes. Unknown jobs are left out."""
        ids = iter(job_ids)
        while page := list(islice(ids, PAGE)):
            with self._redis.client() as client:
                pipeline = client.pipeline(transaction=False)
                for job_id in page:
                    pipeline.hgetall(f"{self._prefix}job:{job_id}")
                answers = pipeline.execute()
            for job_id, fields in zip(page, answers, strict=True):
                if record := read_record(job_id, fields):
                    yield record

    def holds(self, run: RunKey) -> bool:
        """Whether a run still has its job: it was not aborted, and no other run has replaced it.

        A run keeps a job that the ledger does not know: lost data says nothing about the job.
        """
        names = ("state", "task_id", "retries", "finished_by")
        with self._redis.client() as client:
            known = client.hmget(f"{self._prefix}job:{run.job_id}", *names)
        state, task_id, retries, finished_by = (value and value.decode() for value in known)
        if state is None or finished_by == "ref":  # completed from elsewhere: the handler may end
            return state is None or task_id == run.task_id
        return (state, task_id, int(retries or 0)) == ("running", run.task_id, run.retries)

    def listed(self, job_id: int) -> bool:
        """Whether a job is listed as in flight, with or without a record."""
        ((sets, _, _),) = self._look("rows", 0, job_id)
        return bool(sets)

    def attached(self, job_id: int) -> list[tuple[Outcome, list[bytes]]]:
        """The attachments that were stored for a job, each with the bytes of its uploads, in order.

        Those whose data is lost are empty.
        """
        with self._redis.client() as client:
            count = int(client.hget(f"{self._prefix}job:{job_id}", "attached") or 0)
            fields = client.hgetall(f"{self._prefix}payload:{job_id}") if count else {}
        found = []
        for number in range(count):
            text = fields.get(f"attached:{number}".encode())
            parts = Outcome("done", "") if text is None else Outcome.from_json(text)
            blobs = [fields.get(f"attached:{number}:{each}".encode(), b"") for each in range(len(parts.uploads))]
            found.append((parts, blobs))
        return found

    def blob(self, job_id: int, index: int) -> bytes | None:
        """The bytes of an outcome's upload."""
        with self._redis.client() as client:
            blob: bytes | None = client.hget(f"{self._prefix}payload:{job_id}", f"blob:{index}")
        return blob

    # -- many jobs -----------------------------------------------------------------------------------

    def due(self, state: str, limit: int = 100) -> list[int]:
        """Up to ``limit`` jobs of a state whose next check is due."""
        return [int(job_id) for job_id in self._look("due", state, limit)]

    def in_state(self, state: str) -> list[int]:
        """The jobs in one state in flight, sorted by id."""
        with self._redis.client() as client:
            members = client.zscan_iter(f"{self._prefix}{state}", count=1000)
            return sorted({int(job_id) for job_id, _ in members})

    def oldest(self, states: Sequence[str], limit: int) -> dict[str, dict[int, float]]:
        """The oldest jobs of each state, up to ``limit``, in the order in which they entered it.

        If more than :data:`COMPARED` jobs are in a state, only those that are due first for a check are compared.

        Returns:
            For each state, the seconds until the next check of each job; negative if it is due.
        """
        answer = self._look("oldest", COMPARED, limit, *states)
        return {
            state: {int(job_id): float(due) for job_id, due in zip(found[::2], found[1::2], strict=True)}
            for state, found in zip(states, answer, strict=True)
        }

    def deferring(self) -> Deferring:
        """The tasks that have deferred a job, and the number of their jobs in slots. It reads each job in a slot."""
        jobs, names = self._look("deferring")
        return Deferring(frozenset(name.decode() for name in names), int(jobs))

    def in_flight(self) -> dict[int, str]:
        """Every job in flight, with its state."""
        found: dict[int, str] = {}
        with self._redis.client() as client:
            for state in IN_FLIGHT:
                for job_id, _ in client.zscan_iter(f"{self._prefix}{state}", count=1000):
                    found[int(job_id)] = state
        return found

    def ended(self, ending: str, *, oldest: float, newest: float) -> Iterator[tuple[int, float]]:
        """The jobs that ended in one of :data:`ENDINGS`, newest first, each with the time of its end. Read in pages.

        Args:
            ending: the ending.
            oldest: only jobs that ended after that time, in seconds since 1970 by the ledger's clock.
            newest: only jobs that ended at that time or earlier.
        """
        key, start = f"{self._prefix}ended:{ending}", 0
        oldest = max(oldest, self._now() - self._history)
        while True:
            with self._redis.client() as client:
                page = client.zrevrangebyscore(key, f"{newest:.6f}", f"({oldest:.6f}", start, PAGE, withscores=True)
            yield from ((int(job_id), float(at)) for job_id, at in page)
            if len(page) < PAGE:
                return
            start += PAGE

    # -- counts --------------------------------------------------------------------------------------

    def snapshot(self, periods: Sequence[float]) -> Snapshot:
        """The jobs that have waited longest, and the number that ended in the last seconds of each period."""
        paused, waiting, undelivered, *ended = self._look("snapshot", *periods)
        counts = [dict(zip(ENDINGS, each, strict=True)) for each in ended]
        return Snapshot(
            pause=Pause.from_json(paused) if paused else None,
            waiting=Aged.read(waiting),
            undelivered=Aged.read(undelivered),
            ended=dict(zip(periods, counts, strict=True)),
        )

    def stats(self) -> Stats:
        """Counters and histograms of past events."""
        with self._redis.client() as client:
            return Stats(client.hgetall(f"{self._prefix}stats"))

    def tally(self, route: str) -> Tally:
        """Counts of the requests of a route (``upload``, ``review``, ``close``) that all deliveries made."""
        answer = self._look("tally", route)
        return Tally(float(answer[0]), *map(int, answer[1:]))
