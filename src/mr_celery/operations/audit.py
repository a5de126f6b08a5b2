"""The audit: compares the ledger with the server's lists, and the parts of the ledger with each other.

It changes nothing. Jobs are claimed and closed while it reads, so a single reading shows differences that are gone a
moment later. A difference counts only if it is found in each of several readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from ..bridge.capacity import REFUSED_QUEUE
from ..errors import WorkerError
from ..ledger import IN_FLIGHT, AuditRow, Inventory, Ledger
from ..server import Api, Listing, keep_nothing, listed_status, phase_of, status_of
from ..server.job_list import MOST_STATUSES
from ..telemetry.quantities import ago, duration

ADMITTED_SECONDS = 60.0
"""Time for a claim to be settled, in seconds."""

CLOSE_SECONDS = 60.0
"""Time for which the ledger may have the outcome of a job that the server has closed, in seconds.

The response to the close may be on its way or lost.
"""

FINISHED_SECONDS = 300.0
"""Time for the delivery of an outcome, in seconds."""

BRIDGE_SECONDS = 20.0
"""Maximum time between two ledger accesses of a bridge, in seconds. It also holds while the broker is down."""

READINGS = 4
"""Readings that must all show a difference. A bridge notices an abort in its second or third poll."""

LATE = 1.0
"""Tolerated delay of each poll of a bridge, in seconds."""

MAX_PAUSE = 10.0
"""Maximum pause between two readings, in seconds, even if bridges poll less often."""

MAX_LOOKUPS = 20
"""Maximum number of jobs that are looked up on the server one by one."""

SLOT_STATES = IN_FLIGHT[:4]
"""The states in which a job holds a slot of its queue."""

NO_BRIDGE = "no bridge checks the ledger"
TORN = "a list from the server is incomplete or has unreadable entries"
UNKNOWN = "running on the server, unknown to the ledger"
GONE = "in flight in the ledger, but ended on the server or missing from its lists"
UNLISTED = "in flight in both, but missing from the server's lists"
PUT_BACK = "in flight in the ledger, pending on the server"
UNSETTLED = "its claim is not settled"
UNDELIVERED = "its outcome is not delivered"
NO_RECORD = "listed in the ledger without a record"
CONTRADICTION = "its ledger record contradicts the ledger's lists"
NEEDLESS_SLOT = "holds a slot that it does not need"
NO_SLOT = "holds no slot of its queue"

_STAYS = "if this lasts, see the bridge's log"
_DAMAGED = (
    "Redis lost a part of the ledger, or it was changed by hand: is its maxmemory-policy noeviction? A bridge "
    f"repairs it at its next comparison; {_STAYS}"
)

HINTS = {
    NO_BRIDGE: "start one; if one runs, it has another ledger (MODELREINS_LEDGER_URL) or name (MODELREINS_NAME)",
    TORN: "missing jobs do not count as ended; check the proxies between the server and this host",
    UNKNOWN: f"a bridge takes it over when it starts, or while it has other jobs; {_STAYS}",
    GONE: f"a bridge ends it in the ledger once the server confirms that it has ended; {_STAYS}",
    UNLISTED: "the server's lists are incomplete, so jobs that the ledger lost cannot be found by them",
    PUT_BACK: f"a bridge claims it again; {_STAYS}",
    UNSETTLED: f"a bridge settles it with the server's list of running jobs; {_STAYS}",
    UNDELIVERED: f"it is delivered as soon as the server accepts it; {_STAYS}",
    NO_RECORD: _DAMAGED,
    CONTRADICTION: _DAMAGED,
    NEEDLESS_SLOT: f"{_DAMAGED}. Until then its queue gets fewer jobs",
    NO_SLOT: _DAMAGED,
}
"""The hint for each kind of difference: how it is resolved, or what to do."""


@dataclass(frozen=True)
class Listed:
    """The server's lists of running and pending jobs.

    Args:
        running: the list of running jobs.
        pending: the list of pending jobs.
        ours: the running jobs that are assigned to the worker name.
    """

    running: Listing
    pending: Listing
    ours: frozenset[int] = frozenset()

    @classmethod
    def read(cls, api: Api) -> Listed:
        """Fetch both lists.

        Raises:
            WorkerError: a list could not be read completely.
        """
        ours: set[int] = set()

        def take(fields: dict[str, Any], size: int) -> None:
            if fields.get("assigned_to") in (None, "", api.name) and len(ours) < MOST_STATUSES:
                ours.add(fields["id"])

        running, pending = api.jobs("running", take=take), api.jobs("pending", take=keep_nothing)
        return cls(running, pending, frozenset(ours))

    @property
    def whole(self) -> bool:
        """Whether both lists are complete, so that a job in neither is really not listed."""
        return self.running.whole and self.pending.whole

    def status(self, job_id: int) -> str | None:
        """The status of a job; empty if it is ambiguous, ``None`` if the job is in neither list."""
        return listed_status(job_id, (self.running, self.pending))

    def described(self, job_id: int) -> str:
        """The status of a job in words."""
        status = self.status(job_id)
        return "listed nowhere" if status is None else status or "listed with an ambiguous status"


@dataclass(frozen=True)
class Difference:
    """A contradiction between the ledger and the server, or between two parts of the ledger.

    Args:
        job_id: the job; ``None`` if the difference is not about a single job.
        what: the kind of difference, a key of :data:`HINTS`.
        ledger: the state in the ledger; empty if it does not matter.
        server: the state on the server, likewise.
    """

    job_id: int | None
    what: str
    ledger: str = ""
    server: str = ""

    @property
    def hint(self) -> str:
        """The way in which the difference is resolved, or advice."""
        return HINTS[self.what]

    def with_status(self, status: str) -> Difference:
        """The difference, completed by the status of a job that is in neither list."""
        if phase_of(status) == "over":
            return replace(self, server=status)
        return replace(self, what=UNLISTED, server=f"{status}, though not listed so")

    def __str__(self) -> str:
        subject = "" if self.job_id is None else f"job {self.job_id}: "
        sides = [f"{side}: {state}" for side, state in (("ledger", self.ledger), ("server", self.server)) if state]
        return f"{subject}{self.what}" + (f" ({'; '.join(sides)})" if sides else "")


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        in_flight: number of jobs in flight in the ledger.
        running: number of jobs that the server lists as running.
        pending: number of jobs that the server lists as pending.
        differences: the differences; empty if both sides agree.
    """

    in_flight: int
    running: int
    pending: int
    differences: tuple[Difference, ...]


