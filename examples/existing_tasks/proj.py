"""Existing tasks that run jobs with one more line each. Other callers see no change."""

from typing import Any

from celery import Celery, Task, shared_task

from mr_celery import Escalate, Job, modelreins_job

app = Celery("proj")
app.conf.task_routes = {"proj.summarize": {"queue": "texts"}, "proj.transcribe": {"queue": "gpu"}}


@modelreins_job("text.summarize")
@app.task(name="proj.summarize", soft_time_limit=60)
def summarize(prompt: str, max_words: int = 20) -> str:
    """The job's fields are passed as arguments of the same names."""
    return " ".join(prompt.split()[:max_words])


@modelreins_job("web.fetch")
@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=5)
def fetch(self: Task[Any, Any], url: str) -> dict[str, Any]:
    """Celery's retries work as usual. A dictionary is returned as JSON."""
    return {"url": url, "retries": self.request.retries}


@modelreins_job("invoice.check", tags=["finance"], on_lost="fail")
@shared_task
def check_invoice(job: Job) -> str:
    """Books something, so it must not run twice. Escalates large amounts."""
    if float(job.get("amount", 0)) > 10_000:
        raise Escalate("more than 10 000: a human has to sign")
    return "booked"


@modelreins_job(
    match=lambda job: job.model.startswith("whisper"), arguments=lambda job: {"source": job["input"]["url"]}
)
@app.task(rate_limit="10/m")
def transcribe(source: str) -> str:
    """A parameter with another name than the job's field."""
    return f"transcript of {source}"
