"""Reads the server's lists of jobs: which entries are kept, and which are left out."""

from __future__ import annotations

import codecs
import json
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from itertools import chain
from types import NoneType
from typing import Any, Generic, TypeVar

from ..errors import WorkerError
from ..job import MAX_JOB_ID, PRIORITIES, Job, priority_of
from ..telemetry.logs import JobLog
from ..telemetry.quantities import counted
from . import list_parser
from .job_status import Phase, phase_of, status_word
from .list_parser import MOST_ENTRY, MOST_NESTING, MOST_VALUES, VALUE_BYTES, BrokenList, Entry, is_deep

logger = logging.getLogger("mr_celery")

MOST_REMEMBERED = 1000
"""Number of jobs remembered for each list and cause, so that they are not logged again with each reading."""

_SHOWN = 5

MOST_KEPT = 10_000
"""Maximum number of jobs kept from one list, each about 1 kB plus its prompt."""

MOST_KEPT_BYTES = 16 * 2**20
"""Maximum estimated memory, in bytes, of the entries kept from one list."""

MOST_NAMELESS = 10_000
"""Number of entries without a usable id after which a list is not read further."""

NAMELESS = "too many entries have no usable id"

MOST_STATUSES = 100_000
"""Maximum number of jobs whose status is kept from one list. A longer one counts as incomplete."""

_ESCAPED_LETTER = re.compile(r"\\u00[67]")
"""An escape of an ASCII letter, which no server needs to write."""

_RANK = {priority: rank for rank, priority in enumerate(PRIORITIES)}

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The server's list of a worker's jobs in one status.

    If an entry names a different status than the list, the entry's status counts.

    Args:
        jobs: the entries in the list's status, each with an integer ``id``, up to a limit; empty if the caller took
            them.
        statuses: status by job id, for the requested jobs: the entry's own word, or else the list's status; empty if it
            is ambiguous.
        whole: whether the list was read to its end, and each entry has a usable id. Only then does a missing job mean
            that it was not listed.
        count: number of jobs in the list's status.
    """

    jobs: tuple[dict[str, Any], ...] = ()
    statuses: Mapping[int, str] = field(default_factory=dict)
    whole: bool = True
    count: int = 0

    @classmethod
    def of(cls, *jobs: dict[str, Any], status: str = "pending", whole: bool = True) -> Listing:
        """A list of the given jobs, all in one status."""
        return cls(jobs, {job["id"]: status for job in jobs}, whole, len(jobs))

    def ids(self, phase: Phase) -> frozenset[int]:
        """The ids of the jobs that are listed in a phase: ``pending``, ``running``, ``over`` or ``unknown``."""
        return self._ids.get(phase, frozenset())

    @cached_property
    def _ids(self) -> dict[Phase, frozenset[int]]:
        ids: dict[Phase, set[int]] = {}
        for job_id, status in self.statuses.items():
            ids.setdefault(phase_of(status), set()).add(job_id)
        return {phase: frozenset(found) for phase, found in ids.items()}


class PartialList(WorkerError):
    """A list of jobs that broke off, or is invalid JSON from some entry on.

    The entries before that count as listed. Nothing follows from a missing job.

    Args:
        error: the cause.
        listing: the entries that were read.
    """

    def __init__(self, error: WorkerError, listing: Listing) -> None:
        super().__init__(str(error), status=error.status, retryable=error.retryable, retry_after=error.retry_after)
        self.listing = listing
        self.fault = error.fault


Take = Callable[[dict[str, Any], int], str | None]
"""Receives each entry and its estimated memory in bytes.

