"""A soak test: an installation under load, with an unreliable server, while processes are killed, frozen and stopped.

``python tests/soak.py --minutes 3 --seed 7 --broker redis`` prints the seed, a line for each disturbance, and finally
how all jobs ended. It exits with 0 if every guarantee was kept, and otherwise with 1, printing where the logs are.
The seed determines the disturbances and their order. Their effect depends on timing.

With ``--lasting``, an additional bridge and worker are never killed. Their memory, files and threads, the keys and
memory of Redis, and the size of the log per job must not grow.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from redis.exceptions import RedisError

from mr_celery import LedgerUnavailable, complete
from mr_celery.ledger import Ledger
from mr_celery.sandbox import Rule, Sandbox
from mr_celery.sandbox.chaos import ROUTES
from support.campaign import Campaign
from support.fleet import BIN, Fleet, Process
from support.growth import Growth
from support.ports import until
from support.servers import RabbitServer, RedisServer

OPEN_JOBS = 30
"""How many jobs are pending or running at any time."""

LEASE = 4.0
TIMEOUT = 2.0
"""Seconds: the installation's settings."""

FAULT_RATE = 0.05
"""The share of the server's answers that are spoilt."""

PAUSE = (0.8, 3.5)
"""Seconds between two disturbances."""

DRAIN_SECONDS = 120.0
"""How long the installation may take to end all jobs, once nothing disturbs it any more."""

STOP_SECONDS = 45.0
"""How long a process may take to end after SIGTERM: MODELREINS_SHUTDOWN_TIMEOUT, and time for what comes after."""

HISTORY = 120.0
"""Seconds for which the ledger remembers a job, if growth is judged. Keys and memory are steady after that time."""

LASTING_POOL = ["threads"]
"""The pool of the worker that is never killed.

With prefork, Celery's main process can hang in its own shutdown once it has lost the broker: it reads a half message
from the pipe of its pool.
"""

MOST_PROBLEMS = 30
"""How many broken promises are printed."""

KINDS = {"": 4, "nap": 4, "late": 1, "poster": 3, "async": 1, "flow": 2, "order": 2}
"""The handlers of ``support.proj_soak`` that get jobs, and how often each is chosen; the empty one takes what is left.

Jobs of ``flow`` are handed over to a workflow, and those of ``order`` are deferred.
"""

FAULTS: list[dict[str, Any]] = [
    {"fault": "status", "status": 500},
    {"fault": "status", "status": 500, "after": True},
    {"fault": "status", "status": 503, "retry_after": 1},
    {"fault": "status", "status": 429, "retry_after": 1},
    {"fault": "status", "status": 401},
    {"fault": "status", "status": 404},
    {"fault": "status", "status": 409},
    {"fault": "status", "status": 409, "after": True},
    {"fault": "html"},
    {"fault": "html", "after": True},
    {"fault": "truncated"},
    {"fault": "truncated", "after": True},
    {"fault": "wrong_types"},
    {"fault": "null"},
    {"fault": "list"},
    {"fault": "empty_list"},
    {"fault": "drop"},
    {"fault": "drop", "after": True},
    {"fault": "hang", "delay": 1.5 * TIMEOUT},
    {"fault": "hang", "delay": 1.5 * TIMEOUT, "after": True},
    {"fault": "latency", "delay": 0.5 * TIMEOUT},
]


def rules() -> list[Rule]:
    """Rules for all faults, equally frequent and on all routes."""
    made, share = [], FAULT_RATE / len(FAULTS)
    for number, fault in enumerate(FAULTS):
        spared: tuple[str, ...] = ()
        if fault["fault"] in ("null", "list"):
            # Any 2xx means claimed. A server that returns it without claiming breaks the protocol.
            spared = ("claim",)
        elif fault["fault"] == "wrong_types":
            # Only a handler can validate its own fields: a nap with garbled `seconds` rightly fails.
            spared = ("inbox", "running")
        hit = tuple(route for route in ROUTES if route not in spared)
        # Rules are tried one after the other, so later ones need better odds.
        made.append(Rule(**fault, routes=hit, rate=share / (1 - share * number)))
    return made


