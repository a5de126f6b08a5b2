"""An application whose handlers fail on purpose, and one that fails by mistake."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

from mr_celery import Escalate, JobFailed, modelreins_job

app = Celery("failing", broker=os.environ["PROJ_BROKER"])
app.conf.update(json.loads(os.environ.get("PROJ_CONF", "{}")))


class OutOfPaint(JobFailed):
    """The application's own failure, which cannot be unpickled."""

    def __init__(self, colour: str, litres: float) -> None:
        super().__init__(f"no {colour}: {litres} l")


@modelreins_job("meant")
@app.task
def meant(prompt: str) -> str:
    raise JobFailed(f"cannot: {prompt}")


@modelreins_job("meant.own")
@app.task
def meant_own(prompt: str) -> str:
    raise OutOfPaint(prompt, 0.5)


@modelreins_job("meant.retry")
@app.task(bind=True, max_retries=1)
def meant_after_a_retry(self: Any, prompt: str) -> str:
    raise self.retry(exc=JobFailed(f"cannot: {prompt}"), countdown=0)


@modelreins_job("meant.autoretry")
@app.task(autoretry_for=(JobFailed,), retry_kwargs={"max_retries": 1, "countdown": 0})
def meant_after_an_autoretry(prompt: str) -> str:
    raise JobFailed(f"cannot: {prompt}")


@modelreins_job("field")
@app.task
def needs_a_field(prompt: str, size: int) -> str:
    return prompt * size


@modelreins_job("escalate")
@app.task
def escalates(prompt: str) -> str:
    raise Escalate(f"who knows: {prompt}")


@modelreins_job("mistake")
@app.task
def mistake(prompt: str) -> str:
    raise ValueError(f"cannot draw {prompt}")


@modelreins_job("fine")
@app.task
def fine(prompt: str) -> str:
    return prompt.upper()
