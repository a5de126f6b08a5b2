"""The state of a worker name, derived from facts. A pure function, used wherever the state is shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..ledger import PERMISSION_HINT, BridgeProcess, Nodes, Pause, Trouble
from ..server.failures import CHALLENGE
from ..telemetry.quantities import elapsed
from .waiting import ADVICE, FIRST_WARNING, NO_FAULT, blocked, waiting_jobs

Kind = Literal[
    "ledger_unreachable",
    "no_bridge",
    "token_refused",
    "server_unreachable",
    "requests_fail",
    "broker_unreachable",
    "no_worker",
    "jobs_wait",
    "starting",
    "paused",
    "full",
    "claiming",
    "idle",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All states, the most serious first."""

WRONG: tuple[Kind, ...] = KINDS[: KINDS.index("starting")]
"""States in which an operator must act."""

COMMAND = "celery -A proj modelreins"


@dataclass(frozen=True)
class State:
    """A state of a worker name.

    Args:
        kind: the kind of state.
        text: the state in words.
        advice: what to do; empty if there is nothing to do.
        seconds: seconds for which it has lasted; ``None`` if unknown.
    """

    kind: Kind
    text: str
    advice: str = ""
    seconds: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether an operator must act."""
        return self.kind in WRONG


@dataclass(frozen=True)
class Facts:
    """The facts from which the state of a worker name is derived.

    Args:
        now: the ledger's time.
        bridges: the announcements of the bridges that are online.
        nodes: the online Celery workers.
        routes: task name and queue of each route that jobs can take.
        runnable: the number of online workers that run at least one handler.
        pause: the pause; ``None`` while jobs are claimed.
        taken: number of claimed, unfinished jobs.
        capacity: maximum of ``taken``.
        in_flight: number of jobs in flight, including those whose outcome is delivered.
        ledger: the ledger's outage; ``None`` if it is reachable. During an outage, the other facts are unknown.
    """

    now: float = 0.0
    bridges: Sequence[BridgeProcess] = ()
    nodes: Nodes = field(default_factory=Nodes)
    routes: Collection[tuple[str, str]] = ()
    runnable: int = 0
    pause: Pause | None = None
    taken: int = 0
    capacity: int = 0
    in_flight: int = 0
    ledger: Trouble | None = None

    @property
    def present(self) -> list[BridgeProcess]:
        """The bridges whose announcement is recent enough to be true now."""
        return [each for each in self.bridges if not each.is_old(self.now)]

    @property
    def pending(self) -> int | None:
        """Pending jobs on the server at the last poll of a bridge; ``None`` if unknown."""
        known = [each for each in self.present if each.pending is not None]
        return min(known, key=lambda each: each.pending_age or 0.0).pending if known else None


def states(facts: Facts) -> tuple[State, ...]:
    """The state of a worker name, followed by everything else that is wrong.

    If bridges of the name differ, such as one that does not reach the server, the state is that of the others.
    """
    if facts.ledger is not None:
        return (_ledger_unreachable(facts.ledger),)
    present = facts.present
    if not present:
        return (_no_bridge(facts), *_no_worker(facts))
    whole: list[State] = []
    partly: list[State] = []
    for make, trouble_of in _TROUBLES:
        troubles = {each.id: trouble for each in present if (trouble := trouble_of(each)) is not None}
        if not troubles:
            continue
        bridge = next(each for each in present if each.id in troubles)
        state = make(bridge, _later(troubles[bridge.id], facts.now - bridge.at))
        if len(troubles) == len(present):
            whole.append(state)
        else:
            others = len(present) - len(troubles)
            text = f"{state.text}, from {', '.join(troubles)} only; {others} of {len(present)} bridges work"
            partly.append(State(state.kind, text, state.advice, state.seconds))
    whole += _no_worker(facts)
    if whole:
        return (*whole, *partly)
    return (*(_jobs_wait(facts) or [_operating(facts, present)]), *partly)


def _later(trouble: Trouble, seconds: float) -> Trouble:
    return Trouble(trouble.why, trouble.seconds + max(0.0, seconds))


_CLIENT_CERTIFICATE = "if it requires a client certificate: ?ssl_certfile=FILE&ssl_keyfile=FILE in the address"
_PERMISSION = f"its user lacks a permission: {PERMISSION_HINT}"

_LEDGER_ADVICE = {
    "OOM": "its Redis is full: raise its maxmemory, or remove other data from it",
    "MISCONF": "its Redis cannot save its data: is its disk full or read-only?",
    "NOAUTH": "give its password in MODELREINS_LEDGER_URL",
    "WRONGPASS": "correct the password in MODELREINS_LEDGER_URL",
    "invalid username-password": "correct the password in MODELREINS_LEDGER_URL",
    "Authentication required": "give its password in MODELREINS_LEDGER_URL",
    "NoPermissionError": _PERMISSION,
    "user executing the script": _PERMISSION,  # until Redis 7.0
    "CERTIFICATE_VERIFY_FAILED": "name its CA in the address: ?ssl_ca_certs=FILE. ssl_cert_reqs=none verifies nothing",
    "CERTIFICATE_REQUIRED": _CLIENT_CERTIFICATE,
    "EOF occurred in violation of protocol": _CLIENT_CERTIFICATE,
}


def ledger_advice(why: str) -> str:
    """Advice for an error of the ledger's Redis."""
    found = (advice for part, advice in _LEDGER_ADVICE.items() if part in why)
    return next(found, "start its Redis, or correct MODELREINS_LEDGER_URL")


