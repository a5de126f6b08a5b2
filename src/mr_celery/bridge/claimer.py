"""The claim loop: pending jobs of the server become sent tasks."""

from __future__ import annotations

import logging
import random
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from .. import tracing
from ..backoff import backoff
from ..errors import LedgerUnavailable, WorkerError
from ..ledger import Admission, Survey
from ..outcome import Outcome
from .backlog import Backlog
from .candidates import Candidate, Doubts, candidates
from .capacity import Capacity, Room
from .lanes import Lanes
from .office import CLAIM_LEASE, Office
from .rhythm import Rhythm
from .sender import NotPublished

logger = logging.getLogger("mr_celery.bridge")

SIDE_BY_SIDE = 48
"""How many jobs are claimed at once."""

BATCH_SECONDS = 0.25
"""How long the loop goes on claiming, or waits for a claim to end, before it looks what else there is to do."""

GATHER_SECONDS = 0.01
"""How long the loop waits for all claims to end before it goes on with those that have: with a few together that costs
less."""

RECORD_SECONDS = 0.25
"""Seconds from one recording of what was published to the next: by then, workers have started most of it."""

HUNGRY_SECONDS = 1.0
"""Seconds between two looks for a free slot while jobs wait for one and no bell rings."""

PLENTY = 16
"""From how many new jobs in one look on the next one is made as soon as these are claimed: there may be more."""

LOOK_WORK = 10.0
"""How many times the CPU time of a look there are at least from one look to the next, unless there is plenty."""

STALE_WORK = 50.0
"""How many times the CPU time of a look what it found is worked on, if that lasts so long."""

MOST_STALE_SECONDS = 60.0
"""For how long that is at the most."""

NO_WORKER_SECONDS = 2.0
"""Seconds between two looks for a worker while none is online; the server is not asked."""

SETTLE_SECONDS = 2.0
"""How long after a claim without a clear answer the server is asked for its fate."""

MOST_SETTLE_SECONDS = 15.0
"""The same where the server asks for patience: until then the job holds a slot."""


@dataclass(frozen=True)
class Claimed:
    """A job that is claimed.

    Args:
        sent_as: the task id under which it was published; empty: it was not.
    """

    sent_as: str = ""


