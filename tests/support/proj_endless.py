"""The application for failing deliveries, whose processes give up after seconds instead of minutes.

``PROJ_BOUND`` is the number of failures and of seconds after which they give up.
"""

from __future__ import annotations

import os
from dataclasses import replace

from mr_celery import Artifact, Job, Result, Review, modelreins_job, worker
from mr_celery.delivery.giving_up import BOUNDS, Bound

from .proj_base import new_app, note

app = new_app()

if os.environ.get("PROJ_BOUND"):
    times, seconds = os.environ["PROJ_BOUND"].split()
    for evidence in ("ours", "passes"):
        BOUNDS[evidence] = Bound(int(times), float(seconds))  # type: ignore[index]
    for evidence in ("alone", "blocked", "away"):
        BOUNDS[evidence] = replace(BOUNDS[evidence], seconds=3600.0)  # type: ignore[index]


@modelreins_job
@app.task
def plain(prompt: str) -> str:
    note(prompt)
    return prompt.upper()


@modelreins_job("makes")
@app.task
def makes(job: Job) -> Result:
    """Creates as many artifacts and reviews as the job says."""
    note(job.prompt)
    artifacts = [Artifact(data=b"abc", filename=f"{job.prompt} {n}.txt") for n in range(job.get("artifacts", 0))]
    reviews = [Review("note", f"{job.prompt} {n}", "read it") for n in range(job.get("reviews", 0))]
    return Result(job.prompt.upper(), artifacts=artifacts, reviews=reviews)


@modelreins_job("large")
@app.task
def large(job: Job) -> Artifact:
    """Creates an artifact that is too large for the ledger."""
    note(job.prompt)
    return Artifact(data=bytes(2 * 2**20), filename=f"{job.prompt}.bin")


@modelreins_job("at-once")
@app.task
def at_once(job: Job) -> str:
    """A handler of the SDK."""
    note(job.prompt)
    art = worker.upload_artifact(b"abc", "text/plain", filename=f"{job.prompt}.txt")
    worker.submit_review("note", job.prompt, "read it", preview=art["slug"])
    return job.prompt.upper()
