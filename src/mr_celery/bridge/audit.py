"""The audit: whether the ledger and the server say the same of the jobs in flight, and the ledger fits together.

It changes nothing. Work goes on while it looks, and much of what it finds at one moment is only that: a job that was
claimed or closed between two questions. So a difference is what it finds in each of several looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from ..client import TERMINAL, Api, Listing, status_of
from ..errors import WorkerError
from ..ledger import IN_FLIGHT, Holding, Inventory, Ledger

ADMITTED_SECONDS = 60.0
"""How long a claim may take to be settled."""

CLOSE_SECONDS = 60.0
"""How long an outcome may be here without a job to close there: the answer to the close is on the way, or lost."""

FINISHED_SECONDS = 300.0
"""How long an outcome may take to be delivered."""

BRIDGE_SECONDS = 20.0
"""How long ago a bridge has looked after the ledger at the most, if one is at work: also while its broker is away."""

LOOKS = 4
"""In how many looks in a row a difference must be found. A bridge notices an abort in its second or third."""

LATE = 1.0
"""Seconds by which a bridge may come later to each of its looks than its poll interval says."""

MOST_PAUSE = 10.0
"""Seconds between two looks at the most, however rarely the bridges look."""

FEW = 20
"""For how many jobs at the most the server is asked one by one."""

SLOT_STATES = IN_FLIGHT[:4]
"""The states in which a job holds a slot of its queue."""

NO_BRIDGE = "no bridge is at work"
TORN = "a list of the server has entries that cannot be read"
UNKNOWN = "in progress on the server, not here"
GONE = "in flight here, not in the server's lists"
UNLISTED = "in flight here and there, not in the server's lists"
PUT_BACK = "in flight here, pending on the server"
UNSETTLED = "its claim is not settled"
UNDELIVERED = "its outcome is not delivered"
NO_RECORD = "listed here without a record"
CONTRADICTION = "its record here contradicts the lists here"
NEEDLESS_SLOT = "holds a slot that it does not need"
NO_SLOT = "holds no slot of its queue"

_STAYS = "where this stays, the bridge's log tells why"
_DAMAGED = "Redis lost a part of the ledger, or it was written to by hand: is its maxmemory-policy noeviction?"

HINTS = {
    NO_BRIDGE: "start one; if one runs, it has another ledger (MODELREINS_LEDGER_URL) or name (MODELREINS_NAME)",
    TORN: "nothing is concluded from what it lacks: see what stands between the server and this host",
    UNKNOWN: f"a bridge takes it over when it starts, or while it has other jobs; {_STAYS}",
    GONE: f"a bridge ends it here once it is sure that it is over there; {_STAYS}",
    UNLISTED: "the lists do not show all jobs: what runs there and is lost here cannot be found by them",
    PUT_BACK: f"a bridge claims it again; {_STAYS}",
    UNSETTLED: f"a bridge settles it by the server's list of running jobs; {_STAYS}",
    UNDELIVERED: f"it is delivered as soon as the server takes it; {_STAYS}",
    NO_RECORD: _DAMAGED,
    CONTRADICTION: _DAMAGED,
    NEEDLESS_SLOT: f"{_DAMAGED} Until it is gone, its queue gets fewer jobs",
    NO_SLOT: _DAMAGED,
}
"""What becomes of each difference, or what to do."""


@dataclass(frozen=True)
class Listed:
    """The server's lists of a worker name's jobs: those in progress, and those that wait."""

    running: Listing
    pending: Listing

    @property
    def whole(self) -> bool:
        """Whether a job that is in neither was not listed."""
        return self.running.whole and self.pending.whole

    def says(self, job_id: int) -> str:
        """What they say of one job."""
        if job_id in self.running.ids:
            return "running"
        return "pending" if job_id in self.pending.ids else "listed nowhere"


@dataclass(frozen=True)
class Difference:
    """Something that the two sides, or two places of the ledger, tell differently.

    Args:
        job_id: the job; ``None``: it is not about a single one.
        what: what differs, one of :data:`HINTS`.
        ledger: what the ledger says; empty: nothing that matters.
        server: what the server says, likewise.
    """

    job_id: int | None
    what: str
    ledger: str = ""
    server: str = ""

    @property
    def hint(self) -> str:
        """What becomes of it, or what to do."""
        return HINTS[self.what]

    def though(self, status: str) -> Difference:
        """The same, of a job that is in none of the server's lists and has this status there."""
        if status in TERMINAL:
            return replace(self, server=status)
        return replace(self, what=UNLISTED, server=f"{status}, though not listed so")

    def __str__(self) -> str:
        subject = "" if self.job_id is None else f"job {self.job_id}: "
        sides = [f"{side}: {says}" for side, says in (("ledger", self.ledger), ("server", self.server)) if says]
        return f"{subject}{self.what}" + (f" ({'; '.join(sides)})" if sides else "")


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        in_flight: how many jobs the ledger has in flight.
        running: how many the server lists as running.
        pending: how many it lists as pending.
        differences: what they tell differently; none: they agree.
    """

    in_flight: int
    running: int
    pending: int
    differences: tuple[Difference, ...]


def audit(api: Api, ledger: Ledger, *, interval: float, wait: Callable[[float], object] = time.sleep) -> Audit:
    """Compare a worker name's ledger with the server, as often as it takes to be sure.

    Args:
        api: the server.
        ledger: the ledger.
        interval: seconds between two looks of the bridges, which mend what differs.
        wait: waits for that many seconds.

    Raises:
        WorkerError: the server could not be asked, or its answer is none.
        LedgerUnavailable: the ledger is away.
    """
    lasting: dict[tuple[int | None, str], Difference] = {}
    for look in range(LOOKS):
        if look:
            wait(min(interval + LATE, MOST_PAUSE))
        listing = cache(api.jobs)
        listed = Listed(listing("running"), listing("pending"))
        inventory = ledger.inventory(also=listed.running.ids)
        found = {(each.job_id, each.what): each for each in differences(inventory, listed, ledger.worker)}
        lasting = {key: each for key, each in found.items() if key in lasting or not look}
        if not lasting:
            break
    gone = [job_id for job_id, what in lasting if what == GONE and job_id is not None]
    for job_id in gone[:FEW]:
        if status := _asked(api, job_id, listing):
            lasting[job_id, GONE] = lasting[job_id, GONE].though(status)
    return Audit(
        in_flight=sum(holding.state in IN_FLIGHT for holding in inventory.holdings.values()),
        running=len(listed.running.ids),
        pending=len(listed.pending.ids),
        differences=tuple(lasting.values()),
    )


def _asked(api: Api, job_id: int, listing: Callable[[str], Listing]) -> str | None:
    """What the server says of a single job; ``None`` where it does not tell: the difference is there all the same."""
    try:
        return status_of(api, job_id, listing=listing)
    except WorkerError:
        return None


def differences(inventory: Inventory, listed: Listed, worker: str) -> list[Difference]:
    """Everything that one look finds: what is not about a single job, then one thing of each job at the most, by id.

    Args:
        inventory: what the ledger holds.
        listed: what the server's lists say.
        worker: the worker name.
    """
    ours = frozenset(job["id"] for job in listed.running.jobs if job.get("assigned_to") in (None, "", worker))
    holdings = [inventory.holdings.get(job_id, Holding(job_id)) for job_id in sorted(inventory.holdings.keys() | ours)]
    found = [each for holding in holdings if (each := _of_job(holding, listed, ours))]
    if not listed.whole:
        lists = (("running", listed.running), ("pending", listed.pending))
        torn = " and ".join(status for status, each in lists if not each.whole)
        found.insert(0, Difference(None, TORN, server=f"{torn} jobs"))
    busy = any(holding.state in IN_FLIGHT for holding in holdings)
    if (found or busy) and (inventory.looked is None or inventory.looked > BRIDGE_SECONDS):
        looked = "never looked after" if inventory.looked is None else f"last looked after {inventory.looked:.0f} s ago"
        found.insert(0, Difference(None, NO_BRIDGE, ledger=looked))
    return found


def _of_job(holding: Holding, listed: Listed, ours: frozenset[int]) -> Difference | None:
    """What is told differently of one job. Where the ledger is damaged, what it says against the server is nothing."""
    if what := _within(holding):
        return Difference(holding.id, what, _places(holding), listed.says(holding.id))
    if what := _between(holding, listed, ours):
        return Difference(holding.id, what, _shown(holding), listed.says(holding.id))
    return None


def _within(holding: Holding) -> str | None:
    """What two places of the ledger tell differently of a job."""
    if holding.sets and not holding.state:
        return NO_RECORD
    if holding.sets != ((holding.state,) if holding.state in IN_FLIGHT else ()):
        return CONTRADICTION
    if holding.state in SLOT_STATES:
        return None if holding.slots == (holding.queue,) else NO_SLOT
    return NEEDLESS_SLOT if holding.slots else None


def _between(holding: Holding, listed: Listed, ours: frozenset[int]) -> str | None:
    """What the ledger and the server tell differently of a job."""
    if holding.state not in IN_FLIGHT:
        return UNKNOWN if holding.id in ours else None
    if holding.state == "admitted":
        return UNSETTLED if holding.seconds > ADMITTED_SECONDS else None
    if holding.id in listed.running.ids:
        return UNDELIVERED if holding.state == "finished" and holding.seconds > FINISHED_SECONDS else None
    if holding.state == "finished" and holding.seconds <= CLOSE_SECONDS:
        return None
    if holding.id in listed.pending.ids:
        return PUT_BACK
    return GONE if listed.whole else None


def _shown(holding: Holding) -> str:
    """The state of a job, and how long it is in it."""
    if not holding.state:
        return "unknown"
    text = f"{holding.state} for {holding.seconds:.0f} s"
    if holding.state == "finished":
        text += f", deliveries tried: {holding.deliveries}"
        text += f", last answer {last}" if (last := _last_answer(holding.why)) else ""
    return text


def _places(holding: Holding) -> str:
    """Where the ledger has a job."""
    sets = f"listed as {' and '.join(holding.sets)}" if holding.sets else "listed nowhere"
    slots = f"a slot of {' and '.join(holding.slots)}" if holding.slots else "no slot"
    return f"record {holding.state or 'missing'}, {sets}, {slots}"


def _last_answer(why: str) -> str:
    """The request and the status of the last failed delivery, without the server's words: they may repeat a result."""
    request = why.partition(": ")[0]
    return request if " -> " in request else ""
