"""Reports presence of the worker name to the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress

from ..errors import LedgerUnavailable, WorkerError
from ..ledger import Ledger
from ..server import Api
from .capacity import FleetCapacity
from .condition import Condition, PresenceStatus, presence_status
from .context import BridgeContext
from .limits import LASTING
from .threads import Pool

logger = logging.getLogger("mr_celery.bridge")

ANSWER_SECONDS = 0.2
"""Longest time, in seconds, to wait for a response before other worker names have their turn."""


LATE = 0.2
"""Delay, as a fraction of the interval, after which a report counts as late and skips the slow steps."""

MOST_OLD = 1.8
"""Maximum age, in intervals, of the facts that a late report uses instead of reading the ledger again.

The bridge is not announced meanwhile. Other bridges ignore an announcement only when it is older than this.
"""


class Heartbeat:
    """Reports presence: whether jobs are claimed now, the tags and the provider, and state and load as details.

    A router may read it to choose a worker. The tags are the declared capabilities and tags, and those of the settings.
    All bridges of a worker name report the same status, which they derive from their announcements in the ledger.

    It also announces the bridge and its condition in the ledger, for the status commands.

    Presence does not lapse because the server or the ledger is slow: the heartbeat has separate connections with short
    timeouts, and a late response does not delay the next report. A ``Retry-After`` does not make it lapse either: while
    the token is accepted, two reports are at most one and a half intervals apart. If the process cannot report all its
    worker names in time, a late report skips the slow steps: it uses facts that were read a short time ago, and does
    not wait for the response.

    Args:
        context: the objects that the loops share.
        api: the server, with a short timeout.
        ledger: the ledger, with a short timeout.
        capacity: the capacity of the fleet, with a short timeout.
        pool: the threads of the reports; by default its own.
        side_by_side: the number of reports that may wait for a response at the same time.

    Attributes:
        condition: the condition that it reports.
        on_answer: called when a response arrives that the heartbeat no longer waits for.
    """

    def __init__(
        self,
        context: BridgeContext,
        api: Api,
        ledger: Ledger,
        capacity: FleetCapacity,
        *,
        pool: Pool | None = None,
        side_by_side: int = 4,
    ) -> None:
        self._side_by_side = side_by_side
        self._context = context
        self._api = api
        self._ledger = ledger
        self._capacity = capacity
        added = context.settings.tags.split(",") if context.settings.tags else []
        self._tags = ",".join(dict.fromkeys([*context.registry.offered, *added])) or None
        self._provider = context.settings.provider or None
        self._refusals = 0
        self._refused_id = ""
        self._next_at = self._report_at = float("-inf")
        self._due_at = float("inf")
        self._observed_at = float("-inf")
        self.condition = Condition(context)
        self._pool = Pool("heartbeat", side_by_side) if pool is None else pool
        self._under_way: list[Future[None]] = []
        self._waits = False
        self.on_answer: Callable[[], object] = lambda: None

    def run_once(self) -> float:
        """Report presence if it is time to, and handle the responses. Returns the seconds until the next run.

        Raises:
            WorkerError: a report failed for another reason than the token.
        """
        rest = self._next_at - self._context.clock()
        if rest <= 0:
            return self.beat()
        self._next_at = float("-inf")  # after a failure the next run reports again
        self._collect()
        self._next_at = self._context.clock() + rest
        return rest

    def beat(self) -> float:
        """Report presence, less often while the token is refused. Returns the seconds until the next report.

        Raises:
            WorkerError: a report failed for another reason than the token.
        """
        interval = self._context.settings.heartbeat_interval
        began = self._context.clock()
        if self._refusals and self._refused_id != self._context.token.token_id():
            self._refusals, self._report_at = 0, float("-inf")  # there is a new token
        is_late = began > self._due_at + interval * LATE
        self._due_at = began + interval
        seen = not (is_late and began < self._observed_at + interval * MOST_OLD) and self._observe()
        self._next_at = float("-inf")  # after a failure the next run reports again
        if began >= self._report_at and len(self._under_way) < self._side_by_side:
            status, details = self.condition.presence()
            self._waits = not is_late
            report = self._pool.submit(self._report, status, details)
            self._under_way.append(report)
            report.add_done_callback(self._on_answer)
        if not is_late:
            wait(self._under_way[-1:], timeout=min(interval / 4, ANSWER_SECONDS))
        self._waits = False
        try:
            if self._collect() >= LASTING and began >= self._report_at:
                self._report_at = began + interval * 6  # spares the server
        finally:
            if seen:
                self._announce(interval * 3)  # two announcements may fail before it counts as offline
        self._next_at = began + interval
        return max(0.0, self._next_at - self._context.clock())

    def _on_answer(self, _: Future[None]) -> None:
        if not self._waits:
            self.on_answer()

    def _collect(self) -> int:
        """Handle the responses that have arrived. Returns the number of consecutive refusals of the token."""
        answered = [each for each in self._under_way if each.done()]
        self._under_way = [each for each in self._under_way if each not in answered]
        for report in answered:
            try:
                report.result()
            except WorkerError as error:
                if not error.unauthorized:
                    raise
                self._refusals += not error.unsent  # one that was not sent spares the server already
                self._refused_id = self._context.token.token_id()
                self.condition.refusal = error.summary
                self._context.token.reject(error)
            else:
                self._refusals, self._report_at = 0, float("-inf")
                self._context.presence_at = self._context.clock()
                self._context.token.accept()
        return self._refusals

    def leave(self, seconds: float = 0.0) -> None:
        """Report presence one last time: as idle, unless other bridges of the worker name are online.

        Args:
            seconds: how long to wait for reports under way. One that reached the server later would replace the last.
        """
        wait(self._under_way, timeout=seconds)
        others = self.condition.others
        with suppress(LedgerUnavailable):  # the entry expires soon
            self._ledger.withdraw_bridge(self.condition.id)
            others = [each for each in self._ledger.bridges() if not each.is_old(self.condition.now)]
        try:
            details = f"bridge {self.condition.id} stopped; {len(others)} online" if others else "bridge stopped"
            self._report(presence_status(None, others), details)
        except WorkerError as error:
            logger.warning("last presence not reported: %s", error.summary)

    def _report(self, status: PresenceStatus, details: str) -> None:
        self._api.presence(status, details, self._tags, provider=self._provider)

    def _observe(self) -> bool:
        """Read the condition of the fleet. Returns whether the ledger could be read."""
        try:
            self._capacity.latest()
            survey = self._ledger.survey(self._capacity.queues)
            pause = self._ledger.snapshot(()).pause if survey.paused else None
            bridges = self._ledger.bridges()
        except LedgerUnavailable as error:
            self.condition.miss(str(error))
            return False
        self.condition.observe(survey, self._capacity, pause, bridges)
        self._observed_at = self._context.clock()
        return True

    def _announce(self, seconds: float) -> None:
        try:
            self._ledger.announce_bridge(self.condition.announcement(), seconds=seconds)
        except LedgerUnavailable as error:
            logger.debug("this bridge cannot be announced: %s", error)
