"""Repairs a ledger whose Redis has lost some of its keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from .records import IN_FLIGHT, AuditRow, Damage, Inventory, Mending, read_audit_row
from .scripts import PAGE, LedgerBase


class Healing(LedgerBase):
    """Finds and repairs inconsistent keys."""

    def mark_in_use(self) -> bool:
        """Mark the ledger as in use. Returns ``True`` if it was new or empty."""
        return bool(self._run("mark_in_use", "", self._history))

    def mend(self, queues: Sequence[str], *, wait_seconds: float) -> Mending:
        """Make the keys of the jobs in flight consistent again, if some of them were lost.

        Args:
            queues: the queues whose slots are checked.
            wait_seconds: seconds until the next check of a job that was missing from its list.

        Returns:
            The jobs in flight, and the damage that was repaired. Nothing is left of a job whose record is lost, except
            for an outcome, which is delivered. The server's list decides whether it has to be adopted.
        """
        in_flight: dict[int, str] = {}
        bare: set[int] = set()
        mended: dict[int, Damage] = {}
        names = ("record", "known_work", "mending", "mend")
        for page in self._pages(queues):
            answer = self._script(names, "", (wait_seconds, self._history, len(queues), *queues, *page))
            for job_id, (state, damage, is_bare) in zip(page, answer, strict=True):
                if state.decode() in IN_FLIGHT:
                    in_flight[job_id] = state.decode()
                if damage:
                    mended[job_id] = cast(Damage, damage.decode())
                if is_bare:
                    bare.add(job_id)
        return Mending(in_flight, frozenset(bare), mended)

    def inventory(self, queues: Sequence[str] = (), also: Iterable[int] = ()) -> Inventory:
        """Everything stored about the jobs in flight, to check whether it is consistent.

        It is read in pages, so that other clients need not wait. Each job's row is consistent, the whole is not.

        Args:
            queues: the queues whose slots are checked, beside each job's own.
            also: further jobs whose records are read.
        """
        with self._redis.client() as client:
            checked_at = client.hget(f"{self._prefix}looked", "at")
        rows: dict[int, AuditRow] = {}
        for page in self._pages(queues, also):
            answer = self._look("rows", len(queues), *queues, *page)
            rows.update((job_id, read_audit_row(job_id, *row)) for job_id, row in zip(page, answer, strict=True))
        return Inventory(rows, None if checked_at is None else self._now() - float(checked_at))

    def _pages(self, queues: Sequence[str], also: Iterable[int] = ()) -> Iterator[list[int]]:
        """Every job that is listed anywhere as in flight, in pages. It scans no other keys of this Redis."""
        ids = set(also)
        with self._redis.client() as client:
            for name in (*IN_FLIGHT, "waiting", "undelivered"):
                ids.update(int(member) for member, _ in client.zscan_iter(f"{self._prefix}{name}", count=1000))
            for queue in queues:
                ids.update(int(member) for member in client.sscan_iter(f"{self._prefix}load:{queue}", count=1000))
        ordered = sorted(ids)
        for start in range(0, len(ordered), PAGE):
            yield ordered[start : start + PAGE]
