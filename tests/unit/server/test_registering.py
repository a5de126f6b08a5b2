"""The request that registers a worker."""

from __future__ import annotations

import logging

import pytest

from mr_celery.errors import WorkerError
from mr_celery.server import REGISTER, register, registration
from support.mocked_http import MockedHttp

TOKEN = "admin-secret-token"
BASE = "https://mr.example/base"
BODY = registration("render-1", "renders", {"image.generate": "audit", "text.new": "auto"})


def test_the_request_is_the_documented_one(mocked_http: MockedHttp) -> None:
    mocked_http.post(BASE + REGISTER, json={"view_url": "https://mr.example/view/x"})
    assert register(BASE, TOKEN, BODY) == "https://mr.example/view/x"
    sent = mocked_http.last_request
    assert sent is not None
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.json() == {
        "name": "render-1",
        "description": "renders",
        "capabilities": [
            {"name": "image.generate", "risk_tier": "audit"},
            {"name": "text.new", "risk_tier": "auto"},
        ],
    }


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ("https://else.example/view/x?y=1#z", "https://else.example/view/x?y=1#z"),
        ("//else.example/view/x", "https://else.example/view/x"),
        ("/view/x", f"{BASE}/view/x"),
        ("view/x?y=1", f"{BASE}/view/x?y=1"),
    ],
)
def test_a_view_url_may_be_a_path(mocked_http: MockedHttp, given: str, opened: str) -> None:
    mocked_http.post(BASE + REGISTER, json={"view_url": given})
    assert register(BASE, TOKEN, BODY) == opened


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"view_url": None},
        {"view_url": 7},
        {"view_url": ""},
        {"view_url": "javascript:alert(1)"},
        {"view_url": "https://"},
        {"view_url": "/view/\x1b[2J"},
        {"view_url": "https://mr.example/view/\u202egpj.exe"},
        {"view_url": "https://mr.\u009b2Jexample/view"},
        {"view_url": "/view/\u2066x"},
        {"view_url": "http://[/"},
    ],
)
def test_an_answer_without_a_view_url_is_none(mocked_http: MockedHttp, answer: object) -> None:
    mocked_http.post(BASE + REGISTER, json=answer)
    with pytest.raises(WorkerError, match="no view_url that can be opened"):
        register(BASE, TOKEN, BODY)


@pytest.mark.parametrize("token", ["", "  ", "a\x00b"])
def test_a_token_that_is_none_is_called_the_admin_token(token: str) -> None:
    with pytest.raises(WorkerError, match=r"^the admin token "):
        register(BASE, token, BODY)


def test_an_unencrypted_admin_token_is_logged(mocked_http: MockedHttp, caplog: pytest.LogCaptureFixture) -> None:
    mocked_http.post("http://in-clear.example" + REGISTER, json={"view_url": "/v"})
    with caplog.at_level(logging.WARNING, "mr_celery"):
        register("http://in-clear.example", TOKEN, BODY)
    assert "the admin token is sent unencrypted" in caplog.text
    assert TOKEN not in caplog.text
