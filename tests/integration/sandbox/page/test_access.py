"""Access control of the page, tested without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import requests

from mr_celery.sandbox import Sandbox, create_app
from mr_celery.sandbox.page import Logins
from support.login import pages_in

PAGES = (
    "/",
    "/ui",
    "/ui/jobs",
    "/ui/jobs/1",
    "/ui/jobs/1/result",
    "/ui/reviews",
    "/ui/workers",
    "/ui/faults",
    "/ui/live",
)
ACTIONS = (
    "/ui/dispatch",
    "/ui/jobs/1/abort",
    "/ui/jobs/1/requeue",
    "/ui/jobs/1/approve",
    "/ui/jobs/1/reject",
    "/ui/jobs/1/dispatch",
    "/ui/selected",
    "/ui/abort-all",
    "/ui/killswitch",
    "/ui/killswitch/clear",
    "/ui/workers/1/pause",
    "/ui/workers/1/resume",
    "/ui/reviews/1/approve",
    "/ui/reviews/1/reject",
    "/ui/faults/preset",
    "/ui/faults/rule",
    "/ui/faults/clear",
)


class Browser(requests.Session):
    """An HTTP client that behaves like a browser."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.trust_env = False
        self._base = sandbox.url
        self.pages = "/ui"
        self.headers["Accept"] = "text/html"

    def log_in(self, link: str) -> None:
        """Open a login link, and use the session's pages from now on."""
        answer = self.get(link)
        assert answer.status_code == 200
        self.pages = pages_in(answer.text)

    def request(self, method: str | bytes, url: str | bytes, *args: object, **options: object) -> requests.Response:
        assert isinstance(url, str)
        if url.startswith("/ui/"):
            url = self.pages + url.removeprefix("/ui")
        given = {"timeout": 30, **options, "allow_redirects": False}
        return super().request(method, url if "://" in url else self._base + url, *args, **given)  # type: ignore[arg-type]

    def act(self, path: str, **headers: str) -> requests.Response:
        """Send a form as the page does, with other headers if given."""
        return self.post(
            path, headers={"Origin": self._base, **headers}, data={"prompt": "x", "preset": "outage", "confirmed": "1"}
        )


@pytest.fixture
def stranger(sandbox: Sandbox) -> Iterator[Browser]:
    sandbox.dispatch("secret prompt", worker="w")
    sandbox.store.add_review({"type": "t", "title": "secret title", "content": "c"})
    with Browser(sandbox) as browser:
        yield browser


@pytest.fixture
def operator(sandbox: Sandbox, stranger: Browser) -> Browser:
    """A browser that is logged in."""
    stranger.log_in(sandbox.login_link())
    return stranger


def untouched(sandbox: Sandbox) -> bool:
    states = [job["status"] for job in sandbox.store.jobs()]
    return (states, sandbox.store.review(1)["status"], sandbox.chaos.rules) == (["pending"], "pending", [])


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_a_login(stranger: Browser, path: str) -> None:
    answer = stranger.get(path)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
    assert "secret" not in stranger.get(answer.headers["location"]).text
    answer = stranger.get(path, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.text) == (401, "log in first")


@pytest.mark.parametrize("path", ACTIONS)
def test_actions_need_a_login(stranger: Browser, sandbox: Sandbox, path: str) -> None:
    assert stranger.act(path).status_code == 401
    assert untouched(sandbox)


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_cross_site_actions_are_refused(
    operator: Browser, sandbox: Sandbox, path: str, headers: dict[str, str]
) -> None:
    assert operator.act(path, **headers).status_code == 403
    assert untouched(sandbox)


@pytest.mark.parametrize("path", ["/login", "/ui/logout"])
def test_cross_site_login_and_logout_are_refused(operator: Browser, sandbox: Sandbox, path: str) -> None:
    operator.post(path, data={"token": sandbox.token}, headers={"Origin": "http://evil.example"})
    assert operator.get("/ui/jobs").status_code == 200


@pytest.mark.parametrize("path", ACTIONS)
def test_get_requests_have_no_effect(operator: Browser, sandbox: Sandbox, path: str) -> None:
    assert operator.get(path).status_code in (404, 405)
    assert untouched(sandbox)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_unknown_host_names_are_refused(operator: Browser, sandbox: Sandbox, host: str) -> None:
    cookie = "; ".join(f"{each.name}={each.value}" for each in operator.cookies)
    for path in ("/login", "/ui/jobs"):
        answer = operator.get(path, headers={"Host": host, "Cookie": cookie})
        assert answer.status_code in (400, 403)
        assert "secret" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8765", "LOCALHOST", "x.localhost", "10.0.0.7:8765", "[::1]:8765"])
def test_local_names_and_ip_addresses_are_accepted(operator: Browser, host: str) -> None:
    assert operator.get("/login", headers={"Host": host}).status_code in (200, 303)


