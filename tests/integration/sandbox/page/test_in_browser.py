"""The page in a real browser: what is live, the forms, the keys."""

from __future__ import annotations

import json

import pytest
import requests
from playwright.sync_api import Browser, expect

from mr_celery.sandbox import Sandbox
from support.browser import Visit
from support.ports import until


def test_the_list_follows_without_a_reload_and_keeps_focus_and_scroll(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(60):
        sandbox.dispatch(f"job number {number}", worker="w")
    page = visit.go("/ui/jobs")
    expect(page.locator("#jobs tbody tr")).to_have_count(50)
    visit.mark()
    page.locator("#job-40 td.id a").focus()
    page.evaluate("scrollTo(0, 600)")
    sandbox.store.claim(40, "w")
    expect(page.locator("#job-40 .state")).to_have_text("running")
    sandbox.dispatch("the newest", worker="w")
    expect(page.locator("#jobs tbody tr").first).to_contain_text("the newest")
    sandbox.store.close_job(40, "out", "done")
    expect(page.locator("#job-40 .state")).to_have_text("done")
    expect(page.locator("#pages [aria-current] .number")).to_contain_text("60")
    assert page.evaluate("document.activeElement.textContent") == "40"
    assert page.evaluate("scrollY") >= 600
    assert visit.is_marked


def test_dispatching_shows_the_job_and_keeps_the_form(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.store.report({"instance": "w"})
    page = visit.go("/ui/jobs")
    visit.mark()
    page.keyboard.press("n")
    page.keyboard.type("two words")
    assert page.locator("#worker-names option").get_attribute("value") == "w"
    page.get_by_label("Capability").fill("text.count")
    page.get_by_label("Tags").fill("a, b")
    page.get_by_label("Priority").select_option("high")
    page.get_by_label("Further fields").fill("{")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#dispatch [role=alert]")).to_contain_text("Further fields: a JSON object")
    page.get_by_label("Further fields").fill('{"model": "small", "input": {"n": [1, null]}}')
    page.get_by_label("Copies").fill("3")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#said")).to_have_text("3 jobs dispatched, from 1.")
    expect(page.locator("#jobs tbody tr")).to_have_count(3)
    expect(page.locator("#dispatch [role=alert]")).to_have_text("")
    job = sandbox.store.job(3)
    assert (job["assigned_to"], job["priority"], job["prompt"]) == ("w", "high", "two words")
    assert (job["capability"], job["tags"], job["model"]) == ("text.count", ["a", "b"], "small")
    assert job["input"] == {"n": [1, None]}
    page.get_by_label("Prompt", exact=True).fill("one\n\ntwo\nthree")
    page.get_by_label("Each line is a job").check()
    page.get_by_label("Copies").fill("1")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    assert [each["prompt"] for each in sandbox.store.jobs(limit=3)] == ["three", "two", "one"]
    assert visit.is_marked


def test_a_job_is_dispatched_again_with_all_that_it_had(visit: Visit, sandbox: Sandbox) -> None:
    fields = {"capability": "a.b", "tags": ["x"], "priority": "low", "input": {"deep": ["é", 1]}}
    sandbox.dispatch("as before\nin two lines", worker="w", **fields)
    page = visit.go("/ui/jobs/1")
    page.get_by_role("link", name="Dispatch again").click()
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    times = dict.fromkeys(("id", "created_at"))
    assert {**sandbox.store.job(2), **times} == {**sandbox.store.job(1), **times}


def test_the_filter_asks_the_server_and_stays_in_the_address(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(120):
        sandbox.dispatch(f"job number {number}", worker="v" if number % 2 else "w", tags=["50%_off"] * (number == 7))
    page = visit.go("/ui/jobs")
    page.keyboard.press("/")
    page.keyboard.type("number 11")
    expect(page.locator("#jobs tbody tr")).to_have_count(11)
    page.get_by_label("Worker").nth(1).fill("v")
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    assert page.url.endswith("?q=number+11&worker=v")
    page.reload()
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    page.get_by_role("link", name="Show all").click()
    page.wait_for_url(lambda url: "q=" not in url)
    for text in ("50%_off", "#8"):
        page.locator("#q").fill(text)
        expect(page.locator("#job-8")).to_be_visible()
    page.locator("#q").fill("50%off")
    expect(page.locator("#jobs .empty")).to_contain_text("No job is like this")
    sandbox.store.claim(5, "w")
    page = visit.go("/ui/jobs")
    page.locator(".states .running").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page = visit.go("/ui/jobs")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#jobs tbody tr td.id").first).to_have_text("70")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(20)
    page.get_by_role("link", name="Newer").click()
    expect(page.locator("#jobs tbody tr td.id").first).to_have_text("70")


def test_abort_requeue_and_the_killswitch(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(3):
        sandbox.dispatch(f"p{number}", worker="w")
    page = visit.go("/ui/jobs/1")
    visit.mark()
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("h1 .state")).to_have_text("failed")
    assert page.evaluate("document.activeElement.id") == "main", "the button that had the focus is gone"
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator("h1 .state")).to_have_text("pending")
    expect(page.locator(".timeline li")).to_have_count(3)
    assert visit.is_marked
    page = visit.go("/ui/jobs")
    page.get_by_text("Killswitch").click()
    page.get_by_role("button", name="Abort all").click()
    expect(page.locator("#said")).to_have_text("3 jobs aborted.")
    expect(page.locator("#jobs .failed.state")).to_have_count(3)
    expect(page.locator("#killswitch")).to_be_empty()


def test_a_review_is_decided_at_the_keyboard(visit: Visit, sandbox: Sandbox) -> None:
    for title in ("first", "second", "third"):
        sandbox.store.add_review({"type": "email", "title": title, "content": "Dear *customer*", "job_id": None})
    page = visit.go("/ui/reviews")
    visit.mark()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "third"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".decided li")).to_have_count(1)
    assert page.evaluate("document.activeElement.textContent") == "second"
    page.locator("#review-2").get_by_role("button", name="Reject").click()
    expect(page.locator("article.review")).to_have_count(1)
    decided = {each["title"]: each["status"] for each in sandbox.store.reviews()}
    assert decided == {"first": "pending", "second": "rejected", "third": "approved"}
    assert visit.is_marked


