"""The bridge's page for operators, with a real bridge and a real worker, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.accessibility import problems_of
from support.browser import chromium
from support.fleet import Fleet
from support.ports import free_port

SECONDS = 60_000
TOKEN = "the-token-of-operators"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_an_operator_finds_out_why_a_job_failed_and_sees_that_the_bridge_is_gone(
    browser: Browser, fleet: Fleet, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    file = tmp_path / "http-token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    fleet.worker()
    bridge = fleet.bridge(MODELREINS_HTTP=address, MODELREINS_HTTP_TOKEN_FILE=str(file))
    bridge.says(f"metrics, health and the page for operators at http://{address}")
    job = fleet.dispatch("a secret prompt", "raise")
    fleet.ended(job)

    with browser.new_context() as context:
        page, trouble = context.new_page(), list[str]()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda line: trouble.append(line.text) if "Content Security" in line.text else None)
        page.goto(f"http://{address}/jobs/{job}")
        problems = problems_of(page, "login")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_contain_text(f"Job {job} failed", timeout=SECONDS)
        expect(page.locator("#job")).to_contain_text("ValueError")
        expect(page.locator(".history")).to_contain_text("delivered")
        assert "secret" not in page.content()
        problems += problems_of(page, "job")

        page.get_by_role("link", name="w", exact=True).click()
        expect(page.locator("h1")).to_contain_text("idle", timeout=SECONDS)
        waiting = fleet.dispatch("it stays pending", "sleep", seconds=600)
        expect(page.locator(f"[data-key=job-{waiting}]")).to_contain_text("running", timeout=SECONDS)
        problems += problems_of(page, "overview")
        assert not problems, "\n".join(problems)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_viewport_size({"width": 390, "height": 850})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert trouble == []

        page.goto(f"http://{address}/")  # the login page finds the session of this browser
        expect(page.locator("#stream")).to_have_text("live", timeout=SECONDS)
        bridge.kill()
        expect(page.locator("#stale")).to_contain_text("The bridge does not answer", timeout=SECONDS)
