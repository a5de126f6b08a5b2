"""Takes the screenshots of the bridge's page in docs/images: a busy fleet, with some postponed deliveries.

Run it with ``chromium`` on PATH, after ``pip install --group test .``.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from screenshots import IMAGES, TIMEOUT, environment, run_jobs, save, until

from mr_celery.ledger import Ledger
from mr_celery.local.processes import Processes, Program
from mr_celery.local.redis import EmbeddedRedis
from mr_celery.sandbox import Rule, Sandbox

NAME, APP, ADDRESS, TOKEN = "image-worker-01", "mr_celery.demo.app", "127.0.0.1:9464", "only-for-the-screenshots"
UNDELIVERED = 3


def fleet() -> Processes:
    """Start two workers, and a bridge with the page."""
    celery = ["-m", "celery", "-A", APP]
    worker = [*celery, "worker", "--loglevel", "INFO", "--concurrency", "2", "--hostname"]
    programs = [
        Program("worker", [*worker, "gpu1@example"]),
        Program("worker", [*worker, "gpu2@example"]),
        Program("bridge", [*celery, "modelreins", "bridge", "--http", ADDRESS]),
    ]
    return Processes(programs, os.environ, lambda name, line: print(f"{name}: {line}"))


@contextmanager
def logged_in() -> Iterator[Page]:
    """A window of Chromium with the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 850})
        page.goto(f"http://{ADDRESS}/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.locator("#stream.on").wait_for(timeout=1000 * TIMEOUT)
        yield page
        browser.close()


def screenshot(page: Page, name: str, height: int) -> None:
    """Take a screenshot."""
    page.set_viewport_size({"width": 1280, "height": height})
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        save(picture, IMAGES / name, 200, Image.Quantize.MAXCOVERAGE)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox, EmbeddedRedis(Path(folder)) as redis:
        os.environ.update(environment(sandbox, redis, NAME), MODELREINS_HTTP_TOKEN=TOKEN)
        processes, ledger = fleet(), Ledger(redis.ledger_url(), NAME)
        processes.start()
        try:
            jobs = run_jobs(sandbox, NAME, times=4)
            sandbox.chaos.set([Rule("status", routes=("close",), status=503)])
            for number in range(UNDELIVERED):
                sandbox.dispatch(f"word {number}", worker=NAME, capability="text.count")
            until(lambda: ledger.survey().states["finished"] == UNDELIVERED, "deliveries are put off")
            for number in range(14):
                sandbox.dispatch(f"slow {number}", worker=NAME, capability="text.slow", seconds=40)
            until(lambda: ledger.survey().states["running"] == 4, "the workers are busy")
            with logged_in() as page:
                page.wait_for_timeout(9000)  # so that ages and tries look like those of a real outage
                screenshot(page, "bridge-page.png", 1220)
                page.get_by_label("Job", exact=True).fill(str(jobs[5]))  # the job that divides by zero
                page.get_by_role("button", name="Show").click()
                page.locator("#stream.on").wait_for(timeout=1000 * TIMEOUT)
                screenshot(page, "bridge-page-job.png", 720)
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
