"""The examples of the page on artifacts and reviews do what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.servers import RedisServer

ROOT = Path(__file__).parent.parent.parent
STUDIO = ROOT / "examples" / "artifacts"


@pytest.fixture
def studio(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """The example application, at work."""
    made = Fleet(
        sandbox, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path, app="studio", name="studio"
    )
    made.environment |= {"PYTHONPATH": str(STUDIO), "CELERY_BROKER_URL": redis_server.url(0)}
    try:
        made.bridge()
        made.worker()
        yield made
    finally:
        made.stop()


def test_the_examples(studio: Fleet) -> None:
    prompts = {
        "image.generate": "a lighthouse",
        "video.render": "waves",
        "document.typeset": "A letter",
        "media.convert": "a broken film",
        "poster.design": "the sea",
        "text.answer": "why?",
    }
    ids = {capability: studio.dispatch(prompt, capability) for capability, prompt in prompts.items()}
    jobs = dict(zip(ids, studio.ended(*ids.values()), strict=True))
    store, url = studio.sandbox.store, studio.sandbox.url

    def kept(capability: str) -> list[tuple[str, str]]:
        return [(each["filename"], each["content_type"]) for each in store.artifacts(ids[capability])]

    assert kept("image.generate") == [("image.png", "image/png")]
    assert kept("video.render") == [("film.mp4", "video/mp4")]
    assert kept("document.typeset") == [
        ("document.pdf", "application/pdf"),
        ("source.txt", "text/plain; charset=utf-8"),
    ]
    assert kept("media.convert")[0][0] == "convert.log"
    assert (jobs["media.convert"]["status"], jobs["media.convert"]["result"]) == (
        "failed",
        "the conversion failed, see its log",
    )
    reviews = {review["job_id"]: review for review in store.reviews()}
    (poster,) = store.artifacts(ids["poster.design"])
    assert reviews[ids["poster.design"]]["preview"] == f"{url}/s/{poster['slug']}"
    assert reviews[ids["text.answer"]]["content"] == "You asked: why?"
    pdf = requests.get(f"{url}/s/{store.artifacts(ids['document.typeset'])[0]['slug']}", timeout=5).content
    assert pdf.startswith(b"%PDF-1.4")
    assert pdf.endswith(b"%%EOF")
