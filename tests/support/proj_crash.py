"""The application of the crash points: handlers that lead to every effect there is, and the points around these."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task
from celery.exceptions import Reject

from mr_celery import Artifact, Result, modelreins_job

from . import crash
from .proj import app, note

__all__ = ["app"]

crash.install()


def first_time(prompt: str) -> bool:
    """Note a run; whether it is the first one with this prompt."""
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
    """Runs until it is interrupted, and ends at once when it runs again."""
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


@modelreins_job("retried")
@app.task(bind=True)
def retried(self: Task[Any, Any], prompt: str, countdown: float) -> str:
    note(prompt)
    if self.request.retries == 0:
        raise self.retry(countdown=countdown)
    return prompt.upper()


@modelreins_job("too-slow")
@app.task(time_limit=1)
def too_slow(prompt: str) -> str:
    note(prompt)
    time.sleep(60)
    return prompt
