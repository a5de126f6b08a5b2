"""The status of a worker name: bridges, workers and jobs in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..bridge.capacity import Capacity, Load, capacity_of, shared
from ..bridge.routes import Routes, registry_of
from ..bridge.state import Facts, State, states
from ..bridge.waiting import waiting_jobs
from ..clients import Clients
from ..ledger import IN_FLIGHT, Aged, BridgeProcess, Fleet, Ledger, Nodes, Pause, Survey, Waiting
from ..settings import Settings
from ..telemetry.quantities import ago, first_of

PERIODS = (60.0, 600.0, 3600.0)
"""Periods over which ended jobs are counted, in seconds."""


@dataclass(frozen=True)
class Status:
    """The status of a worker name at one moment.

    Args:
        worker_name: the worker name.
        at: the ledger's time, in seconds since 1970.
        state: the state of the worker name.
        problems: everything else that is wrong.
        states: number of jobs in each state in flight.
        pause: the pause; ``None`` while jobs are claimed.
        bridges: the bridges that are online.
        nodes: the Celery workers that are online and run jobs.
        capacity: maximum number of claimed, unfinished jobs; other worker names on the fleet reduce it.
        taken: number of claimed, unfinished jobs.
        waiting: the job that has waited longest for a worker.
        undelivered: the oldest undelivered outcome.
        ended: number of ended jobs, by period in seconds and by ending.
        shared: whether other worker names use the same fleet.
    """

    worker_name: str
    at: float
    state: State
    problems: Sequence[State]
    pause: Pause | None
    bridges: Sequence[BridgeProcess]
    nodes: Nodes
    capacity: int
    taken: int
    states: Mapping[str, int]
    waiting: Aged | None
    undelivered: Aged | None
    ended: Mapping[float, Mapping[str, int]]
    shared: bool = False

    @property
    def wrong(self) -> list[State]:
        """Everything that is wrong, the most serious first."""
        return [each for each in (self.state, *self.problems) if each.wrong]

    @property
    def pending(self) -> int | None:
        """Pending jobs on the server at the last poll of a bridge; ``None`` if unknown."""
        return Facts(now=self.at, bridges=self.bridges).pending

    def presence(self, bridge: BridgeProcess) -> str:
        """When the server last accepted a bridge's presence, in words."""
        age = bridge.presence_age
        return "never" if age is None else ago(age + max(0.0, self.at - bridge.at))

    def health(self, bridge: BridgeProcess) -> str:
        """The problem of a bridge; ``ok`` if it has none."""
        for what, trouble in (
            ("silent", bridge.is_old(self.at)),
            ("token refused", bridge.token),
            ("no server", bridge.server),
            ("requests fail", bridge.requests),
            ("no broker", bridge.broker),
        ):
            if trouble:
                return what
        return "ok"

    @property
    def waiting_jobs(self) -> list[Waiting]:
        """The pending jobs that cannot be claimed now, from the bridge that finds the most."""
        return waiting_jobs(self.bridges, self.at, has_workers=bool(self.nodes))

    @property
    def differences(self) -> list[str]:
        """Differences between bridges, and between bridges and workers, that should not last."""
        found = []
        sets = {each.id: set(each.handlers) for each in self.bridges}
        whole = set().union(*sets.values())
        for bridge_id, handlers in sets.items():
            if missing := sorted(whole - handlers):
                found.append(f"bridge {bridge_id} lacks {first_of(missing, 3)}, which other bridges have")
        alike = [_Alike((f"bridge {each.id}",), 1, each.version, each.app_version) for each in self.bridges]
        alike += [
            _Alike(tuple(f"worker {name}" for name in each.named), each.workers, each.version, each.app_version)
            for each in self.nodes.kinds
        ]
        found += _mixed("mr-celery", [(each.version, each) for each in alike])
        # Without a setting, the version of the application is that of mr-celery.
        own = [(each.app_version, each) for each in alike if each.app_version != each.version]
        return found + _mixed("the application", own)

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        fields = asdict(self)
        fields["ended"] = {f"{seconds:g}": counts for seconds, counts in self.ended.items()}
        return {
            **fields,
            "state": self._state_json(self.state),
            "problems": [self._state_json(each) for each in self.problems],
            "pending": self.pending,
            "waiting_jobs": [asdict(each) for each in self.waiting_jobs],
            "differences": self.differences,
        }

    def _state_json(self, state: State) -> dict[str, Any]:
        return {
            "kind": state.kind,
            "text": state.text,
            "wrong": state.wrong,
            "since": None if state.seconds is None else self.at - state.seconds,
            "what_to_do": state.advice,
        }