def _ledger_unreachable(trouble: Trouble) -> State:
    return State(
        "ledger_unreachable",
        f"ledger unreachable for {elapsed(trouble.seconds)}: {trouble.why}",
        f"{ledger_advice(trouble.why)}; running handlers continue",
        trouble.seconds,
    )


def _no_bridge(facts: Facts) -> State:
    last = max(facts.bridges, key=lambda each: each.at, default=None)
    seen = f" ({last.id} was last seen {elapsed(facts.now - last.at)} ago)" if last else ""
    return State(
        "no_bridge",
        f"no bridge online{seen}: no job is claimed, and lost runs are not noticed",
        f"start one: {COMMAND} bridge",
        facts.now - last.at if last else None,
    )


def _token_refused(bridge: BridgeProcess, trouble: Trouble) -> State:
    why = f" ({trouble.why})" if trouble.why else ""
    if CHALLENGE in trouble.why:
        return State(
            "token_refused",
            f"token refused for {elapsed(trouble.seconds)}{why}",
            "correct the token in all processes on this host; then wait until the ban is over, or ask the server's "
            "operator",
            trouble.seconds,
        )
    return State(
        "token_refused",
        f"token refused for {elapsed(trouble.seconds)}{why}",
        "is MODELREINS_TOKEN the token of this worker name? After a change, restart bridges and workers, unless the "
        "token is in MODELREINS_TOKEN_FILE",
        trouble.seconds,
    )


def _server_unreachable(bridge: BridgeProcess, trouble: Trouble) -> State:
    age = bridge.answer_age
    last = "no answer yet" if age is None else f"last answer {elapsed(max(age, trouble.seconds))} ago"
    return State(
        "server_unreachable",
        f"server unreachable for {elapsed(trouble.seconds)} ({last}): {trouble.why}",
        "is MODELREINS_URL right, with its path, and does the bridge's host reach it? Outcomes wait in the ledger",
        trouble.seconds,
    )


def _requests_fail(bridge: BridgeProcess, trouble: Trouble) -> State:
    return State(
        "requests_fail",
        f"requests fail for {elapsed(trouble.seconds)}: {trouble.why}",
        ledger_advice(trouble.why) if trouble.why.startswith("the ledger ") else f"run {COMMAND} check",
        trouble.seconds,
    )


def _broker_unreachable(bridge: BridgeProcess, trouble: Trouble) -> State:
    return State(
        "broker_unreachable",
        f"broker unreachable for {elapsed(trouble.seconds)}: {trouble.why}",
        "start it, or correct broker_url; claimed jobs are sent as soon as it is back",
        trouble.seconds,
    )


_TROUBLES: tuple[tuple[Callable[[BridgeProcess, Trouble], State], Callable[[BridgeProcess], Trouble | None]], ...] = (
    (_token_refused, lambda bridge: bridge.token),
    (_server_unreachable, lambda bridge: bridge.server),
    (_requests_fail, lambda bridge: None if bridge.server or bridge.token else bridge.requests),
    (_broker_unreachable, lambda bridge: bridge.broker),
)


def _no_worker(facts: Facts) -> list[State]:
    if facts.runnable:
        return []
    if not facts.nodes:
        advice = (
            "start one: celery -A proj worker. One that runs must import the modules of the tasks, and have the "
            "bridge's ledger (MODELREINS_LEDGER_URL)"
        )
        return [State("no_worker", "no worker online", advice)]
    found = [block for task, queue in sorted(facts.routes) if (block := blocked(task, (queue,), facts.nodes))]
    why = found[0].why if found else "none of the online workers has a task that takes jobs"
    advice = "import the module of the tasks in the workers (imports=, include=), and restart them"
    if found and found[0].reason == "no_queue":
        advice = f"start a worker that consumes it: celery -A proj worker -Q {sorted(facts.routes)[0][1]}"
    return [State("no_worker", f"no worker online that runs a handler: {why}", advice)]


def _jobs_wait(facts: Facts) -> list[State]:
    """The reasons why pending jobs wait until an operator acts. None during a pause, which an operator ends."""
    if facts.pause is not None:
        return []
    return [
        State("jobs_wait", each.text, ADVICE.get(each.reason, f"run {COMMAND} check"), each.seconds)
        for each in waiting_jobs(facts.bridges, facts.now, has_workers=bool(facts.nodes))
        if each.reason not in NO_FAULT and each.seconds >= FIRST_WARNING
    ]


def _operating(facts: Facts, present: Sequence[BridgeProcess]) -> State:
    if facts.pause is not None:
        pause, lasted = facts.pause, max(0.0, facts.now - facts.pause.at)
        why = f": {pause.why}" if pause.why else ""
        return State(
            "paused", f"paused by {pause.by} for {elapsed(lasted)}{why}", f"to continue: {COMMAND} resume", lasted
        )
    if all(each.answer_age is None for each in present):
        return State("starting", "starting: the server has not answered yet")
    if facts.taken >= facts.capacity:
        return State("full", f"full: {facts.taken} of {facts.capacity} slots are taken")
    if facts.in_flight or facts.pending:
        return State("claiming", "claiming")
    return State("idle", "idle: no job is pending or in flight")
