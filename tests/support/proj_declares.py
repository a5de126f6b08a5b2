"""An application with the capabilities in ``PROJ_DECLARES``, such as ``{"image.generate": "audit", "x": null}``."""

from __future__ import annotations

import json
import os

from celery import Celery

from mr_celery import modelreins_job

app = Celery("declares", broker=os.environ.get("PROJ_BROKER", "memory://"))

for capability, tier in json.loads(os.environ["PROJ_DECLARES"]).items():

    @modelreins_job(capability, risk_tier=tier)
    @app.task(name=f"declares.{capability}")
    def handle(prompt: str) -> str:
        return prompt


@modelreins_job(tags=["large"])
@app.task
def tagged(prompt: str) -> str:
    return prompt


@modelreins_job
@app.task
def anything(prompt: str) -> str:
    return prompt
