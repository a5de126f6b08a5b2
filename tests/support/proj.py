"""The Celery application of the acceptance tests. Every handler records its start in a file."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

from celery import Task, shared_task

from mr_celery import Artifact, Escalate, Job, JobAborted, Result, Review, modelreins_job, worker

from .proj_base import new_app, note, wait_for_gate

app = new_app()


@modelreins_job
@app.task
def upper(prompt: str) -> str:
    """Runs jobs that no other handler takes."""
    note(prompt)
    return prompt.upper()


@modelreins_job("sleep")
@shared_task
def sleep(prompt: str, seconds: float = 1.0) -> str:
    note(prompt)
    time.sleep(seconds)
    return prompt


def spanning(prompt: str, seconds: float) -> str:
    note(f"begin {prompt}")
    try:
        time.sleep(seconds)
        return prompt.upper()
    finally:
        note(f"end {prompt}")


@modelreins_job("span")
@app.task
def spans(prompt: str, seconds: float = 1.0) -> str:
    """Records when it begins and when it ends, however it ends."""
    return spanning(prompt, seconds)


@modelreins_job("span-once", on_lost="fail")
@app.task
def spans_once(prompt: str, seconds: float = 1.0) -> str:
    """The same, but must not be run twice."""
    return spanning(prompt, seconds)


@modelreins_job("gated")
@app.task
def gated(prompt: str) -> str:
    """Waits for a file that the test creates."""
    note(prompt)
    wait_for_gate()
    return prompt.upper()


@modelreins_job("hang", on_lost="fail")
@app.task
def must_not_rerun(prompt: str) -> str:
    note(prompt)
    time.sleep(60)
    return prompt


@modelreins_job("ask")
@app.task
def asks(job: Job) -> str:
    """Checks for an abort continuously."""
    note(job.prompt)
    try:
        for _ in range(1200):
            job.raise_if_aborted()
            time.sleep(0.05)
    except JobAborted:
        note(f"{job.prompt} stopped")
        raise
    return job.prompt


@modelreins_job("tidy", on_error=lambda job, error: note(f"{job.prompt} failed"))
@app.task
def tidies(prompt: str) -> str:
    """Does not check for an abort, and cleans up in any case."""
    note(prompt)
    try:
        time.sleep(60)
    finally:
        note(f"{prompt} tidied")
    return prompt


@modelreins_job("who")
@app.task
def who(prompt: str) -> str:
    """Runs as long as its worker's environment says, and returns the worker's name."""
    note(prompt)
    time.sleep(float(os.environ["PROJ_SECONDS"]))
    return os.environ["PROJ_WHO"]


@modelreins_job("raise")
@app.task
def fails(prompt: str) -> str:
    note(prompt)
    raise ValueError(f"cannot do {prompt}")


@modelreins_job("escalate")
@app.task(autoretry_for=(Exception,), retry_kwargs={"countdown": 0.1, "max_retries": 1})
def escalates(job: Job) -> str:
    raise Escalate(f"look at job {job.id}")


@modelreins_job("json")
@app.task
def data(job: Job) -> Any:
    return {"prompt": job.prompt, "fields": sorted(job)}


@modelreins_job("retry")
@app.task(bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.5, "max_retries": 3})
def retries(self: Task[Any, Any], prompt: str) -> str:
    note(prompt)
    if self.request.retries < 2:
        raise KeyError("not yet")
    return f"{prompt} after {self.request.retries} retries"


@modelreins_job("own-retry")
@app.task(bind=True)
def own_retry(self: Task[Any, Any], prompt: str, again: bool = False) -> str:
    note(prompt)
    if not again:
        raise self.retry(kwargs={"again": True}, countdown=0.2)
    return f"{prompt} again"


@modelreins_job("hand-on")
@app.task(bind=True)
def hands_on(self: Task[Any, Any], prompt: str, again: bool = False) -> str:
    """Retries with an additional argument and the job's prompt."""
    note(prompt)
    if not again:
        raise self.retry(kwargs={"prompt": prompt, "again": True}, countdown=0.1)
    return prompt.upper()


@modelreins_job("limit")
@app.task(time_limit=1)
def hard_limit(prompt: str) -> str:
    note(prompt)
    time.sleep(60)
    return prompt


@modelreins_job("soft-limit")
@app.task(soft_time_limit=1)
def soft_limit(prompt: str) -> str:
    note(prompt)
    time.sleep(60)
    return prompt


@modelreins_job("die")
@app.task
def dies(prompt: str) -> str:
    note(prompt)
    os.kill(os.getpid(), 9)
    return prompt


@modelreins_job("late")
@app.task(acks_late=True, reject_on_worker_lost=True)
def late(prompt: str, seconds: float = 1.0, deadly: bool = False, gate: str = "") -> str:
    """Uses Celery's own protection against lost tasks."""
    note(prompt)
    if deadly:
        os.kill(os.getpid(), 9)
    while gate and not os.path.exists(gate):
        time.sleep(0.05)
    time.sleep(seconds)
    return prompt.upper()


@modelreins_job("nap")
@app.task
def nap(prompt: str, seconds: float = 0.1) -> str:
    note(prompt)
    select.select([], [], [], seconds)  # time.sleep() may fail if a test shifts the clock
    return prompt.upper()


@modelreins_job("exit")
@app.task
def exits(prompt: str) -> str:
    sys.exit(3)


@modelreins_job("image")
@app.task
def image(job: Job) -> Result:
    picture = Artifact(data=b"\x89PNG not really", content_type="image/png", filename=f"job {job.id}.png")
    review = Review(type="generated_image", title="A picture", content=job.prompt, preview=picture, target="marketing")
    return Result("made it", artifacts=[picture], reviews=[review])


@modelreins_job("poster")
@app.task
def poster(prompt: str) -> Result:
    note(prompt)
    picture = Artifact(data=prompt.encode(), content_type="image/png", filename="poster.png")
    return Result(
        prompt.upper(), artifacts=[picture], reviews=[Review(type="image", title="Poster", content="", preview=picture)]
    )


@modelreins_job("large")
@app.task
def large(job: Job) -> Artifact:
    return Artifact(data=b"x" * (3 * 1024 * 1024), content_type="application/pdf", filename="large.pdf")


@modelreins_job("sdk")
@app.task
def like_the_sdk(job: Job) -> str:
    art = worker.upload_artifact(data=b"png", content_type="image/png", filename=f"job-{job['id']}.png")
    worker.submit_review(
        type="generated_image",
        title=f"Job {job['id']}",
        content=f"Generated by {worker.name}",
        preview=f"{worker.url}{art['url']}",
    )
    return f"Uploaded artifact {art['slug']}"


@modelreins_job("class")
class Counting(app.Task):  # type: ignore[name-defined,misc]
    """A class-based task with its own options."""

    name = "proj.counting"
    autoretry_for = (OSError,)
    retry_kwargs = {"countdown": 0.2}  # noqa: RUF012 - Celery's own way

    def run(self, prompt: str) -> str:
        note(prompt)
        if self.request.retries == 0:
            raise OSError("first")
        return f"{prompt}: {len(prompt)}"


app.register_task(Counting())


@modelreins_job("other-queue")
@app.task(queue="other", rate_limit="100/s")
def in_other_queue(prompt: str) -> str:
    return prompt


@app.task
def plain(text: str) -> str:
    """Takes no jobs."""
    return text
