"""Pictures of every page, light, dark and narrow, for people to look at: build/screenshots. Nothing may be cut off."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from playwright.sync_api import Browser

from mr_celery.demo.picture import paint
from mr_celery.sandbox import Rule, Sandbox
from support.browser import Visit

WORKER = "image-worker-01"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    + "".join(
        f'  File "/srv/app/proj/tasks/billing.py", line {7 * each}, in step_{each}\n'
        f"    return step_{each + 1}(value, retries=retries, some_long_parameter_name=some_long_parameter_name)\n"
        for each in range(14)
    )
    + "ZeroDivisionError: division by zero"
)
REPORT = """# Weekly report

Sales went **up** in three regions, see [the numbers](https://example.com/numbers).

- north: twelve
- south: seven

| region | sales |
| --- | ---: |
| north | 12 |
| south | 7 |

```python
print("the end")
```
"""
COUNTED = {"words": 17, "by_length": {"1": 3, "2": [1, 2, {"deep": True}]}, "text": 'a "quoted" text\nof two lines'}


class Story:
    """A day at the sandbox, told to its store."""

    def __init__(self, sandbox: Sandbox, media: dict[str, tuple[str, bytes]]) -> None:
        self.store = sandbox.store
        self.now = time.time() - 9000
        self.store.clock = lambda: self.now
        self.store.report({"instance": "nightly-batch", "status": "idle", "tags": "text,finance"})
        for each in range(60):
            prompt = f"Summarize the minutes of meeting {each} for the board, in two sentences, with what is left open"
            self.job(prompt, "done", "ok", capability="text.summarize")
        self.now = time.time() - 420
        self.failed = self.job("one by zero", "failed", TRACEBACK, capability="math.divide", dividend=1, divisor=0)
        self.markdown = self.job("Write the weekly report", "done", REPORT, ran=42, tags=["finance", "weekly"])
        asked = {"capability": "text.count", "priority": "high", "model": "small", "input": {"pages": [1, 2, 3]}}
        self.data = self.job("count the words\nof these\nthree lines", "done", json.dumps(COUNTED), **asked)
        self.image = self.job("a poster of the sea at night, with a lighthouse", capability="image.generate")
        slug = self.upload(self.image, "poster.png", "image/png", paint("sea at night"))
        self.media = self.job("one of each kind", "running", capability="media.all")
        for name, (content_type, data) in media.items():
            self.upload(self.media, f"{name}.{content_type.split('/')[1]}", content_type, data)
        self.review("Poster: a poster of the sea at night", self.image, f"{sandbox.url}/s/{slug}")
        self.review("Answer to an angry letter", self.markdown, None)
        self.store.decide(self.review("An offer", self.markdown, None), "rejected")
        self.store.close_job(self.image, "made a poster", "done")
        self.job("An angry letter", "escalated", "this customer wants to talk to a human", capability="email.triage")
        self.long = self.job("Write a long story about a night at sea. " + "And then it went on, and on. " * 90)
        self.job("nobody takes this", None, worker="image-worker-02", capability="video.render")
        self.job("this last", None, priority="low")
        self.store.clock = time.time
        tags = "image.generate,text.summarize,text.count,math.divide,email.triage"
        details = "2/8 in flight, 1 to deliver"
        self.store.report({"instance": WORKER, "status": "active", "details": details, "tags": tags})

    def job(
        self, prompt: str, becomes: str | None = "running", result: str = "", *, worker: str = WORKER, ran: float = 1.3,
        **fields: Any,
    ) -> int:  # fmt: skip
        job_id = int(self.store.dispatch(prompt, worker, fields)["id"])
        self.now += 37
        if becomes is not None:
            self.store.claim(job_id, worker)
        if becomes not in (None, "running"):
            self.now += ran
            self.store.close_job(job_id, result, str(becomes))
        return job_id

    def upload(self, job_id: int, filename: str, content_type: str, data: bytes) -> str:
        fields = {"content_type": content_type, "filename": filename, "job_id": job_id}
        return str(self.store.add_artifact(io.BytesIO(data), fields)["slug"])

    def review(self, title: str, job_id: int, preview: str | None) -> int:
        fields = {"type": "draft", "title": title, "content": "Please look at the **details**.", "preview": preview}
        about = {"target": "marketing", "job_id": job_id, "created_by": f"worker:{WORKER}"}
        return int(self.store.add_review({**fields, **about})["id"])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_every_page(
    browser: Browser, sandbox: Sandbox, media: dict[str, tuple[str, bytes]], width: int, dark: bool
) -> None:
    with Sandbox() as empty, Visit(browser, empty, width=width, dark=dark) as visit:
        for name in ("jobs", "reviews", "workers"):
            visit.go(f"/ui/{name}")
            visit.screenshot(f"{name}-empty")
    story = Story(sandbox, media)
    with Visit(browser, sandbox, width=width, dark=dark) as visit:
        for name in ("jobs", "reviews", "workers", "faults"):
            visit.go(f"/ui/{name}")
            visit.screenshot(name)
        for name in ("failed", "markdown", "data", "image", "media", "long"):
            visit.go(f"/ui/jobs/{getattr(story, name)}").wait_for_load_state("load")
            visit.screenshot(f"job-{name}")
        visit.go(f"/ui/jobs?copy={story.data}")
        visit.screenshot("dispatch")
        visit.go("/ui/jobs?q=nothing+is+like+this")
        visit.screenshot("jobs-none")
        sandbox.chaos.set([Rule("status", status=503, rate=0.5, seconds=60)])
        visit.go("/ui/faults")
        visit.screenshot("faults-on")
        visit.page.get_by_role("button", name="Log out").click()
        visit.page.wait_for_url("**/login")
        visit.screenshot("login")
        assert visit.trouble == []