class Claimer:
    """Takes what the fleet can run from the inbox: admit → claim → claimed → publish → sent.

    Jobs are admitted a few at a time, as many as can be claimed at once, and those that were published are recorded as
    sent together; the steps between run side by side.

    The inbox is asked in the rhythm in which jobs come, and at once while an answer brings many; what there is no room
    for is kept for the moment a slot becomes free, and the answer is used for the longer, the more work it was. With
    nothing to do it waits for the poll interval, or up to a fifth more.

    Args:
        office: the bridge's parts.
        side_by_side: how many jobs are claimed at once.
    """

    def __init__(self, office: Office, *, side_by_side: int = SIDE_BY_SIDE) -> None:
        self._office = office
        self._lanes = Lanes(side_by_side, "modelreins-claim")
        self._side_by_side = side_by_side
        self._claiming: dict[Future[Claimed | None], Candidate] = {}
        self._backlog = Backlog()
        self._asked_at = 0.0
        self._rhythm = Rhythm(office.settings.poll_interval)
        self._look_at = float("-inf")
        self._stale_at = float("-inf")
        self._plenty = False
        self._full = False
        self._fruitful = False
        self._refused: dict[int, tuple[int, float]] = {}
        self._sent: dict[int, str] = {}
        self._record_at = float("-inf")
        self._doubts = Doubts()

    @property
    def hungry(self) -> bool:
        """Whether a free slot is waited for, by a job or by the next look into the inbox."""
        return self._full or len(self._backlog) > 0

    def run_once(self) -> float:
        """Claim what there is room for. Returns seconds until the next look.

        Raises:
            WorkerError: the inbox could not be asked.
            LedgerUnavailable: the ledger is away: nothing may be claimed without it.
        """
        self._collect()
        try:
            return self._turn()
        finally:
            self._record()

    def _turn(self) -> float:
        office = self._office
        if office.token_rejected:
            self._forget()
            if office.token_pause:
                return office.token_pause
        heard = self.hungry  # the bell wakes it for each slot that has become free since the survey
        capacity = office.capacity()
        survey = office.ledger.survey(office.queues)
        room = Room(capacity, survey)
        if survey.paused:
            self._forget()
            return self._idle()
        if not capacity.workers:
            self._forget()
            return min(NO_WORKER_SECONDS, self._idle())
        self._full = not room
        if self._full:
            return self._pause()
        if self._is_time_to_look(room):
            self._ask(survey, capacity)
        ends_at = office.clock() + BATCH_SECONDS
        while self._begin(room, capacity) and office.clock() < ends_at:
            self._await()
        if self._claiming:
            self._await()
        fruitful, self._fruitful = self._fruitful, False
        if self._claiming:
            return 0.0
        if heard and self._backlog and not self._backlog.fits(room):
            return self._pause()
        return 0.0 if fruitful else self._pause()

    def close(self, timeout: float) -> None:
        """Wait for the claims that are under way, for at most ``timeout`` seconds."""
        wait(self._claiming, timeout=timeout)
        with suppress(LedgerUnavailable):  # what is not recorded is published again by another bridge
            self._collect()
            self._record(at_once=True)
        self._lanes.close()

    def _pause(self) -> float:
        until_look = self._look_at - self._office.clock()
        if not self.hungry:
            return max(0.0, until_look)
        hungry = min(HUNGRY_SECONDS, self._idle())
        return min(hungry, until_look) if until_look > 0 else hungry

    def _idle(self) -> float:
        return self._office.settings.poll_interval * random.uniform(1.0, 1.2)  # noqa: S311 - spreads load

    def _forget(self) -> None:
        """Whatever the inbox has is to be asked for anew."""
        self._backlog.clear()
        self._look_at = float("-inf")
        self._full = False

    def _is_time_to_look(self, room: Room) -> bool:
        """Whether what is known of the inbox leaves room, or is too old."""
        now = self._office.clock()
        if not self._backlog:
            return self._plenty or now >= self._look_at
        return now >= self._look_at and (now > self._stale_at or not self._backlog.fits(room))

    def _ask(self, survey: Survey, capacity: Capacity) -> None:
        office = self._office
        self._asked_at = survey.now
        asked, work = office.clock(), time.thread_time()
        self._stale_at = asked + office.settings.poll_interval
        try:
            listed = office.api.jobs("pending").jobs
        except WorkerError as error:
            if not error.unauthorized:
                raise
            office.reject_token(error)
            self._forget()
            return
        office.accept_token()
        office.pending = len(listed)
        now = office.clock()
        for job_id, (_, until) in list(self._refused.items()):  # claims under way add to it meanwhile
            if until <= now - 600:
                self._refused.pop(job_id, None)
        welcome = [job for job in listed if self._refused.get(job["id"], (0, 0.0))[1] <= now]
        believed = self._doubts.believed(welcome, now)
        found = candidates(believed, office.registry, office.routes, capacity, unrouted=office.settings.unrouted)
        busy = {candidate.job.id for candidate in self._claiming.values()}
        known = self._backlog.ids
        self._backlog.fill(candidate for candidate in found if candidate.job.id not in busy)
        self._plan(len(self._backlog.ids - known), asked, time.thread_time() - work)

    def _plan(self, new: int, asked: float, work: float) -> None:
        """When to look again, after a look that found so many new jobs and took ``work`` seconds of CPU time."""
        interval = self._office.settings.poll_interval
        pause = self._rhythm.found(new, asked)
        self._plenty = new >= PLENTY
        self._look_at = asked + max(pause if pause < interval else self._idle(), LOOK_WORK * work)
        self._stale_at = asked + max(interval, min(STALE_WORK * work, MOST_STALE_SECONDS))

    def _begin(self, room: Room, capacity: Capacity) -> bool:
        """Begin to claim what there is room for, and threads. Returns whether more of it can follow."""
        office, free = self._office, self._side_by_side - len(self._claiming)
        if office.stopping.is_set():
            return False
        chosen = self._backlog.take(room, free)
        if not chosen:
            return free <= 0
        began = time.time_ns()
        try:
            answers = office.ledger.admit(
                [(candidate.job, candidate.route) for candidate in chosen],
                asked_at=self._asked_at,
                queue_limits={queue: capacity.limit(queue) for queue in {each.route.queue for each in chosen}},
                total_limit=capacity.total,
                settle_seconds=CLAIM_LEASE,
            )
        except LedgerUnavailable:
            self._backlog.give_back(chosen)
            raise
        full: list[Candidate] = []
        for candidate, answer in zip(chosen, answers, strict=True):
            if answer in ("admitted", "again"):
                claim = self._lanes.submit(partial(self._claim, candidate, answer, self._asked_at, began))
                self._claiming[claim] = candidate
            elif answer == "full":
                full.append(candidate)
            else:  # another bridge has it, in a slot that is counted already
                room.give_back(candidate.route.queue)
        self._backlog.give_back(full)
        return not full

    def _await(self) -> None:
        """Wait for claims to end, and go on with them."""
        wait(self._claiming, timeout=GATHER_SECONDS)
        if self._lanes.waiting:
            self._lanes.hurry()
        if not any(claim.done() for claim in self._claiming):
            wait(self._claiming, timeout=BATCH_SECONDS, return_when=FIRST_COMPLETED)
        self._collect()

    def _collect(self) -> None:
        """Go on with the claims that have ended."""
        for future in [each for each in self._claiming if each.done()]:
            candidate, claim = self._claiming.pop(future), future.result()
            if claim is None:
                continue
            self._fruitful = True
            self._office.pending = max(0, (self._office.pending or 0) - 1)
            if claim.sent_as:
                self._sent[candidate.job.id] = claim.sent_as

    def _record(self, *, at_once: bool = False) -> None:
        """Record what was published as sent; many at a time while there is more to claim."""
        now = self._office.clock()
        if self._sent and (at_once or not self._backlog or now >= self._record_at):
            self._office.sent(self._sent)
            self._sent = {}
            self._record_at = now + RECORD_SECONDS

    def _claim(self, candidate: Candidate, admission: Admission, asked_at: float, began: int) -> Claimed | None:
        """One job from its admission to the broker; ``None`` if it was not claimed. No exception leaves it."""
        job_id = candidate.job.id
        try:
            if admission == "again":
                if self._request(job_id, admitted=False) is None:
                    self._office.log(job_id).info("claimed_again", "claimed again: the server had put it back")
                return None
            return self._try_to_claim(candidate, asked_at, began)
        except LedgerUnavailable as error:
            why = f"claiming interrupted, it is settled later: {error}"
            self._office.log(job_id).warning("claim_interrupted", why, reason=str(error))
        except Exception as error:
            self._office.log(job_id).error(
                "claim_interrupted", "claiming interrupted, it is settled later", error=error
            )
        return None

    def _try_to_claim(self, candidate: Candidate, asked_at: float, began: int) -> Claimed | None:
        office, job, route = self._office, candidate.job, candidate.route
        with tracing.claim(office.ledger.worker, job.id, since=began) as span:
            refusal = self._request(job.id, admitted=True)
            if refusal is not None:
                span.fail(refusal)
                return None
            task_id = office.ledger.claimed(job.id, trace=tracing.carrier())
            if task_id is None:
                # It took so long that it was settled by another bridge. If that one found no claim, it is made known
                # here.
                office.ledger.adopt(job, route, asked_at=asked_at, wait_seconds=0.0, trace=tracing.carrier())
                return Claimed()
            span.set({tracing.ATTEMPT: 1, tracing.TASK: task_id})
            if candidate.refusal:
                office.ledger.fail(job.id, task_id, Outcome.failed(candidate.refusal))
                span.fail()
                why = "no handler takes it"
                office.log(job.id, task_id).warning("failed", f"failed: {why}", reason=why)
                return Claimed()
            office.log(job.id, task_id, route.task).debug("claimed", seconds=(time.time_ns() - began) / 1e9)
            try:
                sent = office.send(job.id, route, task_id, priority=job.priority)
            except NotPublished:
                sent = False
        return Claimed(sent_as=task_id if sent else "")

    def _request(self, job_id: int, *, admitted: bool) -> WorkerError | None:
        """Claim a job on the server. Returns why that did not succeed, or not clearly; ``None`` if it did."""
        try:
            with self._office.claim_under_way(job_id):
                self._office.api.claim(job_id)
        except WorkerError as error:
            self._not_claimed(job_id, error, admitted=admitted)
            return error
        self._office.vitals.claim("claimed")
        self._office.token_works()
        return None

    def _not_claimed(self, job_id: int, error: WorkerError, *, admitted: bool) -> None:
        """The claim was refused, or its fate is unknown.

        Even a clear refusal is checked with the server's lists: a 409 may be an earlier try of this very claim that
        got through, and what stands before a server may answer anything after it has passed a request on.
        """
        office = self._office
        office.vitals.claim("conflict" if error.status == 409 else "unclear")
        failures = self._refused.get(job_id, (0, 0.0))[0] + 1
        pause = backoff(failures, first=office.settings.poll_interval, most=30.0 if error.trouble else 300.0)
        self._refused[job_id] = (failures, office.clock() + max(pause, error.retry_after or 0.0))
        if error.unauthorized:
            office.reject_token(error)
        if not admitted:
            return
        office.claim_unclear()
        seconds = min(max(SETTLE_SECONDS, error.retry_after or 0.0), MOST_SETTLE_SECONDS)
        office.ledger.settle_later(job_id, seconds, trace=tracing.carrier())
        why = f"not claimed, or not clearly; the server's lists settle it: {error.summary}"
        office.log(job_id).warning("claim_unclear", why, reason=error.summary)
