"""The event loop on which a worker process runs its ``async def`` handlers."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from ..celery_compat import TaskContext
from ..errors import JobAborted
from ..telemetry.tracebacks import calls_application

logger = logging.getLogger("mr_celery.runner")

CANCEL_SECONDS = 10.0
"""Seconds that a cancelled handler has to end. After that its slot takes the next job."""

CHECK_SECONDS = 2.0
"""Interval at which a waiting thread checks whether the run has lost its job."""

_task_context: ContextVar[TaskContext | None] = ContextVar("mr_celery_task_context", default=None)


class EventLoop:
    """One event loop, on its own thread, for all ``async def`` handlers of a worker process.

    All jobs of a process can therefore share clients that belong to a loop. The pool's thread waits for its handler.
    The loop starts with the first such handler. In a prefork pool, that is after the fork.
    """

    def __init__(self) -> None:
        self.soft_limit: float | None = None
        """The soft time limit in seconds of tasks that set none: the worker's option ``--soft-time-limit``."""
        self.pool_interrupts = False
        """Whether Celery's pool interrupts the waiting thread at the soft time limit. Assumed after a fork."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._started: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._calls: dict[str, _Call] = {}

    def run(
        self, awaitable: Awaitable[Any], *, task_id: str, lost: Callable[[], bool], soft_limit: float | None = None
    ) -> Any:
        """Run a handler's awaitable on the loop, and wait for it.

        It has the caller's context variables, and Celery's current task and request.

        Args:
            awaitable: the awaitable that the handler returned.
            task_id: the task id.
            lost: returns whether the run has lost its job.
            soft_limit: the task's soft time limit in seconds; ``None``: that of the worker.

        Returns:
            The handler's value. A handler that catches its cancellation at the soft time limit may return one, too.

        Raises:
            JobAborted: the run has lost its job, and the handler was cancelled.
            SoftTimeLimitExceeded: the soft time limit has passed, and the handler was cancelled.
            BaseException: the handler raised it, or a signal interrupted the waiting thread.
        """
        pool_interrupts = self.pool_interrupts or os.getpid() != self._process
        call = self._calls[task_id] = _Call(awaitable)
        reason: BaseException | None
        try:
            call.start(self._loop())
            try:
                reason = call.wait(lost, None if pool_interrupts else soft_limit or self.soft_limit)
            except SoftTimeLimitExceeded as error:  # the prefork pool raises it in this thread
                reason = error
            except BaseException:
                call.cancel()
                raise
            if reason is not None:
                call.cancel()
                call.ended.wait(CANCEL_SECONDS)
            return call.outcome(reason)
        finally:
            del self._calls[task_id]

    def lose(self, task_id: str) -> bool:
        """Cancel the handler of a task, because its run has lost its job. Returns whether this process runs it."""
        call = self._calls.get(task_id)
        if call is None:
            return False
        call.lost = True
        call.woken.set()
        return True

    def _loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._started is None or self._started[0] != os.getpid():
                loop = asyncio.new_event_loop()
                loop.set_task_factory(_task_with_context)  # type: ignore[arg-type]  # the stubs' protocol is that of one version
                threading.Thread(target=_run_forever, args=(loop,), name="modelreins-event-loop", daemon=True).start()
                self._started = (os.getpid(), loop)
            return self._started[1]


class _Call:
    """The execution of one handler on the loop."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.ended = threading.Event()
        self.woken = threading.Event()
        self.lost = False
        self._awaitable = awaitable
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        context = copy_context()
        context.run(_task_context.set, TaskContext.current())
        self._loop = loop
        loop.call_soon_threadsafe(self._create_task, context=context)

    def _create_task(self) -> None:
        assert self._loop is not None  # noqa: S101 - it was started
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._on_end)

    @calls_application
    async def _run(self) -> None:
        try:
            self._value = await self._awaitable
        except BaseException as error:  # SystemExit and KeyboardInterrupt would end the loop
            self._error = error

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self._error = asyncio.CancelledError()
            if isinstance(self._awaitable, Coroutine):
                self._awaitable.close()
        self.ended.set()
        self.woken.set()

    def cancel(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def wait(self, lost: Callable[[], bool], soft_limit: float | None) -> BaseException | None:
        """Wait for the end, or for a reason to cancel the handler. Returns the reason, or ``None`` at the end."""
        deadline = float("inf") if soft_limit is None else time.monotonic() + soft_limit
        while not self.woken.wait(min(CHECK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return SoftTimeLimitExceeded(soft_limit)
            self.lost = self.lost or lost()
            if self.lost:
                break
        return JobAborted("the job was aborted or given to another worker") if self.lost else None

    def outcome(self, reason: BaseException | None) -> Any:
        """Return or raise the handler's outcome.

        Args:
            reason: the reason for which the handler was cancelled.
        """
        if not self.ended.is_set():
            logger.warning(
                "a handler still runs %.0f s after its cancellation; its outcome does not count", CANCEL_SECONDS
            )
        if reason is not None and (
            isinstance(reason, JobAborted) or not self.ended.is_set() or isinstance(self._error, asyncio.CancelledError)
        ):
            raise reason from None
        if self._error is not None:
            raise self._error
        return self._value


class _InTaskContext(Coroutine[Any, Any, Any]):
    """A coroutine each of whose steps has Celery's current task and request.

    Celery keeps both for each thread, and the coroutines of all jobs share the loop's.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._step(self._coroutine.close)

    @staticmethod
    def _step(step: Callable[..., Any], *args: Any) -> Any:
        context = _task_context.get()
        if context is None:
            return step(*args)
        context.push()
        try:
            return step(*args)
        finally:
            context.pop()

    def __await__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        # Libraries (anyio) inspect the coroutine of a task: cr_frame, cr_running.
        return getattr(self._coroutine, name)


def _task_with_context(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(_InTaskContext(coroutine), loop=loop, **options)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except BaseException as error:  # a task that a handler has left raised SystemExit or KeyboardInterrupt
            logger.error("a task on the event loop raised %s", type(error).__name__)
