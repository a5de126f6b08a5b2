"""Jobs, artifacts and reviews of every kind for the pages of a sandbox."""

from __future__ import annotations

import io
import json
import time
from typing import Any

from mr_celery.demo.picture import paint
from mr_celery.sandbox import Sandbox
from mr_celery.sandbox.store import Store

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


def upload(store: Store, job_id: int, filename: str, content_type: str, data: bytes, **further: str) -> str:
    """Store an artifact of a job. Returns its slug."""
    fields = {"content_type": content_type, "filename": filename, "job_id": job_id, **further}
    return str(store.add_artifact(io.BytesIO(data), fields)["slug"])


class Example:
    """Example data in a sandbox's store."""

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
        self.long = self.job("Write a long events about a night at sea. " + "And then it went on, and on. " * 90)
        self.job("nobody takes this", None, worker="image-worker-02", capability="video.render")
        self.job("this last", None, priority="low")
        tiers = {"mail.read": "auto", "mail.send": "approve"}
        self.store.directory.register("mailer", None, [{"name": n, "risk_tier": tier} for n, tier in tiers.items()])
        self.approval = self.job("Answer the letter of Ms Li", None, worker="mailer", capability="mail.send")
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
        return upload(self.store, job_id, filename, content_type, data)

    def review(self, title: str, job_id: int, preview: str | None) -> int:
        fields = {"type": "draft", "title": title, "content": "Please look at the **details**.", "preview": preview}
        about = {"target": "marketing", "job_id": job_id, "created_by": f"worker:{WORKER}"}
        return int(self.store.add_review({**fields, **about})["id"])
