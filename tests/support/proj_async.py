"""An application with ``async def`` handlers. Each records what happens to it in a file."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from celery import Celery, Task

from mr_celery import Escalate, Job, Result, Review, modelreins_job, worker

from .proj import note

app = Celery("proj", broker=os.environ["PROJ_BROKER"])
app.conf.broker_connection_retry_on_startup = True
loops: list[asyncio.AbstractEventLoop] = []


@modelreins_job("wait")
@app.task
async def waits(prompt: str, seconds: float = 0.1) -> str:
    note(prompt)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note(f"cancelled {prompt}")
        raise
    finally:
        await asyncio.sleep(0)
        note(f"end {prompt}")
    return prompt.upper()


@modelreins_job("loop")
@app.task
async def which_loop(prompt: str) -> str:
    """Returns the process and the event loop that it runs on."""
    note(prompt)
    loop = asyncio.get_running_loop()
    loops.append(loop)
    return f"{os.getpid()} {loops.index(loop)}"


@modelreins_job("limited")
@app.task(soft_time_limit=1)
async def limited(prompt: str) -> str:
    note(prompt)
    try:
        await asyncio.sleep(60)
    finally:
        note(f"end {prompt}")
    return "too late"


@modelreins_job("part")
@app.task(soft_time_limit=1)
async def part(prompt: str) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return f"a part of {prompt}"
    return "too late"


@modelreins_job("retry")
@app.task(bind=True, max_retries=3)
async def retries(self: Task[Any, Any], prompt: str) -> str:
    note(prompt)
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return f"{prompt} after {self.request.retries} retries"


@modelreins_job("autoretry")
@app.task(bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.1})
async def retries_by_itself(self: Task[Any, Any], prompt: str) -> str:
    note(prompt)
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise KeyError("not yet")
    return f"{prompt} after {self.request.retries} retries"


@modelreins_job("fail")
@app.task
async def fails(prompt: str) -> str:
    await asyncio.sleep(0)
    raise ValueError(f"cannot do {prompt}")


@modelreins_job("escalate")
@app.task
async def escalates(job: Job) -> str:
    await asyncio.sleep(0)
    raise Escalate(f"look at job {job.id}")


@modelreins_job("cancel-itself")
@app.task
async def cancels_itself(prompt: str) -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)
    return "too late"


@modelreins_job("swallow")
@app.task
async def swallows(prompt: str) -> str:
    """Ignores each cancellation."""
    note(prompt)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            note(f"ignored {prompt}")
    return "too late"


@modelreins_job("attach")
@app.task
async def attaches(prompt: str) -> Result:
    uploaded = await worker.aupload_artifact(data=prompt.encode(), content_type="text/plain", filename="a.txt")
    await worker.asubmit_review("note", "A note", f"see {uploaded['slug']}")
    return Result(f"{worker.name} {uploaded['slug']}", reviews=[Review("note", "Another")])


@modelreins_job("group")
@app.task(bind=True)
async def gathers(self: Task[Any, Any], job: Job) -> str:
    """Its own tasks see the same Celery task and the same job."""

    async def child(number: int) -> str:
        await asyncio.sleep(0.01 * number)
        return f"{self.request.id} {worker.name}"

    return "\n".join(await asyncio.gather(*(child(number) for number in range(3))))


@app.task
async def plain(prompt: str) -> str:
    return prompt