# -- disturbances --------------------------------------------------------------------------------------------------


@dataclass
class Disturbance:
    """Something that was done to the installation.

    Args:
        kind: what was done.
        victim: a process, by the name of its log, or ``redis``, ``rabbitmq`` or ``server``.
        at: when it began, in seconds since 1970.
        until: when it was over.
    """

    kind: str
    victim: str
    at: float
    until: float

    @property
    def ends_runs(self) -> bool:
        """Whether it may cause the loss of a run on its victim."""
        return self.kind in ("kill child", "kill node", "freeze node", "ended by itself")


LOSES_MESSAGES = ("terminate node", "restart redis", "freeze redis", "cut connections")
"""Disturbances by which a worker may lose a message that it has. That of a member is not sent again."""


@dataclass
class Spell:
    """A disturbance that lasts, and the function that ends it."""

    disturbance: Disturbance
    end: Callable[[], None]


class Disturber:
    """Disturbs an installation.

    Args:
        fleet: the installation.
        redis: its Redis: the ledger, and the broker if there is no other.
        rabbit: its broker, if that is not Redis.
        seed: determines all disturbances.
        lasting: the processes that are neither killed nor stopped. They may be frozen.
    """

    def __init__(
        self,
        fleet: Fleet,
        redis: RedisServer,
        rabbit: RabbitServer | None,
        seed: int,
        lasting: Collection[Process] = (),
    ) -> None:
        self.done: list[Disturbance] = []
        self.problems: list[str] = []
        self._fleet = fleet
        self._redis = redis
        self._rabbit = rabbit
        self._seed = seed
        self._lasting = lasting
        self._number = 0
        self._dice = random.Random()
        self._began = self._next = time.monotonic()
        self._spells: dict[str, Spell] = {}
        self._told_to_go: dict[tuple[str, int], float] = {}
        self._seen: dict[str, int] = {}
        self._expected: set[tuple[str, int]] = set()

    def run_once(self) -> None:
        """Disturb the installation if the next disturbance is due."""
        self.watch()
        if time.monotonic() < self._next:
            return
        # A separate generator for each, because the number of draws depends on what there is to disturb.
        self._dice = random.Random(f"{self._seed} {self._number}")
        self._next = time.monotonic() + self._dice.uniform(*PAUSE)
        kinds: dict[Callable[[], None], int] = {
            self._kill_child: 6,
            self._kill_node: 2,
            self._kill_bridge: 3,
            self._freeze_node: 2,
            self._freeze_bridge: 2,
            self._terminate_node: 1,
            self._terminate_bridge: 2,
            self._cut: 2,
            self._freeze_redis: 1,
            self._restart_redis: 1,
            self._take_server_away: 1,
        }
        (step,) = self._dice.choices(list(kinds), list(kinds.values()))
        if self._number:  # not before it runs
            step()
        self._number += 1

    def watch(self) -> None:
        """End the spells that are over, and check that no process ends unexpectedly or fails to end."""
        now = time.time()
        for victim, spell in list(self._spells.items()):
            if now >= spell.disturbance.until:
                self._end(victim)
        for process in self._fleet.processes:
            name, starts = process.log.stem, process.starts
            for generation in range(self._seen.setdefault(name, 1), starts):
                if (name, generation) not in self._expected:
                    self._note("ended by itself", name, now - 1.0, 1.0)
                    self.problems.append(f"{name} (start {generation}) ended, and nobody had told it to")
                self._told_to_go.pop((name, generation), None)
            self._seen[name] = starts
        for key, since in list(self._told_to_go.items()):
            if now - since > STOP_SECONDS:
                del self._told_to_go[key]
                self.problems.append(f"{key[0]} (start {key[1]}) has not ended {STOP_SECONDS:.0f} s after SIGTERM")

    @property
    def has_redis(self) -> bool:
        """Whether Redis is neither frozen nor unreachable."""
        return "redis" not in self._spells

    def stop(self) -> None:
        """End all spells."""
        for victim in list(self._spells):
            self._spells[victim].disturbance.until = time.time()
            self._end(victim)

    def _note(self, kind: str, victim: str, at: float, seconds: float = 0.0, more: str = "") -> Disturbance:
        made = Disturbance(kind, victim, at, at + seconds)
        self.done.append(made)
        print(f"{time.monotonic() - self._began:7.1f} s  {kind:<16} {victim:<10} {more}".rstrip(), flush=True)
        return made

    def _begin(self, kind: str, victim: str, seconds: float, end: Callable[[], None]) -> None:
        self._spells[victim] = Spell(self._note(kind, victim, time.time(), seconds, f"for {seconds:.1f} s"), end)

    def _end(self, victim: str) -> None:
        self._spells.pop(victim).end()

    # -- processes

    def _one(self, what: str, spared: Collection[Process]) -> Process | None:
        """A process of a kind that is not frozen, not stopping, and not spared."""
        free = [
            process
            for process in self._fleet.processes
            if process.log.stem.startswith(what)
            and process not in spared
            and process.log.stem not in self._spells
            and (process.log.stem, process.starts) not in self._told_to_go
        ]
        return self._dice.choice(free) if free else None

    def _kill_child(self) -> None:
        process = self._one("worker", self._lasting)
        # Before its first task, a Celery worker that loses a child gives up: "Could not start worker processes".
        if process is None or " started" not in process.output.rpartition("[tasks]")[2]:
            return
        with suppress(psutil.Error):
            children = psutil.Process(process.popen.pid).children()
            alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
            if alive:
                child = self._dice.choice(alive)
                child.kill()
                self._note("kill child", process.log.stem, time.time(), more=f"pid {child.pid}")

    def _kill_node(self) -> None:
        self._kill("worker", "kill node")

    def _kill_bridge(self) -> None:
        self._kill("bridge", "kill bridge")

    def _kill(self, what: str, kind: str) -> None:
        process = self._one(what, self._lasting)
        if process is not None:
            self._expected.add((process.log.stem, process.starts))
            self._note(kind, process.log.stem, time.time(), more=f"start {process.starts}")
            process.signal(signal.SIGKILL)

    def _freeze_node(self) -> None:
        self._freeze("worker", "freeze node")

    def _freeze_bridge(self) -> None:
        self._freeze("bridge", "freeze bridge")

    def _freeze(self, what: str, kind: str) -> None:
        process = self._one(what, ())
        if process is None or any(victim.startswith(what) for victim in self._spells):
            return
        process.signal(signal.SIGSTOP)
        seconds = LEASE + self._dice.uniform(1.0, 4.0)
        self._begin(kind, process.log.stem, seconds, lambda: process.signal(signal.SIGCONT))

    def _terminate_node(self) -> None:
        self._terminate("worker", "terminate node")

    def _terminate_bridge(self) -> None:
        self._terminate("bridge", "terminate bridge")

    def _terminate(self, what: str, kind: str) -> None:
        process = self._one(what, self._lasting)
        if process is not None:
            key = (process.log.stem, process.starts)
            self._expected.add(key)
            self._told_to_go[key] = time.time()
            self._note(kind, process.log.stem, time.time(), more=f"start {process.starts}")
            process.popen.send_signal(signal.SIGTERM)

    # -- the services that processes need

    def _cut(self) -> None:
        """Cut connections to the broker or the ledger while they are in use."""
        what = self._dice.choice(["normal", "pubsub", "rabbitmq"] if self._rabbit else ["normal", "pubsub"])
        if what == "rabbitmq" and self._rabbit is not None:
            self._note("cut connections", "rabbitmq", time.time())
            self._rabbit.control("close_all_connections", "soak")
        elif self.has_redis:
            self._note("cut connections", "redis", time.time(), more=what)
            self._redis.client().execute_command("CLIENT", "KILL", "TYPE", what)

    def _freeze_redis(self) -> None:
        if self.has_redis:
            os.kill(self._redis.process.pid, signal.SIGSTOP)
            seconds = self._dice.uniform(0.5, 2.0 * LEASE)
            self._begin("freeze redis", "redis", seconds, lambda: os.kill(self._redis.process.pid, signal.SIGCONT))

    def _restart_redis(self) -> None:
        """Kill Redis, and restart it later with its data."""
        if self.has_redis:
            self._redis.kill()
            self._begin("restart redis", "redis", self._dice.uniform(0.0, LEASE), self._bring_redis_back)

    def _bring_redis_back(self) -> None:
        self._redis.start()
        until(self._has_redis, what="Redis has read its data")

    def _has_redis(self) -> bool:
        with suppress(RedisError):
            return bool(self._redis.client().ping())
        return False

    def _take_server_away(self) -> None:
        """Drop all requests to the server, for up to three request timeouts."""
        if "server" not in self._spells:
            chaos = self._fleet.sandbox.chaos
            chaos.set([Rule("drop"), *rules()], seed=self._seed)
            seconds = self._dice.uniform(1.0, 3.0 * TIMEOUT)
            self._begin("server away", "server", seconds, lambda: chaos.set(rules(), seed=self._number))