def audit(
    api: Api,
    ledger: Ledger,
    *,
    interval: float,
    queues: Sequence[str] = (),
    wait: Callable[[float], object] = time.sleep,
) -> Audit:
    """Compare a worker name's ledger with the server until a reading shows no difference, or all are made.

    Args:
        api: the server.
        ledger: the ledger.
        interval: poll interval of the bridges, which resolve differences, in seconds.
        queues: the queues whose slots are compared.
        wait: waits for a number of seconds.

    Raises:
        WorkerError: the server cannot be reached, or its response is unusable.
        LedgerUnavailable: the ledger cannot be reached.
    """
    lasting: dict[tuple[int | None, str], Difference] = {}
    for reading in range(READINGS):
        if reading:
            wait(min(interval + LATE, MAX_PAUSE))
        listed = Listed.read(api)
        inventory = ledger.inventory([*queues, REFUSED_QUEUE], also=listed.ours)
        found = {(each.job_id, each.what): each for each in differences(inventory, listed)}
        lasting = {key: each for key, each in found.items() if key in lasting or not reading}
        if not lasting:
            break
    gone = [job_id for job_id, what in lasting if what == GONE and job_id is not None]
    lists = cache(partial(api.jobs, take=keep_nothing, about=set(gone)))
    for job_id in gone[:MAX_LOOKUPS]:
        if status := _looked_up(api, job_id, lists):
            lasting[job_id, GONE] = lasting[job_id, GONE].with_status(status)
    return Audit(
        in_flight=sum(row.state in IN_FLIGHT for row in inventory.rows.values()),
        running=listed.running.count,
        pending=listed.pending.count,
        differences=tuple(lasting.values()),
    )


