"""The fleet's capacity, and the slots that are free now."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import LedgerUnavailable
from ..ledger import Fleet, Ledger, Nodes, Route, Survey
from .limits import CHECK_SECONDS, REFUSED_SLOTS
from .routes import Routes

REFUSED_QUEUE = "(unrouted)"
"""Queue that counts the jobs that are claimed only to close them as failed."""

UNROUTED = Route(task_name="", queue=REFUSED_QUEUE)
"""The route of such a job."""


@dataclass(frozen=True)
class Capacity:
    """The capacity of the online workers.

    Args:
        runnable: the handlers (task names) that at least one worker runs.
        slots: the maximum number of jobs in flight for each queue; ``None`` if only the total counts.
        total: the maximum number of jobs in flight overall; ``None`` if only the queues count.
        workers: the number of workers that run at least one handler.
    """

    runnable: frozenset[str]
    slots: Mapping[str, int] | None
    total: int | None
    workers: int

    def limit(self, queue: str) -> int | None:
        """Maximum number of jobs in flight for a queue; ``None`` for no limit."""
        if queue == REFUSED_QUEUE:
            return REFUSED_SLOTS
        return None if self.slots is None else self.slots.get(queue, 0)

    def sparing(self, queues: Collection[str]) -> Capacity:
        """The capacity without one slot of each of these queues. One slot always remains."""
        if not queues:
            return self
        if self.slots is None:
            return self if self.total is None else replace(self, total=max(min(self.total, 1), self.total - 1))
        slots = {queue: max(min(n, 1), n - 1) if queue in queues else n for queue, n in self.slots.items()}
        return replace(self, slots=slots)

    @cached_property
    def shown(self) -> int:
        """Maximum number of jobs in flight overall, for display."""
        return self.total if self.slots is None else sum(self.slots.values())  # type: ignore[return-value]


def capacity_of(nodes: Nodes, routes: Iterable[Route], max_inflight: int | None) -> Capacity:
    """Calculate the capacity of the online workers.

    Args:
        nodes: the online workers.
        routes: the routes of the handlers; a handler may have several.
        max_inflight: the setting; ``None`` means ``auto``: twice the concurrency of each queue.
    """
    runnable: set[str] = set()
    slots: dict[str, int] = {}
    workers = 0
    wanted = [(route.task_name, route.queue) for route in routes]
    for kind in nodes.kinds:
        consumed = [(task, queue) for task, queue in wanted if kind.runs(task, queue)]
        runnable.update(task for task, _ in consumed)
        workers += kind.workers if consumed else 0
        for queue in {queue for _, queue in consumed}:
            slots[queue] = slots.get(queue, 0) + 2 * kind.slots
    if max_inflight is not None:
        return Capacity(frozenset(runnable), None, max_inflight, workers)
    return Capacity(frozenset(runnable), slots, None, workers)


@dataclass(frozen=True)
class Load:
    """The slots that some worker names have taken.

    Args:
        taken: the slots taken, overall under ``""``, and of each queue under its name.
        busy: the number of worker names that have taken any, likewise.
    """

    taken: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, surveys: Iterable[Survey]) -> Load:
        """Add up the surveys of several worker names."""
        taken: Counter[str] = Counter()
        busy: Counter[str] = Counter()
        for survey in surveys:
            counts = {"": survey.slots_taken, **survey.load}
            taken.update(counts)
            busy.update(name for name, count in counts.items() if count)
        return cls(taken, busy)

    def without(self, survey: Survey | None) -> Load:
        """The load of the others, if this survey is one of those that were added up."""
        if survey is None:
            return self
        own = Load.of([survey])
        return Load(
            {name: count - own.taken.get(name, 0) for name, count in self.taken.items()},
            {name: count - own.busy.get(name, 0) for name, count in self.busy.items()},
        )


def shared(capacity: Capacity, others: Load) -> Capacity:
    """Calculate one worker name's share of a fleet that other worker names use as well.

    The share is the capacity that the others leave, and at least an even share among the busy worker names, so that
    none of them starves. If one worker name has taken everything before, the fleet is overcommitted until it has come
    down to its share.

    Args:
        capacity: the capacity of the fleet.
        others: the load of the other worker names.
    """

    def part(whole: int, name: str) -> int:
        return max(whole - others.taken.get(name, 0), math.ceil(whole / (1 + others.busy.get(name, 0))))

    if capacity.slots is None:
        assert capacity.total is not None  # noqa: S101 - one of them is set
        return replace(capacity, total=part(capacity.total, ""))
    return replace(capacity, slots={queue: part(whole, queue) for queue, whole in capacity.slots.items()})


class Surveys:
    """The last surveys of all worker names on the same fleet, which the due pollers of this process note.

    Names of other processes have no due poller here, so their ledgers are read.

    Args:
        ledgers: the ledgers of all worker names that share the fleet.
        own: the worker names of this process.
        clock: monotonic seconds.
    """

    def __init__(
        self, ledgers: Sequence[Ledger] = (), own: Collection[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._foreign = [ledger for ledger in ledgers if ledger.worker_name not in own]
        self._own = [ledger for ledger in ledgers if ledger.worker_name in own]
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: tuple[str, ...] = ()
        self._surveys: dict[str, Survey] = {}
        self._counted: dict[str, Survey] = {}
        self._latest: tuple[float, Load] | None = None

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of which a survey must have the load."""
        return self._queues

    def note(self, worker_name: str, survey: Survey) -> None:
        """Note a survey of a worker name of this process."""
        self._surveys[worker_name] = survey

    def others(self, worker_name: str, queues: Sequence[str]) -> Load:
        """The load of the other worker names, at most a second older than their surveys.

        Raises:
            LedgerUnavailable: the ledger of a worker name of another process cannot be read.
        """
        with self._lock:
            now = self._clock()
            if not set(queues) <= set(self._queues):
                self._queues, self._latest = tuple(sorted({*self._queues, *queues})), None
            if self._latest is None or now - self._latest[0] > CHECK_SECONDS:
                foreign = [ledger.survey(self._queues) for ledger in self._foreign]
                self._counted = {ledger.worker_name: self._survey(ledger) for ledger in self._own}
                self._latest = (now, Load.of([*foreign, *self._counted.values()]))
            return self._latest[1].without(self._counted.get(worker_name))

    def _survey(self, ledger: Ledger) -> Survey:
        """The last survey of a worker name of this process, or a new one if it lacks the load of a queue."""
        noted = self._surveys.get(ledger.worker_name)
        return noted if noted is not None and set(self._queues) <= noted.load.keys() else ledger.survey(self._queues)


