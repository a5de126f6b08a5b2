"""The sandbox's page with a real bridge and a real worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from support.browser import Visit, chromium
from support.fleet import Fleet

SECONDS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_dispatch_review_and_requeue_from_the_page(browser: Browser, fleet: Fleet) -> None:
    fleet.app = "mr_celery.demo.app"
    fleet.environment["CELERY_BROKER_URL"] = fleet.environment["PROJ_BROKER"]
    fleet.worker("-c", "2")
    fleet.bridge()
    with Visit(browser, fleet.sandbox) as visit:
        page = visit.go("/ui/workers")
        expect(page.locator("#workers tbody tr").first).to_contain_text("online", timeout=SECONDS)

        page = visit.go("/ui/jobs")
        visit.mark()
        page.keyboard.press("n")
        page.keyboard.type("the sea at night")
        page.get_by_label("Capability", exact=True).fill("image.generate")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#job-1")).to_contain_text("the sea at night")
        expect(page.locator("#job-1 .state")).to_have_text("done", timeout=SECONDS)
        expect(page.locator("#pages a[href$='/reviews'] .number")).to_contain_text("1")
        assert visit.is_marked, "the page was reloaded"

        page = visit.go("/ui/jobs/1")
        expect(page.locator(".figure, figure.image img")).to_have_count(1)
        page.wait_for_function("document.querySelector('figure.image img').naturalWidth === 256")
        page.get_by_role("button", name="Approve").click()
        expect(page.locator("article.review .state")).to_have_text("approved")
        assert fleet.sandbox.store.reviews()[0]["status"] == "approved"

        visit.mark()
        page.get_by_role("button", name="Requeue").click()  # runs it once more
        expect(page.locator(".moments")).to_contain_text("requeue")
        expect(page.locator("h1 .state")).to_have_text("done", timeout=SECONDS)
        expect(page.locator("figure.image")).to_have_count(2)
        assert visit.is_marked
        assert visit.trouble == []


def test_bridge_survives_an_outage_set_on_the_page(browser: Browser, fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    with Visit(browser, fleet.sandbox) as visit:
        page = visit.go("/ui/faults")
        page.get_by_label("For", exact=True).select_option("10")
        page.get_by_role("button", name="Outage").click()
        expect(page.locator(".rules li")).to_have_count(1)
        job_id = fleet.dispatch("through an outage")
        expect(page.locator("#in-force")).to_contain_text("status", timeout=SECONDS)
        expect(page.locator("#in-force .empty")).to_be_visible(timeout=SECONDS)
        page = visit.go(f"/ui/jobs/{job_id}")
        expect(page.locator("h1 .state")).to_have_text("done", timeout=SECONDS)
        expect(page.locator("#job pre").nth(1)).to_have_text("THROUGH AN OUTAGE")
        assert fleet.events(job_id) == ["dispatched", "claim", "close done"]
        assert visit.trouble == []
