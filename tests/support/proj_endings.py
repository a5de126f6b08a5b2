"""An application whose handlers end in every way in which Python code can end."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Task
from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from greenlet import GreenletExit

from mr_celery import Escalate, Job, JobFailed, modelreins_job

from .proj_base import new_app, note, wait_for_gate

app = new_app("endings")


class OfALibrary(BaseException):
    """As trio's and anyio's own."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class UnprintableForGood(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.lock = threading.Lock()


class UnpicklableForGood(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(5)


class OwnEscalation(Escalate):
    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def times_out() -> None:
    with gevent.Timeout(0.01):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            gevent.sleep(0.01)


def recurses() -> None:
    recurses()


def chained() -> None:
    error = ValueError("first")
    for number in range(2000):
        following = ValueError(f"link {number}")
        following.__cause__ = error
        error = following
    raise error


def grouped() -> None:
    async def fails() -> None:
        raise ValueError("in a group")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            group.create_task(fails())

    asyncio.run(run())


def cancelled() -> None:
    async def run() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(1)

    asyncio.run(run())


class Attached(list[Any]):
    def __iter__(self) -> Any:
        raise GeneratorExit("iterated")


WAYS: dict[str, tuple[Callable[[], Any], str, str]] = {
    # how: what it does, the job's status, and what its output says
    "cancelled": (cancelled, "failed", "CancelledError"),
    "cancelled plainly": (raising(asyncio.CancelledError("stop")), "failed", "CancelledError: stop"),
    "keyboard": (raising(KeyboardInterrupt("own")), "failed", "KeyboardInterrupt: own"),
    "exit": (raising(SystemExit(3)), "failed", "SystemExit: 3"),
    "exit as by a signal": (raising(SystemExit(-241)), "failed", "SystemExit: -241"),
    "exit with a text": (raising(SystemExit("enough")), "failed", "SystemExit: enough"),
    "sys.exit": (lambda: sys.exit(), "failed", "SystemExit"),
    "shutdown": (raising(WorkerShutdown(0)), "failed", "WorkerShutdown"),
    "terminate": (raising(WorkerTerminate(1)), "failed", "WorkerTerminate"),
    "generator": (raising(GeneratorExit("closed")), "failed", "GeneratorExit: closed"),
    "library": (raising(OfALibrary("own")), "failed", "OfALibrary: own"),
    "greenlet": (raising(GreenletExit("killed")), "failed", "GreenletExit"),
    "timeout": (times_out, "failed", "Timeout: 0.01 second"),
    "soft limit": (raising(SoftTimeLimitExceeded("own")), "failed", "SoftTimeLimitExceeded"),
    "unprintable": (raising(Unprintable()), "failed", "Unprintable"),
    "unprintable for good": (raising(UnprintableForGood()), "failed", "UnprintableForGood"),
    "unpicklable": (raising(Unpicklable("a", "b")), "failed", "Unpicklable: a"),
    "unpicklable for good": (raising(UnpicklableForGood("own")), "failed", "UnpicklableForGood: own"),
    "memory": (raising(MemoryError("none left")), "failed", "MemoryError: none left"),
    "recursion": (recurses, "failed", "RecursionError"),
    "chained": (chained, "failed", "link 1999"),
    "lost": (raising(WorkerLostError("own")), "failed", "WorkerLostError"),
    "limit": (raising(TimeLimitExceeded(3)), "failed", "TimeLimitExceeded"),
    "terminated": (raising(Terminated(9)), "failed", "Terminated"),
    "escalate with an error": (raising(Escalate(ValueError("because"))), "escalated", "because"),
    "escalate with data": (raising(Escalate({"score": 0.1})), "escalated", "{'score': 0.1}"),
    "escalate of a subclass": (raising(OwnEscalation(7)), "escalated", "code 7"),
    "failed with data": (raising(JobFailed({"code": 7})), "failed", "{'code': 7}"),
    "failed with an unprintable": (raising(JobFailed(Unprintable())), "failed", "Unprintable"),
    "failed with no list": (raising(JobFailed("why", artifacts=7)), "failed", "why"),  # type: ignore[arg-type]
    "failed with a list that raises": (raising(JobFailed("why", artifacts=Attached([1]))), "failed", "GeneratorExit"),
    "data that is none": (lambda: {1, 2}, "failed", "set"),
}
if sys.version_info >= (3, 11):
    WAYS |= {
        "group": (grouped, "failed", "ValueError: in a group"),
        "group of stops": (
            raising(
                BaseExceptionGroup(  # noqa: F821 - for all versions that have it
                    "all", [asyncio.CancelledError("one"), KeyboardInterrupt("two")]
                )
            ),
            "failed",
            "KeyboardInterrupt: two",
        ),
    }

AROUND = {
    # the capability, and what the output of its job says
    "result": "CancelledError: from result=",
    "review": "KeyboardInterrupt: from review=",
    "arguments": "OfALibrary: from arguments=",
    "on-error": "ValueError: the handler's own",
    "before-start": "ValueError: from before_start",
}
"""Ends of what a declaration has around its handler."""


@modelreins_job("ends")
@app.task
def ends(prompt: str, how: str) -> Any:
    note(prompt)
    return WAYS[how][0]()


@modelreins_job("fine")
@app.task
def fine(prompt: str) -> str:
    note(prompt)
    time.sleep(0.2)
    return prompt.upper()


@modelreins_job("result", result=lambda value: raising(asyncio.CancelledError("from result="))())
@app.task
def with_result(prompt: str) -> str:
    note(prompt)
    return prompt


@modelreins_job("review", review=lambda job, value: raising(KeyboardInterrupt("from review="))())
@app.task
def with_review(prompt: str) -> str:
    note(prompt)
    return prompt


@modelreins_job("arguments", arguments=lambda job: raising(OfALibrary("from arguments="))())
@app.task
def with_arguments(prompt: str) -> str:
    return prompt


@modelreins_job("on-error", on_error=lambda job, error: raising(SystemExit("from on_error="))())
@app.task
def with_on_error(prompt: str) -> str:
    note(prompt)
    raise ValueError("the handler's own")


class FailsBefore(Task):  # type: ignore[type-arg]
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise ValueError("from before_start")


@modelreins_job("before-start")
@app.task(base=FailsBefore)
def with_before_start(prompt: str) -> str:
    note(prompt)
    return prompt


@modelreins_job("gated")
@app.task
def gated(prompt: str) -> str:
    note(prompt)
    wait_for_gate()
    return prompt.upper()


@modelreins_job("limited")
@app.task(time_limit=1)
def limited(prompt: str) -> str:
    """Exceeds its time limit, which gevent raises as the same exception as a timeout of the handler's own."""
    note(prompt)
    time.sleep(60)
    return prompt


@modelreins_job("retry")
@app.task(bind=True)
def retries(self: Task[Any, Any], job: Job) -> str:
    """Retries once the gate is open, with the job's countdown."""
    note(f"{job.prompt} {self.request.retries}")
    if self.request.retries == 0:
        wait_for_gate()
        raise self.retry(countdown=job["countdown"])
    return f"{job.prompt} after {self.request.retries}"


@modelreins_job("own-retry")
@app.task(bind=True)
def retries_with_arguments(self: Task[Any, Any], prompt: str, stage: int = 0) -> str:
    note(f"{prompt} {stage}")
    if stage == 0:
        wait_for_gate()
        raise self.retry(kwargs={"stage": 1}, countdown=0.1)
    return f"{prompt} at stage {stage}"
