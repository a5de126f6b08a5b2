"""Takes the pictures of docs/images again: of the demo, of commands in a terminal, and of the sandbox's page.

    python tools/take_pictures.py            all of them
    python tools/take_pictures.py page       only some of them: demo, terminal, page

Everything in them is real: jobs on a sandbox, a Redis, a worker and a bridge. It needs the packages of
``make unit`` and ``chromium`` on PATH, and takes about a minute.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from screenshots import IMAGES, environment, save, until
from terminal_svg import film, record, still

from mr_celery.local.processes import Processes, Program
from mr_celery.local.redis import EmbeddedRedis
from mr_celery.sandbox import Sandbox

APPLICATION = """
import time

from celery import Celery
from mr_celery import Artifact, Escalate, Job, Result, Review, modelreins_job
from mr_celery.demo.picture import paint

app = Celery("proj")


@modelreins_job("text.summarize")
@app.task
def summarize(prompt: str) -> str:
    return " ".join(prompt.split()[:4])


@modelreins_job("text.translate")
@app.task
def translate(prompt: str, seconds: float = 1) -> str:
    time.sleep(seconds)
    return prompt.upper()


@modelreins_job("image.generate", risk_tier="audit")
@app.task
def generate(job: Job) -> Result:
    poster = Artifact(data=paint(job.prompt), filename="poster.png")
    review = Review("generated_image", job.prompt, content="For the town hall.", preview=poster, target="marketing")
    return Result("a poster, to be approved", artifacts=[poster], reviews=[review])


@modelreins_job("invoice.split")
@app.task
def split(total: float, people: int) -> str:
    return f"{total / people:.2f} each"


@modelreins_job("mail.answer")
@app.task
def answer(prompt: str) -> str:
    if "lawyer" in prompt:
        raise Escalate("this customer wants to talk to a human")
    return "Thank you for your message."
"""
"""What the worker runs: handlers such as those on the pages."""
COMMANDS = {
    "check": "celery -A proj modelreins check",
    "status": "celery -A proj modelreins status",
    "jobs": "celery -A proj modelreins jobs --limit 12",
    "history": "celery -A proj modelreins jobs {failed}",
}
PAGES = {"sandbox-jobs": "/jobs", "sandbox-job": "/jobs/{poster}", "sandbox-reviews": "/reviews"}
NAME = "my-worker"
WINDOW = {"width": 1280, "height": 800}


@contextmanager
def installation(folder: Path) -> Iterator[Sandbox]:
    """Run a sandbox, a Redis, a worker and a bridge for the application, and set the environment of commands."""
    (folder / "proj.py").write_text(APPLICATION)
    os.chdir(folder)
    with Sandbox() as sandbox, EmbeddedRedis(folder / "redis") as redis:
        os.environ.update(environment(sandbox, redis, NAME))
        celery = ["-m", "celery", "-A", "proj"]
        programs = [
            Program("worker", [*celery, "worker", "--loglevel", "INFO", "--concurrency", "4", "-n", "worker1@example"]),
            Program("bridge", [*celery, "modelreins", "bridge"]),
        ]
        ready: list[str] = []
        processes = Processes(programs, os.environ, lambda _, line: ready.extend([line] if "ready" in line else []))
        processes.start()
        try:
            until(lambda: len(ready) >= len(programs), "worker and bridge are ready")
            yield sandbox
        finally:
            processes.stop()


def with_work(sandbox: Sandbox) -> dict[str, int]:
    """Dispatch jobs, and wait until all but the slow ones are over. Returns the ids of some of them."""

    def dispatch(prompt: str, capability: str, **fields: object) -> int:
        return int(sandbox.dispatch(prompt, worker=NAME, capability=capability, **fields)["id"])

    jobs = [dispatch(f"the minutes of meeting {number}", "text.summarize") for number in range(1, 41)]
    jobs += [dispatch(f"chapter {number} of the manual", "text.translate") for number in range(1, 5)]
    jobs.append(dispatch("split the bill for dinner", "invoice.split", total=120, people=3))
    jobs.append(dispatch("my lawyer will call you", "mail.answer"))
    poster = dispatch("a poster of the sea at night", "image.generate")
    failed = dispatch("split the bill for nobody", "invoice.split", total=120, people=0)
    jobs += [poster, failed, dispatch("where is my parcel?", "mail.answer", priority="high")]
    until(lambda: all(sandbox.store.job(job)["closed_at"] for job in jobs), "the jobs are over")
    for number in range(1, 8):
        dispatch(f"volume {number} of the encyclopedia", "text.translate", seconds=600)
    until(lambda: sum(job["status"] == "running" for job in sandbox.store.jobs()) >= 7, "slow jobs run or wait")
    return {"poster": poster, "failed": failed}


def screenshot(browser: Browser, sandbox: Sandbox, path: str, file: Path, *, dark: bool) -> None:
    """Take a picture of a page."""
    page = browser.new_page(viewport=WINDOW, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
    page.goto(sandbox.login_link())
    page.wait_for_selector("#stream.on")
    page.goto(f"{sandbox.url}{page.evaluate('document.body.dataset.ui')}{path}")
    page.wait_for_selector("#stream.on")
    page.wait_for_timeout(500)  # images have loaded, and animations have ended
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        save(picture, file, 128)
    page.close()


def pictures_of_commands(jobs: dict[str, int]) -> None:
    for name, command in COMMANDS.items():
        line = command.format(**jobs)
        (IMAGES / f"terminal-{name}.svg").write_text(still(record(line), line))


def pictures_of_the_page(sandbox: Sandbox, jobs: dict[str, int]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path in PAGES.items():
            for dark in (False, True):
                file = IMAGES / f"{name}{'-dark' * dark}.png"
                screenshot(browser, sandbox, path.format(**jobs), file, dark=dark)
        browser.close()


def main(parts: list[str]) -> None:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if "demo" in parts:
        title = "mr-celery demo: twelve jobs, from dispatch to result"
        (IMAGES / "demo.svg").write_text(film(record("mr-celery demo"), title))
    if {"terminal", "page"} & set(parts):
        with tempfile.TemporaryDirectory() as folder, installation(Path(folder)) as sandbox:
            jobs = with_work(sandbox)
            if "terminal" in parts:
                pictures_of_commands(jobs)
            if "page" in parts:
                pictures_of_the_page(sandbox, jobs)


if __name__ == "__main__":
    main(sys.argv[1:] or ["demo", "terminal", "page"])
