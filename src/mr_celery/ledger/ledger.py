"""The ledger: what has become of every claimed job.

::

    admitted ─► claimed ─► sent ─► running ─► finished ─► closed
       │           │         │      │  ▲         (outcome recorded; delivering)
       └ dropped   └─────────┴──────┘  │ lease lost: attempt + 1, sent again, up to max_attempts
         (not ours)    aborted ◄───────┘

Each method of :class:`Ledger` is one step in this picture: one atomic round trip, one script in
``lua/``. Only this package knows the keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import quote

from ..job import Job
from ..outcome import Outcome
from .connection import server_version
from .figures import Figures
from .records import (
    IN_FLIGHT,
    Admission,
    Adoption,
    Aged,
    BridgeProcess,
    DeliveryKey,
    Holding,
    Inventory,
    Line,
    Loss,
    Missed,
    Pause,
    Record,
    Registration,
    Route,
    RunKey,
    Standing,
    Started,
    Survey,
    read_holding,
    read_line,
    read_record,
)
from .register import Register
from .scripts import Scripts

ENDINGS = ("done", "failed", "escalated", "superseded", "aborted")
"""How a job may have ended, as far as the ledger knows."""

PREFIX = "modelreins"

KEPT_OUTCOME = 120.0
"""Seconds for which a closed job's outcome is kept, in case the server did not do what it said."""

MOST_REDELIVERIES = 5
"""How often a job is closed once more because the server goes on listing it as running."""

PAGE = 200
"""How much an inventory reads at once."""


