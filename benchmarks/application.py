"""The Celery application of the benchmarks."""

from __future__ import annotations

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
    """Waits for 100 ms, as for a model's answer."""
    time.sleep(0.1)
    return ""


@modelreins_job("burn")
@app.task(name="bench.burn")
def burn(prompt: str = "") -> str:
    """Uses 20 ms of CPU."""
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass
    return ""


@modelreins_job("since")
@app.task(name="bench.since")
def since(prompt: str) -> str:
    """Tells how many seconds ago the time in the prompt was."""
    return repr(time.time() - float(prompt))


@modelreins_job("nap")
@app.task(name="bench.nap")
def nap(prompt: str, seconds: float) -> str:
    """Takes a while, and tells the time at its end."""
    time.sleep(seconds)
    return repr(time.time())


@modelreins_job("upload")
@app.task(name="bench.upload")
def upload(prompt: str) -> Artifact:
    """Attaches the file that the prompt names."""
    return Artifact(path=prompt)


@modelreins_job("mark")
@app.task(name="bench.mark")
def mark(prompt: str) -> str:
    """Adds the time to the file that the prompt names, and does not end."""
    with Path(prompt).open("a") as file:
        file.write(f"{time.time()}\n")
    time.sleep(3600)
    return ""
