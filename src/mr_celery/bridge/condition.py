"""The condition of a bridge, for its announcement in the ledger, its presence and its probes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Literal

from ..ledger import BridgeProcess, Nodes, Pause, Survey, Trouble
from ..telemetry.outages import Outage
from ..version import __version__
from .capacity import Capacity, FleetCapacity, Room
from .context import BridgeContext
from .state import Facts, State, states

PresenceStatus = Literal["active", "busy", "idle"]


class Condition:
    """The facts from which a bridge derives its state. None needs I/O: those of the ledger are from the last read.

    Args:
        context: the objects that the loops share.

    Attributes:
        id: the name of the bridge's process.
        refusal: the last refusal of the token.
    """

    def __init__(self, context: BridgeContext) -> None:
        self._context = context
        self._began_at = context.clock()
        self._refused_at: float | None = None
        self._survey: Survey | None = None
        self._observed_at = 0.0
        self._nodes = Nodes()
        self._pause: Pause | None = None
        self._capacity: Capacity | None = None
        self._has_room = False
        self._bridges: Sequence[BridgeProcess] = ()
        self._host = socket.gethostname()
        self.id = f"{self._host}:{os.getpid()}"
        self._unobserved: tuple[str, float] | None = None
        handlers = sorted(f"{each.name} ({each.declaration.offers})" for each in context.registry.handlers)
        self._handlers = tuple(handlers[:200])  # each announcement repeats them
        self.refusal = ""

    def observe(
        self,
        survey: Survey,
        capacity: FleetCapacity,
        pause: Pause | None,
        bridges: Iterable[BridgeProcess],
    ) -> None:
        """Store the facts that were just read from the ledger.

        Args:
            survey: the jobs in flight.
            capacity: the capacity of the fleet, just read.
            pause: the pause; ``None`` while jobs are claimed.
            bridges: the bridges of the worker name that are online.
        """
        self._survey, self._nodes, self._pause = survey, capacity.nodes, pause
        self._observed_at = self._context.clock()
        self._unobserved = None
        self._capacity = capacity.whole
        self._has_room = bool(Room(capacity.latest(), survey))
        self._bridges = [each for each in bridges if each.id != self.id]

    def miss(self, why: str) -> None:
        """Note that the ledger did not answer."""
        why = why.removeprefix(f"{self._context.outages.ledger.what}: ")
        since = self._unobserved[1] if self._unobserved else self._context.clock()
        self._unobserved = (why, since)
        self._context.outages.ledger.failed(why)

    @property
    def load(self) -> str:
        """The jobs in flight and the capacity, as of the last observation."""
        if self._survey is None or self._capacity is None or self._unobserved:
            return ""
        waiting = self._survey.states["claimed"] + self._survey.states["sent"]
        return f"in flight {self._survey.in_flight}, waiting {waiting}, capacity {self._capacity.shown}"

    @property
    def hindrance(self) -> str:
        """The reason why this bridge would not claim a job now, in words; empty if it would."""
        context, survey, capacity = self._context, self._survey, self._capacity
        if context.stopping.is_set():
            return "stopping"
        if context.token.rejected:
            return "the server refuses the token"
        if survey is None or capacity is None or self._unobserved or context.outages.ledger.seconds is not None:
            return "the ledger is unreachable"
        if survey.paused:
            return "paused"
        if not capacity.workers:
            return "no worker online"
        if not self._has_room:
            return "no slot is free"
        runnable = [each for each in context.registry.handlers if each.name in capacity.runnable]
        blocks = [context.block_of(handler, self._nodes) for handler in runnable]
        first = next((block for block in blocks if block is not None), None)
        return "" if first is None or None in blocks else f"no job can be sent: {first.why}"

    @property
    def others(self) -> list[BridgeProcess]:
        """The other bridges of the worker name, as of the last observation, whose announcements are still recent."""
        return [each for each in self._bridges if not each.is_old(self.now)]

    def presence(self) -> tuple[PresenceStatus, str]:
        """Status and details of the presence report of the worker name, on which all of its bridges agree."""
        own, others = self.announcement(), self.others
        status, (state, *_) = presence_status(own, others), self._states(own, others)
        text = "" if state.kind == "starting" else state.text
        why = self.hindrance
        # The state explains most of them. It does not know, for example, the share of other worker names.
        says_why = not why or status == "active" or state.kind not in ("starting", "claiming", "idle")
        return status, "; ".join(part for part in ("" if says_why else why, text, self.load) if part)

    @property
    def now(self) -> float:
        """The ledger's time, as far as it is known."""
        return self._survey.now + self._context.clock() - self._observed_at if self._survey else 0.0

    def announcement(self) -> BridgeProcess:
        """This bridge as it is now."""
        context, settings = self._context, self._context.settings
        if not context.token.rejected:
            self._refused_at = None
        elif self._refused_at is None:
            self._refused_at = context.clock()
        failing = context.failing()
        pending_at = context.pending_at
        return BridgeProcess(
            id=self.id,
            host=self._host,
            version=__version__,
            uptime=context.clock() - self._began_at,
            presence_age=context.presence_age,
            pending=context.pending,
            pending_age=None if pending_at is None else context.clock() - pending_at,
            at=self.now,
            interval=settings.heartbeat_interval,
            app_version=settings.app_version or __version__,
            handlers=self._handlers,
            answer_age=context.outages.server.answer_age,
            server=_trouble(context.outages.server),
            token=None if self._refused_at is None else Trouble(self.refusal, context.clock() - self._refused_at),
            broker=_trouble(context.outages.broker),
            requests=None if failing is None else Trouble(*failing),
            waiting=context.waiting.now,
            claims=not self.hindrance,
            has_finished=context.stopping.is_set() and self._survey is not None and not self._survey.in_flight,
        )

    def states(self) -> tuple[State, ...]:
        """The state of the worker name as this bridge knows it, followed by everything else that is wrong."""
        return self._states(self.announcement())

    def _states(self, own: BridgeProcess, others: Sequence[BridgeProcess] = ()) -> tuple[State, ...]:
        """The state of the worker name, as of this bridge and some others."""
        survey, capacity, context = self._survey, self._capacity, self._context
        ledger = _trouble(context.outages.ledger)
        if ledger is None and self._unobserved is not None:
            ledger = Trouble(self._unobserved[0], context.clock() - self._unobserved[1])
        if ledger is not None:
            return states(Facts(ledger=ledger))
        if survey is None or capacity is None:
            return states(Facts(now=own.at, bridges=(own, *others), runnable=1, capacity=1))
        return states(
            Facts(
                now=own.at,
                bridges=(own, *others),
                nodes=self._nodes,
                routes={(route.task_name, route.queue) for route in context.routes.values()},
                runnable=capacity.workers,
                pause=self._pause,
                taken=survey.slots_taken,
                capacity=capacity.shown,
                in_flight=survey.in_flight,
            )
        )


def presence_status(own: BridgeProcess | None, others: Iterable[BridgeProcess]) -> PresenceStatus:
    """The status that a bridge reports for its worker name.

    A router may read it to choose a worker, and all bridges of a worker name report under this one name. So the status
    is that of all of them together.

    Args:
        own: the bridge; ``None`` if it is about to end.
        others: the other bridges of the worker name that are online.

    Returns:
        ``active`` if any of them would claim a job now; else ``busy`` while one of them is online, since the jobs stay
        pending; ``idle`` if none is, or if the only ones are stopping and nothing is in flight.
    """
    online = [*([] if own is None else [own]), *others]
    if any(each.claims for each in online):
        return "active"
    return "busy" if any(not each.has_finished for each in online) else "idle"


def _trouble(outage: Outage) -> Trouble | None:
    seconds = outage.seconds
    return None if seconds is None else Trouble(outage.why, seconds)