Returns the reason why it is unusable; ``None`` if it is usable.
"""


def keep_nothing(fields: dict[str, Any], size: int) -> None:
    """Discard an entry, so that the list keeps only its status."""


class Reader:
    """Reads a list of jobs.

    Args:
        status: the list's status.
        take: receives each entry in that status.
        about: the jobs whose status is needed.

    Attributes:
        entries: number of entries that were read.
        left_out: unusable entries, by cause.
        refused: entries that ``take`` refused, by cause.
    """

    def __init__(self, status: str, take: Take | None, about: Collection[int] | None) -> None:
        self._status = status
        self._take = take
        self._about = about
        self._jobs: list[dict[str, Any]] = []
        self._bytes = 0
        self._statuses: dict[int, str] = {}
        self._nameless = 0
        self._has_all_statuses = True
        self._count = 0
        self.entries = 0
        self.left_out: dict[str, Entries] = {}
        self.refused: dict[str, Entries] = {}

    def read(self, chunks: Iterable[bytes]) -> None:
        """Read the response.

        Raises:
            NotAList, BrokenList: it is not a list of jobs.
        """
        for entry in entries(chunks):
            self.entries += 1
            self._read(entry)

    def listing(self, *, whole: bool = True) -> Listing:
        """The entries read so far."""
        whole = whole and not self._nameless and self._has_all_statuses
        return Listing(tuple(self._jobs), self._statuses, whole, self._count)

    def _read(self, entry: Entry) -> None:
        """Read an entry.

        Raises:
            BrokenList: too many entries are of no use.
        """
        fields, problem = entry.value, entry.problem
        members: Mapping[str, Any] = fields if isinstance(fields, dict) else entry.members
        given, job_id = members.get("status"), _job_id(members.get("id"))
        if job_id is None:
            self._nameless += 1
            if self._nameless > MOST_NAMELESS:
                raise BrokenList(NAMELESS)
            self._leave_out(problem or "it has no usable id", None)
            return
        status = self._status
        if given is not None and given != status:
            phase = phase_of(given)
            if phase == "unknown":
                problem = problem or f"its status is {shape_of(given)}"
            elif phase != phase_of(self._status):
                status = status_word(given)
        self._note(job_id, status)
        if status is not self._status:
            return
        self._count += 1
        if not problem:
            if members["id"] is not job_id:
                fields = {**fields, "id": job_id}
            if self._take is None:
                self._keep(fields, entry.size)
            elif refusal := self._take(fields, entry.size):
                self.refused.setdefault(refusal, Entries()).add(job_id)
        if problem:
            self._leave_out(problem, job_id)

    def _keep(self, fields: dict[str, Any], size: int) -> None:
        if len(self._jobs) < MOST_KEPT and (self._bytes + size <= MOST_KEPT_BYTES or not self._jobs):
            self._jobs.append(fields)
            self._bytes += size

    def _note(self, job_id: int, status: str) -> None:
        if self._about is None and len(self._statuses) >= MOST_STATUSES and job_id not in self._statuses:
            self._has_all_statuses = False
        elif self._about is None or job_id in self._about:
            before = self._statuses.setdefault(job_id, status)
            if before != status and phase_of(before) != phase_of(status):
                self._statuses[job_id] = ""  # listed twice, with contradicting statuses

    def _leave_out(self, problem: str, job_id: int | None) -> None:
        self.left_out.setdefault(problem, Entries()).add(job_id)


def _job_id(value: object) -> int | None:
    """The id of an entry; ``None`` if it is unusable."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_JOB_ID:
        return value
    return None


