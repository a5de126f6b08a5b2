"""The application for deferred jobs. Handlers append their prompts and references to the file ``PROJ_RUNS.refs``."""

from __future__ import annotations

import os
from pathlib import Path

from mr_celery import Deferred, Job, Review, modelreins_job, worker

from .proj import app
from .proj_base import note, wait_for_gate

__all__ = ["app"]


def deferral(job: Job, seconds: float = 3600.0) -> Deferred:
    """Write down the job's reference, and record the run."""
    with open(f"{os.environ['PROJ_RUNS']}.refs", "a") as file:
        file.write(f"{job.prompt}\t{job.ref}\n")
    note(job.prompt)
    return Deferred(timeout=seconds, note=f"order of {job.prompt}")


@modelreins_job("later")
@app.task
def later(job: Job, first_timeout: float = 3600.0) -> Deferred:
    """Waits for an hour, except for the first run."""
    is_first = job.prompt not in Path(os.environ["PROJ_RUNS"]).read_text().split("\n")
    return deferral(job, first_timeout if is_first else 3600.0)


@modelreins_job("later-once", on_lost="fail")
@app.task
def later_once(job: Job, seconds: float = 3600.0) -> Deferred:
    return deferral(job, seconds)


@modelreins_job("later-raised")
@app.task(autoretry_for=(Exception,), retry_kwargs={"countdown": 0.1, "max_retries": 3})
def later_raised(job: Job) -> None:
    raise deferral(job)


@modelreins_job("later-async")
@app.task
async def later_async(job: Job) -> Deferred:
    return deferral(job)


@modelreins_job("later-attached")
@app.task
def later_attached(job: Job) -> Deferred:
    """Attaches a sketch and a review of its own."""
    sketch = worker.upload_artifact(b"sketch", content_type="image/png", filename="sketch.png")
    worker.submit_review(type="image", title="Sketch", content="first look", preview=sketch["slug"])
    return deferral(job)


@modelreins_job("later-shaped", result=lambda value: f"shaped {value}", review=Review("text", "Look at it", "…"))
@app.task
def later_shaped(job: Job) -> Deferred:
    return deferral(job)


@modelreins_job("slow-to-return")
@app.task
def slow_to_return(job: Job) -> Deferred:
    """Returns only once a file exists."""
    worker.upload_artifact(b"sketch", content_type="image/png", filename="sketch.png")
    deferred = deferral(job)
    wait_for_gate()
    return deferred
