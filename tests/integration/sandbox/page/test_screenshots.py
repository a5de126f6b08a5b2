"""Screenshots of every page (light, dark, narrow) in build/screenshots. Fails if a page is too wide for its window."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from mr_celery.sandbox import Rule, Sandbox
from support.browser import Visit
from support.sandbox_example import Example


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_every_page(
    browser: Browser, sandbox: Sandbox, media: dict[str, tuple[str, bytes]], width: int, dark: bool
) -> None:
    with Sandbox() as empty, Visit(browser, empty, width=width, dark=dark) as visit:
        for name in ("jobs", "reviews", "workers"):
            visit.go(f"/ui/{name}")
            visit.screenshot(f"{name}-empty")
    example = Example(sandbox, media)
    with Visit(browser, sandbox, width=width, dark=dark) as visit:
        for name in ("jobs", "reviews", "workers", "faults"):
            visit.go(f"/ui/{name}")
            visit.screenshot(name)
        for name in ("failed", "markdown", "data", "image", "media", "long", "approval"):
            visit.go(f"/ui/jobs/{getattr(example, name)}").wait_for_load_state("load")
            visit.screenshot(f"job-{name}")
        visit.go(f"/ui/jobs?copy={example.data}")
        visit.screenshot("dispatch")
        visit.go("/ui/jobs?q=nothing+is+like+this")
        visit.screenshot("jobs-none")
        sandbox.chaos.set([Rule("status", status=503, rate=0.5, seconds=60)])
        visit.go("/ui/faults")
        visit.screenshot("faults-on")
        sandbox.store.killswitch.switch_on("pause")
        visit.go("/ui/jobs").get_by_text("Killswitch", exact=True).click()
        visit.screenshot("killswitch")
        visit.page.get_by_role("button", name="Log out").click()
        visit.page.wait_for_url("**/login")
        visit.screenshot("login")
        assert visit.trouble == []
