"""Tokens of registered workers: shown once, valid for one name, and stored as a hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from mr_celery import Worker
from mr_celery.sandbox import Sandbox, ServerOptions


def registered(sandbox: Sandbox, name: str) -> str:
    """Register a worker, and return the URL that shows its token."""
    answer = requests.post(
        f"{sandbox.url}/api/v1/workers/register",
        json={"name": name, "capabilities": [{"name": "a.b", "risk_tier": "auto"}]},
        headers={"Authorization": f"Bearer {sandbox.token}"},
        timeout=30,
    )
    view_url: str = answer.json()["view_url"]
    return view_url


def opened(view_url: str) -> str:
    """Open the URL, and return the token."""
    answer = requests.get(view_url, timeout=30)
    assert answer.status_code == 200, answer.text
    match = re.search(r"MODELREINS_TOKEN=(\S+)</pre>", answer.text)
    assert match
    return match[1]


def status(sandbox: Sandbox, token: str, worker: str = "w") -> int:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{sandbox.url}/my-jobs?worker={worker}&status=pending"
    return requests.get(url, headers=headers, timeout=30).status_code


def test_token_is_valid_for_its_name_only(sandbox: Sandbox) -> None:
    token = opened(registered(sandbox, "w"))
    assert status(sandbox, token) == 200
    assert status(sandbox, token, "v") == 403
    assert status(sandbox, f"{token}x") == 401
    worker = Worker(name="w", url=sandbox.url, token=token)
    job_id = sandbox.dispatch("p", worker="w")["id"]
    worker.heartbeat()
    assert [job["id"] for job in worker.inbox()] == [job_id]
    headers = {"Authorization": f"Bearer {token}"}
    for method, path in (("POST", "/api/v1/workers/register"), ("GET", "/ui/jobs")):
        answer = requests.request(method, sandbox.url + path, json={"name": "x"}, headers=headers, timeout=30)
        assert answer.status_code in (403, 404)


def test_token_is_shown_once(sandbox: Sandbox) -> None:
    view_url = registered(sandbox, "w")
    assert requests.head(view_url, timeout=30).status_code == 405, "who only looks whether it exists does not use it up"
    token = opened(view_url)
    late = requests.get(view_url, timeout=30)
    assert late.status_code == 410
    assert "This token was already shown" in late.text
    assert token not in late.text
    assert late.headers["cache-control"] == "no-store"
    missing = requests.get(f"{sandbox.url}/view/nothing", timeout=30)
    assert missing.status_code == 404


def test_url_works_under_any_host_name(sandbox: Sandbox) -> None:
    answer = requests.get(registered(sandbox, "w"), headers={"Host": "sandbox:8765"}, timeout=30)
    assert "export MODELREINS_URL=http://sandbox:8765\n" in answer.text


def test_new_token_replaces_the_old_one_when_shown(sandbox: Sandbox) -> None:
    first = opened(registered(sandbox, "w"))
    again = registered(sandbox, "w")
    assert status(sandbox, first) == 200
    second = opened(again)
    assert [status(sandbox, token) for token in (first, second)] == [401, 200]


def test_token_survives_a_restart_and_is_not_in_the_file(tmp_path: Path) -> None:
    sandbox = Sandbox(db=str(tmp_path / "s.db"))
    with sandbox:
        view_url, token = registered(sandbox, "v"), opened(registered(sandbox, "w"))
    with sandbox:
        assert status(sandbox, token) == 200
        other = opened(view_url)
        assert status(sandbox, other, "v") == 200
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("s.db*") if path.is_file())
    for secret in (token, other, view_url.rpartition("/")[2]):
        assert secret.encode() not in kept


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "it's a name; rm -rf ~", "é\ud83d"])
def test_names_are_escaped(sandbox: Sandbox, name: str) -> None:
    text = requests.get(registered(sandbox, name), timeout=30).text
    assert "<script>alert" not in text
    assert "MODELREINS_NAME=w" not in text


def test_token_needs_the_bearer_scheme(sandbox: Sandbox) -> None:
    token = opened(registered(sandbox, "w"))
    answer = requests.get(f"{sandbox.url}/my-jobs?worker=w", headers={"Authorization": token}, timeout=30)
    assert answer.status_code == 401


def test_link_expires() -> None:
    with Sandbox(options=ServerOptions(link_seconds=60)) as sandbox:
        clock = sandbox.store.clock
        first, second = registered(sandbox, "w"), registered(sandbox, "w")
        sandbox.store.clock = lambda: clock() + 59
        token = opened(first)
        sandbox.store.clock = lambda: clock() + 61
        late = requests.get(second, timeout=30)
        assert late.status_code == 410
        assert "This link has expired" in late.text
        assert status(sandbox, token) == 200
