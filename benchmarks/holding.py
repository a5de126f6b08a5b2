"""The benchmark application with an additional queue whose jobs only wait."""

from __future__ import annotations

import time

from application import app

from mr_celery import modelreins_job


@modelreins_job("hold")
@app.task(name="bench.hold", queue="held")
def hold(prompt: str = "") -> str:
    """Blocks its queue."""
    time.sleep(3600)
    return ""