# -- the jobs that end elsewhere -------------------------------------------------------------------------------------


class Completer:
    """Completes deferred jobs, each a moment after its handler has recorded the reference.

    Args:
        fleet: the installation.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._refs = Path(f"{fleet.runs}.refs")
        self._ledger_url = fleet.environment["MODELREINS_LEDGER_URL"]
        self._stopping = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Complete them inside the block."""
        os.environ["MODELREINS_LEDGER_URL"] = self._ledger_url
        thread = threading.Thread(target=self._run, name="completer")
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _run(self) -> None:
        app = Celery("elsewhere", set_as_current=False)
        done = 0
        while not self._stopping.wait(0.5):
            lines = self._refs.read_text().splitlines() if self._refs.exists() else []
            for line in lines[done:]:
                prompt, _, ref = line.partition("\t")
                with suppress(LedgerUnavailable):
                    complete(ref, prompt.upper(), app=app)
                    done += 1
                    continue
                break  # tried again later


# -- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run, from the ledger's history of its job.

    Args:
        process: the worker, by the name of its log.
        at: when it began.
        attempt: the job's attempt.
    """

    process: str
    at: float
    attempt: int


@dataclass
class Runs:
    """The runs of each job, and the times of its outcomes."""

    started: dict[int, list[Run]] = field(default_factory=dict)
    recorded: dict[int, list[float]] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    """The jobs that any node may lose, because members of their workflows run there."""

    def read(self, ledger: Ledger, jobs: Iterable[int]) -> None:
        """Read the histories of jobs. A job that the ledger has forgotten keeps the data read earlier."""
        for job_id in jobs:
            if not (events := ledger.events(job_id)):
                continue
            self.started[job_id] = [
                Run(f"worker-{event.note.partition('@')[0][1:]}", event.at, event.attempt)
                for event in events
                if event.event == "started"  # for example by the node w3@test, whose log is worker-3
            ]
            self.recorded[job_id] = [event.at for event in events if event.event == "finished"]

    @staticmethod
    def _lasts(disturbance: Disturbance) -> float:
        """Seconds for which a disturbance has effects: a stopping node may lose messages of workflow members."""
        return STOP_SECONDS if disturbance.kind == "terminate node" else 0.0

    def reasons(self, disturbances: list[Disturbance]) -> list[tuple[int, str]]:
        """A job id and a reason for each run after a job's first; the reason is empty if none is known."""
        found = []
        left = [each for each in disturbances if each.ends_runs or each.kind in LOSES_MESSAGES]
        again = [(job_id, *pair) for job_id, started in self.started.items() for pair in pairwise(started)]
        for job_id, run, following in sorted(again, key=lambda each: each[2].at):
            # A frozen process or a child may be killed while its run is already being lost.
            reasons = [
                each
                for each in left
                if (each.victim == run.process or job_id in self.shared)
                and (each.ends_runs or job_id in self.shared)
                and each.until + self._lasts(each) >= run.at - 0.05
                and each.at <= following.at
            ]
            reasons.sort(key=lambda each: each.kind == "kill child")
            if reasons and reasons[0].kind == "kill child":
                left.remove(reasons[0])  # a child runs one task at a time
            found.append((job_id, reasons[0].kind if reasons else ""))
        return found


