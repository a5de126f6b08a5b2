"""Media of every kind are shown on a job's page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from mr_celery.sandbox import Sandbox
from support.browser import Visit, chromium
from support.ports import until
from support.sandbox_example import upload


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The whole browser: the one that the other tests prefer shows no PDF files."""
    with chromium(whole=True) as running:
        yield running


def test_media_are_shown_inline(visit: Visit, sandbox: Sandbox, media: dict[str, tuple[str, bytes]]) -> None:
    sandbox.dispatch("p", worker="w")
    for content_type, data in media.values():
        upload(sandbox.store, 1, "f", content_type, data)
    page = visit.go("/ui/jobs/1")

    def loaded(what: str) -> Any:
        return page.wait_for_function(what)

    loaded("document.querySelector('figure.image img').naturalWidth === 64")
    loaded("document.querySelector('figure.audio audio').duration === 1")
    expect(page.locator("figure.text pre")).to_have_text("line <b>one</b>")
    drawing = page.locator("figure.image img").nth(1)
    assert drawing.evaluate("image => image.naturalWidth") == 9, "an SVG is shown as an image"

    def has_viewer() -> bool:
        page.evaluate("1")  # lets Playwright process events about frames
        return any(frame.url.startswith("chrome-extension:") for frame in page.frames)

    until(has_viewer, what="the browser shows the PDF")
