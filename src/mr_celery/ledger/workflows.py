"""The steps of a job that its handler has handed over to other tasks: the members of a workflow.

::

    run ── hand_over ─► (messages are published) ── handed_over ─► the members hold the job
    member: sent ─► received ─► running ─► done | replaced
                        │          ├─► finished (the final one, or a failure): the job is finished
                        └──────────┴─► lost: the attempt is lost

The job stays *running* meanwhile, and keeps its slot. Its next check finds a member that was lost, with its worker or
with its message. Each step is atomic, as in :mod:`.transitions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from ..errors import JobError
from ..job import Job
from ..outcome import Outcome
from ..telemetry.printing import printable
from .records import (
    Loss,
    Member,
    MemberKey,
    NewMember,
    Overdue,
    OverdueMember,
    Record,
    RunKey,
    StartedMember,
    recorded,
)
from .scripts import PAGE, LedgerBase

MOST_CHARACTERS = 200
"""Maximum length of a name in a member's entry, in characters."""


class Workflows(LedgerBase):
    """The steps of workflows."""

    def _member_step(self, name: str, job_id: int | str, *arguments: object) -> bytes:
        answer: bytes = self._script(("record", "known_work", "members", name), job_id, arguments)
        return answer

    # -- the run hands its job over ------------------------------------------------------------------

    def hand_over(
        self, run: RunKey, *, nonce: str, final: str, members: Sequence[NewMember], lease: float, note: str
    ) -> bool:
        """Running → running: the run is about to publish the first messages of a workflow.

        Args:
            run: the run. It holds the job until :meth:`handed_over`.
            nonce: the one of the run's :meth:`start`.
            final: the task id of the final member, whose result is the job's.
            members: the members whose messages come first.
            lease: seconds until their first check.
            note: the workflow in words, for the job's history.

        Returns ``False`` if the run has lost its job.
        """
        parts = [part for member in members for part in _parts(member)]
        answer = self._member_step(
            "hand_over", run.job_id, run.task_id, run.retries, nonce, final, lease, _short(note), *parts
        )
        return bool(answer)

    def handed_over(self, run: RunKey, *, final: str, wait_seconds: float) -> bool:
        """Running → running: the first messages are published. The members hold the job from now on.

        Args:
            run: the run that handed it over.
            final: the task id of the final member.
            wait_seconds: seconds until the members are checked.

        Returns ``False`` if the workflow is over.
        """
        return bool(self._member_step("handed_over", run.job_id, run.task_id, final, wait_seconds))

    # -- members -------------------------------------------------------------------------------------

    def member_sent(self, sent: MemberKey, member: NewMember, *, sender: str, wait_seconds: float) -> bool:
        """Running → running: a member is about to publish another one, its own retry, or what replaces it.

        Args:
            sent: the execution that the message is for.
            member: the member.
            sender: the nonce of the execution that publishes.
            wait_seconds: seconds, from when it is due, until its first check.
        """
        _, name, queue, seconds = _parts(member)
        arguments = (sent.task_id, sent.member_id, name, queue, sent.retries, seconds, wait_seconds, sender)
        return bool(self._member_step("member_sent", sent.job_id, *arguments))

    def start_member(
        self, key: MemberKey, task_name: str, *, node: str, holder: str, lease: float, nonce: str
    ) -> StartedMember:
        """Running → running, for ``lease`` seconds: the fence that one message of a member passes.

        Args:
            key: the execution that wants to start.
            task_name: its task.
            node: the Celery worker's node name.
            holder: identifies this worker process, also against an earlier one with the same node name.
            lease: seconds until the member counts as lost, unless it is renewed.
            nonce: the same in each repetition of this call, and in no other call.
        """
        arguments = (key.task_id, key.member_id, _short(task_name), key.retries, node, holder, lease, nonce)
        answer = cast(Sequence[bytes], self._member_step("start_member", key.job_id, *arguments))
        if answer[0] != b"started":
            return StartedMember(refusal=answer[0].decode())
        _, job, attempt, trace, job_retries, job_nonce, handler, final = answer
        try:
            loaded = Job.from_json(job)
        except JobError as error:
            return StartedMember(refusal=str(error))
        return StartedMember(
            job=loaded,
            attempt=int(attempt),
            trace=trace.decode(),
            job_retries=int(job_retries),
            job_nonce=job_nonce.decode(),
            handler=handler.decode(errors="replace"),
            final=final.decode(errors="replace") == key.member_id,
        )

    def end_member(self, key: MemberKey, state: str, *, nonce: str, wait_seconds: float) -> bool:
        """Any state → the same: a member has ended, and the job goes on.

        Args:
            key: the execution that ended.
            state: ``done``, ``replaced``, or ``sent`` if its message was returned to the broker.
            nonce: the one of its :meth:`start_member`.
            wait_seconds: seconds until a returned message is checked.

        Returns ``False`` if the member has gone on with another message.
        """
        return bool(self._member_step("end_member", key.job_id, key.task_id, key.member_id, nonce, state, wait_seconds))

    def finish_member(
        self,
        key: MemberKey,
        outcome: Outcome,
        *,
        nonce: str = "",
        holder: str = "",
        unstarted: bool = False,
        note: str = "",
        task_name: str = "",
        blobs: Sequence[bytes] = (),
    ) -> str:
        """Running → finished: the final member has the job's result, or a member has failed.

        Args:
            key: the execution that ended.
            outcome: the job's outcome.
            nonce: the one of its :meth:`start_member`; empty: it is reported from outside of its process.
            holder: the worker that ran it, if it is reported from outside.
            unstarted: its message did not start.
            note: the failed member, for the job's history; empty if none failed.
            task_name: the task of its message, if it is reported from outside.
            blobs: as in :meth:`finish`.

        Returns:
            ``"finished"``; ``"kept"`` if the job's record is lost, so that the outcome waits until :meth:`adopt` finds
            it; or what prevents it.
        """
        answer = self._member_step(
            "finish_member",
            key.job_id,
            key.task_id,
            key.member_id,
            nonce,
            key.retries,
            holder,
            int(unstarted),
            outcome.status,
            outcome.to_json(),
            outcome.reason and _short(outcome.reason),
            note and _short(note),
            self._history,
            _short(task_name),
            *blobs,
        )
        return answer.decode()

    def renew_members(
        self,
        members: Iterable[tuple[MemberKey, str]],
        *,
        holder: str,
        node: str,
        lease: float,
        wait_seconds: float,
    ) -> dict[str, str]:
        """Any state → the same: a live worker renews the members that it has.

        Args:
            members: the members, each with its task name.
            holder: the worker, as in :meth:`start_member`.
            node: its node name.
            lease: seconds for those that run.
            wait_seconds: seconds for those that wait in the worker.

        Returns:
            The members whose attempt has lost the job, by their task ids, with the reason.
        """
        lost: dict[str, str] = {}
        every = list(members)
        for start in range(0, len(every), PAGE):
            parts: list[object] = []
            for key, name in every[start : start + PAGE]:
                parts += (key.job_id, key.task_id, key.member_id, key.retries, _short(name))
            answer = cast(
                Sequence[bytes], self._member_step("renew_members", "", holder, node, lease, wait_seconds, *parts)
            )
            lost.update((answer[i].decode(), answer[i + 1].decode()) for i in range(0, len(answer), 2))
        return lost

    # -- lost members --------------------------------------------------------------------------------

    def overdue_member(self, job_id: int, *, lease: float) -> Overdue:
        """Running → running: check the members of a job's workflow, if one holds the job and its check is due.

        Args:
            job_id: the job.
            lease: seconds until the job, and each message that is returned, is checked again.
        """
        verdict, *parts = cast(Sequence[bytes], self._member_step("overdue_member", job_id, lease))
        if not parts:
            return Overdue(verdict.decode())
        task_id, attempt, *texts = (part.decode(errors="replace") for part in map(_bytes, parts))
        members = tuple(
            OverdueMember(*texts[i : i + 5], *map(float, texts[i + 5 : i + 8]))  # type: ignore[arg-type]
            for i in range(0, len(texts), 8)
        )
        return Overdue(verdict.decode(), task_id, int(attempt), members)

    def lose_member(
        self,
        key: MemberKey,
        state: str,
        *,
        retries: int | None = None,
        holder: str = "",
        due: bool = False,
        why: str,
        must_not: Outcome,
        too_often: Outcome,
        task_name: str = "",
    ) -> Loss:
        """Running → claimed with the next attempt, or → finished if it may not run again: a member was lost.

        Args:
            key: the member; without a ``member_id``: no member is unfinished.
            state: the state that the member must be in; ``unstarted``: it must not have started.
            retries: its number of Celery retries, if known.
            holder: the worker that had it, if known.
            due: its lease must be over.
            why: the reason, for the record.
            must_not: the outcome if the handler has ``on_lost="fail"``.
            too_often: the outcome if this was the last attempt.
            task_name: the task of its message, if it is reported from outside.
        """
        answer = self._script(
            ("record", "known_work", "members", "losing", "lose_member"),
            key.job_id,
            (
                key.task_id,
                key.member_id,
                state,
                "" if retries is None else retries,
                holder,
                int(due),
                recorded(why),
                must_not.to_json(),
                too_often.to_json(),
                _short(task_name),
            ),
        )
        return cast(Loss, answer.decode())

    def members(self, job_id: int) -> list[Member]:
        """The members of a job's workflow so far, in the order of their last change; empty if it has none."""
        with self._redis.client() as client:
            found = client.hgetall(f"{self._prefix}members:{job_id}")
        return sorted((Member.read(*each) for each in found.items()), key=lambda member: member.since)

    def nodes(self, record: Record) -> list[str]:
        """The workers that may run something of a job now: its handler, or members of its workflow."""
        if not record.workflow:
            return [record.node] if record.node else []
        return sorted({each.node for each in self.members(record.id) if each.unfinished and each.node})


def _parts(member: NewMember) -> tuple[str, str, str, float]:
    return (member.member_id, _short(member.task_name), _short(member.queue), member.seconds)


def _short(text: str) -> str:
    return printable(text, MOST_CHARACTERS)


def _bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