@dataclass(frozen=True)
class _Alike:
    """Processes with the same versions.

    Args:
        named: the first of them.
        count: their number.
        version: their version of mr-celery.
        app_version: that of the application.
    """

    named: tuple[str, ...]
    count: int
    version: str
    app_version: str


def _mixed(what: str, versions: Iterable[tuple[str, _Alike]]) -> list[str]:
    """The processes of each version of something, if there are several versions.

    Args:
        what: the name of the versioned thing.
        versions: the versions, each with the processes that have it; empty if it is not known.
    """
    processes_of: dict[str, list[_Alike]] = {}
    for version, processes in versions:
        if version:
            processes_of.setdefault(version, []).append(processes)
    if len(processes_of) < 2:
        return []
    parts = []
    for version, alike in sorted(processes_of.items()):
        names = [name for each in alike for name in each.named]
        parts.append(f"{version} in {first_of(names, 3, sum(each.count for each in alike))}")
    return [f"versions of {what} differ: {'; '.join(parts)}"]


@dataclass(frozen=True)
class Subject:
    """A worker name whose status is read.

    Args:
        ledger: its ledger.
        routes: the routes of its handlers.
        max_inflight: its setting ``max_inflight``.
    """

    ledger: Ledger
    routes: Routes
    max_inflight: int | None


def status_reader(app: Any, settings: Settings) -> Callable[[], list[Status]]:
    """A function that reads the current status of each worker name in the settings.

    Raises:
        SettingsError: the ledger is not set.
        RoutingError: the declarations of the handlers contradict each other.
    """
    clients, each_name = Clients(settings), settings.each()
    routes = [Routes(app, registry_of(app, each), each.max_attempts) for each in each_name]
    subjects = [
        Subject(clients.ledger(each.name), found, each.max_inflight)
        for each, found in zip(each_name, routes, strict=True)
    ]
    names = {each.name for each in each_name}
    others = [clients.ledger(name) for name in settings.neighbours if name not in names]
    return partial(read_statuses, clients.fleet(), subjects, others)


def read_statuses(fleet: Fleet, subjects: Sequence[Subject], others: Sequence[Ledger] = ()) -> list[Status]:
    """Read the current status of worker names from the ledger, without the server or the broker.

    The number of steps grows with the number of worker names, because each name's load is read once.

    Args:
        fleet: the workers that are online.
        subjects: the worker names.
        others: the ledgers of the other worker names on the same fleet.

    Raises:
        LedgerUnavailable: the ledger cannot be reached.
    """
    nodes = Nodes(sorted(fleet.online(), key=lambda node: node.hostname))
    known = [each.routes.known(nodes) for each in subjects]
    queues = sorted({route.queue for routes in known for route in routes})
    surveys = [each.ledger.survey(queues) for each in subjects]
    load = Load.of([*surveys, *(ledger.survey(queues) for ledger in others)])
    is_shared = len(subjects) + len(others) > 1
    return [
        _status(
            subject,
            survey,
            nodes,
            shared(capacity_of(nodes, routes, subject.max_inflight), load.without(survey)),
            is_shared=is_shared,
        )
        for subject, survey, routes in zip(subjects, surveys, known, strict=True)
    ]


def _status(subject: Subject, survey: Survey, nodes: Nodes, capacity: Capacity, *, is_shared: bool) -> Status:
    ledger = subject.ledger
    snapshot, bridges = ledger.snapshot(PERIODS), ledger.bridges()
    facts = Facts(
        now=survey.now,
        bridges=bridges,
        nodes=nodes,
        routes={(route.task_name, route.queue) for route in subject.routes.values()},
        runnable=capacity.workers,
        pause=snapshot.pause,
        taken=survey.slots_taken,
        capacity=capacity.shown,
        in_flight=survey.in_flight,
    )
    state, *problems = states(facts)
    return Status(
        worker_name=ledger.worker_name,
        at=survey.now,
        state=state,
        problems=problems,
        pause=snapshot.pause,
        bridges=bridges,
        nodes=nodes,
        capacity=capacity.shown,
        taken=survey.slots_taken,
        states={state: survey.states[state] for state in IN_FLIGHT},
        waiting=snapshot.waiting,
        undelivered=snapshot.undelivered,
        ended=snapshot.ended,
        shared=is_shared,
    )
