"""The inbox: the pending jobs that may be claimed, the most urgent first, and the time of the next poll."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from ...databases import close_old_connections
from ...errors import RoutingError, WorkerError
from ...handlers import Handler, MatchRaised, Registry
from ...job import Job
from ...ledger import Route
from ...server import PartialList
from ...server.job_list import MostUrgent, urgency
from ...telemetry.quantities import counted
from ..capacity import UNROUTED, Capacity, Room
from ..context import BridgeContext
from ..limits import (
    LIST_WORK,
    LONGEST_IMPOSED_PAUSE,
    POLL_GROWTH,
    POLL_WORK,
    PROBE_SECONDS,
    ROUTING_SECONDS,
    SHORTEST_POLL,
)
from ..waiting import CLAIM_FAILED, NO_HANDLER, OTHER, Block, match_raised

logger = logging.getLogger("mr_celery.bridge")


@dataclass(frozen=True)
class Candidate:
    """A pending job that may be claimed.

    Args:
        job: the job.
        route: the route by which it runs.
        refusal: why no handler takes it; it is then claimed only to close it as failed. Empty if a handler does.
    """

    job: Job
    route: Route
    refusal: str = ""


def chooser(
    handler_of: Callable[[Job], Handler],
    route_of: Callable[[Handler, Job], Route | None],
    capacity: Capacity,
    *,
    unrouted: str,
    on_wait: Callable[[Handler | MatchRaised | None], object] = lambda handler: None,
) -> Callable[[Job], Candidate | None]:
    """Return a function that creates a candidate from a job if this bridge may claim it.

    Args:
        handler_of: returns the handler of a job, or raises as :meth:`~mr_celery.handlers.Registry.route` does.
        route_of: returns the route by which a job can run now; ``None`` if there is none and the job stays pending.
        capacity: the capacity of the fleet; jobs of handlers that no worker runs stay pending.
        unrouted: ``fail`` or ``leave``, for jobs that no handler takes.
        on_wait: called for each job that stays pending, with its handler, or with the error if a ``match=`` raised;
            ``None`` if no handler takes it.
    """

    def choose(job: Job) -> Candidate | None:
        try:
            handler = handler_of(job)
        except MatchRaised as error:
            on_wait(error)
            return None
        except RoutingError as error:
            if unrouted == "fail":
                return Candidate(job, UNROUTED, refusal=str(error))
            on_wait(None)
            return None
        route = route_of(handler, job) if handler.name in capacity.runnable else None
        if route is None:
            on_wait(handler)
            return None
        return Candidate(job, route)

    return choose


class Matching:
    """Finds the handlers of the jobs of one poll after another.

    If a ``match=`` raises, its job waits for the next poll. Calls that raise may be slow, as while a database is
    unreachable. Once those of a handler have taken :data:`ROUTING_SECONDS` in a poll, it is not called again in that
    poll, so that the jobs of other handlers do not wait for it.

    Args:
        registry: the handlers.
        clock: monotonic seconds.

    Attributes:
        handler_of: returns the most specific handler that takes a job, or raises as
            :meth:`~mr_celery.handlers.Registry.route` does. :class:`MatchRaised` may also mean that a ``match=`` is not
            called again in this poll.
    """

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._last: dict[str, str] = {}
        self.handler_of = partial(registry.route, matches=self._matches)

    def begin_poll(self) -> None:
        """Begin a poll: every ``match=`` is called again."""
        self._seconds.clear()

    def _matches(self, handler: Handler, job: Job) -> bool:
        if self._seconds[handler.name] > ROUTING_SECONDS:
            raise MatchRaised(handler.name, self._last[handler.name])
        began = self._clock()
        try:
            return handler.matches(job)
        except MatchRaised as raised:
            close_old_connections()
            self._last[handler.name] = raised.why
            self._seconds[handler.name] += self._clock() - began
            raise


class Backlog:
    """The candidates from the last poll of the inbox, the most urgent first.

    They are stored by queue, so that the candidates of a full queue are skipped together.

    Attributes:
        count: the number of candidates.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[Candidate]] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    @property
    def ids(self) -> set[int]:
        """The ids of the jobs."""
        return {candidate.job.id for queue in self._queues.values() for candidate in queue}

    def fits(self, room: Room) -> bool:
        """Whether any of the candidates has a free slot."""
        return any(queue and room.has(queue[0].route) for queue in self._queues.values())

    def fill(self, candidates: Iterable[Candidate]) -> None:
        """Replace the contents by ``candidates``, given in the order in which to claim them."""
        self._queues, self.count = {}, 0
        for candidate in candidates:
            self._queues.setdefault(candidate.route.queue, deque()).append(candidate)
            self.count += 1

    def take(self, room: Room, most: int) -> list[Candidate]:
        """Take up to ``most`` candidates that have a free slot, with their slots, the most urgent first."""
        taken: list[Candidate] = []
        while self.count and len(taken) < most:
            first: deque[Candidate] | None = None
            for queue in self._queues.values():
                if not queue or not room.has(queue[0].route):
                    continue
                if first is None or urgency(queue[0].job) < urgency(first[0].job):
                    first = queue
            if first is None:
                break
            candidate = first.popleft()
            self.count -= 1
            room.take(candidate.route)
            taken.append(candidate)
        return taken

    def give_back(self, candidates: Sequence[Candidate]) -> None:
        """Put back candidates, given in the order in which they were taken."""
        for candidate in reversed(candidates):
            self._queues.setdefault(candidate.route.queue, deque()).appendleft(candidate)
            self.count += 1


