"""Takes the screenshots of Flower in docs/images: a real fleet with the demo's jobs, Flower beside it, and a Chromium.

Run it after ``pip install flower pillow``, with ``chromium`` on PATH.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import requests
from PIL import Image
from screenshots import IMAGES, environment, run_jobs, save, until

from mr_celery.ledger import Ledger
from mr_celery.local.processes import Processes, Program
from mr_celery.local.redis import EmbeddedRedis
from mr_celery.sandbox import Sandbox

NAME, APP, FLOWER = "demo", "mr_celery.demo.app", "http://127.0.0.1:5555"
COLUMNS = "name,state,args,result,received,runtime,worker"
"""Columns of Flower's list of tasks."""


def fleet() -> Processes:
    """Start Flower, two workers that send events, and a bridge."""
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


def screenshot(page: str, file: Path, height: int) -> None:
    """Take a screenshot of a page of Flower."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={profile}", f"--window-size=1480,{height}", "--hide-scrollbars"]
        options += ["--virtual-time-budget=10000", f"--screenshot={file}", f"{FLOWER}{page}"]
        subprocess.run(["chromium", *options], check=True, timeout=120, stderr=subprocess.DEVNULL)
    with Image.open(file) as picture:
        save(picture, file, 64)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox, EmbeddedRedis(Path(folder)) as redis:
        os.environ.update(environment(sandbox, redis, NAME))
        processes = fleet()
        processes.start()
        try:
            until(answers, "Flower knows both workers")
            jobs = run_jobs(sandbox, NAME)
            retried = Ledger(redis.ledger_url(), NAME).read(jobs[3])  # the weather job at its second try
            assert retried is not None
            screenshot("/tasks", IMAGES / "flower-tasks.png", 900)
            screenshot(f"/task/{retried.task_id}", IMAGES / "flower-task.png", 1020)
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