def test_login_link_works_once(sandbox: Sandbox, stranger: Browser) -> None:
    link = sandbox.login_link()
    assert stranger.head(link).status_code == 200
    assert stranger.get("/ui/jobs").status_code == 303, "a HEAD request does not log in"
    answer = stranger.get(link)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert sandbox.token not in cookie + answer.text
    assert link.rpartition("=")[2] not in cookie + answer.text
    stranger.pages = pages_in(answer.text)
    assert stranger.get("/ui/jobs").status_code == 200
    with Browser(sandbox) as late:
        assert "This link was already used" in late.get(link).text
        assert late.get("/ui/jobs").status_code == 303


def cookies_of(browser: Browser) -> str:
    return "; ".join(f"{each.name}={each.value}" for each in browser.cookies)


def test_a_cookie_is_only_for_a_path_that_no_other_server_knows(operator: Browser, sandbox: Sandbox) -> None:
    """Browsers send a cookie to all ports of its host, and another user may listen on one of them."""
    (cookie,) = operator.cookies
    assert cookie.path == operator.pages
    assert len(operator.pages) > len("/ui/~") + 20
    others = ("/", "/ui", "/ui/jobs", "/ui/~", f"{operator.pages}x/jobs", operator.pages[:-1])
    for path in others:
        request = requests.Request("GET", f"http://127.0.0.1:1{path}", cookies=operator.cookies).prepare()
        assert "cookie" not in request.headers
    for path in others[1:]:
        answer = requests.get(
            sandbox.url + path,
            headers={"Cookie": cookies_of(operator), "Accept": "text/html"},
            allow_redirects=False,
            timeout=30,
        )
        assert "secret prompt" not in answer.text
        assert answer.status_code in (303, 401, 404)


def test_the_secret_path_is_shown_to_nobody_else(operator: Browser, sandbox: Sandbox) -> None:
    secret = operator.pages.rpartition("~")[2]
    with Browser(sandbox) as other:
        for path in (*PAGES, "/login", "/view/nothing", "/ui/nothing", "/jobs/1", "/ui/static/page.js", "/ui/~x/jobs"):
            for method in ("GET", "POST"):
                answer = other.request(method, path, headers={"Origin": sandbox.url})
                assert secret not in answer.text + str(answer.headers)
        other.pages = operator.pages
        assert other.get("/ui/jobs").headers["location"] == "/login?next=/ui/jobs", "the path alone is no login"


def test_a_session_of_another_server_is_not_accepted(operator: Browser, sandbox: Sandbox) -> None:
    with Sandbox() as another, Browser(another) as browser:
        browser.log_in(another.login_link())
        assert {each.name for each in browser.cookies}.isdisjoint(each.name for each in operator.cookies)
        for pages in (operator.pages, browser.pages):
            answer = requests.get(
                f"{sandbox.url}{pages}/jobs", headers={"Cookie": cookies_of(browser)}, allow_redirects=False, timeout=30
            )
            assert answer.status_code == 401


def test_another_server_cannot_choose_the_session(stranger: Browser, sandbox: Sandbox) -> None:
    (name, chosen) = ("mr_celery_sandbox_8765", "chosen")
    answer = stranger.get(sandbox.login_link(), headers={"Cookie": f"{name}={chosen}"})
    assert chosen not in answer.headers["set-cookie"]
    stranger.pages = pages_in(answer.text)
    assert stranger.get("/ui/jobs").status_code == 200


def test_pages_of_an_earlier_process_lead_to_the_login(stranger: Browser) -> None:
    stranger.pages = "/ui/~of-an-earlier-process"
    assert stranger.get("/ui/jobs/1?q=a").headers["location"] == "/login?next=/ui/jobs/1%3Fq%3Da"


def test_redirects_stay_in_the_session(operator: Browser) -> None:
    assert operator.act("/ui/jobs/1/abort").headers["location"] == f"{operator.pages}/jobs/1"
    back = operator.act("/ui/jobs/1/requeue", Referer=f"{operator._base}{operator.pages}/jobs/1?q=a%20b")
    assert back.headers["location"] == f"{operator.pages}/jobs/1?q=a%20b"


def test_logout_ends_the_session(operator: Browser) -> None:
    cookie = "; ".join(f"{each.name}={each.value}" for each in operator.cookies)
    assert operator.act("/ui/logout").status_code == 303
    assert operator.get("/ui/jobs", headers={"Cookie": cookie}).status_code == 303


@pytest.mark.parametrize("given", ["", "wrong", "é\ud83d"])
def test_wrong_token_is_refused(sandbox: Sandbox, stranger: Browser, given: str) -> None:
    data = {"token": given.encode("utf-8", "replace")}
    answer = stranger.post("/login", data=data, headers={"Origin": sandbox.url})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil", "javascript:x", "/login"])