class Ledger:
    """The jobs of one worker name.

    Args:
        url: the Redis address.
        worker: the ModelReins worker name.
        history: seconds that a job is remembered after its end.
        timeout: seconds that one step may take.

    Every method raises :class:`LedgerUnavailable` when Redis cannot be reached or refuses. A step whose
    answer was lost may be repeated: it is either done or found done.
    """

    def __init__(self, url: str, worker: str, *, history: float = 86400.0, timeout: float = 5.0) -> None:
        self._redis = Scripts(url, timeout)
        self._prefix = f"{PREFIX}:{{{quote(worker, safe='')}}}:"
        self._bridges = Register(self._redis, f"{self._prefix}bridges", f"{self._prefix}bridges_online")
        self._history = history
        self.worker = worker

    def _script(self, names: Sequence[str], job_id: int | str, arguments: Sequence[object]) -> Any:
        keys = [f"{self._prefix}job:{job_id}"]
        return self._redis.run(*names, keys=keys, arguments=[self._prefix, job_id, *arguments])

    def _take_in(self, name: str, job_id: int | str, *arguments: object) -> Any:
        """A step that takes in work: Redis refuses it when its memory is full."""
        return self._script(("record", name), job_id, arguments)

    def _run(self, name: str, job_id: int | str, *arguments: object) -> Any:
        """A step of work that was taken in: it is done even when Redis' memory is full."""
        return self._script(("record", "known_work", name), job_id, arguments)

    def _look(self, name: str, *arguments: object) -> Any:
        """A look at several jobs, which changes nothing."""
        return self._script(("record", name), "", arguments)

    # -- claiming ------------------------------------------------------------------------------------

    def admit(
        self,
        jobs: Sequence[tuple[Job, Route]],
        *,
        asked_at: float,
        queue_limits: Mapping[str, int | None] = MappingProxyType({}),
        total_limit: int | None = None,
        settle_seconds: float = 60.0,
    ) -> list[Admission]:
        """(nothing) → admitted, before the claims are requested. Each job for itself, in order.

        Args:
            jobs: the jobs as the inbox listed them, and how they are to be run.
            asked_at: the ledger's time before the inbox was asked: what has happened since is known better here.
            queue_limits: how many slots a queue has; ``None``, or not named: no limit.
            total_limit: how many slots there are in all; ``None``: no limit.
            settle_seconds: after how long somebody must ask the server whether the claims happened.

        Returns:
            What becomes of each.
        """
        asked: list[object] = []
        for job, route in jobs:
            asked += (job.id, job.to_json(), *_route(route), _limit(queue_limits.get(route.queue)))
        answer = self._take_in("admit", "", _limit(total_limit), asked_at, settle_seconds, *asked)
        return [cast(Admission, each.decode()) for each in answer]

    def drop(self, job_id: int) -> bool:
        """Admitted → (nothing): the server gave the job to somebody else."""
        return bool(self._run("drop", job_id))

    def settle_later(self, job_id: int, seconds: float, *, trace: str = "") -> bool:
        """Admitted → admitted: the claim's answer was lost; its fate is to be asked for after ``seconds``.

        ``trace`` is as in :meth:`claimed`.
        """
        return bool(self._run("settle_later", job_id, seconds, trace))

    def claimed(self, job_id: int, *, wait_seconds: float = 5.0, trace: str = "") -> str | None:
        """Admitted → claimed. Returns the task id to publish under; ``None`` if somebody else settled the claim.

        If it is not sent within ``wait_seconds``, the reaper sends it. ``trace`` is the carrier of the job's trace, to
        be kept with it; empty: there is none, or it is known.
        """
        answer = self._run("claimed", job_id, wait_seconds, trace)
        return answer.decode() if answer else None

    def adopt(self, job: Job, route: Route, *, asked_at: float, wait_seconds: float, trace: str = "") -> Adoption:
        """(nothing) → claimed, or closed → finished: the server says the job is ours and running, the ledger does not.

        Args:
            job: the job as the server listed it.
            route: how it is to be run.
            asked_at: the ledger's time before the list was asked for.
            wait_seconds: until it is sent.
            trace: the carrier of the trace that begins with it; empty: there is none.

        Returns:
            ``adopted``: it is to be run. ``redelivered``: it was closed just now, and is to be closed again.
            ``known``: it is in flight here, or was in flight when the list was asked for.
        """
        answer = self._take_in(
            "adopt", job.id, job.to_json(), *_route(route), asked_at, wait_seconds, MOST_REDELIVERIES, trace
        )
        return cast(Adoption, answer.decode())

    # -- running -------------------------------------------------------------------------------------

    def sent(self, tasks: Mapping[int, str], *, wait_seconds: float) -> dict[int, str]:
        """Claimed → sent, of each job under that task id. Returns the states that the jobs are in now.

        If no worker has it within ``wait_seconds``, the reaper looks into it.
        """
        pairs = [part for task in tasks.items() for part in task]
        answer = self._run("sent", "", wait_seconds, *pairs)
        return {job_id: (state or b"").decode() for job_id, state in zip(tasks, answer, strict=True)}

    def start(self, run: RunKey, *, node: str, holder: str, lease: float, nonce: str) -> Started:
        """Claimed or sent → running, for ``lease`` seconds: the fence that one message of an attempt passes.

        Args:
            run: the execution that wants to start.
            node: the Celery worker's node name.
            holder: what tells this worker from others, also from an earlier one of the same name.
            lease: seconds until the run counts as lost, unless it is held.
            nonce: the same in each repetition of this call, and in no other.
        """
        answer = self._run("start", run.job_id, run.task_id, run.retries, node, holder, lease, nonce)
        if answer[0] == b"started":
            job, attempt, trace = Job.from_json(answer[1]), int(answer[2]), answer[3].decode()
            return Started(job=job, attempt=attempt, nonce=nonce, trace=trace)
        return Started(refusal=answer[0].decode())

    def hold(
        self, runs: Iterable[tuple[int, str]], *, holder: str, lease: float, wait_seconds: float
    ) -> dict[int, str]:
        """Running, sent, finished → the same: a live worker has these messages, as (job id, task id).

        Args:
            runs: the messages.
            holder: the worker, as in :meth:`start`: only what it has started is held as running.
            lease: seconds for those that run, or whose outcome their run delivers.
            wait_seconds: seconds for those that wait to be run.

        Returns:
            Those that are not the worker's any more, with the reason.
        """
        pairs = [part for run in runs for part in run]
        answer = self._run("hold", "", holder, lease, wait_seconds, *pairs)
        return {int(answer[i]): answer[i + 1].decode() for i in range(0, len(answer), 2)}

    def retry(self, run: RunKey, *, nonce: str, wait_seconds: float) -> bool:
        """Running → sent: the handler asked Celery for a retry, expected to start within ``wait_seconds``.

        ``nonce`` is that of the run's :meth:`start`.
        """
        return bool(self._run("retry", run.job_id, run.task_id, nonce, run.retries + 1, wait_seconds))

    def give_back(self, run: RunKey, *, nonce: str, wait_seconds: float) -> bool:
        """Running → sent: the handler gave its message back to the broker, to start again within ``wait_seconds``.

        ``nonce`` is that of the run's :meth:`start`.
        """
        return bool(self._run("retry", run.job_id, run.task_id, nonce, run.retries, wait_seconds))

    def finish(self, run: RunKey, outcome: Outcome, *, blobs: Sequence[bytes] = (), deliver_seconds: float) -> str:
        """Running → finished, from the run that holds the lease and from no other.

        Args:
            run: the execution that ended.
            outcome: what it ended with.
            blobs: the bytes of the outcome's uploads, in order (empty for one that is uploaded already).
            deliver_seconds: how long the caller has for the delivery before the courier takes over; 0: at once.

        Returns:
            ``"finished"``; ``"carried"`` if it is recorded, but a courier has it by now; or the state that stands
            against it.
        """
        answer = self._run(
            "finish",
            run.job_id,
            run.task_id,
            run.retries,
            outcome.status,
            outcome.to_json(),
            deliver_seconds,
            *blobs,
        )
        return str(answer.decode())

    def fail(
        self,
        job_id: int,
        task_id: str,
        outcome: Outcome,
        *,
        note: str = "",
        unstarted: bool = False,
        retries: int | None = None,
        holder: str = "",
    ) -> bool:
        """Claimed, sent or running → finished, when the attempt ended without its handler's doing.

        Args:
            job_id: the job.
            task_id: the attempt.
            outcome: what is known.
            note: the same for the job's story: without anything of the job's content.
            unstarted: a message of it did not start: then a run of another copy goes on.
            retries: the number of Celery retries of the run that ended, where it is known: then no other one is ended.
            holder: the worker whose run ended, likewise.
        """
        which = "" if retries is None else retries
        return bool(
            self._run("fail", job_id, task_id, int(unstarted), which, holder, outcome.status, outcome.to_json(), note)
        )

    def lose(
        self,
        job_id: int,
        task_id: str,
        *,
        retries: int | None,
        holder: str = "",
        why: str,
        must_not: Outcome,
        too_often: Outcome,
    ) -> Loss:
        """Running → claimed with the next attempt, or → finished if it may not run again.

        Args:
            job_id: the job.
            task_id: the attempt that was lost.
            retries: the number of Celery retries of the run whose process died; ``None``: whatever runs, if its lease
                has run out by now.
            holder: the worker whose process died, as in :meth:`start`.
            why: what is known of the loss, for the record.
            must_not: the outcome when the handler says ``on_lost="fail"``.
            too_often: the outcome when this was the last attempt.
        """
        which = "" if retries is None else retries
        answer = self._run("lose", job_id, task_id, which, holder, why, must_not.to_json(), too_often.to_json())
        return cast(Loss, answer.decode())

    def resend(
        self,
        job_id: int,
        task_id: str,
        *,
        why: str,
        budget: int | None,
        wait_seconds: float,
        exhausted: Outcome,
    ) -> Loss:
        """Sent → claimed with the same attempt, or → finished when ``budget`` sendings are spent.

        Args:
            job_id: the job.
            task_id: the attempt that nobody started.
            why: what is known, for the record.
            budget: how often it may be sent again; ``None``: this time does not count.
            wait_seconds: before it is sent again.
            exhausted: the outcome when the budget is spent.
        """
        limit = -1 if budget is None else budget
        answer = self._run("resend", job_id, task_id, why, limit, wait_seconds, exhausted.to_json())
        return cast(Loss, answer.decode())

    def abort(self, job_id: int, why: str) -> str | None:
        """Claimed, sent, running or finished → aborted. Returns the attempt's task id; ``None`` if it was over."""
        answer = self._run("abort", job_id, why, self._history)
        return answer.decode() if answer else None

    def requeue(self, job_id: int, note: str, *, wait_seconds: float) -> str | None:
        """Claimed, sent or running → claimed with the next attempt: an operator wants the job to be started again.

        Args:
            job_id: the job.
            note: who and why, for the job's story.
            wait_seconds: before it is sent again, if it runs: until then its worker is to have stopped it.

        Returns:
            The task id of the attempt that this ends; ``None`` if the job is in none of these states.
        """
        answer = self._run("requeue", job_id, wait_seconds, note)
        return answer.decode() if answer else None

    # -- delivering ----------------------------------------------------------------------------------

    def collect(self, limit: int, *, hold_seconds: float) -> list[DeliveryKey]:
        """Finished → finished: take up to ``limit`` outcomes that are due, to deliver them.

        Returns:
            The deliveries that this begins. For ``hold_seconds`` from now, or from the last step that says so, the
            caller is the one who delivers these jobs.
        """
        answer = self._run("collect", "", limit, hold_seconds)
        return [
            DeliveryKey(int(job_id), task_id.decode(), int(number))
            for job_id, task_id, number in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        ]

    def _deliver(self, step: str, delivery: DeliveryKey, *arguments: object) -> bool:
        return bool(self._run(step, delivery.job_id, delivery.task_id, delivery.number, *arguments))

    def carry(self, delivery: DeliveryKey, *, hold_seconds: float) -> bool:
        """Finished → finished: go on delivering. Returns ``False`` if somebody else does, or nobody is to."""
        return self._deliver("carry", delivery, hold_seconds)

    def delivered_part(self, delivery: DeliveryKey, part: str, answer: str, *, hold_seconds: float) -> bool:
        """Finished → finished: one artifact or review is delivered, with the server's ``answer``.

        Returns ``False`` if it is not the caller's delivery any more.
        """
        return self._deliver("delivered_part", delivery, part, answer, hold_seconds)

    def undelivered(self, delivery: DeliveryKey, why: str, *, wait_seconds: float, error: str = "") -> bool:
        """Finished → finished: the delivery failed and is to be tried again after ``wait_seconds``.

        ``error`` names the request that failed and its status, ``close 503``, for the figures.
        """
        return self._deliver("undelivered", delivery, why, wait_seconds, error)

    def replace_outcome(self, delivery: DeliveryKey, outcome: Outcome, *, note: str = "") -> bool:
        """Finished → finished: the server will never take the outcome; this one, due at once, says so.

        ``note`` says what it refused, for the job's story.
        """
        return self._deliver("replace_outcome", delivery, outcome.to_json(), note)

    def close(self, job_id: int, task_id: str, how: str) -> bool:
        """Finished → closed: the job is terminal on the server; ``how`` is ``delivered`` or ``superseded``."""
        return bool(self._run("close", job_id, task_id, how, self._history, KEPT_OUTCOME))

    # -- looking after ---------------------------------------------------------------------------------

    def take(self, state: str, limit: int = 100, *, hold_seconds: float) -> list[int]:
        """Take up to ``limit`` jobs that are due in one of the states before *running*; nobody else gets them for
        ``hold_seconds``."""
        return [int(job_id) for job_id in self._run("take", "", state, limit, hold_seconds)]

    def lost(self, limit: int = 100, *, lease: float) -> list[int]:
        """Up to ``limit`` runs whose lease has run out. Each is lost only once :meth:`lose` says so.

        None is, for half a ``lease`` (seconds), after a time in which nobody could look: the workers could not renew
        their leases then either.
        """
        return [int(job_id) for job_id in self._run("lost", "", limit, lease)]

    def missed(self, job_ids: Iterable[int]) -> dict[int, Missed]:
        """Note which jobs in flight the server does not list. Returns for each since when that is so."""
        named = list(job_ids)
        answer = self._run("missed", "", *named)
        return {job_id: Missed(int(answer[2 * i]), float(answer[2 * i + 1])) for i, job_id in enumerate(named)}

    # -- reading -------------------------------------------------------------------------------------

    def due(self, state: str, limit: int = 100) -> list[int]:
        """Up to ``limit`` jobs of a state that somebody must look at now."""
        return [int(job_id) for job_id in self._look("due", state, limit)]

    def survey(self, queues: Sequence[str] = ()) -> Survey:
        """What is in flight, by state and by queue."""
        answer = self._look("survey", *queues)
        states = dict(zip(IN_FLIGHT, answer[2:7], strict=True))
        return Survey(float(answer[0]), states, dict(zip(queues, answer[7:], strict=True)), paused=bool(answer[1]))

    def standing(self, periods: Sequence[float]) -> Standing:
        """How the work stands: what waits longest, and how many jobs ended in the last so many seconds."""
        paused, waiting, undelivered, *ended = self._look("standing", *periods)
        counts = [dict(zip(ENDINGS, each, strict=True)) for each in ended]
        return Standing(
            pause=Pause.from_json(paused) if paused else None,
            waiting=Aged.read(waiting),
            undelivered=Aged.read(undelivered),
            ended=dict(zip(periods, counts, strict=True)),
        )

    def figures(self) -> Figures:
        """What has happened, counted."""
        with self._redis.errors():
            return Figures(self._redis.client.hgetall(f"{self._prefix}figures"))

    def story(self, job_id: int) -> list[Line]:
        """What has happened to a job, in order; empty if the ledger does not know it."""
        with self._redis.errors():
            return [read_line(line) for line in self._redis.client.lrange(f"{self._prefix}story:{job_id}", 0, -1)]

    def in_state(self, state: str) -> list[int]:
        """The jobs in one state in flight, in the order of their ids."""
        with self._redis.errors():
            members = self._redis.client.zscan_iter(f"{self._prefix}{state}", count=1000)
            return sorted({int(job_id) for job_id, _ in members})

    def ended(self, ending: str, limit: int) -> list[tuple[int, float]]:
        """The jobs that ended in one of :data:`ENDINGS`, the last one first, each with the time of its end."""
        key, since = f"{self._prefix}ended:{ending}", self.survey().now - self._history
        with self._redis.errors():
            found = self._redis.client.zrevrangebyscore(key, "+inf", f"({since:.6f}", 0, limit, withscores=True)
        return [(int(job_id), float(at)) for job_id, at in found]

    def read(self, job_id: int) -> Record | None:
        """One job's record; ``None`` if the ledger does not know it."""
        with self._redis.errors():
            return read_record(job_id, self._redis.client.hgetall(f"{self._prefix}job:{job_id}"))

    def holds(self, run: RunKey) -> bool:
        """Whether a run still has its job: nobody aborted it, and no other run was started in its place.

        A job that the ledger does not know counts as held: its data was lost, which tells nothing of the job.
        """
        with self._redis.errors():
            known = self._redis.client.hmget(f"{self._prefix}job:{run.job_id}", "state", "task", "retries")
        state, task_id, retries = (value and value.decode() for value in known)
        return state is None or (state, task_id, int(retries or 0)) == ("running", run.task_id, run.retries)

    def blob(self, job_id: int, index: int) -> bytes | None:
        """The bytes of an outcome's upload."""
        with self._redis.errors():
            blob: bytes | None = self._redis.client.hget(f"{self._prefix}job:{job_id}", f"blob:{index}")
        return blob

    def in_flight(self) -> dict[int, str]:
        """Every job that is not over, with its state."""
        found: dict[int, str] = {}
        with self._redis.errors():
            for state in IN_FLIGHT:
                for job_id, _ in self._redis.client.zscan_iter(f"{self._prefix}{state}", count=1000):
                    found[int(job_id)] = state
        return found

    def inventory(self, also: Iterable[int] = ()) -> Inventory:
        """Everything held of the jobs in flight, to see whether it fits together.

        It is read in pages, which keep nobody else waiting: what is held of one job is of one moment, but not what is
        held of two.

        Args:
            also: further jobs to read the records of.
        """
        ids = set(also)
        load = f"{self._prefix}load:"
        with self._redis.errors():
            client = self._redis.client
            for state in IN_FLIGHT:
                ids.update(int(member) for member, _ in client.zscan_iter(f"{self._prefix}{state}", count=PAGE))
            # The prefix has no character that is special in a pattern; on a Cluster every node is asked.
            keys = set(client.scan_iter(match=f"{load}*", count=PAGE))
            for key in keys:
                ids.update(int(member) for member in client.sscan_iter(key, count=PAGE))
            looked_at = client.hget(f"{self._prefix}looked", "at")
        queues = [key.decode()[len(load) :] for key in keys]
        holdings: dict[int, Holding] = {}
        ordered = sorted(ids)
        for start in range(0, len(ordered), PAGE):
            page = ordered[start : start + PAGE]
            answer = self._look("holdings", len(queues), *queues, *page)
            holdings.update((job_id, read_holding(job_id, *held)) for job_id, held in zip(page, answer, strict=True))
        return Inventory(holdings, None if looked_at is None else self.survey().now - float(looked_at))

    # -- what an operator decides ----------------------------------------------------------------------

    def pause(self, pause: Pause) -> None:
        """From now on no bridge admits a job, until :meth:`resume`."""
        self._run("pause", "", pause.to_json())

    def resume(self) -> bool:
        """Jobs are admitted again. Returns whether it was paused."""
        return bool(self._run("resume", ""))

    def note_registration(self, registration: Registration) -> None:
        """Keep how the worker name was registered on the server, until it is registered again."""
        with self._redis.errors():
            self._redis.client.set(f"{self._prefix}registered", registration.to_json())

    def registered(self) -> Registration | None:
        """How the worker name was registered last; ``None`` if that is not known."""
        with self._redis.errors():
            kept = self._redis.client.get(f"{self._prefix}registered")
        return Registration.from_json(kept) if kept else None

    # -- among bridges -------------------------------------------------------------------------------

    def announce_bridge(self, bridge: BridgeProcess, *, seconds: float) -> None:
        """A bridge is online, for ``seconds`` from now unless it announces itself again."""
        self._bridges.announce(bridge.id, asdict(bridge), seconds=seconds)

    def withdraw_bridge(self, bridge_id: str) -> None:
        """A bridge has stopped."""
        self._bridges.withdraw(bridge_id)

    def bridges(self) -> list[BridgeProcess]:
        """The bridges that are online."""
        return sorted((BridgeProcess(**about) for about in self._bridges.online()), key=lambda each: each.id)

    def my_turn(self, what: str, seconds: float) -> bool:
        """Whether this caller may do ``what`` now; nobody else may for ``seconds``."""
        return bool(self._run("turn", "", what, seconds))

    def server_version(self) -> tuple[int, ...]:
        """The version of the ledger's Redis."""
        with self._redis.errors():
            return server_version(self._redis.client)

    def found(self) -> bool:
        """Mark the ledger as in use. Returns ``True`` if it was new: nothing of an earlier life is in it."""
        return bool(self._run("found", "", self._history))

    def bell(self, timeout: float) -> Iterator[str]:
        """Rings, with what has changed, for as long as it is iterated; an empty text after ``timeout`` seconds
        without one, so that the caller can stop."""
        with self._redis.errors(), self._redis.client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(f"{self._prefix}bell")
            while True:
                message = subscription.get_message(timeout=timeout)
                yield message["data"].decode() if message else ""


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit


def _route(route: Route) -> tuple[object, ...]:
    return (route.task, route.queue, secrets.token_hex(4), route.max_attempts, route.on_lost)
