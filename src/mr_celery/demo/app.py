"""The demo's Celery application: one task of each kind."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery, Task

from mr_celery import Artifact, Escalate, Job, Result, Review, modelreins_job

from .picture import paint

app = Celery("mr_celery_demo")


@modelreins_job
@app.task
def shout(prompt: str) -> str:
    """Runs every job that no other handler accepts."""
    return prompt.upper()


@modelreins_job("text.count")
@app.task
def count(prompt: str) -> dict[str, int]:
    """Returns data, which becomes JSON text."""
    return {"words": len(prompt.split()), "characters": len(prompt)}


@modelreins_job("text.slow")
@app.task
def slow(prompt: str, seconds: float = 2.0) -> str:
    """Takes a while, without interrupting presence or delaying other jobs."""
    time.sleep(seconds)
    return f"{prompt}, after {seconds:g} s"


@modelreins_job("math.divide")
@app.task
def divide(dividend: float, divisor: float) -> str:
    """Fails the job if it raises, with the traceback as the output."""
    return f"{dividend / divisor:g}"


@modelreins_job("email.triage", risk_tier="approve")
@app.task
def triage(job: Job) -> str:
    """Escalates some jobs to a human."""
    if "angry" in job.prompt:
        raise Escalate("this customer wants to talk to a human")
    return "answered"


@modelreins_job("weather.fetch")
@app.task(bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 1, "max_retries": 3})
def weather(self: Task[Any, Any], prompt: str) -> str:
    """Uses Celery's retries."""
    if self.request.retries == 0:
        raise ConnectionError("the weather service does not answer")
    return f"{prompt}: sunny (at retry {self.request.retries})"


@modelreins_job("image.generate", risk_tier="audit")
@app.task
def generate(prompt: str) -> Result:
    """Uploads a picture as an artifact and submits it for review."""
    image = Artifact(data=paint(prompt), content_type="image/png", filename="poster.png")
    review = Review(
        type="generated_image", title=f"Poster: {prompt}", content="A draft.", preview=image, target="marketing"
    )
    return Result("made a poster", artifacts=[image], reviews=[review])
