"""An application with one handler, whose configuration is in ``PROJ_CONF``."""

from __future__ import annotations

from mr_celery import modelreins_job

from .proj_base import new_app, upper_of

app = new_app("upper")


@modelreins_job
@app.task
def upper(prompt: str) -> str:
    return upper_of(prompt)