def _looked_up(api: Api, job_id: int, listing: Callable[[str], Listing]) -> str | None:
    """The status of a single job on the server; ``None`` if the lookup fails, which leaves the difference as it is."""
    try:
        return status_of(api, job_id, listing=listing)
    except WorkerError:
        return None


def differences(inventory: Inventory, listed: Listed) -> list[Difference]:
    """The differences of one reading: first those without a job, then at most one for each job, by id.

    Args:
        inventory: the contents of the ledger.
        listed: the server's lists.
    """
    ids = sorted(inventory.rows.keys() | listed.ours)
    rows = [inventory.rows.get(job_id, AuditRow(job_id)) for job_id in ids]
    found = [each for row in rows if (each := _of_job(row, listed))]
    if not listed.whole:
        lists = (("running", listed.running), ("pending", listed.pending))
        torn = " and ".join(status for status, each in lists if not each.whole)
        found.insert(0, Difference(None, TORN, server=f"{torn} jobs"))
    busy = any(row.state in IN_FLIGHT for row in rows)
    if (found or busy) and (inventory.looked is None or inventory.looked > BRIDGE_SECONDS):
        checked = "never checked" if inventory.looked is None else f"last checked {ago(inventory.looked)}"
        found.insert(0, Difference(None, NO_BRIDGE, ledger=checked))
    return found


def _of_job(row: AuditRow, listed: Listed) -> Difference | None:
    """The difference of one job. A damaged ledger is reported instead of its differences from the server."""
    if what := _within(row):
        return Difference(row.id, what, _places(row), listed.described(row.id))
    if what := _between(row, listed):
        return Difference(row.id, what, _shown(row), listed.described(row.id))
    return None


def _within(row: AuditRow) -> str | None:
    """The contradiction between two parts of the ledger about a job."""
    if row.sets and not row.state:
        return NO_RECORD
    if row.sets != ((row.state,) if row.state in IN_FLIGHT else ()):
        return CONTRADICTION
    if row.state in SLOT_STATES:
        return None if row.slots == (row.queue,) else NO_SLOT
    return NEEDLESS_SLOT if row.slots else None


def _between(row: AuditRow, listed: Listed) -> str | None:
    """The contradiction between the ledger and the server about a job."""
    if row.state not in IN_FLIGHT:
        return UNKNOWN if row.id in listed.ours else None
    if row.state == "admitted":
        return UNSETTLED if row.seconds > ADMITTED_SECONDS else None
    status = listed.status(row.id)
    phase = phase_of(status)
    if phase == "running":
        return UNDELIVERED if row.state == "finished" and row.seconds > FINISHED_SECONDS else None
    if row.state == "finished" and row.seconds <= CLOSE_SECONDS:
        return None
    if phase == "pending":
        return PUT_BACK
    return GONE if phase == "over" or (status is None and listed.whole) else None


def _shown(row: AuditRow) -> str:
    """The state of a job and its duration."""
    if not row.state:
        return "unknown"
    text = f"{row.state} for {duration(row.seconds)}"
    if row.state == "finished":
        text += f", deliveries tried: {row.deliveries}"
        text += f", last answer {last}" if (last := _last_answer(row.why)) else ""
    return text


def _places(row: AuditRow) -> str:
    """The parts of the ledger that contain a job."""
    sets = f"listed as {' and '.join(row.sets)}" if row.sets else "listed nowhere"
    slots = f"a slot of {' and '.join(row.slots)}" if row.slots else "no slot"
    return f"record {row.state or 'missing'}, {sets}, {slots}"


def _last_answer(why: str) -> str:
    """The request and status of the last failed delivery, without the server's message, which may repeat a result."""
    request = why.partition(": ")[0]
    return request if " -> " in request else ""