class PollBackoff:
    """Calculates pauses that are short after a new job, then grow up to the poll interval.

    The arrival rate is unknown. A recent job suggests that more will follow soon, and a long silence that few will, so
    the pause grows with the time since the last job.

    Args:
        poll_interval: the polling interval, in seconds, while the inbox is empty.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._last_job_at = float("-inf")

    def pause(self, new_jobs: int, polled_at: float, cpu_seconds: float = 0.0) -> float:
        """Seconds from a poll to the next one.

        Args:
            new_jobs: the number of jobs that the previous poll did not find.
            polled_at: the time of the poll, in monotonic seconds.
            cpu_seconds: the CPU time of the poll.
        """
        if new_jobs:
            self._last_job_at = polled_at
        growing = max(SHORTEST_POLL, POLL_GROWTH * (polled_at - self._last_job_at))
        return max(min(growing, self._poll_interval), min(POLL_WORK * cpu_seconds, LONGEST_IMPOSED_PAUSE))


class Inbox:
    """Polls the pending jobs of the worker name, and keeps them in a backlog until they have slots.

    The pauses between polls follow :class:`PollBackoff`; a poll that brings many jobs is followed by another one
    immediately. The backlog is used longer if the poll was expensive.

    Args:
        context: the objects that the loops share.

    Attributes:
        backlog: the jobs that may be claimed.
        polled_at: the ledger's time before the last poll.
        next_poll: the time of the next poll, by the context's clock.
        deferring: the tasks of which no job can be claimed now, because too many jobs are deferred.
    """

    def __init__(self, context: BridgeContext) -> None:
        self._context = context
        self._polls = PollBackoff(context.settings.poll_interval)
        self._matching = Matching(context.registry, clock=context.clock)
        self._stale_at = float("-inf")
        self._poll_again = False
        self._truncated = 0
        self._count_at = float("-inf")
        self.backlog = Backlog()
        self.polled_at = 0.0
        self.next_poll = float("-inf")
        self.deferring: frozenset[str] = frozenset()

    @property
    def idle_seconds(self) -> float:
        """The poll interval, plus up to a fifth of it to spread the load of several bridges."""
        return self._context.settings.poll_interval * random.uniform(1.0, 1.2)  # noqa: S311 - spreads load

    def reset(self) -> None:
        """Clear the backlog, and make the next poll due."""
        self.backlog.fill(())
        self.next_poll = float("-inf")

    def is_due(self, room: Room) -> bool:
        """Whether to poll now: the backlog leaves slots free, or is too old."""
        now = self._context.clock()
        if not self.backlog.count:
            return self._poll_again or now >= self.next_poll
        return now >= self.next_poll and (now > self._stale_at or not self.backlog.fits(room))

    def count(self, otherwise: Block) -> None:
        """Poll the server now and then while no job can be claimed, to count the jobs by the reason why they wait.

        Args:
            otherwise: the reason of jobs that could run.

        Raises:
            WorkerError: the poll failed for another reason than the token.
        """
        context = self._context
        now = context.clock()
        if now < self._count_at:
            return
        self._count_at = now + max(PROBE_SECONDS, context.settings.poll_interval)
        cpu_before = time.thread_time()
        blocks: list[Block] = []
        self._matching.begin_poll()

        def note(job: Job) -> None:
            try:
                handler = self._matching.handler_of(job)
            except MatchRaised as error:
                blocks.append(match_raised(error))
            except RoutingError:
                blocks.append(NO_HANDLER if context.settings.unrouted == "leave" else otherwise)
            else:
                blocks.append(self._block_of_route(handler) or otherwise)

        try:
            listing = context.api.jobs("pending", take=MostUrgent(note).take, about=())
        except PartialList as error:
            listing = error.listing
        except WorkerError as error:
            if not error.unauthorized:
                raise
            context.token.reject(error)
            return
        if context.token.rejected:
            context.token.accept()
        self._note_pending(listing.count, blocks)
        work = LIST_WORK * (time.thread_time() - cpu_before)
        self._count_at = max(self._count_at, now + min(work, LONGEST_IMPOSED_PAUSE))

    def _block_of(self, handler: Handler | MatchRaised | None) -> Block:
        """The reason why a job stays pending.

        Args:
            handler: its handler, or the error if a ``match=`` raised; ``None`` if no handler takes it.
        """
        if handler is None:
            return NO_HANDLER
        if isinstance(handler, MatchRaised):
            return match_raised(handler)
        return self._block_of_route(handler) or OTHER

    def _block_of_route(self, handler: Handler) -> Block | None:
        """The reason why a handler's jobs cannot be claimed now; ``None`` if none is known."""
        context = self._context
        if handler.name in self.deferring:
            limit = f"the limit of {context.settings.max_deferred} deferred jobs is reached (modelreins_max_deferred)"
            return Block("deferred", f"{limit}; running jobs that may defer count too", handler.name)
        return context.block_of(handler, context.capacity.nodes)

    def _note_pending(self, count: int, blocks: Collection[Block]) -> None:
        context = self._context
        context.pending, context.pending_at = count, context.clock()
        if blocks or context.waiting.groups:
            context.waiting.replace(blocks)

    def poll(
        self,
        ledger_time: float,
        capacity: Capacity,
        *,
        busy: Collection[int],
        refused: Collection[int],
    ) -> None:
        """Poll the server and fill the backlog.

        Args:
            ledger_time: the time by the ledger's clock.
            capacity: the capacity of the fleet.
            busy: the jobs that are being claimed.
            refused: the jobs of which a claim failed, so that it must not be repeated now.

        Raises:
            WorkerError: the poll failed for another reason than the token.
        """
        context = self._context
        self.polled_at = ledger_time
        polled_at, cpu_before = context.clock(), time.thread_time()
        self._stale_at = polled_at + context.settings.poll_interval
        context.routes.begin_poll()
        self._matching.begin_poll()
        blocks: list[Block] = []
        choose = chooser(
            self._matching.handler_of,
            context.sender.route_of,
            capacity,
            unrouted=context.settings.unrouted,
            on_wait=lambda handler: blocks.append(self._block_of(handler)),
        )

        def claimable(job: Job) -> Candidate | None:
            if busy and job.id in busy:
                return None
            if refused and job.id in refused:
                blocks.append(CLAIM_FAILED)
                return None
            return choose(job)

        found = MostUrgent(claimable)
        try:
            listing = context.api.jobs("pending", take=found.take, about=())
        except PartialList as error:
            # The entries before the break are valid, and claiming them makes the next list shorter.
            listing = error.listing
            self._truncated += 1
            if self._truncated & (self._truncated - 1) == 0:  # the 1st, 2nd, 4th, …
                read = counted(listing.count, "job")
                times = f" ({self._truncated} times in a row)" if self._truncated > 1 else ""
                logger.warning("%s%s; claiming continues with the %s read before it", error.summary, times, read)
        except WorkerError as error:
            if not error.unauthorized:
                raise
            context.token.reject(error)
            self.reset()
            return
        else:
            self._truncated = 0
        if context.token.rejected_id is not None and context.token.rejected:
            context.token.accept()
        self._note_pending(listing.count, blocks)
        self._count_at = context.clock() + PROBE_SECONDS
        known = self.backlog.ids
        self.backlog.fill(found)
        self._plan(len(self.backlog.ids - known), polled_at, time.thread_time() - cpu_before)

    def _plan(self, new_jobs: int, polled_at: float, cpu_seconds: float) -> None:
        """Schedule the next poll.

        Args:
            new_jobs: the number of jobs that the last poll found and the one before did not.
            polled_at: the time of the last poll.
            cpu_seconds: its CPU time.
        """
        interval = self._context.settings.poll_interval
        pause = self._polls.pause(new_jobs, polled_at, cpu_seconds)
        self._poll_again = new_jobs >= 16  # a list with so many new jobs is likely to be followed by more
        self.next_poll = polled_at + (pause if pause < interval else max(pause, self.idle_seconds))
        self._stale_at = polled_at + max(interval, min(LIST_WORK * cpu_seconds, LONGEST_IMPOSED_PAUSE))