class Histories:
    """Reads the histories of jobs that ended a while ago, before the ledger forgets them.

    Args:
        campaign: the jobs.
        ledger: their ledger.
    """

    def __init__(self, campaign: Campaign, ledger: Ledger) -> None:
        self.runs = Runs()
        self._campaign = campaign
        self._ledger = ledger
        self._known: set[int] = set()
        self._ended: deque[tuple[float, int]] = deque()

    def run_once(self, still_open: Collection[int]) -> None:
        """Read the histories that are due, if Redis is reachable."""
        now, ended = time.monotonic(), self._campaign.jobs.keys() - self._known - set(still_open)
        self._known |= ended
        self._ended.extend((now, job_id) for job_id in sorted(ended))
        with suppress(LedgerUnavailable):
            while self._ended and self._ended[0][0] < now - HISTORY / 4:
                self.runs.read(self._ledger, [self._ended[0][1]])
                self._ended.popleft()

    def rest(self) -> Runs:
        """The runs of all jobs."""
        self.runs.shared = {job_id for job_id, kind in self._campaign.kinds.items() if kind == "flow"}
        self.runs.read(self._ledger, self._campaign.jobs)
        return self.runs


# -- the audit -------------------------------------------------------------------------------------------------------


def leftovers(redis: Any, name: str) -> list[str]:
    """Everything left in the ledger besides its history, once all jobs are over."""
    found = []
    prefix = f"modelreins:{{{name}}}:"
    for key in redis.scan_iter(match=f"{prefix}*"):
        short = key.decode()[len(prefix) :]
        if redis.ttl(key) == -1 and short not in ("registered", "deferring"):
            found.append(f"the key {short} of the ledger does not expire")
        if short.startswith("job:") and redis.hget(key, "state") not in (b"closed", b"aborted"):
            found.append(f"the ledger has {short} as {redis.hget(key, 'state')}")
    return found


