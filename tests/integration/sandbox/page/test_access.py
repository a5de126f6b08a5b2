"""Who may see and use the page, asked without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import requests

from mr_celery.sandbox import Sandbox, create_app
from mr_celery.sandbox.page import Logins

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
    "/ui/abort-all",
    "/ui/reviews/1/approve",
    "/ui/reviews/1/reject",
    "/ui/faults/preset",
    "/ui/faults/rule",
    "/ui/faults/clear",
)


class Browser(requests.Session):
    """What a browser is for a server."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.trust_env = False
        self._base = sandbox.url
        self.headers["Accept"] = "text/html"

    def request(self, method: str | bytes, url: str | bytes, *args: object, **options: object) -> requests.Response:
        assert isinstance(url, str)
        given = {"timeout": 30, **options, "allow_redirects": False}
        return super().request(method, url if "://" in url else self._base + url, *args, **given)  # type: ignore[arg-type]

    def act(self, path: str, **headers: str) -> requests.Response:
        """A form that was sent from the page itself, but for the headers."""
        return self.post(path, headers={"Origin": self._base, **headers}, data={"prompt": "x", "preset": "outage"})


@pytest.fixture
def stranger(sandbox: Sandbox) -> Iterator[Browser]:
    sandbox.dispatch("secret prompt", worker="w")
    sandbox.store.add_review({"type": "t", "title": "secret title", "content": "c"})
    with Browser(sandbox) as browser:
        yield browser


@pytest.fixture
def operator(sandbox: Sandbox, stranger: Browser) -> Browser:
    """Somebody who has opened the link."""
    assert stranger.get(sandbox.login_link()).status_code == 200
    return stranger


def untouched(sandbox: Sandbox) -> bool:
    states = [job["status"] for job in sandbox.store.jobs()]
    return (states, sandbox.store.review(1)["status"], sandbox.chaos.rules) == (["pending"], "pending", [])


@pytest.mark.parametrize("path", PAGES)
def test_who_is_not_logged_in_sees_nothing(stranger: Browser, path: str) -> None:
    answer = stranger.get(path)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
    assert "secret" not in stranger.get(answer.headers["location"]).text
    answer = stranger.get(path, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.text) == (401, "log in first")


@pytest.mark.parametrize("path", ACTIONS)
def test_who_is_not_logged_in_does_nothing(stranger: Browser, sandbox: Sandbox, path: str) -> None:
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
def test_another_site_does_nothing_with_the_cookie(
    operator: Browser, sandbox: Sandbox, path: str, headers: dict[str, str]
) -> None:
    assert operator.act(path, **headers).status_code == 403
    assert untouched(sandbox)


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_site_does_not_log_in_or_out(operator: Browser, sandbox: Sandbox, path: str) -> None:
    operator.post(path, data={"token": sandbox.token}, headers={"Origin": "http://evil.example"})
    assert operator.get("/ui/jobs").status_code == 200


@pytest.mark.parametrize("path", ACTIONS)
def test_nothing_is_done_by_looking(operator: Browser, sandbox: Sandbox, path: str) -> None:
    assert operator.get(path).status_code in (404, 405)
    assert untouched(sandbox)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_name_that_was_pointed_here_is_refused(operator: Browser, sandbox: Sandbox, host: str) -> None:
    cookie = "; ".join(f"{each.name}={each.value}" for each in operator.cookies)
    for path in ("/login", "/ui/jobs"):
        answer = operator.get(path, headers={"Host": host, "Cookie": cookie})
        assert answer.status_code in (400, 403)
        assert "secret" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8765", "LOCALHOST", "x.localhost", "10.0.0.7:8765", "[::1]:8765"])
def test_local_names_and_addresses_are_served(operator: Browser, host: str) -> None:
    assert operator.get("/login", headers={"Host": host}).status_code in (200, 303)


