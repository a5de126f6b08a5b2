"""A real Chromium for the sandbox's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

from mr_celery.sandbox import Sandbox

SCREENSHOTS = Path(__file__).parent.parent.parent / "build" / "screenshots"


WHOLE = ("chromium", "chromium-browser", "google-chrome")
"""Programs of the whole browser."""

LIGHT = ("chromium-headless-shell", *WHOLE)
"""Those to prefer: the shell without a user interface needs half of the CPU time."""


@contextmanager
def chromium(*, whole: bool = False) -> Iterator[Browser]:
    """Run a headless Chromium from PATH.

    Its event loop runs in this thread, so no other event loop can run here at the same time.

    Args:
        whole: whether the test needs features of the full browser, such as the PDF viewer.
    """
    program = next(filter(None, map(shutil.which, WHOLE if whole else LIGHT)), None)
    assert program, "no Chromium: tools/install-servers.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A logged-in visit to the sandbox's page, in its own browser window.

    Attributes:
        page: the Playwright page.
        ui: the path of the session's pages.
        trouble: errors of scripts, violations of the page's policy, and dialogs.
        elsewhere: URLs of requests to other servers.
    """

    def __init__(self, browser: Browser, sandbox: Sandbox, *, width: int = 1280, dark: bool = False) -> None:
        self.sandbox = sandbox
        self.trouble: list[str] = []
        self.elsewhere: list[str] = []
        self._name = f"{'dark' if dark else 'light'}-{width}"
        self.context = browser.new_context(
            viewport={"width": width, "height": 850}, color_scheme="dark" if dark else "light"
        )
        self.page = self.window()
        self.page.goto(sandbox.login_link())
        self.page.wait_for_url("**/jobs")
        self.live()
        self.ui = str(self.page.evaluate("document.body.dataset.ui"))

    def window(self) -> Page:
        """Open another tab that also records trouble."""
        page = self.context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("dialog", lambda dialog: (self.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("response", self._answered)
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "status of" not in message.text:
            self.trouble.append(message.text)

    def _answered(self, response: Response) -> None:
        if response.url.startswith("http") and not response.url.startswith(self.sandbox.url):
            self.elsewhere.append(response.url)

    def go(self, path: str) -> Page:
        """Open a page, and wait until its event stream is connected."""
        self.page.goto(f"{self.sandbox.url}{self.ui}{path.removeprefix('/ui')}")
        self.live()
        return self.page

    def live(self) -> None:
        self.page.wait_for_selector("#stream.on")

    def mark(self) -> None:
        """Mark this document, to detect a reload."""
        self.page.evaluate("window.marked = true")

    @property
    def is_marked(self) -> bool:
        return self.page.evaluate("window.marked === true") is True

    def screenshot(self, name: str) -> None:
        """Save a screenshot of the whole page, and check that it fits the window's width."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self._name}.png", full_page=True)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"

    def close(self) -> None:
        self.context.close()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
