"""Tasks that were there before, each made to take jobs by one line. Their other callers notice nothing."""

from typing import Any

from celery import Celery, Task, shared_task

from mr_celery import Escalate, Job, modelreins_job

app = Celery("proj")
app.conf.task_routes = {"proj.summarize": {"queue": "texts"}}


@modelreins_job("text.summarize")
@app.task(name="proj.summarize", soft_time_limit=60)
def summarize(prompt: str, max_words: int = 20) -> str:
    """Parameters are filled with the job's fields of the same names."""
    return " ".join(prompt.split()[:max_words])


@modelreins_job("web.fetch")
@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=5)
def fetch(self: Task[Any, Any], url: str) -> dict[str, Any]:
    """Celery's retries go on as ever; data becomes JSON."""
    return {"url": url, "retries": self.request.retries}


@modelreins_job("invoice.check", tags=["finance"], on_lost="fail")
@shared_task
def check_invoice(job: Job) -> str:
    """Must not run twice: it books something. And it knows when to ask a human."""
    if float(job.get("amount", 0)) > 10_000:
        raise Escalate("more than 10 000: a human has to sign")
    return "booked"


@modelreins_job(
    match=lambda job: job.model.startswith("whisper"), arguments=lambda job: {"source": job["input"]["url"]}
)
@app.task(queue="gpu", rate_limit="10/m")
def transcribe(source: str) -> str:
    """A parameter with another name than the job's field."""
    return f"transcript of {source}"
