"""A process is killed with SIGKILL before and after each effect; the job ends once, with the right result.

The list of effects is found in the code (support/crash.py). A test fails if no case here triggers one of them.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mr_celery.delivery.deliver import REFUSAL
from mr_celery.ledger import Ledger
from mr_celery.sandbox import Rule, Sandbox
from support import fork_server
from support.crash import Point, Victim, When, arm, effects
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RedisServer


@pytest.fixture(scope="module")
def crash_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def crash_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def fleet_that_dies(sandbox: Sandbox, redis: RedisServer, folder: Path, *, delivery: str) -> Fleet:
    """A bridge and a worker that are started again whenever they die, with crash points in them."""
    first = 0 if delivery == "worker" else 2
    made = Fleet(
        sandbox,
        broker=redis.url(first),
        ledger=redis.url(first + 1),
        folder=folder,
        app="support.proj_crash",
        name=delivery,
    )
    points = folder / "points"
    points.mkdir()
    made.environment |= {
        "CRASH_POINTS": str(points),
        "MODELREINS_LEASE": "3",
        "MODELREINS_DELIVERY": delivery,
        "MODELREINS_SPOOL_URL": str(folder / "spool"),
    }
    made.worker("-c", "1", "--without-mingle", "--without-gossip")
    made.bridge()
    made.keep_running()
    return made


@pytest.fixture(scope="module")
def by_worker(
    crash_sandbox: Sandbox, crash_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """An installation whose workers deliver."""
    made = fleet_that_dies(crash_sandbox, crash_redis, tmp_path_factory.mktemp("by-worker"), delivery="worker")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def by_bridge(
    crash_sandbox: Sandbox, crash_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """An installation whose bridge delivers."""
    made = fleet_that_dies(crash_sandbox, crash_redis, tmp_path_factory.mktemp("by-bridge"), delivery="bridge")
    yield made
    made.stop()


# -- events that bring a job past the points --------------------------------------------------------------------


def plain(capability: str, **fields: Any) -> Callable[[Fleet, str], int]:
    """A job for a handler, and nothing else."""

    def events(fleet: Fleet, prompt: str) -> int:
        return fleet.dispatch(prompt, capability, **fields)

    return events


def with_fault(capability: str, *rules: Rule, **fields: Any) -> Callable[[Fleet, str], int]:
    """A job while the server responds with faults."""

    def events(fleet: Fleet, prompt: str) -> int:
        fleet.sandbox.chaos.set(rules)
        return fleet.dispatch(prompt, capability, **fields)

    return events


def with_fault_till_both(capability: str, *rules: Rule) -> Callable[[Fleet, str], int]:
    """A job while the server responds with faults, until all armed crash points have fired."""

    def events(fleet: Fleet, prompt: str) -> int:
        job_id = with_fault(capability, *rules)(fleet, prompt)
        points = Path(fleet.environment["CRASH_POINTS"])
        until(lambda: not any(points.iterdir()), seconds=60, what="both have died")
        fleet.sandbox.chaos.clear()
        return job_id

    return events


def prefetched(fleet: Fleet, prompt: str) -> int:
    """A job whose worker dies after it has received the message and before it starts the task."""
    other = fleet.dispatch(f"before {prompt}", "nap", seconds=2.5)
    until(lambda: fleet.started(f"before {prompt}") == 1, what="the worker is busy")
    job_id = fleet.dispatch(prompt, "nap", seconds=0.1)
    until(lambda: f"proj.nap[mr-{job_id}-" in fleet.processes[0].output, what="the worker has the message")
    until(lambda: ledger_of(fleet).read(job_id).received, what="the worker has reported it")  # type: ignore[union-attr]
    fleet.processes[0].signal(signal.SIGKILL)
    fleet.ended(other)
    return job_id


def aborted(fleet: Fleet, prompt: str) -> int:
    """A job that an operator aborts while it runs."""
    job_id = fleet.dispatch(prompt, "nap", seconds=40)
    until(lambda: fleet.started(prompt) == 1, what="it runs")
    fleet.sandbox.store.abort(job_id)
    until(lambda: state_of(fleet, job_id) == "aborted", what="the ledger knows")
    return job_id


def ledger_lost(fleet: Fleet, prompt: str) -> int:
    """A job that is running when the ledger loses its data."""
    job_id = fleet.dispatch(prompt, "nap", seconds=1)
    until(lambda: fleet.started(prompt) == 1, what="it runs")
    redis = RedisServer.client_of(fleet.environment["MODELREINS_LEDGER_URL"])
    redis.flushdb()
    return job_id


def requeued(fleet: Fleet, prompt: str) -> int:
    """A job that an operator requeues while it runs, with a command that dies."""
    job_id = fleet.dispatch(prompt, "stuck-once")
    until(lambda: fleet.started(prompt) == 1, what="it runs")
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "requeue", str(job_id)]
    for _ in BOTH:
        assert fork_server.run(command, env=fleet.environment, timeout=60).returncode == -signal.SIGKILL
    return job_id


def deferred(fleet: Fleet, prompt: str) -> int:
    """A job that is deferred, and completed from a process that does not die."""
    job_id = fleet.dispatch(prompt, "deferring")
    until(lambda: state_of(fleet, job_id) == "deferred", seconds=60, what="it is deferred")
    complete_by_command(fleet, job_id, "--result", prompt.upper())
    return job_id


def by_dying_command(option: str) -> Callable[[Fleet, str], int]:
    """A deferred job, and a command with its reference that dies. The job is then completed if it is still waiting."""

    def events(fleet: Fleet, prompt: str) -> int:
        job_id = fleet.dispatch(prompt, "deferring")
        until(lambda: state_of(fleet, job_id) == "deferred", seconds=60, what="it is deferred")
        argument = prompt.upper() if option == "--result" else "120"
        for _ in BOTH:
            assert complete_by_command(fleet, job_id, option, argument) == -signal.SIGKILL
        code = complete_by_command(fleet, job_id, "--result", prompt.upper())
        assert code == (1 if option == "--result" else 0)
        return job_id

    return events


def complete_by_command(fleet: Fleet, job_id: int, *options: str) -> int:
    """Run ``modelreins complete``. Returns its exit code."""
    ref = Path(f"{fleet.runs}.{job_id}.ref").read_text()
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "complete", ref, *options]
    return fork_server.run(command, env=fleet.environment, timeout=60).returncode


def unpublishable(fleet: Fleet, prompt: str) -> int:
    """A job whose message cannot be created until both processes have died."""
    flag = Path(f"{fleet.runs}.unpublishable")
    flag.touch()
    try:
        job_id = fleet.dispatch(prompt, "picky")
        points = Path(fleet.environment["CRASH_POINTS"])
        until(lambda: not any(points.iterdir()), seconds=60, what="both have died")
    finally:
        flag.unlink()
    return job_id


def claimed_for_another_queue(fleet: Fleet, prompt: str) -> int:
    """A job that was claimed for a queue to which its task is no longer routed."""
    flag = Path(f"{fleet.runs}.unpublishable")
    flag.touch()
    try:
        job_id = fleet.dispatch(prompt, "picky")
        refused = re.compile(rf"job={job_id} .* not published")
        # Until then, a bridge may publish it to the queue for which it was claimed.
        until(lambda: any(refused.search(process.output) for process in fleet.processes), what="its message is refused")
        record = ledger_of(fleet).read(job_id)
        assert record is not None
        assert ledger_of(fleet).reroute(job_id, record.task_id, "elsewhere")
    finally:
        flag.unlink()
    return job_id


def ledger_of(fleet: Fleet) -> Ledger:
    return Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)


def state_of(fleet: Fleet, job_id: int) -> str:
    record = ledger_of(fleet).read(job_id)
    return record.state if record else "unknown"


BOTH: tuple[When, ...] = ("before", "after")


@dataclass(frozen=True)
class Case:
    """Events that pass one effect twice: the process dies before it the first time, and after it the second time.

    Args:
        effect: its name.
        events: makes a job pass it.
        runs: the total number of runs of the handler.
        delivery: whether workers or the bridge deliver.
        victim: what dies.
        artifacts: the number of the job's artifacts on the server at the end.
        reviews: the number of its reviews.
        result: the job's output, if not the prompt in capitals.
        status: the job's final status.
        when: where it dies, if the job does not pass the effect a second time.
        while_running: whether it dies only once the handler has begun. Waiting messages pass the effect, too.
    """

    effect: str
    events: Callable[[Fleet, str], int]
    runs: int = 1
    delivery: str = "worker"
    victim: Victim = "process"
    artifacts: int = 0
    reviews: int = 0
    result: str | None = None
    status: str = "done"
    when: tuple[When, ...] = BOTH
    while_running: bool = False

    def __str__(self) -> str:
        when = " and ".join(self.when)
        return f"{when} {self.effect}, {self.victim}, {self.delivery} delivers, {self.runs} runs"


def _poster(effect: str, *, runs: int = 1, artifacts: int = 1, reviews: int = 1, **more: Any) -> Case:
    return Case(effect, plain("poster"), runs=runs, artifacts=artifacts, reviews=reviews, **more)


def _delivery(**more: Any) -> list[Case]:
    return [
        # A process that dies after an upload and before recording it uploads again. No guarantee covers this.
        _poster("server.upload", artifacts=2, **more),
        _poster("ledger.delivered_part", artifacts=2, **more),
        _poster("server.review", reviews=2, **more),
        _poster("server.close", **more),
        _poster("ledger.close", **more),
    ]


IN_PASSING = ("server.presence", "ledger.mark_in_use", "ledger.my_turn", "ledger.announce_bridge", "ledger.watch")
"""Effects that a bridge passes all the time."""

CASES = [
    # claiming
    *(_poster(effect) for effect in ("ledger.admit", "server.claim", "ledger.claimed", "broker.send")),
    *(_poster("ledger.sent", when=(when,)) for when in BOTH),
    Case("ledger.unpublished", unpublishable),
    *(Case("ledger.reroute", claimed_for_another_queue, when=(when,)) for when in BOTH),
    *(Case(effect, plain("nap", seconds=2)) for effect in IN_PASSING),
    *(
        Case(
            "ledger.settle_later",
            with_fault("nap", Rule("drop", routes=("claim",), after=True, seconds=2)),
            when=(when,),
        )
        for when in BOTH
    ),
    Case("ledger.take", with_fault_till_both("nap", Rule("drop", routes=("claim",), after=True))),
    Case("ledger.drop", with_fault("nap", Rule("drop", routes=("claim",), seconds=2))),
    # running
    _poster("ledger.start"),
    _poster("ledger.start", victim="node"),
    _poster("ledger.finish", runs=2),
    _poster("ledger.finish", runs=2, victim="node"),
    Case("ledger.renew", plain("nap", seconds=4), runs=3, victim="node", while_running=True),
    Case("ledger.announce_retry", plain("retried", countdown=1.0), runs=4),
    # Celery publishes the retry before the ledger records it. If the run is lost in between, its retry comes too late.
    Case("ledger.retry", plain("retried", countdown=1.0), runs=3, when=("before",)),
    Case("ledger.retry", plain("retried", countdown=1.0), runs=2, when=("after",)),
    *(Case("ledger.give_back", plain("given-back"), runs=2, when=(when,)) for when in BOTH),
    *(Case("ledger.postpone", plain("not-ready"), runs=1, when=(when,)) for when in BOTH),
    Case("ledger.fail", plain("too-slow"), runs=2, victim="node", status="failed", result="hard time limit"),
    # A job whose process dies before the outcome is recorded runs again. Its files in the spool are swept away later.
    Case("spool.put", plain("film"), runs=3, artifacts=1),
    Case("spool.put", plain("film"), runs=3, artifacts=1, delivery="bridge", victim="node"),
    # deferred jobs
    Case("ledger.reference", deferred, runs=3),
    Case("ledger.defer", deferred, runs=2),
    Case("ledger.defer", deferred, runs=2, victim="node"),
    Case("ledger.complete", by_dying_command("--result")),
    Case("ledger.extend", by_dying_command("--extend")),
    # If the process dies before adding its attachments to an early outcome, they are lost.
    Case("ledger.amend", plain("hooked-early"), when=("before",), delivery="bridge"),
    Case("ledger.amend", plain("hooked-early"), artifacts=1, when=("after",), delivery="bridge"),
    # lost runs and data
    Case("ledger.lose", plain("child-dies"), runs=2, victim="node"),
    Case("ledger.lost", plain("node-dies"), runs=2),
    Case("ledger.lose", plain("node-dies"), runs=2),
    Case("ledger.unstarted", prefetched),
    Case("ledger.resend", prefetched),
    Case("ledger.adopt", ledger_lost),
    Case("ledger.requeue", requeued, runs=2),
    Case("ledger.mend", plain("nap", seconds=2)),
    Case("ledger.missed", aborted, status="failed", result="aborted by an operator"),
    Case("ledger.abort", aborted, status="failed", result="aborted by an operator"),
    # workflows: a death before all first messages are published, or with a member, begins a new attempt
    Case("ledger.hand_over", plain("workflow"), runs=3),
    Case("ledger.handed_over", plain("workflow"), runs=2),
    Case("ledger.member_sent", plain("workflow"), runs=3),
    Case("ledger.start_member", plain("workflow"), runs=3),
    Case("ledger.start_member", plain("workflow"), runs=3, victim="node"),
    Case("ledger.end_member", plain("workflow"), runs=2),
    Case("ledger.finish_member", plain("workflow"), runs=2),
    Case("ledger.finish_member", plain("workflow"), runs=2, victim="node"),
    Case("ledger.renew_members", plain("workflow", seconds=4), runs=3, victim="node"),
    Case("ledger.attach", plain("sketched"), runs=3, delivery="bridge", artifacts=1),
    *(Case("ledger.overdue_member", plain("workflow", seconds=8), when=(when,)) for when in BOTH),
    Case("ledger.overdue_member", plain("node-dies-in-workflow"), runs=2),
    Case("ledger.lose_member", plain("node-dies-in-workflow"), runs=2),
    # delivering
    *_delivery(),
    *_delivery(victim="node"),
    *_delivery(delivery="bridge"),
    *(Case("spool.remove", plain("film"), artifacts=1, delivery=delivery) for delivery in ("worker", "bridge")),
    _poster("ledger.collect", delivery="bridge"),
    Case("ledger.renew_delivery", with_fault("nap", Rule("latency", routes=("close",), delay=2.5)), delivery="bridge"),
    Case("ledger.undelivered", with_fault_till_both("nap", Rule("status", status=503, routes=("close",)))),
    Case(
        "ledger.replace_outcome",
        with_fault("poster", Rule("status", status=400, routes=("artifact",))),
        status="failed",
        result=REFUSAL,
    ),
]


def test_every_effect_in_the_code_has_its_case() -> None:
    assert {case.effect for case in CASES} == set(effects())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_death_before_and_after(case: Case, request: pytest.FixtureRequest) -> None:
    fleet: Fleet = request.getfixturevalue(f"by_{case.delivery}")
    prompt = f"{case} {fleet.next_number()}".lower()  # unique, since the test may be repeated
    points = Path(fleet.environment["CRASH_POINTS"])
    places = [Point(when, case.effect, case.victim) for when in case.when]
    armed = [] if case.while_running else [arm(points, place) for place in places]
    try:
        job_id = case.events(fleet, prompt)
        for number, place in enumerate(places[len(armed) :], 1):
            until(lambda number=number: fleet.started(prompt) == number, seconds=60, what=f"run {number} begins")  # type: ignore[misc]
            armed.append(arm(points, place))
        (job,) = fleet.ended(job_id, seconds=60)
        until(lambda: state_of(fleet, job_id) in ("closed", "aborted"), what="the ledger has closed it")
        for file in armed:
            until(lambda file=file: not file.exists(), seconds=60, what=f"somebody dies {file.name}")  # type: ignore[misc]
    finally:
        fleet.sandbox.chaos.clear()
        for file in armed:
            file.unlink(missing_ok=True)
    assert job["status"] == case.status
    assert (case.result or prompt.upper()) in job["result"]
    assert fleet.started(prompt) == case.runs
    assert sum(event.startswith(("close", "abort")) for event in fleet.events(job_id)) == 1
    assert len(fleet.sandbox.store.artifacts(job_id)) == case.artifacts
    assert sum(review["job_id"] == job_id for review in fleet.sandbox.store.reviews()) == case.reviews
    until(lambda: ledger_of(fleet).in_flight() == {}, what="the jobs beside it are closed, too")
