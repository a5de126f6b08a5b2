"""The application for crash points, with handlers that trigger every effect."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

from celery import Task, chain
from celery.exceptions import Reject
from kombu import serialization
from kombu.utils import json

from mr_celery import Artifact, Deferred, Job, Result, complete, modelreins_job, worker
from mr_celery.celery_worker.function_retries import FunctionRetries

from . import crash
from .proj import app
from .proj_base import note

__all__ = ["app"]

crash.install()


def first_time(prompt: str) -> bool:
    """Record a run. Returns whether it is the first one with this prompt."""
    note(prompt)
    return Path(os.environ["PROJ_RUNS"]).read_text().split("\n").count(prompt) == 1


@modelreins_job("child-dies")
@app.task
def child_dies(prompt: str) -> str:
    if first_time(prompt):
        os.kill(os.getpid(), signal.SIGKILL)
    return prompt.upper()


@modelreins_job("node-dies")
@app.task
def node_dies(prompt: str) -> str:
    if first_time(prompt):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    return prompt.upper()


@modelreins_job("stuck-once")
@app.task
def stuck_once(prompt: str) -> str:
    """Runs until it is interrupted, and returns immediately on the second run."""
    if first_time(prompt):
        time.sleep(60)
    return prompt.upper()


@modelreins_job("film")
@app.task
def film(prompt: str) -> Result:
    note(prompt)
    return Result(prompt.upper(), artifacts=[Artifact(data=bytes(2 * 2**20), filename="film.mp4")])


@modelreins_job("given-back")
@app.task(bind=True, acks_late=True)
def given_back(self: Task[Any, Any], prompt: str) -> str:
    if first_time(prompt):
        raise Reject("not now", requeue=True)
    return prompt.upper()


def not_ready(job: Job) -> dict[str, Any]:
    """Raises until a run has given its attempt back, or has died while it did."""
    flag = Path(f"{os.environ['PROJ_RUNS']}.{job.id}.not-ready")
    if not flag.exists():
        flag.touch()
    if time.time() - flag.stat().st_mtime < FunctionRetries.seconds:
        raise sqlite3.OperationalError("away")
    return {"prompt": job.prompt}


@modelreins_job("not-ready", arguments=not_ready)
@app.task
def waits_for_its_database(prompt: str) -> str:
    note(prompt)
    return prompt.upper()


@modelreins_job("retried")
@app.task(bind=True)
def retried(self: Task[Any, Any], prompt: str, countdown: float) -> str:
    note(prompt)
    if self.request.retries == 0:
        raise self.retry(countdown=countdown)
    return prompt.upper()


@app.task
def step(prompt: str, seconds: float = 0.0) -> str:
    """A member of a workflow."""
    time.sleep(seconds)
    return prompt


@app.task
def shout(prompt: str) -> str:
    return prompt.upper()


@app.task
def sketch(prompt: str) -> None:
    """A member whose upload waits for the job's outcome if the bridge delivers."""
    worker.upload_artifact(b"sketch", content_type="image/png")


@modelreins_job("sketched")
@app.task
def sketched(prompt: str) -> Any:
    note(prompt)
    return chain(sketch.si(prompt), shout.si(prompt))


@app.task
def node_dies_once(prompt: str) -> None:
    if first_time(f"member of {prompt}"):
        os.killpg(os.getpgid(0), signal.SIGKILL)


@modelreins_job("workflow")
@app.task
def workflow(prompt: str, seconds: float = 0.0) -> Any:
    note(prompt)
    return chain(step.si(prompt, seconds), shout.si(prompt))


@modelreins_job("node-dies-in-workflow")
@app.task
def node_dies_in_workflow(prompt: str) -> Any:
    note(prompt)
    return chain(node_dies_once.si(prompt), shout.si(prompt))


@modelreins_job("deferring")
@app.task
def deferring(job: Job) -> Deferred:
    note(job.prompt)
    Path(f"{os.environ['PROJ_RUNS']}.{job.id}.ref").write_text(job.ref)
    return Deferred(timeout=60)


@modelreins_job("hooked-early")
@app.task
def hooked_early(job: Job) -> Deferred:
    """Its job is completed before it returns."""
    note(job.prompt)
    worker.upload_artifact(b"sketch", content_type="image/png")
    assert complete(job.ref, job.prompt.upper())
    return Deferred(timeout=60)


def _encode(body: Any) -> str:
    if os.path.exists(f"{os.environ['PROJ_RUNS']}.unpublishable"):
        raise ValueError("no message can be made of it now")
    return str(json.dumps(body))


serialization.register("picky", _encode, json.loads, content_type="application/json", content_encoding="utf-8")


@modelreins_job("picky")
@app.task(serializer="picky")
def picky(prompt: str) -> str:
    """Its message cannot be created until the test allows it."""
    note(prompt)
    return prompt.upper()


@modelreins_job("too-slow")
@app.task(time_limit=1)
def too_slow(prompt: str) -> str:
    note(prompt)
    time.sleep(60)
    return prompt
