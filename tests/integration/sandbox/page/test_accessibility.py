"""axe-core finds no problems on any page of the sandbox, including open dialogs and forms."""

from __future__ import annotations

from playwright.sync_api import expect

from mr_celery.sandbox import Rule, Sandbox
from support.accessibility import problems_of
from support.browser import Visit
from support.sandbox_example import Example


def test_every_page_is_accessible(visit: Visit, sandbox: Sandbox, media: dict[str, tuple[str, bytes]]) -> None:
    page = visit.page
    problems: list[str] = []
    example = Example(sandbox, media)
    sandbox.chaos.set([Rule("status", status=503, rate=0.5, seconds=600)])
    for name in ("failed", "data", "media", "approval"):
        problems += problems_of(visit.go(f"/ui/jobs/{getattr(example, name)}"), f"job-{name}")
    page.get_by_text("Reject…").click()
    problems += problems_of(page, "job with an open rejection")
    visit.go(f"/ui/jobs/{example.media}").locator("a.zoom").first.click()
    problems += problems_of(page, "picture at full size")

    visit.go("/ui/reviews").get_by_text("Reject…").last.click()
    page.locator(".decided .title").click()
    problems += problems_of(page, "reviews")
    problems += problems_of(visit.go("/ui/workers"), "workers")
    visit.go("/ui/faults").get_by_text("Custom rule").click()
    problems += problems_of(page, "faults")

    problems += problems_of(visit.go(f"/ui/jobs?copy={example.data}"), "jobs with the form")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    problems += problems_of(page, "keys")
    visit.go("/ui/jobs").get_by_text("Killswitch", exact=True).click()
    problems += problems_of(page, "jobs")
    page.goto(f"{sandbox.url}{visit.ui}/jobs/999999")
    problems += problems_of(page, "error")
    visit.go("/ui/workers").get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    problems += problems_of(page, "login")
    assert not problems, "\n".join(problems)