def test_login_redirects_only_to_the_page(sandbox: Sandbox, stranger: Browser, target: str) -> None:
    data = {"token": sandbox.token, "next": target}
    answer = stranger.post("/login", data=data, headers={"Origin": sandbox.url})
    assert f'0;url={pages_in(answer.text)}/jobs"' in answer.text
    assert 'name="next" value="/ui/jobs"' in stranger.get("/login", params={"next": target}).text


def test_answers_have_security_headers(operator: Browser, sandbox: Sandbox) -> None:
    nonces = set()
    for path in ("/ui/jobs", "/ui/jobs/1", "/ui/jobs/9", "/ui/nothing"):
        headers = operator.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        nonces.add(re.search("nonce-([^']+)", policy)[1])  # type: ignore[index]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert len(nonces) == 4, "each answer has a new nonce"
    for path in ("/ui/static/page.js", "/ui/jobs/1/result"):
        assert operator.get(path).headers["x-content-type-options"] == "nosniff"
    assert operator.get("/ui/static/../app.py").status_code == 404
    assert operator.get("/ui/static/%2e%2e/app.py").status_code == 404


def test_authorization_header_selects_the_protocol(sandbox: Sandbox, operator: Browser) -> None:
    for path in PAGES:
        answer = operator.get(path, headers={"Authorization": f"Bearer {sandbox.token}"})
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    assert operator.get("/jobs").status_code == 401, "the protocol does not accept the cookie"
    assert operator.post("/abort-all", headers={"Origin": sandbox.url}).status_code == 401
    assert untouched(sandbox)


def test_error_messages(operator: Browser, sandbox: Sandbox) -> None:
    for path, status, message in (
        ("/ui/jobs/9", 404, "There is no job 9."),
        ("/ui/jobs/x", 404, "There is no job &#39;x&#39;."),
        ("/ui/none", 404, "There is no such page."),
        ("/ui/jobs?copy=x", 400, "Copy must be a whole number."),
    ):
        answer = operator.get(path)
        assert (answer.status_code, message in answer.text) == (status, True)
        assert 'aria-label="Pages"' in answer.text, "it is in the page's frame"
        assert f'<a class="button" href="{operator.pages}/jobs">Back to the jobs</a>' in answer.text
    assert "Cannot requeue a job that is pending." in operator.act("/ui/jobs/1/requeue").text
    answer = operator.act("/ui/jobs/1/requeue", Accept="application/json")
    assert (answer.status_code, answer.json()) == (409, {"error": "cannot requeue a job that is pending"})
    answer = operator.act("/ui/dispatch", Accept="application/json")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "no worker is present: start one, or set 'worker'"},
    )


def test_refused_forms_are_answered_with_a_page_and_a_way_back(operator: Browser, sandbox: Sandbox) -> None:
    for status, message, headers in (
        (403, "A request from another site was refused.", {"Origin": "http://evil.example"}),
        (403, "Use localhost or an IP address", {"Host": "evil.example"}),
    ):
        answer = operator.act("/ui/jobs/1/abort", **headers)
        assert (answer.status_code, message in answer.text) == (status, True)
        assert "Open the page</a>" in answer.text
        assert "secret" not in answer.text
    operator.cookies.clear()
    answer = operator.act("/ui/jobs/1/abort")
    assert (answer.status_code, "The session has ended: log in, and send the form again." in answer.text) == (401, True)
    assert "aria-label" not in answer.text, "nothing of the page is shown without a login"
    assert untouched(sandbox)


def test_selected_jobs_are_asked_about_first(operator: Browser, sandbox: Sandbox) -> None:
    def send(**fields: str) -> requests.Response:
        headers = {"Origin": sandbox.url, "Accept": "application/json"}
        return operator.post("/ui/selected", headers=headers, data=fields)

    asked = {"question": "Abort job 1?", "details": "1 pending", "button": "Abort job 1", "danger": True}
    assert send(act="abort", job="1").json() == asked
    assert send(act="abort", all="1", q="secret").json() == asked
    assert send(act="abort", all="1", q="nothing").json() == {"error": "no job is selected"}
    assert send(act="abort", job="x").status_code == 400
    assert send(act="dance", job="1").status_code == 400
    assert untouched(sandbox)
    assert send(act="abort", job="1", confirmed="1").json() == {"message": "1 aborted", "link": None}


def test_server_error_is_shown_without_details(operator: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("mr_celery.sandbox.page.queries.jobs", broken)
    answer = operator.get("/ui/jobs")
    assert answer.status_code == 500
    assert "see the traceback in the sandbox&#39;s log" in answer.text
    assert "secret detail" not in answer.text


def test_oldest_session_ends_beyond_the_limit() -> None:
    logins = Logins()
    sessions = [logins.open() for _ in range(1001)]
    assert [logins.knows(each) for each in (sessions[0], sessions[1], sessions[-1])] == [False, True, True]
    assert not logins.knows(None)


def test_create_app_with_hosts(sandbox: Sandbox) -> None:
    assert create_app(sandbox.store, "t", hosts=["devbox"])
