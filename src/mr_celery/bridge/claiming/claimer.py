"""The claimer: admits pending jobs for which the fleet has slots, and starts their claims."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from ...errors import LedgerUnavailable
from ...ledger import Deferring, Survey
from ..capacity import Capacity, Room
from ..context import BridgeContext
from ..limits import CHECK_SECONDS, CLAIM_LEASE, CONCURRENT_CLAIMS, LONGEST_PAUSE
from ..threads import Pool
from ..waiting import FULL, NO_WORKER, PAUSED
from .inbox import Candidate, Inbox
from .job_claimer import EndedClaim, JobClaimer


class Claimer:
    """Claims the pending jobs that the fleet can run: admit → claim → claimed → publish → sent.

    Jobs are admitted in batches of as many as can be claimed concurrently, and recorded as sent in batches. The steps
    in between run concurrently. Jobs without a free slot stay in the backlog of the inbox.

    Args:
        context: the objects that the loops share.
        pool: the threads of the claims; by default its own.
        side_by_side: the maximum number of concurrent claims.
        gather_seconds: seconds to wait for all claims before it continues with those that have ended; handling several
            together is cheaper.
        batch_seconds: longest time, in seconds, that it claims or waits for a claim before it checks the fleet and
            the ledger again.
    """

    def __init__(
        self,
        context: BridgeContext,
        *,
        pool: Pool | None = None,
        side_by_side: int = CONCURRENT_CLAIMS,
        gather_seconds: float = 0.01,
        batch_seconds: float = 0.25,
    ) -> None:
        self._context = context
        self._side_by_side = side_by_side
        self._gather_seconds = gather_seconds
        self._batch_seconds = batch_seconds
        self._inbox = Inbox(context)
        self._job_claimer = JobClaimer(context)
        self._pool = Pool("claims", side_by_side) if pool is None else pool
        self._claiming: set[int] = set()
        self._ended: SimpleQueue[EndedClaim] = SimpleQueue()
        self._full = False
        self._runnable: frozenset[str] = frozenset()
        self._has_claimed = False
        self._sent: dict[int, str] = {}
        self._record_at = float("-inf")

    @property
    def wants_slot(self) -> bool:
        """Whether a job, or the next poll of the inbox, waits for a free slot."""
        return self._full or self._inbox.backlog.count > 0

    def run_once(self) -> float:
        """Claim jobs for the free slots. Returns the seconds until the next run.

        Raises:
            WorkerError: polling the inbox failed.
            LedgerUnavailable: the ledger is unreachable; nothing can be claimed without it.
        """
        if self._claiming:
            self._collect()
        only_wait_for_slots = False
        try:
            pause = self._claim_jobs()
            only_wait_for_slots = True
            return pause
        finally:
            self._context.waiting.backlog = self._inbox.backlog.count if only_wait_for_slots else 0
            if self._sent:
                self._record()

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the claims in progress."""
        if self._claiming:
            self._collect(timeout)
        if self._sent:
            with suppress(LedgerUnavailable):  # another bridge publishes unrecorded jobs again
                self._record(at_once=True)

    def _claim_jobs(self) -> float:
        context, inbox = self._context, self._inbox
        if context.token.rejected_id is not None and context.token.rejected:
            self._reset()
            if pause := context.token.pause:
                return min(pause, CHECK_SECONDS)  # by then there may be a new token
        notified = self.wants_slot  # then notifications wake the loop for each slot freed after the survey
        capacity = context.capacity.latest()
        survey = context.ledger.survey(context.capacity.queues)
        deferring, deferrable = self._deferring(survey, capacity)
        if deferrable is not None and deferrable <= 0:
            capacity = replace(capacity, runnable=capacity.runnable - deferring)
        if context.unadopted[0]:
            capacity = capacity.sparing(self._awaited_queues)
        room = Room(capacity, survey, deferring=deferring, deferrable=deferrable)
        if survey.paused:
            self._reset()
            inbox.count(PAUSED)
            return inbox.idle_seconds
        if not capacity.runnable <= self._runnable:
            inbox.reset()  # jobs may wait for the workers that have come
        self._runnable = capacity.runnable
        if not capacity.workers:
            self._reset()
            inbox.count(NO_WORKER)
            return min(2.0, inbox.idle_seconds)
        self._full = not room
        if self._full:
            inbox.count(FULL)
            return self._pause()
        if inbox.is_due(room):
            inbox.poll(survey.now, capacity, busy=self._claiming, refused=self._job_claimer.refused())
        ends_at = context.clock() + self._batch_seconds
        while self._begin(room, capacity) and context.clock() < ends_at:
            self._await()
        if self._claiming:
            self._await()
        has_claimed, self._has_claimed = self._has_claimed, False
        if self._claiming:
            return 0.0
        if notified and inbox.backlog.count and not inbox.backlog.fits(room):
            return self._pause()
        return 0.0 if has_claimed else self._pause()

    @property
    def _awaited_queues(self) -> frozenset[str]:
        """The queues in which claims leave a slot free for jobs that wait to be adopted."""
        queues, found_at = self._context.unadopted
        return queues if self._context.clock() - found_at < 2 * LONGEST_PAUSE else frozenset()

    def _deferring(self, survey: Survey, capacity: Capacity) -> tuple[frozenset[str], int | None]:
        """The tasks that defer jobs, and the number of their jobs that can be claimed now; ``None`` for any number."""
        context = self._context
        spare = context.settings.max_deferred - survey.states["deferred"]
        if spare > max(survey.slots_taken, capacity.shown):  # even if all jobs in slots are deferred
            found, deferrable = Deferring(), None
        else:
            found = context.ledger.deferring()
            deferrable = spare - found.in_slots
        blocked = found.tasks if deferrable is not None and deferrable <= 0 else frozenset()
        if blocked != self._inbox.deferring:
            self._inbox.deferring = blocked
            self._reset()
        return found.tasks, deferrable

    def _reset(self) -> None:
        """Forget the backlog, so that the next run polls the inbox."""
        self._inbox.reset()
        self._full = False

    def _pause(self) -> float:
        """Seconds until the next poll, or until a free slot is looked for in case its notification was lost."""
        until_poll = self._inbox.next_poll - self._context.clock()
        if not self.wants_slot:
            return max(0.0, until_poll)
        until_slot = min(CHECK_SECONDS, self._inbox.idle_seconds)
        return min(until_slot, until_poll) if until_poll > 0 else until_slot

    def _begin(self, room: Room, capacity: Capacity) -> bool:
        """Start claims for the free slots and threads. Returns whether more can follow."""
        context, free = self._context, min(self._side_by_side - len(self._claiming), self._pool.free)
        if context.stopping.is_set():
            return False
        if free <= 0:
            return bool(self._claiming)
        backlog, polled_at = self._inbox.backlog, self._inbox.polled_at
        chosen = backlog.take(room, free)
        if not chosen:
            return False
        began = time.time_ns()
        try:
            answers = context.ledger.admit(
                [(candidate.job, candidate.route) for candidate in chosen],
                asked_at=polled_at,
                queue_limits={queue: capacity.limit(queue) for queue in {each.route.queue for each in chosen}},
                total_limit=capacity.total,
                settle_seconds=CLAIM_LEASE,
            )
        except LedgerUnavailable:
            backlog.give_back(chosen)
            raise
        full: list[Candidate] = []
        for candidate, answer in zip(chosen, answers, strict=True):
            if answer in ("admitted", "again"):
                self._claiming.add(candidate.job.id)
                self._pool.submit(self._job_claimer.claim, candidate, answer, polled_at, began, then=self._ended.put)
            elif answer == "full":
                full.append(candidate)
            else:  # another bridge has it, in a slot that is already counted
                room.give_back(candidate.route)
        if full:
            backlog.give_back(full)
        return not full

    def _await(self) -> None:
        """Wait for claims to end, and collect their results."""
        before = len(self._claiming)
        self._collect(self._gather_seconds)
        if len(self._claiming) == before:
            self._collect(self._batch_seconds, most=1)
            self._collect()

    def _collect(self, seconds: float = 0.0, *, most: int | None = None) -> None:
        """Collect the results of the claims that end within these seconds, at most this number of them."""
        until = time.monotonic() + seconds
        left = 0 if most is None else max(0, len(self._claiming) - most)
        while len(self._claiming) > left:
            try:
                claim = self._ended.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return
            self._claiming.discard(claim.job_id)
            if claim.succeeded:
                self._has_claimed = True
                self._context.pending = max(0, (self._context.pending or 0) - 1)
            if claim.sent_as:
                self._sent[claim.job_id] = claim.sent_as

    def _record(self, *, at_once: bool = False) -> None:
        """Record the published jobs as sent. While there are more jobs to claim, this waits for a larger batch.

        By then, workers have started most of them, which is cheaper to record.
        """
        now = self._context.clock()
        if at_once or not self._inbox.backlog.count or now >= self._record_at:
            self._context.sender.sent(self._sent)
            self._sent = {}
            self._record_at = now + self._batch_seconds
