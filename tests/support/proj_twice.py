"""An application with two handlers for the same capability."""

from __future__ import annotations

from celery import Celery

from mr_celery import modelreins_job

app = Celery("twice", broker="redis://127.0.0.1:1/0")


@modelreins_job("a.b")
@app.task
def one(prompt: str) -> str:
    return prompt


@modelreins_job("a.b")
@app.task
def two(prompt: str) -> str:
    return prompt