class FleetReader:
    """Reads the online workers at most once a second, for all worker names of a process.

    If the ledger is unreachable, it is tried once a second, too: the loops of many worker names need not wait for one
    timeout each.

    Args:
        fleet: the online workers.
        clock: monotonic seconds.

    Attributes:
        read_at: the time of the last read, by the clock.
    """

    def __init__(self, fleet: Fleet, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes = Nodes()
        self._failure = ""
        self.read_at = float("-inf")

    def nodes(self, *, max_age: float = CHECK_SECONDS) -> Nodes:
        """The online workers, as of at most ``max_age`` seconds ago.

        It is the same object until one comes, changes or leaves.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        with self._lock:
            if self._clock() - self.read_at > max_age:
                try:
                    self._nodes, self._failure = self._fleet.online(), ""
                except LedgerUnavailable as error:
                    self._failure = str(error)
                self.read_at = self._clock()
            if self._failure:
                raise LedgerUnavailable(self._failure)
            return self._nodes


class FleetCapacity:
    """The capacity of the online workers for one worker name.

    Args:
        fleet: reads the online workers.
        routes: the routes of the handlers.
        max_inflight: the setting.
        worker_name: the worker name.
        surveys: the load of other worker names on the same fleet; ``None`` if there are none.

    Attributes:
        nodes: the workers that were online when the capacity was last read.
        whole: the capacity that was last read, before the share of other worker names; ``None`` before the first time.
        queues: the queues that jobs can be sent to now.
    """

    def __init__(
        self,
        fleet: FleetReader,
        routes: Routes,
        max_inflight: int | None,
        worker_name: str = "",
        surveys: Surveys | None = None,
    ) -> None:
        self._fleet = fleet
        self._routes = routes
        self._max_inflight = max_inflight
        self._worker_name = worker_name
        self._surveys = surveys
        self.nodes = Nodes()
        self.whole: Capacity | None = None
        self._known = routes.known(Nodes())
        self.queues = _queues_of(self._known)
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def latest(self) -> Capacity:
        """The capacity, as of at most a second ago. It is calculated only if workers or routes have changed.

        Raises:
            LedgerUnavailable: the online workers, or the ledger of another worker name, cannot be read.
        """
        with self._lock:
            nodes = self._fleet.nodes()
            if self.whole is None or self._read_at != self._fleet.read_at:
                self._read_at, known = self._fleet.read_at, self._routes.known(nodes)
                if self.whole is None or nodes is not self.nodes or known != self._known:
                    self.nodes, self._known, self.queues = nodes, known, _queues_of(known)
                    self.whole = capacity_of(nodes, known, self._max_inflight)
            if self._surveys is None:
                return self.whole
            return shared(self.whole, self._surveys.others(self._worker_name, self.queues))


def _queues_of(routes: Iterable[Route]) -> list[str]:
    return sorted({route.queue for route in routes})


class Room:
    """The slots in which more jobs can be claimed now.

    Args:
        capacity: the capacity of the fleet.
        survey: the jobs in flight.
        deferring: the tasks of which jobs were deferred.
        deferrable: the number of jobs of these tasks that can be claimed in all; ``None`` for any number.
    """

    def __init__(
        self,
        capacity: Capacity,
        survey: Survey,
        *,
        deferring: frozenset[str] = frozenset(),
        deferrable: int | None = None,
    ) -> None:
        self._deferring = deferring
        self._deferrable = deferrable
        self._total: float = math.inf if capacity.total is None else capacity.total - survey.slots_taken
        limits, load = capacity.slots, survey.load
        self._queues: Collection[str] | None = None if limits is None else limits.keys()
        self._left: dict[str, float] = {queue: limit - load.get(queue, 0) for queue, limit in (limits or {}).items()}
        self._left[REFUSED_QUEUE] = REFUSED_SLOTS - load.get(REFUSED_QUEUE, 0)
        self._of_other_queues = math.inf if limits is None else 0.0

    def __bool__(self) -> bool:
        if self._queues is None:
            return self._total > 0
        return any(self._left[queue] > 0 for queue in self._queues)

    def has(self, route: Route) -> bool:
        """Whether a route has a free slot."""
        if self._deferrable is not None and self._deferrable <= 0 and route.task_name in self._deferring:
            return False
        return self._total > 0 and self._left.get(route.queue, self._of_other_queues) > 0

    def take(self, route: Route) -> bool:
        """Take one slot for a route. Returns whether there was one."""
        if not self.has(route):
            return False
        self._add(route, -1)
        return True

    def give_back(self, route: Route) -> None:
        """Return a slot that was taken and is not needed."""
        self._add(route, 1)

    def _add(self, route: Route, slots: int) -> None:
        self._left[route.queue] = self._left.get(route.queue, self._of_other_queues) + slots
        self._total += slots
        if self._deferrable is not None and route.task_name in self._deferring:
            self._deferrable += slots
