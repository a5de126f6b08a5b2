"""The Celery application of the benchmarks."""

from __future__ import annotations

import os

from celery import Celery

from mr_celery import modelreins_job

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@modelreins_job
@app.task(name="bench.nothing")
def nothing(prompt: str) -> str:
    return ""
