"""An application with a single handler."""

from __future__ import annotations

import os

from celery import Celery

from mr_celery import modelreins_job

app = Celery("few", broker=os.environ.get("PROJ_BROKER", "memory://"))


@modelreins_job("email.triage")
@app.task
def triage(prompt: str) -> str:
    return prompt
