"""The Celery application of the benchmarks."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from celery import Celery

from mr_celery import Artifact, modelreins_job

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@modelreins_job
@app.task(name="bench.nothing")
def nothing(prompt: str = "") -> str:
    """Does nothing."""
    return ""


@modelreins_job("wait")
@app.task(name="bench.wait")
def wait(prompt: str = "") -> str:
    """Sleeps for 100 ms, like a call to a model."""
    time.sleep(0.1)
    return ""


@modelreins_job("burn")
@app.task(name="bench.burn")
def burn(prompt: str = "") -> str:
    """Uses 20 ms of CPU time."""
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass
    return ""


@modelreins_job("since")
@app.task(name="bench.since")
def since(prompt: str) -> str:
    """Returns the seconds since the time in the prompt."""
    return repr(time.time() - float(prompt))


@modelreins_job("nap")
@app.task(name="bench.nap")
def nap(prompt: str, seconds: float) -> str:
    """Runs for a while, and returns the time at its end."""
    time.sleep(seconds)
    return repr(time.time())


@modelreins_job("await")
@app.task(name="bench.await")
async def awaits(prompt: str = "") -> str:
    """Awaits for 1 s, like a slow call to a model with an async client."""
    await asyncio.sleep(1.0)
    return ""


@modelreins_job("upload")
@app.task(name="bench.upload")
def upload(prompt: str) -> Artifact:
    """Attaches the file named in the prompt."""
    return Artifact(path=prompt)


@modelreins_job("mark")
@app.task(name="bench.mark")
def mark(prompt: str) -> str:
    """Appends the time to the file named in the prompt, and does not end."""
    with Path(prompt).open("a") as file:
        file.write(f"{time.time()}\n")
    time.sleep(3600)
    return ""
