"""Takes the screenshots of Flower in docs/images: a real fleet with the demo's jobs, Flower beside it, and a Chromium.

Run it after ``pip install flower pillow``, with ``chromium`` on PATH.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests
from PIL import Image

from mr_celery.demo.run import EXAMPLES
from mr_celery.ledger import Ledger
from mr_celery.local.processes import Processes, Program
from mr_celery.local.redis import EmbeddedRedis
from mr_celery.sandbox import Sandbox

IMAGES = Path(__file__).parent.parent / "docs/images"
NAME, APP, FLOWER = "demo", "mr_celery.demo.app", "http://127.0.0.1:5555"
COLUMNS = "name,state,args,result,received,runtime,worker"
"""Of Flower's list of tasks."""

PATIENCE = 60.0
"""Seconds that anything may take."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it does not come.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def fleet() -> Processes:
    """Flower, then two workers that send events, and a bridge."""
    celery = ["-m", "celery", "-A", APP]
    worker = [*celery, "worker", "--loglevel", "INFO", "--concurrency", "2", "-E", "--hostname"]
    programs = [
        Program("flower", [*celery, "flower", "--address=127.0.0.1", "--port=5555", f"--tasks_columns={COLUMNS}"]),
        Program("worker", [*worker, "worker1@example"]),
        Program("worker", [*worker, "worker2@example"]),
        Program("bridge", [*celery, "modelreins", "bridge"]),
    ]
    return Processes(programs, os.environ, lambda name, line: print(f"{name}: {line}"))


def answers() -> bool:
    try:
        return requests.get(f"{FLOWER}/workers", timeout=5).text.count("@example") >= 2
    except requests.ConnectionError:
        return False


def dispatched(sandbox: Sandbox) -> list[int]:
    """The demo's jobs."""
    jobs = []
    for example in EXAMPLES:
        fields = {**example.fields, **({"capability": example.capability} if example.capability else {})}
        jobs.append(int(sandbox.dispatch(example.prompt, worker=NAME, **fields)["id"]))
    return jobs


def screenshot(page: str, file: Path, height: int) -> None:
    """Take a picture of one of Flower's pages, with a palette of its own: text and few colours."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={profile}", f"--window-size=1480,{height}", "--hide-scrollbars"]
        options += ["--virtual-time-budget=10000", f"--screenshot={file}", f"{FLOWER}{page}"]
        subprocess.run(["chromium", *options], check=True, timeout=120, stderr=subprocess.DEVNULL)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(64).save(file, optimize=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox, EmbeddedRedis(Path(folder)) as redis:
        os.environ.update(
            CELERY_BROKER_URL=redis.url(0),
            MODELREINS_LEDGER_URL=redis.url(1),
            MODELREINS_URL=sandbox.url,
            MODELREINS_TOKEN=sandbox.token,
            MODELREINS_NAME=NAME,
            MODELREINS_POLL_INTERVAL="0.5",
        )
        processes = fleet()
        processes.start()
        try:
            until(answers, "Flower knows both workers")
            jobs = dispatched(sandbox)
            until(lambda: all(sandbox.store.job(job)["closed_at"] for job in jobs), "all jobs are over")
            retried = Ledger(redis.url(1), NAME).read(jobs[3])  # the weather, at its second try
            assert retried is not None
            screenshot("/tasks", IMAGES / "flower-tasks.png", 900)
            screenshot(f"/task/{retried.task_id}", IMAGES / "flower-task.png", 1020)
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
