"""Clients of the sandbox that are not logged in, or are logged in and malicious."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from mr_celery.sandbox import Sandbox, body_limit
from mr_celery.sandbox.page import text
from support.login import log_in as opened
from support.ports import until

ATTEMPTS = 120


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(token="the-right-token") as sandbox:
        yield sandbox


def status(sandbox: Sandbox, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{sandbox.url}/my-jobs?worker=w", headers=headers, timeout=30).status_code


def log_in(sandbox: Sandbox, token: str) -> int:
    headers = {"Origin": sandbox.url}
    answer = requests.post(f"{sandbox.url}/login", data={"token": token}, headers=headers, timeout=30)
    return answer.status_code


def flood(attempt: str, sandbox: Sandbox) -> Counter[int]:
    """Try wrong tokens, keys or links from many threads. Returns the number of responses by status."""
    tries = {
        "token": lambda number: status(sandbox, f"wrong-{number}"),
        "password": lambda number: log_in(sandbox, f"wrong-{number}"),
        "link": lambda number: requests.get(f"{sandbox.url}/login?key=wrong-{number}", timeout=30).status_code,
        "view": lambda number: requests.get(f"{sandbox.url}/view/wrong-{number}", timeout=30).status_code,
    }
    with ThreadPoolExecutor(60) as pool:
        return Counter(pool.map(tries[attempt], range(ATTEMPTS)))


@pytest.mark.parametrize(("attempt", "refused"), [("token", 401), ("password", 403), ("link", 200), ("view", 404)])
def test_many_wrong_attempts_are_refused(sandbox: Sandbox, attempt: str, refused: int) -> None:
    found = flood(attempt, sandbox)
    assert set(found) == {refused, 429}
    assert found[429] > ATTEMPTS / 3


def test_right_tokens_and_links_are_not_locked_out(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, "token", sandbox)
        right = Counter()
        while not flooding.done():
            right[status(sandbox, "the-right-token")] += 1
        assert flooding.result()[429]
        assert log_in(sandbox, "the-right-token") == 200
        assert requests.get(sandbox.login_link(), timeout=30).cookies
    assert set(right) == {200}


def test_a_request_without_a_token_is_no_attempt(sandbox: Sandbox) -> None:
    answers = Counter(requests.get(f"{sandbox.url}/jobs", timeout=30).status_code for _ in range(100))
    assert answers == {401: 100}


def test_large_bodies_are_refused_before_they_are_kept(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "JSON_BYTES", 1000)
    monkeypatch.setattr(body_limit, "UPLOAD_BYTES", 1000)
    right = {"Authorization": "Bearer the-right-token"}
    origin = {"Origin": sandbox.url}
    large = b"token=" + b"x" * 20_000
    form = {**origin, "Content-Type": "application/x-www-form-urlencoded"}
    assert requests.post(f"{sandbox.url}/login", data=large, headers=form, timeout=30).status_code == 413
    assert requests.post(f"{sandbox.url}/login", data=iter([large]), headers=form, timeout=30).status_code == 413
    for path, body in (("/dispatch", b"{}" + b" " * 1000), ("/review", b" " * 2000)):
        for data in (body, iter([body])):
            answer = requests.post(sandbox.url + path, data=data, headers=right, timeout=30)
            assert (answer.status_code, answer.json()) == (413, {"error": "the body is larger than 1000 bytes"})
    files = {"file": ("a", b"x" * 2000)}
    upload = f"{sandbox.url}/artifacts/upload"
    assert requests.post(upload, files=files, headers=right, timeout=30).status_code == 413
    wrong = {"Authorization": "Bearer wrong"}
    assert requests.post(upload, files=files, headers=wrong, timeout=30).status_code == 401
    assert requests.post(f"{sandbox.url}/dispatch", json={"prompt": "x", "worker": "w"}, headers=right, timeout=30).ok


def test_rendering_does_not_delay_other_requests(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.dispatch("x", worker="w")
    sandbox.store.claim(1, "w")
    sandbox.store.close_job(1, "**bold** and slow", "done")
    entered, leave = threading.Event(), threading.Event()
    render = text.markdown

    def slow(source: str, _: float) -> str:
        entered.set()
        leave.wait(30)
        return render(source)  # the deadline may be over

    monkeypatch.setattr(text, "markdown", slow)
    with requests.Session() as session, ThreadPoolExecutor(1) as pool:
        pages = opened(session, sandbox.login_link())
        page = pool.submit(session.get, f"{pages}/jobs/1", timeout=60)
        until(entered.is_set)
        assert status(sandbox, "the-right-token") == 200
        assert not page.done()
        leave.set()
        assert "<strong>bold</strong>" in page.result().text
