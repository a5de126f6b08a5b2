"""Why pending jobs wait: the reasons, their texts, and the count of the jobs behind each."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..handlers import MatchRaised, no_handler
from ..ledger import NAMED, BridgeProcess, Kind, Nodes, Waiting
from ..telemetry.outages import Reminder
from ..telemetry.quantities import duration, first_of

logger = logging.getLogger("mr_celery.bridge")

Reason = Literal[
    "no_worker",
    "no_task",
    "no_queue",
    "no_handler",
    "match",
    "route",
    "refused",
    "claim_failed",
    "deferred",
    "paused",
    "other",
    "full",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""All reasons, the most serious first. It is also the label ``reason`` of the metric."""

LOGGED_ELSEWHERE = ("route", "refused", "full")
"""Reasons without a warning: the first two are logged when they occur, and a full fleet is not a fault."""

NO_FAULT = ("paused", "other", "full")
"""Reasons that are intended."""

FIRST_WARNING = 5.0
"""Seconds that jobs wait before they are a state of the worker name, and logged."""

ADVICE: dict[str, str] = {
    "no_worker": "start one: celery -A proj worker",
    "no_task": "import the module of the task in the workers (imports=, include=), and restart them",
    "no_queue": "start a worker that consumes this queue: celery -A proj worker -Q QUEUE",
    "no_handler": "declare a handler for them, or let modelreins_unrouted be 'fail'",
    "match": "correct the function, or what it needs, such as its database; it is called again at each poll",
    "route": "correct task_routes, task_queues or the task's own options",
    "refused": "declare the queue here as the workers do, or give this user the permission",
    "deferred": "see why their outcomes do not come (jobs --state deferred), or raise modelreins_max_deferred",
    "claim_failed": "are they paused or assigned elsewhere on the server? The bridge's log has its answers",
}
"""Advice for each reason that is a fault."""


@dataclass(frozen=True)
class Block:
    """A reason why jobs cannot be claimed now.

    Args:
        reason: the kind of reason.
        why: the reason in words, without the content of a job.
        task: the task of the jobs; empty if the reason is the same for all.
    """

    reason: Reason
    why: str
    task: str = ""

    def text(self, count: int) -> str:
        """The reason as a sentence about ``count`` jobs."""
        wait = "1 job waits" if count == 1 else f"{count} jobs wait"
        return f"{wait} for {self.task}: {self.why}" if self.task else f"{wait}: {self.why}"


NO_WORKER = Block("no_worker", "no worker is online")
NO_HANDLER = Block("no_handler", f"{no_handler('them')}, and modelreins_unrouted is 'leave'")
PAUSED = Block("paused", "an operator has paused claiming")
FULL = Block("full", "all slots are taken")
CLAIM_FAILED = Block("claim_failed", "the server refused to let this worker claim them; each is tried again")
OTHER = Block("other", "not claimed yet")


def match_raised(error: MatchRaised) -> Block:
    """The reason why a job waits if a ``match=`` raised for it."""
    return Block("match", error.why, error.task_name)


def blocked(task: str, queues: Collection[str], nodes: Nodes) -> Block | None:
    """The reason why no online worker can run a task; ``None`` if one can.

    Args:
        task: the task.
        queues: the queues that its messages reach.
        nodes: the online workers.
    """
    if not nodes:
        return NO_WORKER
    kinds = nodes.kinds
    if any(kind.runs(task, queue) for kind in kinds for queue in queues):
        return None
    able = [kind for kind in kinds if task in kind.tasks]
    if not able:
        module = task.rpartition(".")[0] or "its module"
        if not any(kind.tasks for kind in kinds):
            verb = "is online, but has" if len(nodes) == 1 else "are online, but have"
            return Block("no_task", f"{_named(kinds)} {verb} none of the tasks: is {module} imported there?", task)
        why = f"no online worker has this task (online: {_named(kinds)}): is {module} imported there?"
        return Block("no_task", why, task)
    named = " or ".join(f"{queue!r}" for queue in queues) or "of its route"
    online = _named(able, with_queues=True)
    return Block("no_queue", f"no online worker consumes queue {named} (online: {online})", task)


def waiting_jobs(bridges: Sequence[BridgeProcess], now: float, *, has_workers: bool = False) -> list[Waiting]:
    """The pending jobs that cannot be claimed now, as reported by the bridge that found the most of them.

    Args:
        bridges: the bridges that are online.
        now: the ledger's time.
        has_workers: whether a worker is online now. Reports of ``no_worker`` are then out of date and left out.
    """
    known = [each.waiting for each in bridges if not each.is_old(now)]
    found = max(known, key=lambda waits: sum(each.count for each in waits), default=())
    true = [each for each in found if not (has_workers and each.reason == NO_WORKER.reason)]
    return sorted(true, key=lambda each: REASONS.index(each.reason) if each.reason in REASONS else 0)


def _named(kinds: Sequence[Kind], *, with_queues: bool = False) -> str:
    """The first workers of some kinds, and the number of the others."""
    names = [
        f"{name} [{', '.join(sorted(kind.queues))}]" if with_queues else name for kind in kinds for name in kind.named
    ]
    return first_of(names, NAMED, sum(kind.workers for kind in kinds))


@dataclass
class _Group:
    since: float
    count: int
    reminder: Reminder


@dataclass
class WaitingJobs:
    """Counts the pending jobs that wait, by reason, and warns of them rarely.

    Args:
        clock: monotonic seconds.

    Attributes:
        groups: the jobs that wait, by reason.
        backlog: the number of jobs that only wait for a free slot.
    """

    clock: Callable[[], float] = time.monotonic
    groups: dict[Block, _Group] = field(default_factory=dict, init=False)
    backlog: int = field(default=0, init=False)

    def replace(self, blocks: Iterable[Block]) -> None:
        """Replace the counts after a poll of the inbox.

        Args:
            blocks: the reason of each job that waits.
        """
        now, counts = self.clock(), Counter(blocks)
        groups = {}
        for block, count in counts.items():
            # A wait of less than 5 s, as while workers restart, is not worth a warning.
            group = self.groups.get(block) or _Group(now, count, Reminder(now + FIRST_WARNING))
            group.count = count
            groups[block] = group
        self.groups = groups
        for block, group in groups.items():
            if block.reason not in LOGGED_ELSEWHERE and group.reminder.is_due(now):
                self._warn(block, group, now)

    @staticmethod
    def _warn(block: Block, group: _Group, now: float) -> None:
        waited = now - group.since
        text = f"{block.text(group.count)} (for {duration(waited)})"
        fields = {"event": "jobs_wait", "reason": block.reason, "count": group.count, "seconds": waited}
        logger.warning("%s", text, extra={**fields, "task_name": block.task} if block.task else fields)

    @property
    def now(self) -> tuple[Waiting, ...]:
        """The jobs that wait now, the most serious reason first."""
        now, groups = self.clock(), self.groups
        order = sorted(groups.items(), key=lambda item: (REASONS.index(item[0].reason), -item[1].count))
        found = [Waiting(block.reason, block.text(each.count), each.count, now - each.since) for block, each in order]
        if self.backlog and not any(each.reason == "full" for each in found):
            found.append(Waiting("full", FULL.text(self.backlog), self.backlog, 0.0))
        return tuple(found[:10])  # every status command reads them
