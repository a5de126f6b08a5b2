"""The application of the soak test: that of the acceptance tests, and handlers whose jobs end elsewhere."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import chain

from mr_celery import Deferred, Job, modelreins_job

from .proj import app
from .proj_base import note

__all__ = ["app"]


@app.task
def shout(text: str) -> str:
    return text.upper()


@app.task
def pass_on(text: str) -> str:
    return text


@modelreins_job("async")
@app.task
async def awaits(prompt: str) -> str:
    """Waits on the event loop of its worker process."""
    note(prompt)
    await asyncio.sleep(0.5)
    return prompt.upper()


@modelreins_job("flow")
@app.task
def flow(prompt: str) -> Any:
    """Hands its job over to a workflow."""
    note(prompt)
    return chain(pass_on.s(prompt), shout.s(), pass_on.s())


@modelreins_job("order")
@app.task
def order(job: Job) -> Deferred:
    """Records the job's reference, with which the soak test completes it."""
    note(job.prompt)
    with open(f"{os.environ['PROJ_RUNS']}.refs", "a") as file:
        file.write(f"{job.prompt}\t{job.ref}\n")
    return Deferred(timeout=30)
