"""The application for upgrade tests, with a handler for each way that a job can go.

Processes of this version and of the previous one run it, so it uses only features of both.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Task, chain, chord

from mr_celery import Artifact, Deferred, Job, Result, Review, modelreins_job

from .proj_base import new_app, note

SECONDS = 0.2
"""The time that most handlers take."""

app = new_app()


def begin(text: str) -> str:
    note(text)
    time.sleep(SECONDS)
    return text.upper()


@modelreins_job
@app.task
def plain(prompt: str) -> str:
    return begin(prompt)


@modelreins_job("artifacts")
@app.task
def artifacts(prompt: str) -> Result:
    """Creates a small artifact, which the ledger stores, and a large one, which it does not."""
    result = begin(prompt)
    small = Artifact(data=prompt.encode(), content_type="text/plain", filename="small.txt")
    large = Artifact(data=bytes(2**20 + 1), content_type="application/pdf", filename="large.pdf")
    return Result(result, artifacts=[small, large], reviews=[Review(type="text", title="Look", preview=small)])


@modelreins_job("retry")
@app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0.5, "max_retries": 2})
def retries(self: Task[Any, Any], prompt: str) -> str:
    if self.request.retries < 2:
        begin(f"{prompt} fails, retry {self.request.retries}")
        raise OSError("not yet")
    return begin(prompt)


@modelreins_job("fail")
@app.task
def fails(prompt: str) -> str:
    raise ValueError(begin(prompt))


@modelreins_job("defer")
@app.task
def defers(job: Job) -> Deferred:
    """Gives the job's reference to the web hooks of ``support.web_hooks``."""
    begin(job.prompt)
    with open(f"{os.environ['PROJ_RUNS']}.refs", "a") as file:
        file.write(f"{job.id}\t{job.prompt}\t{job.ref}\n")
    return Deferred(timeout=600)


@app.task
def member(text: str, number: int) -> str:
    begin(f"member {number} of {text}")
    return text


@app.task
def last(text: str) -> str:
    begin(f"last member of {text}")
    return text.upper()


@app.task
def joined(texts: list[str]) -> str:
    return last.run(texts[0])


@modelreins_job("chain")
@app.task
def hands_over(prompt: str) -> Any:
    begin(prompt)
    return chain(member.s(prompt, 1), member.s(2), last.s())


@modelreins_job("chord")
@app.task
def hands_over_to_many(prompt: str) -> Any:
    begin(prompt)
    return chord([member.s(prompt, number) for number in range(3)], joined.s())


@modelreins_job("abort")
@app.task
def waits_for_abort(job: Job) -> None:
    """Never ends by itself."""
    note(job.prompt)
    while True:
        job.raise_if_aborted()
        time.sleep(0.05)
