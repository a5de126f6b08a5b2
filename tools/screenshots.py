"""Shared by the tools that take screenshots: an installation's environment, its jobs, waiting, and small files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mr_celery.demo.run import EXAMPLES
from mr_celery.local.redis import EmbeddedRedis
from mr_celery.sandbox import Sandbox

IMAGES = Path(__file__).parent.parent / "docs" / "images"
TIMEOUT = 90.0
"""Timeout of each step, in seconds."""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition is true.

    Raises:
        TimeoutError: the condition was not met in time.
    """
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def environment(sandbox: Sandbox, redis: EmbeddedRedis, name: str) -> dict[str, str]:
    """The settings of bridges, workers and commands with a worker name."""
    return {
        "CELERY_BROKER_URL": redis.broker_url(),
        "MODELREINS_LEDGER_URL": redis.ledger_url(),
        "MODELREINS_URL": sandbox.url,
        "MODELREINS_TOKEN": sandbox.token,
        "MODELREINS_NAME": name,
        "MODELREINS_POLL_INTERVAL": "0.5",
    }


def run_jobs(sandbox: Sandbox, name: str, *, times: int = 1) -> list[int]:
    """Dispatch the demo's jobs a number of times, and wait until they are over. Returns their ids."""
    jobs = []
    for example in EXAMPLES * times:
        fields = {**example.fields, **({"capability": example.capability} if example.capability else {})}
        jobs.append(int(sandbox.dispatch(example.prompt, worker=name, **fields)["id"]))
    until(lambda: all(sandbox.store.job(job)["closed_at"] for job in jobs), "all jobs are over")
    return jobs


def save(picture: Image.Image, file: Path, colours: int, method: Image.Quantize | None = None) -> None:
    """Save a picture with a small colour palette, which suits text."""
    picture.convert("RGB").quantize(colours, method).save(file, optimize=True)
