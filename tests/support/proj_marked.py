"""An application whose handlers put the prompt into outputs, files and exceptions."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import Task, signals

from mr_celery import Artifact, Escalate, Job, JobFailed, Result, Review, modelreins_job, worker

from .proj_base import new_app, note

app = new_app("marked")
logger = logging.getLogger(__name__)


def tell(job: Job, error: BaseException) -> None:
    """An ``on_error=`` callback that records the exception and raises."""
    note(f"on_error {type(error).__name__} {error}")
    raise KeyError(f"{job.prompt} in on_error")


class Watching(Task):  # type: ignore[type-arg]
    """A task with hooks that record the real exceptions."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"on_failure {type(exc).__name__} {exc}")

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"on_retry {type(exc).__name__} {exc}")


@signals.task_failure.connect
def on_task_failure(exception: Any = None, **_: Any) -> None:
    note(f"task_failure {type(exception).__name__} {exception}")
    if "in a signal" in str(exception):
        raise LookupError(f"a signal's handler, of {exception}")


class Unpicklable(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt)
        self.lock = lambda: None


class Expected(Exception):
    """An exception in a task's ``throws``."""


@modelreins_job("fine")
@app.task
def fine(job: Job) -> Result:
    text = Artifact(data=f"a text of {job.prompt}".encode(), content_type="text/plain", filename=f"{job.prompt}.txt")
    review = Review(type="text", title=f"Of {job.prompt}", content=f"see {job.prompt}", preview=text)
    uploaded = worker.upload_artifact(f"early {job.prompt}".encode(), "text/plain", filename=f"early {job.prompt}.txt")
    worker.submit_review("text", f"Early, of {job.prompt}", f"{job.prompt} {uploaded['slug']}")
    return Result(f"{job.prompt}, with {job['secret']}", artifacts=[text], reviews=[review])


@modelreins_job("leak", "leak.too", requires_secrets=["vault://prod/api-key"])
@app.task
def leaks(job: Job) -> str:
    logger.warning("the job is %r", dict(job))
    if job["capability"] == "leak.too":
        return f"done with {job['env']['API_KEY']}"
    raise ValueError(f"refused: {job['env']['API_KEY']}")


@modelreins_job("raise", on_error=tell)
@app.task(base=Watching)
def raises(prompt: str) -> str:
    try:
        raise KeyError(f"first {prompt}")
    except KeyError as error:
        raise ValueError(f"cannot draw {prompt}") from error


@modelreins_job("signal")
@app.task
def raises_in_a_signal(prompt: str) -> str:
    raise ValueError(f"in a signal: {prompt}")


class Clumsy(Task):  # type: ignore[type-arg]
    """A task with a hook that raises."""

    def on_failure(self, exc: Any, *args: Any) -> None:
        raise LookupError(f"on_failure, of {exc}")


@modelreins_job("clumsy")
@app.task(base=Clumsy)
def clumsy(prompt: str) -> str:
    raise ValueError(f"clumsy {prompt}")


@modelreins_job("unpicklable")
@app.task(base=Watching)
def unpicklable(prompt: str) -> str:
    raise Unpicklable(f"cannot send {prompt}")


@modelreins_job("throws")
@app.task(base=Watching, throws=(Expected,))
def throws(prompt: str) -> str:
    raise Expected(f"as expected {prompt}")


@modelreins_job("retry")
@app.task(base=Watching, bind=True, max_retries=1)
def retries(self: Any, prompt: str) -> str:
    if self.request.retries == 0:
        raise self.retry(exc=OSError(f"not yet {prompt}"), countdown=0.1)
    return prompt


@modelreins_job("autoretry")
@app.task(base=Watching, autoretry_for=(OSError,), retry_kwargs={"countdown": 0.1, "max_retries": 1})
def autoretries(prompt: str) -> str:
    raise OSError(f"never {prompt}")


@modelreins_job("escalate")
@app.task
def escalates(prompt: str) -> str:
    raise Escalate(f"who knows {prompt}")


@modelreins_job("fail")
@app.task
def fails(prompt: str) -> str:
    log = Artifact(data=f"log of {prompt}".encode(), content_type="text/plain", filename=f"{prompt}.txt")
    raise JobFailed(f"no {prompt}", artifacts=[log])


@modelreins_job("unreadable")
@app.task
def unreadable(prompt: str) -> Artifact:
    return Artifact(path=f"/nowhere/{prompt}.txt")


@modelreins_job("too-large")
@app.task
def too_large(prompt: str) -> Artifact:
    return Artifact(data=b"x" * 3 * 2**20, content_type="text/plain", filename=f"{prompt}.txt")


@modelreins_job("exit")
@app.task
def exits(prompt: str) -> str:
    raise SystemExit(f"exit {prompt}")


@modelreins_job("memory")
@app.task
def memory(prompt: str) -> str:
    raise RuntimeError(f"out of {prompt}") from MemoryError(prompt)


@modelreins_job("soft-limit")
@app.task(soft_time_limit=1)
def soft_limit(prompt: str) -> str:
    try:
        raise ValueError(f"before the limit {prompt}")
    except ValueError:
        time.sleep(30)
    return prompt


@modelreins_job("hard-limit")
@app.task(time_limit=1)
def hard_limit(prompt: str) -> str:
    time.sleep(30)
    return prompt


@modelreins_job("die", max_attempts=2)
@app.task
def dies(prompt: str) -> str:
    os.kill(os.getpid(), 9)
    return prompt


def wrong_match(job: Job) -> bool:
    raise ValueError(f"cannot match {job.prompt}")


@modelreins_job("match", match=wrong_match)
@app.task
def matched(prompt: str) -> str:
    return prompt


def wrong_arguments(job: Job) -> dict[str, Any]:
    raise ValueError(f"cannot prepare {job.prompt}")


@modelreins_job("arguments", arguments=wrong_arguments)
@app.task
def argued(prompt: str) -> str:
    return prompt


@app.task
def plain(text: str) -> str:
    """A task without jobs, whose exceptions are not redacted."""
    raise ValueError(f"plain {text}")
