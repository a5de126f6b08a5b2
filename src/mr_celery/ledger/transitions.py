"""The transitions of a job.

::

    admitted ─► claimed ─► sent ─► running ─► finished ─► closed
       │           │         │      │  ▲  ╲      ▲        (outcome recorded; delivering)
       └ dropped   └─────────┴──────┘  │   ╲     │
         (not ours)    aborted ◄───────┘    deferred: the handler has returned, the outcome comes from elsewhere
                                       lease lost: attempt + 1, sent again, up to max_attempts

Each method is one step in this picture, in its order. A step is atomic: one round trip that runs the script of the same
name in ``lua/``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast

from ..errors import JobError
from ..job import Job
from ..outcome import Outcome
from .records import (
    Admission,
    Adoption,
    AttemptKey,
    Completion,
    DeliveryKey,
    GivenReference,
    Loss,
    Postponement,
    Refusal,
    Requeuing,
    Route,
    RunKey,
    Started,
    Survey,
    recorded,
)
from .reference import digest_of
from .scripts import PAGE, LedgerBase

KEPT_OUTCOME = 120.0
"""Seconds for which a closed job's outcome is kept, in case the server did not act on the close."""

MOST_REDELIVERIES = 5
"""Number of times that a job is closed again because the server still lists it as running."""

LOSE = ("record", "known_work", "losing", "lose")
"""The files of the script that loses a run."""


