"""Reports to the ledger that the task of a job, or of a member of its workflow, failed outside of its own code."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..failure_texts import RESEND_BUDGET, log_lost, log_not_started, lost_texts, never_started
from ..ledger import Ledger
from ..message import MemberMessage, Message
from ..outcome import Outcome
from ..telemetry.logs import JobLog
from .worker_jobs import WorkerJobs, quietly

T = TypeVar("T")

logger = logging.getLogger("mr_celery.worker")


class Report(ABC):
    """Reports about one task message. An unreachable ledger is logged.

    Args:
        jobs: the worker's state.
        message: the message, as that of a job.
        prefix: the start of each reason.
    """

    def __init__(self, jobs: WorkerJobs, message: Message, prefix: str = "") -> None:
        self._jobs = jobs
        self._message = message
        self._prefix = prefix

    def failed(self, why: str, *, text: str = "", unstarted: bool = False) -> None:
        """Fail the job.

        Args:
            why: the reason, for the log.
            text: the job's output. Default: the reason.
            unstarted: whether the message did not start a run.
        """
        why, text = f"{self._prefix}{why}", f"{self._prefix}{text or why}"
        outcome = Outcome.failed(text, reason=why)
        self._report(
            "a failed task",
            lambda ledger: self._fail(ledger, outcome, unstarted=unstarted),
            lambda log, failed: log.failed(f"failed: {why}", why=why) if failed else None,
        )

    def lost(self, why: str) -> None:
        """Report the run as lost. The job gets another attempt, or fails."""
        why = f"{self._prefix}{why}"
        must_not, too_often = map(Outcome.failed, lost_texts(why))
        self._report(
            "a lost run",
            lambda ledger: self._lose(ledger, why, must_not, too_often),
            lambda log, loss: log_lost(log, loss, why),
        )

    @abstractmethod
    def not_started(self, why: str, *, wait_seconds: float = 2.0) -> None:
        """Report that no worker started the message. The job runs again, or fails.

        Args:
            why: the reason.
            wait_seconds: seconds until it is sent again.
        """

    @abstractmethod
    def _fail(self, ledger: Ledger, outcome: Outcome, *, unstarted: bool) -> bool: ...

    @abstractmethod
    def _lose(self, ledger: Ledger, why: str, must_not: Outcome, too_often: Outcome) -> str: ...

    def _report(self, what: str, step: Callable[[Ledger], T], report: Callable[[JobLog, T], Any]) -> None:
        """Record something by a step of the ledger, and log its answer."""
        clients, message = self._jobs.clients, self._message

        def recorded() -> None:
            answer = step(clients.ledger(message.worker_name))
            report(replace(message.log(logger), output=clients.output_of(message.worker_name, message.job_id)), answer)

        quietly(f"record {what}", recorded)


class JobReport(Report):
    """Reports about the message of a job."""

    def not_started(self, why: str, *, wait_seconds: float = 2.0) -> None:
        """Report that no worker started the message. It is sent again, or the job fails."""
        job_id, task_id, task_name = self._message.job_id, self._message.task_id, self._message.task_name
        options: dict[str, Any] = {"why": why, "budget": RESEND_BUDGET, "wait_seconds": wait_seconds}
        exhausted = Outcome.failed(never_started(why))
        self._report(
            "a task that was not started",
            lambda ledger: ledger.resend(job_id, task_id, exhausted=exhausted, task_name=task_name, **options),
            lambda log, loss: log_not_started(log, loss, why),
        )

    def _fail(self, ledger: Ledger, outcome: Outcome, *, unstarted: bool) -> bool:
        message = self._message
        run = self._run_of(message)
        return ledger.fail(message.job_id, message.task_id, outcome, unstarted=unstarted, **run)

    def _lose(self, ledger: Ledger, why: str, must_not: Outcome, too_often: Outcome) -> str:
        message = self._message
        run = self._run_of(message)
        return ledger.lose(message.job_id, message.task_id, why=why, must_not=must_not, too_often=too_often, **run)

    def _run_of(self, message: Message) -> dict[str, Any]:
        return {"retries": message.retries, "holder": self._jobs.holder, "task_name": message.task_name}


class MemberReport(Report):
    """Reports about the message of a workflow's member. A member that fails or is lost ends the job's attempt."""

    def __init__(self, jobs: WorkerJobs, member: MemberMessage) -> None:
        super().__init__(jobs, member.job_message, f"{member}: ")
        self._member = member

    def not_started(self, why: str, *, wait_seconds: float = 2.0) -> None:
        """Report that no worker started the member. The job gets another attempt, or fails."""
        why = f"{self._prefix}{why}"
        must_not, too_often = map(Outcome.failed, lost_texts(why))
        self._report(
            "a member that was not started",
            lambda ledger: self._lose(ledger, why, must_not, too_often, started=False),
            lambda log, loss: log_lost(log, loss, why),
        )

    def _fail(self, ledger: Ledger, outcome: Outcome, *, unstarted: bool) -> bool:
        options: dict[str, Any] = {"holder": self._jobs.holder, "unstarted": unstarted, "note": str(self._member)}
        name = self._member.task_name
        return ledger.finish_member(self._member.key, outcome, task_name=name, **options) == "finished"

    def _lose(self, ledger: Ledger, why: str, must_not: Outcome, too_often: Outcome, *, started: bool = True) -> str:
        return ledger.lose_member(
            self._member.key,
            "running" if started else "unstarted",
            retries=self._member.key.retries,
            holder=self._jobs.holder if started else "",
            why=why,
            must_not=must_not,
            too_often=too_often,
            task_name=self._member.task_name,
        )


def report_of(jobs: WorkerJobs, message: Message | MemberMessage) -> Report:
    """Reports about a message."""
    return MemberReport(jobs, message) if isinstance(message, MemberMessage) else JobReport(jobs, message)
