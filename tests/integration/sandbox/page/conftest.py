"""A browser for the tests of a module, and a logged-in visit of the page."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from mr_celery.demo.picture import paint
from mr_celery.sandbox import Sandbox
from support.browser import Visit, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, sandbox: Sandbox) -> Iterator[Visit]:
    """A logged-in visit. Fails if the browser reported errors or sent requests to other servers."""
    with Visit(browser, sandbox) as visit:
        yield visit
        assert visit.trouble == []
        assert visit.elsewhere == []


@pytest.fixture
def media() -> dict[str, tuple[str, bytes]]:
    """Small files of several kinds, each with its content type."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(16000))
    return {
        "image": ("image/png", paint("a poster", size=64)),
        "drawing": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        "audio": ("audio/wav", sound.getvalue()),
        "pdf": ("application/pdf", _PDF),
        "text": ("text/plain", b"line <b>one</b>"),
    }


_PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R
/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj
4 0 obj<</Length 45>>stream
BT /F1 24 Tf 40 100 Td (Quarterly report) Tj ET
endstream endobj
trailer<</Root 1 0 R>>"""
