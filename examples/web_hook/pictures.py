"""A task that orders a picture from a provider, which calls a web hook when the picture is ready (see hooks.py)."""

import os

import requests
from celery import Celery

from mr_celery import Deferred, Job, modelreins_job

PROVIDER_URL = os.environ.get("PROVIDER_URL", "http://127.0.0.1:8001")
HOOKS_URL = os.environ.get("HOOKS_URL", "http://127.0.0.1:8002")  # https:// in production

app = Celery("pictures", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))


@modelreins_job("image.generate")
@app.task(autoretry_for=(requests.ConnectionError,), retry_backoff=True)
def generate(job: Job) -> Deferred:
    order = {"prompt": job.prompt, "hook": f"{HOOKS_URL}/hooks/pictures/{job.ref}"}
    response = requests.post(f"{PROVIDER_URL}/orders", json=order, timeout=30)
    response.raise_for_status()
    return Deferred(timeout=3600, note=f"order {response.json()['id']}")
