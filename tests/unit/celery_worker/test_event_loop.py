"""``async def`` handlers on the event loop of a worker process."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from mr_celery.celery_compat import TaskContext, current_task
from mr_celery.celery_worker import event_loop
from mr_celery.celery_worker.event_loop import EventLoop
from mr_celery.errors import JobAborted

SECONDS = 10.0


@pytest.fixture
def loop() -> EventLoop:
    return EventLoop()


def run(loop: EventLoop, awaitable: Awaitable[Any], **options: Any) -> Any:
    return loop.run(awaitable, **{"task_id": "t", "lost": lambda: False, **options})


async def endless() -> None:
    await asyncio.Event().wait()


def test_a_value_is_returned(loop: EventLoop) -> None:
    async def handler() -> str:
        await asyncio.sleep(0)
        return "done"

    assert run(loop, handler()) == "done"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_exception_of_a_handler_is_raised_and_the_loop_continues(loop: EventLoop, error: BaseException) -> None:
    async def handler() -> None:
        raise error

    async def next_one() -> int:
        return 1

    with pytest.raises(type(error)):
        run(loop, handler())
    assert run(loop, next_one()) == 1


def test_a_task_left_behind_that_raises_system_exit_does_not_end_the_loop(loop: EventLoop) -> None:
    async def exits() -> None:
        raise SystemExit(3)

    async def handler() -> None:
        asyncio.create_task(exits())  # noqa: RUF006
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def next_one() -> int:
        return 1

    run(loop, handler())
    assert run(loop, next_one()) == 1


def test_all_handlers_of_a_process_share_one_loop_and_run_side_by_side(loop: EventLoop) -> None:
    count = 20
    arrived: list[asyncio.AbstractEventLoop] = []
    all_here: list[asyncio.Event] = []

    async def handler() -> asyncio.AbstractEventLoop:
        if not all_here:
            all_here.append(asyncio.Event())
        arrived.append(asyncio.get_running_loop())
        if len(arrived) == count:
            all_here[0].set()
        await asyncio.wait_for(all_here[0].wait(), SECONDS)
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(count) as pool:
        loops = list(pool.map(lambda number: run(loop, handler(), task_id=f"t{number}"), range(count)))
    assert len(loops) == count
    assert len(set(loops)) == 1


def test_context_variables_of_the_caller_are_those_of_the_handler_and_its_tasks(loop: EventLoop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def child() -> str:
        await asyncio.sleep(0)
        return variable.get()

    async def handler() -> tuple[str, str]:
        return variable.get(), await asyncio.create_task(child())

    variable.set("mine")
    assert run(loop, handler()) == ("mine", "mine")


def test_each_handler_has_its_own_celery_task_and_request_also_in_tasks_that_it_creates(loop: EventLoop) -> None:
    app = Celery("proj", set_as_current=False)

    @app.task(name="proj.a", shared=False, bind=True)
    def task(self: Any) -> None: ...

    async def child() -> tuple[Any, Any]:
        await asyncio.sleep(0)
        return current_task(), task.request.id

    async def handler() -> list[tuple[Any, Any]]:
        seen = [(current_task(), task.request.id)]
        await asyncio.sleep(0.01)
        seen.append((current_task(), task.request.id))
        return [*seen, *await asyncio.gather(child(), child())]

    app.finalize()

    def call(number: int) -> list[tuple[Any, Any]]:
        context = TaskContext(task, SimpleNamespace(id=f"id-{number}"))
        context.push()
        try:
            return list(run(loop, handler(), task_id=f"t{number}"))
        finally:
            context.pop()

    with ThreadPoolExecutor(8) as pool:
        for number, seen in enumerate(pool.map(call, range(8))):
            assert seen == [(task, f"id-{number}")] * 4


def test_a_library_can_inspect_the_coroutine_of_its_task(loop: EventLoop) -> None:
    async def handler() -> str:
        task = asyncio.current_task()
        assert task is not None
        return str(task.get_coro().cr_code.co_name)  # type: ignore[union-attr]

    assert run(loop, handler())


class TestCancelling:
    @pytest.fixture
    def cleaned_up(self) -> list[str]:
        return []

    @pytest.fixture
    def handler(self, cleaned_up: list[str]) -> Callable[[], Awaitable[None]]:
        async def handler() -> None:
            try:
                await endless()
            finally:
                await asyncio.sleep(0)
                cleaned_up.append("finally")

        return handler

    def test_a_lost_run_is_cancelled_and_its_cleanup_runs(
        self, loop: EventLoop, handler: Callable[[], Awaitable[None]], cleaned_up: list[str]
    ) -> None:
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(run, loop, handler())
            while not loop.lose("t"):
                pass
            with pytest.raises(JobAborted):
                result.result(SECONDS)
        assert cleaned_up in ([], ["finally"])  # the job may be lost before the handler's first step
        assert not loop.lose("t")

    def test_a_lost_run_is_noticed_without_the_renewer(
        self,
        loop: EventLoop,
        handler: Callable[[], Awaitable[None]],
        cleaned_up: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(event_loop, "CHECK_SECONDS", 0.01)
        with pytest.raises(JobAborted):
            run(loop, handler(), lost=lambda: True)
        assert cleaned_up == ["finally"]

    def test_the_soft_time_limit_cancels_it(
        self, loop: EventLoop, handler: Callable[[], Awaitable[None]], cleaned_up: list[str]
    ) -> None:
        with pytest.raises(SoftTimeLimitExceeded):
            run(loop, handler(), soft_limit=0.05)
        assert cleaned_up == ["finally"]

    def test_a_handler_may_return_a_part_at_its_soft_time_limit(self, loop: EventLoop) -> None:
        async def handler() -> str:
            try:
                await endless()
            except asyncio.CancelledError:
                return "half"
            return "whole"

        assert run(loop, handler(), soft_limit=0.05) == "half"

    def test_an_exception_in_the_cleanup_at_the_soft_time_limit_is_raised(self, loop: EventLoop) -> None:
        async def handler() -> None:
            try:
                await endless()
            finally:
                raise ValueError("in the cleanup")

        with pytest.raises(ValueError, match="in the cleanup"):
            run(loop, handler(), soft_limit=0.05)

    def test_the_value_of_a_lost_run_does_not_count(self, loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_loop, "CHECK_SECONDS", 0.01)

        async def handler() -> str:
            with suppress(asyncio.CancelledError):
                await endless()
            return "too late"

        with pytest.raises(JobAborted):
            run(loop, handler(), lost=lambda: True)

    def test_a_handler_that_ignores_its_cancellation_is_left(
        self, loop: EventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(event_loop, "CANCEL_SECONDS", 0.05)
        go_on = threading.Event()

        async def handler() -> None:
            while not go_on.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    continue

        with pytest.raises(SoftTimeLimitExceeded):
            run(loop, handler(), soft_limit=0.05)
        assert "still runs" in caplog.text
        go_on.set()

    def test_an_interrupted_thread_cancels_its_handler(self, loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        ended = threading.Event()

        async def handler() -> None:
            try:
                await endless()
            finally:
                ended.set()

        def interrupted() -> bool:
            raise SystemExit(1)

        monkeypatch.setattr(event_loop, "CHECK_SECONDS", 0.05)
        with pytest.raises(SystemExit):
            run(loop, handler(), lost=interrupted)
        assert ended.wait(SECONDS)