def check(fleet: Fleet) -> tuple[int, str]:
    """The exit code of ``check --audit``, and its lines about the audit and about problems."""
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "check", "--audit"]
    done = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, timeout=120)
    shown = [line for line in done.stdout.splitlines() if re.search(r"^audit| FAILED |^ +→", line)]
    return done.returncode, "\n".join([*shown, *([done.stderr[-2000:]] if done.returncode else [])])


def problems_of(campaign: Campaign, runs: Runs, disturber: Disturber) -> Iterator[str]:
    """Every broken guarantee."""
    fleet = campaign.fleet
    store = fleet.sandbox.store
    yield from disturber.problems
    yield from campaign.wrong()
    for job_id, capability in campaign.kinds.items():
        if capability == "poster":
            filed = [review for review in store.reviews() if review["job_id"] == job_id]
            if not store.artifacts(job_id) or not filed:
                yield f"job {job_id}: {len(store.artifacts(job_id))} artifacts, {len(filed)} reviews"
    for job_id, reason in runs.reasons(disturber.done):
        if not reason:
            where = ", ".join(f"{run.process} at {datetime.fromtimestamp(run.at)}" for run in runs.started[job_id])
            yield f"job {job_id} ran again without a reason: {where}"
    for job_id, recorded in runs.recorded.items():
        late = [run for run in runs.started[job_id] if recorded and run.at > min(recorded)]
        if late or len(recorded) > 1:
            yield f"job {job_id}: {len(recorded)} outcomes recorded, {len(late)} runs after the first of them"