def test_workers_come_and_are_seen_to_go(browser: Browser) -> None:
    with Sandbox() as sandbox:
        clock = sandbox.store.clock
        with Visit(browser, sandbox) as visit:
            page = visit.go("/ui/workers")
            expect(page.locator("#workers .empty")).to_contain_text("No worker has reported yet")
            sandbox.store.report({"instance": "w", "status": "busy", "details": "2/8", "tags": "a.b, c.d"})
            row = page.locator("#workers tbody tr").first
            expect(row).to_contain_text("online")
            expect(row.locator(".chip")).to_have_text(["a.b", "c.d"])
            sandbox.dispatch("p", worker="nobody")
            expect(page.locator("#workers tbody tr").nth(1)).to_contain_text("never seen")
            sandbox.store.clock = lambda: clock() + 61
            expect(row).to_contain_text("offline", timeout=15_000)  # nothing tells of it: the page looks now and then


def test_faults_are_switched_on_and_off(visit: Visit, sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    page = visit.go("/ui/faults")
    visit.mark()
    page.get_by_role("button", name="Outage").click()
    expect(page.locator(".rules li")).to_contain_text("503 to every request")
    expect(page.locator("#faults-on")).to_contain_text("Faults are on")
    answer = requests.get(f"{sandbox.url}/my-jobs?worker=w&status=pending", headers=headers, timeout=30)
    assert answer.status_code == 503
    expect(page.locator("#in-force")).to_contain_text("1 status")
    page.get_by_text("A rule of your own").click()
    page.get_by_label("Fault", exact=True).select_option("latency")
    page.get_by_label("claim", exact=True).check()
    page.get_by_label("Share of them").fill("150")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator(".panel [role=alert]")).to_contain_text("rate is 1.5")
    page.get_by_label("Share of them").fill("25")
    page.get_by_label("Delay").fill("1.5")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator(".rules li").nth(1)).to_have_text("latency of 1.5 s to 25% of the requests for claim")
    assert [(rule.fault, rule.rate) for rule in sandbox.chaos.rules] == [("status", 1.0), ("latency", 0.25)]
    page.get_by_role("button", name="Switch all off").click()
    expect(page.locator("#in-force")).to_contain_text("None: every request is answered")
    assert sandbox.chaos.rules == []
    assert visit.is_marked


