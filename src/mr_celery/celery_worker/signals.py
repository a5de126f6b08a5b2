"""Handlers of Celery's signals: they follow a task's execution, and report failures outside of the handler's code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals

from ..celery_compat import current_task, treat_as_connection_error
from ..message import (
    MemberMessage,
    Message,
    headers_of,
    member_of,
    member_of_request,
    message_of,
    message_of_request,
    stay_encoded,
)
from ..telemetry.printing import printable
from ..telemetry.tracebacks import hides_variables
from .canvas import queue_of
from .current import current_run
from .handler_errors import traceback_of
from .redaction import marked
from .reports import Report, report_of
from .worker_jobs import ATTRIBUTE, WorkerJobs

_POOL_JOB = re.compile(r" Job: \d+\.$")
"""The pool's number of a task in the message of a lost process. It is not the id of a ModelReins job."""


def connect() -> None:
    """Connect the handlers. Further calls change nothing."""
    for signal, handler in (
        (signals.task_received, _on_task_received),
        (signals.task_prerun, _on_task_prerun),
        (signals.task_postrun, _on_task_postrun),
        (signals.task_failure, _on_task_failure),
        (signals.task_internal_error, _on_task_internal_error),
        (signals.task_revoked, _on_task_revoked),
        (signals.task_unknown, _on_task_unknown),
        (signals.task_rejected, _on_task_rejected),
        (signals.before_task_publish, _on_before_task_publish),
    ):
        signal.connect(handler, weak=False)


def _jobs_of(sender: Any) -> WorkerJobs | None:
    """The state of the worker that a task or a consumer belongs to."""
    jobs: WorkerJobs | None = getattr(getattr(sender, "app", None), ATTRIBUTE, None)
    return jobs


@hides_variables
def _on_task_received(sender: Any = None, request: Any = None, **_: Any) -> None:
    jobs = _jobs_of(sender)
    if jobs is not None and jobs.received.add(request):
        stay_encoded(request.message)
    # The message may be acknowledged after its connection was lost and replaced. kombu's Redis transport then raises an
    # AttributeError, which ends the worker unless it counts as a lost connection.
    treat_as_connection_error(request, AttributeError)


@hides_variables
def _on_task_prerun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    if jobs := _jobs_of(sender):
        jobs.executions.begin(task_id)


@hides_variables
def _on_task_postrun(sender: Any = None, task_id: str = "", state: str | None = None, **_: Any) -> None:
    if jobs := _jobs_of(sender):
        if jobs.members is not None:
            jobs.members.ended(task_id, sender.request.retries or 0, state)
        jobs.executions.end(task_id)


@hides_variables
def _on_before_task_publish(
    sender: str = "",
    headers: dict[str, Any] | None = None,
    routing_key: str = "",
    declare: Any = None,
    **_: Any,
) -> None:
    run = current_run()
    if run is not None and run.announce_retry and headers is not None and headers.get("id") == run.task_id:
        run.announce_retry(headers.get("retries") or 0)
    task = current_task()
    jobs = None if task is None or headers is None else _jobs_of(task)
    if jobs is not None and jobs.members is not None and headers is not None:
        queue = queue_of(declare[0] if declare else None, routing_key)
        jobs.members.publishing(task, sender, headers, queue)


@hides_variables
def _on_task_failure(sender: Any = None, task_id: str = "", exception: BaseException | None = None, **_: Any) -> None:
    jobs = _jobs_of(sender)
    if jobs is None or exception is None:
        return
    if jobs.members is not None and jobs.members.failed_later(task_id, exception):
        return
    member = jobs.received.failed_member(task_id) or _running_member(sender, task_id)
    message = member or jobs.received.failed(task_id) or _running_message(sender, task_id)
    if message is None:
        return
    report = report_of(jobs, message)
    if isinstance(exception, TimeLimitExceeded):
        report.failed(f"{_hard_limit(exception)} ended the run")
    elif isinstance(exception, WorkerLostError):
        report.lost(f"its worker process died: {_POOL_JOB.sub('', str(exception))}")
    elif member is not None or marked(exception) is None:  # otherwise the runner has recorded it
        _report_unstarted(report, exception)


def _on_task_internal_error(
    sender: Any = None, task_id: str = "", request: Any = None, exception: BaseException | None = None, **_: Any
) -> None:
    """Celery could not execute a task. The job fails, unless the task's code has begun."""
    jobs, message = _jobs_of(sender), _message_in(request, task_id, sender)
    if jobs is not None and message is not None and exception is not None:
        _report_unstarted(report_of(jobs, message), exception)


def _report_unstarted(report: Report, exception: BaseException) -> None:
    why = f"the task failed before its code began: {type(exception).__name__}"
    report.failed(why, text=f"{why}\n\n{traceback_of(exception)}", unstarted=True)


def _message_in(headers: Any, task_id: Any, task: Any = None) -> Message | MemberMessage | None:
    """The message with these headers, of a job or of a member."""
    headers = headers if isinstance(headers, Mapping) else {}
    retries = headers.get("retries")
    message = message_of(headers, task_id, retries) or member_of(headers, task_id, retries)
    if message is None:
        return None
    name = message.task_name or getattr(task, "name", "")
    return replace(message, task_name=name) if name else None  # without a name, the ledger could not compare it


def _hard_limit(exception: TimeLimitExceeded) -> str:
    seconds = next(iter(exception.args), None)
    limit = f" of {seconds:g} s" if isinstance(seconds, (int, float)) else ""
    return f"the task's hard time limit{limit}"


def _running_member(task: Any, task_id: str) -> MemberMessage | None:
    """The member that a task executes in this thread."""
    request = getattr(task, "request", None)
    if request is None or request.id != task_id:
        return None
    member = member_of_request(request)
    return None if member is None else replace(member, task_name=member.task_name or task.name)


def _running_message(task: Any, task_id: str) -> Message | None:
    """The message that a task executes in this thread."""
    request = getattr(task, "request", None)
    if request is None or request.id != task_id:
        return None
    message = message_of_request(request)
    return None if message is None else replace(message, task_name=message.task_name or task.name)


@hides_variables
def _on_task_revoked(
    sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
) -> None:
    jobs = _jobs_of(sender)
    if jobs is None:
        return
    if expired:
        why = "the task expired before a worker started it (its option expires=)"
    elif terminated:
        why = "the task was revoked and terminated while it ran (celery control terminate)"
    else:
        why = "the task was revoked before it ran (celery control revoke)"
    message: Message | MemberMessage | None = message_of_request(request) or member_of_request(request)
    if message is not None:
        message = replace(message, task_name=message.task_name or str(getattr(sender, "name", "")))
        report_of(jobs, message).failed(why, unstarted=not terminated)


@hides_variables
def _on_task_unknown(sender: Any = None, message: Any = None, id: Any = None, **_: Any) -> None:
    jobs, sent = _jobs_of(sender), _message_in(headers_of(message), id)
    if jobs is not None and sent is not None:
        name = printable(sent.task_name)
        why = f"the task {name} is not registered on the worker {sender.hostname} that took its message"
        report_of(jobs, sent).not_started(why)


@hides_variables
def _on_task_rejected(sender: Any = None, message: Any = None, exc: BaseException | None = None, **_: Any) -> None:
    headers = headers_of(message)
    jobs, sent = _jobs_of(sender), _message_in(headers, headers.get("id"))
    if jobs is not None and sent is not None:
        # The text of the exception may have the arguments of a member, or of a handler's own retry.
        why = f"the worker {sender.hostname} could not read the task's message: {type(exc).__name__}"
        report_of(jobs, sent).not_started(why)