def soak(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> list[str]:
    """Run the soak test. Returns the problems."""
    dice = random.Random(arguments.seed)
    redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    stack.callback(redis.stop)
    rabbit = None
    if arguments.broker == "rabbitmq":
        rabbit = RabbitServer()
        stack.callback(rabbit.stop)
    sandbox = stack.enter_context(Sandbox())
    broker = rabbit.url if rabbit else redis.url(0)
    fleet = Fleet(sandbox, broker=broker, ledger=redis.url(1), folder=folder, app="support.proj_soak")
    stack.callback(fleet.stop)
    stack.enter_context(Completer(fleet).running())
    fleet.environment |= {
        "MODELREINS_LEASE": str(LEASE),
        "MODELREINS_TIMEOUT": str(TIMEOUT),
        "MODELREINS_MAX_ATTEMPTS": "20",
        "MODELREINS_MAX_INFLIGHT": dice.choice(["auto", str(OPEN_JOBS)]),
        "MODELREINS_DELIVERY": dice.choice(["worker", "worker", "bridge"]),
    }
    if arguments.lasting:
        fleet.environment["MODELREINS_HISTORY"] = str(HISTORY)
    bridges = dice.choice([2, 3])
    shown = {name: fleet.environment[f"MODELREINS_{name.upper()}"] for name in ("max_inflight", "delivery")}
    print(f"{arguments.broker}, {bridges} bridges, 2 nodes, {shown}, logs in {folder}", flush=True)
    pools = ["prefork", "prefork"] + LASTING_POOL * arguments.lasting
    workers = [fleet.worker("-P", pool, "-c", "2", "-Q", "celery,other", ready=False) for pool in pools]
    started = [fleet.bridge(ready=False) for _ in range(bridges + arguments.lasting)]
    lasting = [workers[-1], started[-1]] if arguments.lasting else []
    fleet.keep_running()

    sandbox.chaos.set(rules(), seed=arguments.seed)
    campaign, disturber = Campaign(fleet), Disturber(fleet, redis, rabbit, arguments.seed, lasting)
    stack.callback(disturber.stop)
    histories = Histories(campaign, Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name))
    growth = Growth(fleet, lasting, None if rabbit else redis.client(0), redis.client(1), HISTORY)
    end = time.monotonic() + arguments.minutes * 60
    while time.monotonic() < end:
        still_open = open_jobs(fleet)
        for _ in range(OPEN_JOBS - len(still_open)):
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            fields = {"seconds": round(dice.uniform(0.2, 2.0), 1)} if kind in ("nap", "late") else {}
            campaign.dispatch(1, kind or None, **fields)
        disturber.run_once()
        if arguments.lasting and disturber.has_redis:
            still_open = open_jobs(fleet)
            histories.run_once(still_open)
            growth.sample(len(campaign.jobs) - len(still_open), len(still_open))
        time.sleep(0.1)
    disturber.stop()
    sandbox.chaos.clear()
    print(f"nothing is disturbed any more; {len(open_jobs(fleet))} jobs are open", flush=True)
    problems = audit(campaign, disturber, histories, redis)
    return problems + (grown(growth, folder) if arguments.lasting else [])


def open_jobs(fleet: Fleet) -> list[int]:
    """The jobs that are not over."""
    store = fleet.sandbox.store
    return [job["id"] for status in ("pending", "running") for job in store.inbox(fleet.name, status)]


def audit(campaign: Campaign, disturber: Disturber, histories: Histories, redis: RedisServer) -> list[str]:
    """Wait until all jobs are over, and print the result. Returns the problems."""
    fleet = campaign.fleet
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    began = time.monotonic()
    problems = []

    def over() -> bool:
        disturber.watch()
        return not open_jobs(fleet) and not ledger.in_flight()

    try:
        until(over, seconds=DRAIN_SECONDS)
    except AssertionError:
        in_flight = ledger.in_flight()
        stuck = sorted({*open_jobs(fleet), *in_flight})
        shown = {job_id: (fleet.job(job_id)["status"], in_flight.get(job_id, "unknown")) for job_id in stuck}
        problems.append(f"stuck after {DRAIN_SECONDS:.0f} s, by (server, ledger): {shown}")
    drained = time.monotonic() - began
    runs = histories.rest()
    problems += problems_of(campaign, runs, disturber)
    problems += leftovers(redis.client(1), fleet.name)
    code, said = check(fleet)
    if code:
        problems.append(f"check --audit exits with {code}")
    summary(campaign, runs, disturber, drained)
    print(said)
    return problems


