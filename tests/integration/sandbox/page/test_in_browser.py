"""The page in a real browser: live updates, forms and keyboard shortcuts."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from playwright.sync_api import Browser, expect

from mr_celery.sandbox import Sandbox
from support.browser import Visit
from support.ports import until


def test_list_updates_without_reload_and_keeps_focus_and_scroll(visit: Visit, sandbox: Sandbox) -> None:
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


def test_dispatch_shows_the_job_and_keeps_the_form(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.store.report({"instance": "w", "tags": "a,b"})
    page = visit.go("/ui/jobs")
    visit.mark()
    page.keyboard.press("n")
    page.keyboard.type("two words")
    assert page.locator("#worker-names option").get_attribute("value") == "w"
    assert page.locator("#declared option").evaluate_all("all => all.map(each => each.value)") == ["a", "b"]
    page.get_by_label("Capability", exact=True).fill("text.count")
    page.get_by_label("Tags").fill("a, b")
    page.get_by_label("Priority").select_option("high")
    page.get_by_label("Further fields").fill("{")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#dispatch [role=alert]")).to_contain_text("Further fields: must be a JSON object")
    page.get_by_label("Further fields").fill('{"model": "small", "input": {"n": [1, null]}}')
    page.get_by_label("Copies").fill("3")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#said")).to_have_text("Dispatched jobs 1\N{EN DASH}3")
    expect(page.locator("#jobs tbody tr")).to_have_count(3)
    assert page.get_by_label("Copies").input_value() == "1"
    expect(page.locator("#dispatch [role=alert]")).to_have_text("")
    job = sandbox.store.job(3)
    assert (job["assigned_to"], job["priority"], job["prompt"]) == ("w", "high", "two words")
    assert (job["capability"], job["tags"], job["model"]) == ("text.count", ["a", "b"], "small")
    assert job["input"] == {"n": [1, None]}
    page.get_by_label("Prompt", exact=True).fill("one\n\ntwo\nthree")
    page.get_by_label("One job per line").check()
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    assert [each["prompt"] for each in sandbox.store.jobs(limit=3)] == ["three", "two", "one"]
    assert visit.is_marked
    page.get_by_role("link", name="Dispatched jobs 4\N{EN DASH}6").click()
    expect(page.locator("#jobs tbody tr td.id")).to_have_text(["6", "5", "4"])


def test_dispatch_again_copies_all_fields(visit: Visit, sandbox: Sandbox) -> None:
    fields = {"capability": "a.b", "tags": ["x"], "priority": "low", "input": {"deep": ["é", 1]}}
    sandbox.dispatch("as before\nin two lines", worker="w", **fields)
    page = visit.go("/ui/jobs/1")
    page.get_by_role("link", name="Dispatch again").click()
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    times = dict.fromkeys(("id", "created_at"))
    assert {**sandbox.store.job(2), **times} == {**sandbox.store.job(1), **times}


def test_filter_is_applied_and_kept_in_the_url(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(120):
        sandbox.dispatch(f"job number {number}", worker="v" if number % 2 else "w", tags=["50%_off"] * (number == 7))
    page = visit.go("/ui/jobs")
    page.keyboard.press("/")
    page.keyboard.type("number 11")
    expect(page.locator("#jobs tbody tr")).to_have_count(11)
    page.locator("#by-worker").fill("v")
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    expect(page.locator(".states .pending")).to_have_text("pending 6")
    assert page.url.endswith("?q=number+11&worker=v")
    page.reload()
    expect(page.locator("#jobs tbody tr")).to_have_count(6)
    page.get_by_role("link", name="Clear").click()
    page.wait_for_url(lambda url: "q=" not in url)
    for text in ("50%_off", "#8"):
        page.locator("#q").fill(text)
        expect(page.locator("#job-8")).to_be_visible()
    page.locator("#q").fill("50%off")
    expect(page.locator("#jobs .empty")).to_contain_text("No jobs match this filter")
    sandbox.store.claim(5, "w")
    page = visit.go("/ui/jobs")
    page.locator(".states .running").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page = visit.go("/ui/jobs")
    pages = page.get_by_label("Pages of the list", exact=True)
    pages.get_by_role("link", name="Older").click()
    expect(page.locator(".range").first).to_have_text("51\N{EN DASH}100 of 120")
    expect(page.locator("#jobs tbody tr td.id").first).to_have_text("70")
    pages.get_by_role("link", name="Last").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(20)
    pages.get_by_role("link", name="Newer").click()
    expect(page.locator("#jobs tbody tr td.id").first).to_have_text("70")
    page.get_by_role("link", name="Ran").click()
    expect(page.locator("#jobs tbody tr td.id").first).to_have_text("5")
    expect(page.locator("#order")).to_have_value("longest")


def test_select_jobs_and_requeue_them(visit: Visit, sandbox: Sandbox) -> None:
    store = sandbox.store
    for number in range(60):
        sandbox.dispatch(f"p{number}", worker="w", capability="math.divide")
        if number < 55:
            store.claim(number + 1, "w")
            store.close_job(number + 1, "Traceback (most recent call last):\n  …\nZeroDivisionError: zero", "failed")
    page = visit.go("/ui/jobs?q=ZeroDivision")
    visit.mark()
    expect(page.locator("#job-55 .reason")).to_have_text("ZeroDivisionError: zero")
    expect(page.get_by_role("button", name="Requeue")).to_be_hidden()
    page.get_by_label("Select job 55").click()
    page.get_by_label("Select job 45").click(modifiers=["Shift"])
    expect(page.locator("#selected-number")).to_have_text("11 selected")
    store.requeue(50)  # by another user
    expect(page.locator("#selected-number")).to_have_text("10 selected")
    page.get_by_label("Select job 50").wait_for(state="detached")
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator("#ask")).to_contain_text("Requeue 10 jobs?")
    page.keyboard.press("Escape")
    assert store.job(55)["status"] == "failed"
    store._move(49, "requeue", "requeue", "pending", {})  # while the dialog is shown, as its result still matches
    page.get_by_role("button", name="Requeue").click()
    page.get_by_role("button", name="Requeue 10 jobs").click()
    expect(page.locator("#said")).to_have_text("9 requeued, 1 had not started yet")
    expect(page.locator("#jobs tbody tr").first).to_have_attribute("id", "job-49")
    assert store.job(55)["status"] == "pending"

    page.locator("#job-44 td.id a").focus()
    page.keyboard.press("x")
    assert page.get_by_label("Select job 44").is_checked()
    page.get_by_label("Select page").check()
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator("#ask")).to_contain_text("Requeue 45 jobs?")
    page.keyboard.press("Escape")
    page = visit.go("/ui/jobs?status=pending&order=oldest&capability=math.divide")
    page.locator("#q").fill("p")
    page.locator("#within").select_option("15m")
    expect(page.locator(".range").first).to_have_text("1\N{EN DASH}16 of 16")
    page.get_by_label("Select page").check()
    page.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Abort 16 jobs").click()
    expect(page.locator("#said")).to_have_text("16 aborted")
    page = visit.go("/ui/jobs")
    page.get_by_label("Select job 60").check()
    page.get_by_label("All 60 that match").check()
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator("#ask-details")).to_have_text("60 failed")
    page.get_by_role("button", name="Requeue 60 jobs").click()
    expect(page.locator("#said")).to_have_text("60 requeued")
    expect(page.locator("#jobs :checked")).to_have_count(0)


def test_abort_requeue_and_killswitch(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(3):
        sandbox.dispatch(f"p{number}", worker="w")
    page = visit.go("/ui/jobs/1")
    visit.mark()
    page.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1 .state")).to_have_text("pending")
    page.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Abort job 1").click()
    expect(page.locator("h1 .state")).to_have_text("failed")
    assert page.evaluate("document.activeElement.id") == "main", "focus did not move from the removed button"
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator("h1 .state")).to_have_text("pending")
    expect(page.locator(".moments li")).to_have_count(3)
    assert visit.is_marked
    page = visit.go("/ui/jobs")
    page.get_by_text("Killswitch").click()
    page.get_by_role("button", name="Abort all").click()
    page.get_by_role("button", name="Abort 3 jobs").click()
    expect(page.locator("#said")).to_have_text("3 jobs aborted")
    expect(page.locator("#jobs .failed.state")).to_have_count(3)
    expect(page.get_by_role("button", name="Abort all")).to_have_count(0)


def test_killswitch_stays_on_until_it_is_cleared(visit: Visit, sandbox: Sandbox) -> None:
    for number in range(2):
        sandbox.dispatch(f"p{number}", worker="w")
    sandbox.store.claim(1, "w")
    page = visit.go("/ui/jobs")
    visit.mark()
    page.get_by_text("Killswitch").click()
    page.get_by_label("Running jobs are aborted").check()
    page.get_by_role("button", name="Switch on…").click()
    expect(page.locator("#ask")).to_contain_text("Now this aborts 1 job.")
    page.get_by_role("button", name="Cancel").click()
    assert sandbox.store.killswitch.state["level"] is None
    page.get_by_role("button", name="Switch on…").click()
    page.get_by_role("button", name="Switch on", exact=True).click()
    expect(page.locator("#said")).to_have_text("The killswitch is on, 1 job aborted")
    expect(page.locator("#killswitch-on")).to_contain_text("The killswitch is on: Running jobs are aborted")
    expect(page.locator("#job-1 .state")).to_have_text("failed")
    expect(page.locator("#job-2 .state")).to_have_text("pending")
    page.keyboard.press("n")
    page.get_by_label("Prompt", exact=True).fill("refused")
    page.get_by_label("Worker").first.fill("w")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#dispatch [role=alert]")).to_contain_text("no job is dispatched until it is cleared")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#killswitch-on")).not_to_contain_text("killswitch")
    assert sandbox.store.claim(2, "w") == "running"
    assert visit.is_marked


def test_approve_and_reject_jobs(visit: Visit, sandbox: Sandbox) -> None:
    tiers = [{"name": "mail.send", "risk_tier": "approve"}, {"name": "file.edit", "risk_tier": "session"}]
    sandbox.store.directory.register("w", None, tiers)
    page = visit.go("/ui/reviews")
    visit.mark()
    for capability in ("mail.send", "mail.send", "file.edit", "file.edit"):
        sandbox.dispatch(f"please {capability}", worker="w", capability=capability)
    expect(page.locator("article.review")).to_have_count(4)
    expect(page.locator("#pages li").nth(1)).to_contain_text("Reviews 4")
    expect(page.locator("#approval-3")).to_contain_text("file.edit: session")
    page.locator("#approval-3").get_by_role("button", name="Approve").click()
    expect(page.locator("#said")).to_have_text("Job 3 approved, with 1 more of its session")
    expect(page.locator("article.review")).to_have_count(2)
    page.locator("#approval-2").get_by_text("Reject…").click()
    expect(page.locator("#approval-2 input")).to_be_focused()
    page.keyboard.type("too late")
    page.keyboard.press("Enter")
    expect(page.locator("article.review")).to_have_count(1)
    assert [job["status"] for job in sandbox.store.jobs()] == ["pending", "pending", "failed", "awaiting_approval"]
    assert sandbox.store.job(2)["result"] == "rejected by an operator: too late"
    assert visit.is_marked
    page = visit.go("/ui/jobs?status=awaiting_approval")
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page = visit.go("/ui/jobs/1")
    expect(page.locator("h1 .state")).to_have_text("awaiting approval")
    expect(page.locator("#approval")).to_contain_text("mail.send: approve")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("h1 .state")).to_have_text("pending")
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)


def test_pause_and_resume_a_worker(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.store.report({"instance": "w"})
    page = visit.go("/ui/workers")
    page.get_by_role("button", name="Pause w").click()
    expect(page.locator("#workers .state")).to_have_text("paused")
    assert sandbox.store.directory.is_paused("w")
    page.get_by_role("button", name="Resume w").click()
    expect(page.locator("#workers .state")).to_have_text("online")


def test_dispatch_of_a_job_without_a_worker(visit: Visit, sandbox: Sandbox) -> None:
    sandbox.store.create("p", None, {})
    expect(visit.go("/ui/jobs").locator("#job-1 .worker")).to_have_text("nobody yet")
    page = visit.go("/ui/jobs/1")
    page.get_by_role("button", name="Dispatch", exact=True).click()
    expect(page.locator("#said")).to_contain_text("no worker is present")
    sandbox.store.report({"instance": "w"})
    page.get_by_role("button", name="Dispatch", exact=True).click()
    expect(page.locator(".facts dd").first).to_have_text("w")
    expect(page.get_by_role("button", name="Dispatch", exact=True)).to_have_count(0)


def test_decide_reviews_by_keyboard(visit: Visit, sandbox: Sandbox) -> None:
    for title in ("first", "second", "third", "fourth"):
        sandbox.store.add_review({"type": "email", "title": title, "content": "Dear *customer*", "job_id": None})
    page = visit.go("/ui/reviews")
    visit.mark()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "fourth"
    page.keyboard.press("a")
    assert page.evaluate("document.activeElement.textContent") == "third", "the focus waits for the answer"
    expect(page.locator(".decided li")).to_have_count(1)
    page.keyboard.press("r")
    page.keyboard.type("not our tone")
    page.keyboard.press("Enter")
    expect(page.locator(".decided li").first).to_contain_text("not our tone")
    assert page.evaluate("document.activeElement.textContent") == "second"
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "second"
    page.locator("#review-2").get_by_role("button", name="Approve").click()
    expect(page.locator("article.review")).to_have_count(1)
    assert page.evaluate("document.activeElement.textContent") == "first", "the focus did not move on"
    page.keyboard.press("u")
    expect(page.locator("article.review")).to_have_count(2)
    decided = {each["title"]: (each["status"], each["reason"]) for each in sandbox.store.reviews()}
    assert decided == {
        "first": ("pending", None),
        "second": ("pending", None),
        "third": ("rejected", "not our tone"),
        "fourth": ("approved", None),
    }
    assert visit.is_marked


def test_workers_go_online_and_offline(browser: Browser) -> None:
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
            expect(row).to_contain_text(
                "offline", timeout=15_000
            )  # no event is sent for this, but the page refreshes periodically


def test_switch_faults_on_and_off(visit: Visit, sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    page = visit.go("/ui/faults")
    visit.mark()
    page.get_by_role("button", name="Outage").click()
    expect(page.locator(".rules li")).to_contain_text("503 for all requests")
    expect(page.locator("#faults-on")).to_contain_text("Faults are on")
    answer = requests.get(f"{sandbox.url}/my-jobs?worker=w&status=pending", headers=headers, timeout=30)
    assert answer.status_code == 503
    expect(page.locator("#in-force")).to_contain_text("1 status")
    page.get_by_text("Custom rule").click()
    page.get_by_label("Fault", exact=True).select_option("latency")
    page.get_by_label("claim", exact=True).check()
    page.get_by_label("Percentage of requests").fill("150")
    page.get_by_role("button", name="Add rule").click()
    expect(page.locator(".panel [role=alert]")).to_contain_text("rate is 1.5")
    page.get_by_label("Percentage of requests").fill("25")
    page.get_by_label("Delay").fill("1.5")
    page.get_by_role("button", name="Add rule").click()
    expect(page.locator(".rules li").nth(1)).to_have_text("latency of 1.5 s for 25% of claim requests")
    assert [(rule.fault, rule.rate) for rule in sandbox.chaos.rules] == [("status", 1.0), ("latency", 0.25)]
    page.get_by_role("button", name="Switch all off").click()
    expect(page.locator("#in-force")).to_contain_text("None. All requests are answered normally")
    assert sandbox.chaos.rules == []
    assert visit.is_marked


def test_page_reconnects_after_a_restart(browser: Browser, tmp_path: object) -> None:
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


def test_ended_session_leads_to_the_login(visit: Visit, sandbox: Sandbox) -> None:
    page = visit.go("/ui/workers")
    other = visit.window()
    other.goto(f"{sandbox.url}/ui/jobs")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login")
    sandbox.store.report({"instance": "w"})
    page.wait_for_url("**/login?next=/ui/workers")
    page.get_by_label("Token").fill(sandbox.token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/workers")


def test_shortcuts_are_ignored_while_typing_and_can_be_disabled(visit: Visit) -> None:
    page = visit.go("/ui/jobs")
    page.locator("#q").fill("")
    page.locator("#q").press_sequentially("n?jk/")
    assert page.locator("#q").input_value() == "n?jk/"
    assert page.locator("#dispatch").get_attribute("open") is None
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.get_by_label("Enable single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("n")
    page.reload()
    page.keyboard.press("n")
    assert page.locator("#dispatch").get_attribute("open") is None


def test_hidden_page_disconnects_and_catches_up(visit: Visit, sandbox: Sandbox) -> None:
    page = visit.go("/ui/jobs")
    listeners = sandbox.store.changes._listeners
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: not listeners, what="the page disconnects")
    sandbox.dispatch("meanwhile", worker="w")
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#jobs tbody")).to_contain_text("meanwhile")


@pytest.mark.parametrize("script", [True, False])
def test_page_works_without_script(browser: Browser, sandbox: Sandbox, script: bool) -> None:
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
    page.wait_for_url("**/jobs?status=pending")
    pages = page.url.partition("/jobs")[0]
    page.get_by_text("New job").first.click()
    page.get_by_label("Prompt", exact=True).fill("by form")
    page.get_by_label("Further fields").fill("no json")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#dispatch [role=alert]")).to_contain_text("Further fields")
    assert page.get_by_label("Prompt", exact=True).input_value() == "by form"
    page.get_by_label("Further fields").fill(json.dumps({"n": 1}))
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.goto(f"{pages}/jobs?q=by+form")
    page.get_by_label("Select job 1").check()
    page.locator("#selected").get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Abort job 1").click()
    expect(page.locator("#job-1 .state")).to_have_text("failed")
    page.get_by_label("Select job 1").check()
    page.get_by_role("button", name="Requeue").click()
    page.get_by_role("button", name="Requeue job 1").click()
    expect(page.locator("#job-1 .state")).to_have_text("pending")
    page.goto(f"{pages}/jobs/1")
    page.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Abort job 1").click()
    expect(page.locator("h1 .state")).to_have_text("failed")
    page.goto(f"{pages}/reviews")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".decided li")).to_have_count(1)
    assert sandbox.store.review(review)["status"] == "approved"
    page.goto(f"{pages}/faults")
    page.get_by_role("button", name="Slow").click()
    expect(page.locator(".rules li")).to_have_count(1)
    page.get_by_role("button", name="Switch all off").click()
    expect(page.locator(".rules li")).to_have_count(0)
    context.close()


def test_addresses_without_a_session_lead_to_the_pages_of_the_session(visit: Visit, sandbox: Sandbox) -> None:
    """The address of a job in a log is that of the server, and the cookie is only for the session's pages."""
    sandbox.dispatch("x", worker="w")
    for path in ("/ui/jobs/1", "/jobs/1", "/login?next=/ui/jobs/1"):
        visit.page.goto(sandbox.url + path)
        visit.page.wait_for_url(f"{sandbox.url}{visit.ui}/jobs/1")
        visit.live()
    visit.page.get_by_role("button", name="Log out").click()
    visit.page.wait_for_url("**/login")
    visit.page.goto(f"{sandbox.url}/ui/jobs/1")
    expect(visit.page.get_by_label("Token")).to_be_visible()
    visit.page.wait_for_function("localStorage.getItem('ui') === null")


def test_the_cookie_is_sent_to_no_other_port(visit: Visit) -> None:
    """Another user's server on this machine would receive it, and could use it."""
    headers: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        window = visit.context.new_page()
        for path in ("/", "/ui/jobs", "/ui/", "/login"):
            window.goto(f"http://127.0.0.1:{other.server_port}{path}")
            window.reload()
        other.shutdown()
    assert len(headers) >= 8
    assert not [each for each in headers if "cookie" in each or visit.ui in str(each)]