class Transitions(LedgerBase):
    """The steps of a job from state to state."""

    # -- before the inbox is polled ------------------------------------------------------------------

    def survey(self, queues: Sequence[str] = ()) -> Survey:
        """The jobs in flight, by state and by queue."""
        return Survey.read(self._script(("record", "surveying", "survey"), "", queues), queues)

    # -- admitted ------------------------------------------------------------------------------------

    def admit(
        self,
        jobs: Sequence[tuple[Job, Route]],
        *,
        asked_at: float,
        queue_limits: Mapping[str, int | None] = MappingProxyType({}),
        total_limit: int | None = None,
        settle_seconds: float = 60.0,
    ) -> list[Admission]:
        """(nothing) → admitted, before the claims are requested. Each job on its own, in order.

        Args:
            jobs: the jobs as the inbox listed them, with their routes.
            asked_at: the ledger's time before the inbox was polled. If the ledger has recorded a change since then, the
                inbox's list is out of date for that job.
            queue_limits: the slots of each queue; ``None`` or a missing queue: no limit.
            total_limit: the slots of all queues together; ``None``: no limit.
            settle_seconds: seconds until the server is asked whether the claims happened.

        Returns:
            The decision for each job.
        """
        parts: list[object] = []
        for job, route in jobs:
            parts += (job.id, job.to_json(), _capability(job), *_route(route), _limit(queue_limits.get(route.queue)))
        answer = self._take_in("admit", "", _limit(total_limit), asked_at, settle_seconds, *parts)
        return [cast(Admission, each.decode()) for each in answer]

    def drop(self, job_id: int) -> bool:
        """Admitted → (nothing): the server gave the job to another worker."""
        return bool(self._run("drop", job_id))

    def settle_later(self, job_id: int, seconds: float, *, trace: str = "") -> bool:
        """Admitted → admitted: the response to the claim was lost. The server is asked about it after ``seconds``.

        ``trace`` is as in :meth:`claimed`.
        """
        return bool(self._run("settle_later", job_id, seconds, trace))

    # -- admitted → claimed --------------------------------------------------------------------------

    def claimed(self, job_id: int, *, wait_seconds: float = 5.0, trace: str = "") -> str | None:
        """Admitted → claimed.

        Args:
            job_id: the job.
            wait_seconds: seconds until the reaper sends it, if it was not sent.
            trace: the job's trace context, to be stored with it; empty: there is none, or it is stored already.

        Returns:
            The task id to publish under; ``None`` if the claim was settled already.
        """
        answer = self._move("claimed", job_id, wait_seconds, trace)
        return answer.decode() if answer else None

    def adopt(
        self,
        job: Job,
        route: Route,
        *,
        asked_at: float,
        wait_seconds: float,
        trace: str = "",
        unsent: bool = False,
        total_limit: int | None = None,
        queue_limit: int | None = None,
    ) -> Adoption:
        """(nothing) → claimed, or closed → finished: the server lists the job as running, the ledger does not.

        A job with ``on_lost="fail"`` that a worker may have started does not run again. It fails unless a worker renews
        it within ``wait_seconds``. A job in flight that the ledger has partly lost is repaired.

        Args:
            job: the job as the server listed it.
            route: the task and queue to run it on.
            asked_at: the ledger's time before the list was requested.
            wait_seconds: seconds until it is sent.
            trace: the context of the trace that begins with it; empty: there is none.
            unsent: the caller has just claimed it, so no worker can have it.
            total_limit: the slots of all queues together; ``None``: no limit.
            queue_limit: the slots of the queue, likewise.

        Returns:
            ``adopted``: it has to run. ``full``: it would have to run, and no slot is free. ``restored``: its outcome
            was here, and is to be delivered. ``redelivered``: it was closed recently, and is to be closed again.
            ``mended``: it is in flight here, and a part of it was lost. ``known``: it is in flight here, or was in
            flight when the list was requested.
        """
        answer = self._take_in(
            "adopt",
            job.id,
            job.to_json(),
            _capability(job),
            *_route(route),
            asked_at,
            wait_seconds,
            MOST_REDELIVERIES,
            trace,
            int(unsent),
            _limit(total_limit),
            _limit(queue_limit),
        )
        return cast(Adoption, answer.decode())

    def reroute(self, job_id: int, task_id: str, queue: str) -> bool:
        """Claimed → claimed: the attempt's message goes to another queue, and the job's slot moves with it."""
        return bool(self._run("reroute", job_id, task_id, queue))

    def unpublished(
        self,
        job_id: int,
        task_id: str,
        *,
        why: str,
        tries: int,
        seconds: float,
        most_wait_seconds: float,
        exhausted: Outcome,
    ) -> Refusal:
        """Claimed → claimed, or → finished: the broker works, but refuses the attempt's message.

        The job fails after ``tries`` refusals, and not before ``seconds`` have passed since the first.

        Args:
            job_id: the job.
            task_id: the attempt.
            why: the reason, for the record.
            tries: refusals before the job fails.
            seconds: seconds before the job fails.
            most_wait_seconds: the longest wait before the next try. The first is 2 s, and each doubles.
            exhausted: the outcome if it fails.
        """
        answer = self._run(
            "unpublished", job_id, task_id, recorded(why), tries, seconds, most_wait_seconds, exhausted.to_json()
        )
        return cast(Refusal, answer.decode())

    # -- claimed → sent ------------------------------------------------------------------------------

    def sent(self, tasks: Mapping[int, str], *, wait_seconds: float) -> dict[int, str]:
        """Claimed → sent, of each job under its task id. Returns the current states of the jobs.

        If no worker reports a message within ``wait_seconds``, the reaper checks it.
        """
        pairs = [part for task in tasks.items() for part in task]
        answer = self._move("sent", "", wait_seconds, *pairs)
        return {job_id: (state or b"").decode() for job_id, state in zip(tasks, answer, strict=True)}

    def resend(
        self,
        job_id: int,
        task_id: str,
        *,
        why: str,
        budget: int | None,
        wait_seconds: float,
        exhausted: Outcome,
        task_name: str = "",
    ) -> Loss:
        """Claimed or sent → claimed with the same attempt, or → finished if ``budget`` resends are spent.

        If only the handler can make the message again (``own`` of :meth:`retry`), the next attempt begins instead, or
        the job fails if it may not run again.

        Args:
            job_id: the job.
            task_id: the attempt that no worker started.
            why: the reason, for the record.
            budget: the number of resends allowed; ``None``: this one does not count.
            wait_seconds: seconds until it is sent again.
            exhausted: the outcome if the budget is spent.
            task_name: the task of the message that did not start. Nothing happens if it is not the recorded one.
        """
        limit = -1 if budget is None else budget
        answer = self._run(
            "resend", job_id, task_id, recorded(why), limit, wait_seconds, exhausted.to_json(), task_name
        )
        return cast(Loss, answer.decode())

    # -- sent → running ------------------------------------------------------------------------------

    def start(self, run: RunKey, *, task_name: str, node: str, holder: str, lease: float, nonce: str) -> Started:
        """Claimed or sent → running, for ``lease`` seconds: the fence that one message of an attempt passes.

        Args:
            run: the execution that wants to start. It must have the recorded number of Celery retries.
            task_name: its message's task, which must be the recorded one.
            node: the Celery worker's node name.
            holder: identifies this worker process, also against an earlier one with the same node name.
            lease: seconds until the run counts as lost, unless it is renewed.
            nonce: the same in each repetition of this call, and in no other call.
        """
        answer = self._run("start", run.job_id, run.task_id, run.retries, node, holder, lease, nonce, task_name)
        if answer[0] == b"started":
            attempt, trace = int(answer[2]), answer[3].decode()
            try:
                job = Job.from_json(answer[1])
            except JobError as error:
                return Started(attempt=attempt, nonce=nonce, trace=trace, unloadable=str(error))
            return Started(job=job, attempt=attempt, nonce=nonce, trace=trace)
        return Started(refusal=answer[0].decode())

    def renew(
        self, runs: Iterable[tuple[int, str]], *, holder: str, lease: float, wait_seconds: float
    ) -> dict[int, str]:
        """Sent, running, finished → the same: a live worker renews the messages that it has.

        Args:
            runs: the messages, as pairs of job id and task id.
            holder: the worker, as in :meth:`start`. It renews only the runs that it has started.
            lease: seconds for those that run, or whose outcome their run delivers.
            wait_seconds: seconds for those that wait in the worker.

        Returns:
            The jobs that the worker has lost, with the reason.
        """
        lost: dict[int, str] = {}
        messages = list(runs)
        for start in range(0, len(messages), PAGE):
            pairs = [part for message in messages[start : start + PAGE] for part in message]
            answer = self._run("renew", "", holder, lease, wait_seconds, *pairs)
            lost.update((int(answer[i]), answer[i + 1].decode()) for i in range(0, len(answer), 2))
        return lost

    def announce_retry(self, run: RunKey, retries: int, *, nonce: str) -> bool:
        """Running → running: the run is about to publish its Celery retry, which may start before the run has ended.

        ``nonce`` is the one of the run's :meth:`start`. Returns ``False`` if the run has lost the job.
        """
        return bool(self._run("announce_retry", run.job_id, run.task_id, nonce, retries))

    def retry(self, run: RunKey, *, nonce: str, wait_seconds: float, own: bool = False) -> bool:
        """Running → sent: the handler asked Celery for a retry, expected to start within ``wait_seconds``.

        ``nonce`` is the one of the run's :meth:`start`. ``own``: the message has arguments or options of the handler,
        so only the handler can make it again.
        """
        return bool(self._run("retry", run.job_id, run.task_id, nonce, run.retries + 1, wait_seconds, int(own)))

    def give_back(self, run: RunKey, *, nonce: str, wait_seconds: float) -> bool:
        """Running → sent: the handler returned its message to the broker, to start again within ``wait_seconds``.

        ``nonce`` is the one of the run's :meth:`start`.
        """
        return bool(self._run("retry", run.job_id, run.task_id, nonce, run.retries, wait_seconds, ""))

    def postpone(self, run: RunKey, *, nonce: str, why: str, times: int, wait_seconds: float) -> Postponement:
        """Running → claimed with the same attempt: what the handler needs fails for a moment, and it has not begun.

        Args:
            run: the execution that gives the attempt back.
            nonce: the one of the run's :meth:`start`.
            why: the reason, for the record.
            times: the number of times that an attempt may be given back.
            wait_seconds: seconds until it is sent again, the first time. Each of the first six waits is twice the one
                before.
        """
        answer = self._run("postpone", run.job_id, run.task_id, nonce, recorded(why), times, wait_seconds)
        return cast(Postponement, answer.decode())

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
        task_name: str = "",
    ) -> Loss:
        """Running or deferred → claimed with the next attempt, or → finished if it may not run again.

        Args:
            job_id: the job.
            task_id: the attempt that was lost.
            retries: the number of Celery retries of the run whose process died; ``None``: the current run, if its
                lease has expired, or the deferred job, if its deadline has passed.
            holder: the worker whose process died, as in :meth:`start`.
            why: the reason, for the record.
            must_not: the outcome if the handler has ``on_lost="fail"``.
            too_often: the outcome if this was the last attempt.
            task_name: the task of the run's message. Nothing happens if it is not the recorded one.
        """
        which = "" if retries is None else retries
        outcomes = (must_not.to_json(), too_often.to_json())
        answer = self._script(LOSE, job_id, (task_id, which, holder, recorded(why), *outcomes, task_name))
        return cast(Loss, answer.decode())

    # (The steps of a workflow, which a running job may be handed over to, are in workflows.py.)

    # -- running → finished --------------------------------------------------------------------------

    def finish(self, run: RunKey, outcome: Outcome, *, blobs: Sequence[bytes] = (), deliver_seconds: float) -> str:
        """Running → finished, for the run that holds the lease and for no other.

        Args:
            run: the execution that ended.
            outcome: its outcome.
            blobs: the bytes of the outcome's uploads, in order (empty for one that is uploaded already).
            deliver_seconds: seconds that the caller has for the delivery before the courier takes over; 0: none.

        Returns:
            ``"finished"``; ``"taken_over"`` if it is recorded, but a courier has taken it; ``"kept"`` if the job's
            record is lost, so that the outcome waits until :meth:`adopt` finds it; ``"completed"`` if :meth:`complete`
            was called before; or the state that prevents it.
        """
        answer = self._run(
            "finish",
            run.job_id,
            run.task_id,
            run.retries,
            outcome.status,
            outcome.to_json(),
            deliver_seconds,
            self._history,
            recorded(outcome.reason),
            *blobs,
        )
        return str(answer.decode())

    def fail(
        self,
        job_id: int,
        task_id: str,
        outcome: Outcome,
        *,
        unstarted: bool = False,
        retries: int | None = None,
        holder: str = "",
        task_name: str = "",
    ) -> bool:
        """Claimed, sent, running or deferred → finished: the attempt failed outside of its handler.

        Args:
            job_id: the job.
            task_id: the attempt.
            outcome: the failure. Its reason is shown in the job's history.
            unstarted: one message did not start. A run of another copy continues.
            retries: the number of Celery retries of the run that ended, if known. No other run is ended then.
            holder: the worker whose run ended, if known. No other run is ended then.
            task_name: the task of the message that failed. Nothing happens if it is not the recorded one.
        """
        which, content = (
            "" if retries is None else retries,
            (outcome.status, outcome.to_json(), recorded(outcome.reason)),
        )
        return bool(self._run("fail", job_id, task_id, int(unstarted), which, holder, task_name, *content))

    # -- deferred → finished -------------------------------------------------------------------------

    def reference(self, run: RunKey, *, shaped: bool = False) -> AttemptKey | None:
        """The key of a run's attempt, for :meth:`complete`. It is the same for all runs of the attempt.

        Args:
            run: the run.
            shaped: whether the handler declares ``result=`` or ``review=``.

        ``None`` if the attempt is over. If references contain only the digest of the worker name, this also stores the
        name, so that it can be found by its digest.
        """
        if digest := digest_of(self.worker_name):
            with self._redis.client() as client:
                client.set(f"{self._fleet_prefix}name:{digest}", self.worker_name)
        answer = self._run("reference", run.job_id, run.task_id, secrets.token_urlsafe(16), int(shaped))
        return AttemptKey(run.job_id, int(answer[0]), answer[1].decode()) if answer else None

    def defer(
        self,
        run: RunKey,
        *,
        nonce: str,
        seconds: float,
        note: str = "",
        given: GivenReference | None = None,
        attachments: Outcome | None = None,
        blobs: Sequence[bytes] = (),
    ) -> str:
        """Running → deferred: the handler has returned, and the outcome comes from elsewhere.

        Args:
            run: the run.
            nonce: the one of the run's :meth:`start`.
            seconds: seconds until the attempt is lost, unless its outcome comes or :meth:`extend` is called.
            note: what the job waits for, for operators.
            given: the reference that the run has got, in case the ledger has lost it.
            attachments: an outcome with the handler's uploads and reviews that the server does not have.
            blobs: the bytes of these uploads, as for :meth:`finish`.

        Returns:
            ``"deferred"``; ``"completed"`` if :meth:`complete` was called before (see :meth:`amend`);
            ``"unreferenced"`` if no run has requested the reference; or the state that prevents it.
        """
        parts = attachments.to_json() if attachments else ""
        known = (given.secret, int(given.shaped)) if given else ("", 0)
        answer = self._run("defer", run.job_id, run.task_id, nonce, seconds, recorded(note), *known, parts, *blobs)
        return str(answer.decode())

    def attach(self, run: RunKey, attachments: Outcome, blobs: Sequence[bytes]) -> bool:
        """Running → running: keep uploads and reviews of a run whose job will be completed through its reference.

        Returns ``False`` if the attempt is over.
        """
        return bool(self._run("attach", run.job_id, run.task_id, attachments.to_json(), *blobs))

    def complete(
        self,
        attempt: AttemptKey,
        outcome: Outcome,
        *,
        blobs: Sequence[bytes] = (),
        call: str,
        attached: int = 0,
        hold_seconds: float,
    ) -> Completion | Literal["changed"]:
        """Claimed, sent, running or deferred → finished: a caller with the attempt's key supplies the outcome.

        Args:
            attempt: the key.
            outcome: the outcome, with the attachments that :meth:`attached` returned.
            blobs: the bytes of the outcome's uploads, as for :meth:`finish`.
            call: the same in each repetition of this call, and in no other call.
            attached: the number of attachments that :meth:`attached` returned.
            hold_seconds: seconds that a handler which still runs has for :meth:`amend`.

        Returns:
            The answer; ``"changed"`` if there are more attachments by now. They have to be added first.
        """
        content = (outcome.status, outcome.to_json(), recorded(outcome.reason), hold_seconds, *blobs)
        return cast(Completion | Literal["changed"], self._with_key("complete", attempt, call, attached, *content))

    def extend(self, attempt: AttemptKey, seconds: float) -> Completion:
        """Deferred → deferred: the outcome may come until ``seconds`` from now. A later deadline stays as it is.

        With 0 ``seconds`` it changes nothing.
        """
        return cast(Completion, self._with_key("extend", attempt, seconds))

    def _with_key(self, step: str, attempt: AttemptKey, *arguments: object) -> Any:
        names = ("record", "known_work", "reference_check", step)
        answer = self._script(names, attempt.job_id, (attempt.attempt, attempt.secret, *arguments))
        return answer.decode()

    def amend(
        self, run: RunKey, *, nonce: str, outcome: Outcome | None = None, first: int = 0, blobs: Sequence[bytes] = ()
    ) -> bool:
        """Finished → finished: the handler has returned, after its job was completed through the reference.

        Args:
            run: the run.
            nonce: the one of the run's :meth:`start`.
            outcome: the outcome with further uploads and reviews at its end; ``None``: unchanged.
            first: the index of the first further upload.
            blobs: the bytes of the further uploads.

        Returns ``False`` if the delivery has begun before.
        """
        text = outcome.to_json() if outcome else ""
        return bool(self._run("amend", run.job_id, run.task_id, nonce, text, first, *blobs))

    # -- finished: the delivery ----------------------------------------------------------------------

    def collect(self, limit: int, *, lease: float) -> list[DeliveryKey]:
        """Finished → finished: take up to ``limit`` outcomes that are due, to deliver them.

        Returns:
            The deliveries that begin. Each has an exclusive claim on its job for ``lease`` seconds, and again from each
            later step that renews it.
        """
        answer = self._run("collect", "", limit, lease)
        return [
            DeliveryKey(int(job_id), task_id.decode(), int(number))
            for job_id, task_id, number in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        ]

    def _deliver(self, step: str, delivery: DeliveryKey, *arguments: object) -> bool:
        return bool(self._run(step, delivery.job_id, delivery.task_id, delivery.number, *arguments))

    def renew_delivery(self, delivery: DeliveryKey, *, lease: float) -> bool:
        """Finished → finished: renew a delivery's claim. Returns ``False`` if another one has it, or none is due."""
        return self._deliver("renew_delivery", delivery, lease)

    def delivered_part(self, delivery: DeliveryKey, part: str, answer: str, *, lease: float) -> bool:
        """Finished → finished: an artifact or review is delivered, with the server's ``answer``.

        Returns ``False`` if the delivery has lost its claim.
        """
        return self._deliver("delivered_part", delivery, part, answer, lease)

    def undelivered(
        self,
        delivery: DeliveryKey,
        why: str,
        *,
        wait_seconds: float,
        error: str = "",
        failures: str = "",
        route: str = "",
    ) -> bool:
        """Finished → finished: the delivery failed. The courier tries again after ``wait_seconds``.

        Args:
            delivery: the delivery.
            why: the reason, for the record.
            wait_seconds: seconds until the next delivery.
            error: the request that failed and its status, ``close 503``, for the stats.
            failures: text that is kept with the outcome, for the next delivery.
            route: the route that failed, for :meth:`tally`; empty: it does not count there.
        """
        return self._deliver("undelivered", delivery, recorded(why), wait_seconds, error, failures, route)

    def replace_outcome(self, delivery: DeliveryKey, outcome: Outcome, *, note: str = "", failures: str = "") -> bool:
        """Finished → finished: the server will never accept the outcome. This one says so, and is due at once.

        ``note`` names the refused part, for the job's history. ``failures`` is as in :meth:`undelivered`.
        """
        return self._deliver(
            "replace_outcome",
            delivery,
            outcome.status,
            outcome.to_json(),
            recorded(outcome.reason),
            recorded(note),
            failures,
        )

    # -- finished → closed ---------------------------------------------------------------------------

    def close(self, job_id: int, task_id: str, how: str, *, has_parts: bool = True) -> bool:
        """Finished → closed: the job is terminal on the server.

        Args:
            job_id: the job.
            task_id: the attempt.
            how: ``delivered`` or ``superseded``.
            has_parts: whether an artifact or a review may have been delivered. If not, the record is not searched for
                the server's responses, which costs more than any other part of the step.
        """
        return bool(self._move("close", job_id, task_id, how, self._history, KEPT_OUTCOME, int(has_parts)))

    # -- an operator's steps -------------------------------------------------------------------------

    def abort(self, job_id: int, why: str) -> str | None:
        """Claimed, sent, running, deferred or finished → aborted.

        Returns the attempt's task id; ``None`` if the job was over.
        """
        answer = self._run("abort", job_id, recorded(why), self._history)
        return answer.decode() if answer else None

    def requeue(self, job_id: int, task_id: str, note: str, *, wait_seconds: float, force: bool = False) -> Requeuing:
        """Claimed, sent, running or deferred → claimed with the next attempt: an operator wants the job to start again.

        Args:
            job_id: the job.
            task_id: the attempt that the operator saw.
            note: the operator and the reason, for the job's history.
            wait_seconds: seconds until a running job is sent again. Its worker has to stop it until then.
            force: also requeue a running or deferred job whose handler must not run twice (``on_lost="fail"``).

        Returns:
            ``requeued``, also if the attempt after this one had begun already; ``refused`` for want of ``force``;
            ``kept`` if the job is in none of these states, or another attempt has begun.
        """
        answer: bytes = self._run("requeue", job_id, task_id, wait_seconds, int(force), recorded(note))
        return cast(Requeuing, answer.decode())


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit


def _capability(job: Job) -> str:
    return recorded(", ".join(job.capabilities))


def _route(route: Route) -> tuple[object, ...]:
    return (route.task_name, route.queue, secrets.token_hex(4), route.max_attempts, route.on_lost)
