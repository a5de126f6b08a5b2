"""The application of the benchmarks, with a queue whose jobs only wait."""

from __future__ import annotations

import time

from application import app

from mr_celery import modelreins_job


@modelreins_job("hold")
@app.task(name="bench.hold", queue="held")
def hold(prompt: str = "") -> str:
    """Holds up what comes after it."""
    time.sleep(3600)
    return ""