def test_after_a_restart_the_page_goes_on_by_itself(browser: Browser, tmp_path: object) -> None:
    sandbox = Sandbox(db=f"{tmp_path}/s.db")
    with sandbox, Visit(browser, sandbox) as visit:
        visit.mark()
        sandbox.stop()
        expect(visit.page.locator("#stream")).to_have_text("not connected")
        sandbox.start()
        sandbox.dispatch("while nobody looked", worker="w")
        expect(visit.page.locator("#jobs tbody")).to_contain_text("while nobody looked")
        visit.live()
        assert visit.is_marked


def test_with_its_session_gone_the_page_asks_to_log_in(visit: Visit, sandbox: Sandbox) -> None:
    page = visit.go("/ui/workers")
    other = visit.window()
    other.goto(f"{sandbox.url}/ui/jobs")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login")
    sandbox.store.report({"instance": "w"})
    page.wait_for_url("**/login?next=/ui/workers")
    page.get_by_label("Token").fill(sandbox.token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/workers")


def test_single_keys_do_nothing_while_typing_and_can_be_switched_off(visit: Visit) -> None:
    page = visit.go("/ui/jobs")
    page.locator("#q").fill("")
    page.locator("#q").press_sequentially("n?jk/")
    assert page.locator("#q").input_value() == "n?jk/"
    assert page.locator("#dispatch").get_attribute("open") is None
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.get_by_label("Single keys do this").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("n")
    page.reload()
    page.keyboard.press("n")
    assert page.locator("#dispatch").get_attribute("open") is None


def test_a_hidden_page_lets_go_of_its_connection_and_catches_up(visit: Visit, sandbox: Sandbox) -> None:
    page = visit.go("/ui/jobs")
    listeners = sandbox.store.changes._listeners
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: not listeners, what="nobody listens")
    sandbox.dispatch("meanwhile", worker="w")
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#jobs tbody")).to_contain_text("meanwhile")


@pytest.mark.parametrize("script", [True, False])
def test_it_works_without_script(browser: Browser, sandbox: Sandbox, script: bool) -> None:
    sandbox.store.report({"instance": "w"})
    review = sandbox.store.add_review({"type": "t", "title": "T", "content": "c"})["id"]
    context = browser.new_context(java_script_enabled=script)
    page = context.new_page()
    page.goto(f"{sandbox.url}/ui/jobs?status=pending")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the token of this sandbox.")
    page.get_by_label("Token").fill(sandbox.token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/ui/jobs?status=pending")
    page.get_by_text("New job").first.click()
    page.get_by_label("Prompt", exact=True).fill("by form")
    page.get_by_label("Further fields").fill("no json")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#dispatch [role=alert]")).to_contain_text("Further fields")
    assert page.get_by_label("Prompt", exact=True).input_value() == "by form"
    page.get_by_label("Further fields").fill(json.dumps({"n": 1}))
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.goto(f"{sandbox.url}/ui/jobs/1")
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("h1 .state")).to_have_text("failed")
    page.goto(f"{sandbox.url}/ui/reviews")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".decided li")).to_have_count(1)
    assert sandbox.store.review(review)["status"] == "approved"
    page.goto(f"{sandbox.url}/ui/faults")
    page.get_by_role("button", name="Slow").click()
    expect(page.locator(".rules li")).to_have_count(1)
    page.get_by_role("button", name="Switch all off").click()
    expect(page.locator(".rules li")).to_have_count(0)
    context.close()