def entries(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """Yield the entries of ``{"jobs": [entry, …], …}`` in order.

    A response of one chunk is parsed at once. A longer one is parsed while it arrives.

    Args:
        chunks: the response's bytes, in UTF-8.

    Raises:
        NotAList: the response has no list of jobs.
        BrokenList: it is not JSON outside of the entries, or is incomplete.
    """
    arriving = iter(chunks)
    start = next(arriving, b"")
    try:
        rest = next(arriving, None)
    except Exception as error:
        yield from list_parser.entries(chain((start,), map(_raise, (error,))))  # raised once the chunk is parsed
        return
    found = _at_once(start) if rest is None else None
    yield from list_parser.entries(chain((start, rest or b""), arriving)) if found is None else found


def _raise(error: Exception) -> bytes:
    raise error


def _at_once(body: bytes) -> list[Entry] | None:
    """The entries of a short response, parsed at once; ``None`` if it needs the incremental parser."""
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode()
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    jobs = whole.get("jobs") if isinstance(whole, dict) else None
    if not isinstance(jobs, list) or len(text) > MOST_ENTRY:
        return None
    if text.count('"jobs"') != 1 or _ESCAPED_LETTER.search(text):  # a second list may have the same name
        return None
    brackets = text.count("{") + text.count("[")
    values = brackets + text.count(",")
    if (brackets > MOST_NESTING and any(map(is_deep, jobs))) or values > MOST_VALUES:
        return None
    width = 1 if text.isascii() and "\\u" not in text else 4  # bytes for a character
    size = (len(text) * width + values * VALUE_BYTES) // max(1, len(jobs))
    return [Entry(value, size) for value in jobs]


def shape_of(answer: object) -> str:
    """The type of a response, for a message that must not repeat its contents."""
    return "null" if answer is None else type(answer).__name__


@dataclass
class Entries:
    """The entries of a list that are left out for one cause.

    Args:
        ids: the known job ids, up to a limit.
        count: number of entries.
        nameless: number of entries without a known id.
    """

    ids: dict[int, None] = field(default_factory=dict)
    count: int = 0
    nameless: int = 0

    def add(self, job_id: int | None) -> None:
        """Count an entry."""
        self.count += 1
        if job_id is None:
            self.nameless += 1
        elif len(self.ids) < MOST_REMEMBERED:
            self.ids[job_id] = None


class LeftOut:
    """Logs one line for each cause in a list, and skips entries that the previous reading also left out.

    Safe to share between threads.

    Args:
        worker_name: the worker name of the listed jobs.
    """

    def __init__(self, worker_name: str) -> None:
        self._worker_name = worker_name
        self._logged: dict[tuple[str, str], Mapping[str, Entries]] = {}
        self._lock = threading.Lock()

    def log(self, status: str, found: Mapping[str, Entries], *, by: str) -> None:
        """Log the entries that were left out of a list.

        Args:
            status: the list's status.
            found: the entries, by cause.
            by: the check that rejected them; not every reading makes the same checks.
        """
        with self._lock:
            before = self._logged.get((status, by), {})
            if found or before:
                self._logged[status, by] = found
        for cause, entries in found.items():
            known = before.get(cause, Entries())
            ids = [job_id for job_id in entries.ids if job_id not in known.ids]
            nameless = max(0, entries.nameless - known.nameless)
            if ids or nameless:
                self._log(status, cause, ids, nameless, entries.count)

    def _log(self, status: str, cause: str, ids: list[int], nameless: int, count: int) -> None:
        where = f"left out of the list of {status} jobs"
        if len(ids) == 1 and not nameless:
            log = JobLog(logger, ids[0], worker_name=self._worker_name)
            log.warning("left_out", f"{where}: {cause}", reason=cause)
            return
        shown = ", ".join([*map(str, ids[:_SHOWN]), *(["…"] if len(ids) > _SHOWN else [])])
        which = [f"jobs {shown}"] if ids else []
        if nameless:
            which.append(f"{nameless} without a usable id, so a job missing from this list does not count as ended")
        logger.warning(
            "%s %s: %s (new: %s)",
            counted(count, "entry"),
            where,
            cause,
            "; ".join(which),
            extra={"event": "left_out", "reason": cause, "worker_name": self._worker_name},
        )


def malformed(fields: Mapping[str, Any]) -> str:
    """Explain why an entry cannot be claimed: a field that selects the handler has an unknown type.

    Returns an empty string for a valid entry. A malformed one was garbled, so none of its fields can be trusted.
    """
    if not isinstance(fields.get("prompt"), str):
        return f"its prompt is {type(fields.get('prompt')).__name__}"
    if not isinstance(fields.get("capability"), (str, NoneType)):
        return f"its capability is {type(fields['capability']).__name__}"
    for name in ("capabilities", "tags"):
        value = fields.get(name)
        if not isinstance(value, (str, list, NoneType)):
            return f"its {name} are {type(value).__name__}"
        if isinstance(value, list) and not all(isinstance(item, (str, dict)) for item in value):
            return f"its {name} are not all strings"
    return ""


def urgency(job: Job) -> tuple[int, int]:
    """The sort key for claiming: high before normal before low, then by id."""
    return (_RANK[job.priority], job.id)


class MostUrgent(Generic[T]):
    """The most urgent jobs of a list, selected while it is read.

    Memory is bounded, however long the list is.

    Args:
        choose: returns the object to keep for a job; ``None`` to skip the job.
        most: the maximum number of jobs.
        most_bytes: the maximum estimated memory of their entries. One entry is always kept.
    """

    def __init__(
        self, choose: Callable[[Job], T | None], *, most: int = MOST_KEPT, most_bytes: int = MOST_KEPT_BYTES
    ) -> None:
        self._choose = choose
        self._most = most
        self._most_bytes = most_bytes
        self._heap: list[tuple[int, int]] = []  # least urgent first
        self._kept: dict[int, tuple[Job, T, int]] = {}
        self._passed: set[int] = set()
        self._refused: set[int] = set()
        self._cut: tuple[int, int] | None = None  # jobs at or after this place do not fit
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[T]:
        """Iterate over the kept objects, the most urgent first."""
        for _, place in sorted(self._heap, reverse=True):
            if -place in self._kept:
                yield self._kept[-place][1]

    def take(self, fields: dict[str, Any], size: int) -> str | None:
        """Keep an entry if it is urgent enough. Returns why the entry is unusable; ``None`` if it is usable.

        Args:
            fields: the entry, with an integer ``id``.
            size: its estimated memory in bytes.
        """
        job_id = fields["id"]
        if problem := malformed(fields):
            self._refuse(job_id)
            return problem
        kept = self._kept.get(job_id)
        if job_id in self._refused or (kept and dict(kept[0]) != fields):
            return self._contradiction(job_id)
        place = (-_RANK[priority_of(fields)], -job_id)
        if kept or (self._cut and place <= self._cut):
            return None
        job = Job(fields)
        chosen = self._choose(job)
        if chosen is None:
            if len(self._passed) < MOST_KEPT:
                self._passed.add(job_id)
            return None
        if job_id in self._passed:
            return self._contradiction(job_id)
        heappush(self._heap, place)
        self._kept[job_id] = (job, chosen, size)
        self._bytes += size
        while len(self._kept) > self._most or (self._bytes > self._most_bytes and len(self._kept) > 1):
            self._cut = heappop(self._heap)
            self._drop(-self._cut[1])
        return None

    def _contradiction(self, job_id: int) -> str:
        self._refuse(job_id)
        return "it is listed twice with different fields"

    def _refuse(self, job_id: int) -> None:
        """Drop a job and ignore its other entries."""
        self._drop(job_id)
        if len(self._refused) < MOST_KEPT:
            self._refused.add(job_id)

    def _drop(self, job_id: int) -> None:
        if kept := self._kept.pop(job_id, None):
            self._bytes -= kept[2]