def test_the_link_logs_in_once(sandbox: Sandbox, stranger: Browser) -> None:
    link = sandbox.login_link()
    assert stranger.head(link).status_code == 200
    assert stranger.get("/ui/jobs").status_code == 303, "a HEAD request does not log in"
    answer = stranger.get(link)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert sandbox.token not in cookie + answer.text
    assert link.rpartition("=")[2] not in cookie + answer.text
    assert stranger.get("/ui/jobs").status_code == 200
    with Browser(sandbox) as late:
        assert "This link was used before" in late.get(link).text
        assert late.get("/ui/jobs").status_code == 303


def test_logging_out_ends_the_session_and_not_only_the_cookie(operator: Browser) -> None:
    cookie = "; ".join(f"{each.name}={each.value}" for each in operator.cookies)
    assert operator.act("/logout").status_code == 303
    assert operator.get("/ui/jobs", headers={"Cookie": cookie}).status_code == 303


@pytest.mark.parametrize("given", ["", "wrong", "é\ud83d"])
def test_a_wrong_token_does_not_log_in(sandbox: Sandbox, stranger: Browser, given: str) -> None:
    data = {"token": given.encode("utf-8", "replace")}
    answer = stranger.post("/login", data=data, headers={"Origin": sandbox.url})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("goes_to", ["//evil.example", "https://evil.example", "/\\evil", "javascript:x", "/logout"])
def test_the_login_leads_only_into_the_page(sandbox: Sandbox, stranger: Browser, goes_to: str) -> None:
    data = {"token": sandbox.token, "next": goes_to}
    answer = stranger.post("/login", data=data, headers={"Origin": sandbox.url})
    assert '0;url=/ui/jobs"' in answer.text
    assert stranger.get("/login", params={"next": goes_to}).headers["location"] == "/ui/jobs"


def test_every_answer_has_the_policy(operator: Browser, sandbox: Sandbox) -> None:
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
    assert len(nonces) == 4, "a new one each time"
    for path in ("/ui/static/page.js", "/ui/jobs/1/result"):
        assert operator.get(path).headers["x-content-type-options"] == "nosniff"
    assert operator.get("/ui/static/../app.py").status_code == 404
    assert operator.get("/ui/static/%2e%2e/app.py").status_code == 404


def test_with_the_token_in_a_header_the_paths_are_the_protocols(sandbox: Sandbox, operator: Browser) -> None:
    for path in PAGES:
        answer = operator.get(path, headers={"Authorization": f"Bearer {sandbox.token}"})
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    assert operator.get("/jobs").status_code == 401, "the cookie is the page's"
    assert operator.post("/abort-all", headers={"Origin": sandbox.url}).status_code == 401
    assert untouched(sandbox)


def test_errors_name_what_is_wrong(operator: Browser, sandbox: Sandbox) -> None:
    assert "there is no job 9" in operator.get("/ui/jobs/9").text
    assert "there is no job &#39;x&#39;" in operator.get("/ui/jobs/x").text
    assert operator.get("/ui/jobs?copy=x").status_code == 400
    assert "cannot requeue a job that is pending" in operator.act("/ui/jobs/1/requeue").text
    answer = operator.act("/ui/jobs/1/requeue", Accept="application/json")
    assert (answer.status_code, answer.json()) == (409, {"error": "cannot requeue a job that is pending"})
    answer = operator.act("/ui/dispatch", Accept="application/json")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "no worker is present: start one, or name one with 'worker'"},
    )


def test_a_broken_page_says_so(operator: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("mr_celery.sandbox.page.queries.jobs", broken)
    answer = operator.get("/ui/jobs")
    assert answer.status_code == 500
    assert "the sandbox&#39;s log has the traceback" in answer.text
    assert "secret detail" not in answer.text


def test_old_sessions_end_where_there_are_too_many() -> None:
    logins = Logins()
    sessions = [logins.open() for _ in range(1001)]
    assert [logins.knows(each) for each in (sessions[0], sessions[1], sessions[-1])] == [False, True, True]
    assert not logins.knows(None)


def test_the_application_alone_has_the_page(sandbox: Sandbox) -> None:
    assert create_app(sandbox.store, "t", hosts=["devbox"])