def grown(growth: Growth, folder: Path) -> list[str]:
    """Print the installation's resource usage, and wait until the ledger has forgotten all jobs. Returns the problems.

    The samples are written to a file in the folder.
    """
    print()
    growth.write(folder / "growth.json")
    for name, series in growth.series.items():
        print(f"{name:<44} {series}")
    problems = list(growth.problems())
    try:
        until(lambda: not growth.ledger_keys()[0], seconds=HISTORY + 30.0)
    except AssertionError:
        problems.append(f"the ledger keeps {growth.ledger_keys()[0]} keys of jobs that are history")
    print(f"{'keys of the ledger once all is history':<44} {growth.ledger_keys()[1]}")
    return problems


def summary(campaign: Campaign, runs: Runs, disturber: Disturber, drained: float) -> None:
    """Print a summary of everything that happened."""
    fleet = campaign.fleet
    store = fleet.sandbox.store
    took: list[tuple[float, int]] = []
    refused: Counter[str] = Counter()
    for job_id in campaign.jobs:
        events = store.events(job_id)
        claims = [event["at"] for event in events if event["event"] == "claim"]
        closes = [event["at"] for event in events if event["event"].startswith("close")]
        refused.update(event["event"] for event in events if event["event"].startswith("refused"))
        if claims and closes:
            took.append((closes[-1] - claims[0], job_id))
    starts = fleet.starts()
    times = Counter(starts[prompt] for prompt in campaign.prompts.values())
    posters = [job_id for job_id, kind in campaign.kinds.items() if kind == "poster"]
    artifacts = sum(len(store.artifacts(job_id)) for job_id in posters)
    longest = max(took, default=(0.0, 0))
    rows = {
        "jobs": f"{len(campaign.jobs)}: {_shown(Counter(kind or 'short' for kind in campaign.kinds.values()))}",
        "jobs by runs": ", ".join(f"{n} run{'s' * (n != 1)}: {jobs}" for n, jobs in sorted(times.items())),
        "why run again": _shown(Counter(reason or "NO REASON" for _, reason in runs.reasons(disturber.done))),
        "disturbances": _shown(Counter(each.kind for each in disturber.done)),
        "faults of the server": sum(fleet.sandbox.chaos.counts.values()),
        "refused by it": _shown(refused),
        "posters": f"{len(posters)}, artifacts {artifacts}, reviews {len(store.reviews())}",
        "longest from claim to close": f"{longest[0]:.1f} s (job {longest[1]})",
        "until all was over": f"{drained:.1f} s",
        "tracebacks in logs": _shown(Counter({p.log.stem: p.output.count("Traceback") for p in fleet.processes})),
    }
    print()
    for name, value in rows.items():
        print(f"{name:<28} {value}")


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common() if count) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--lasting", action="store_true", help="judge growth, for which ten minutes are the least")
    parser.add_argument("--keep", action="store_true", help="keep the logs in any case")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    folder = Path(tempfile.mkdtemp(prefix="mr-soak-"))
    with ExitStack() as stack:
        problems = soak(arguments, folder, stack)
    print()
    for problem in problems[:MOST_PROBLEMS]:
        print(f"BROKEN  {problem}")
    if len(problems) > MOST_PROBLEMS:
        print(f"BROKEN  and {len(problems) - MOST_PROBLEMS} more")
    if problems or arguments.keep:
        print(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    print(f"{'NOT WELL' if problems else 'well'}  (seed {arguments.seed}, {arguments.broker})", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
