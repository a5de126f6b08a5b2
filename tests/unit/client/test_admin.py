"""The request that registers a worker."""

from __future__ import annotations

import logging

import pytest
import requests_mock

from mr_celery.client import REGISTER, register, registration
from mr_celery.errors import WorkerError

TOKEN = "admin-secret-token"
BASE = "https://mr.example/base"
BODY = registration("render-1", "renders", {"image.generate": "audit", "text.new": "auto"})


def test_the_request_is_the_documented_one(requests_mock: requests_mock.Mocker) -> None:
    requests_mock.post(BASE + REGISTER, json={"view_url": "https://mr.example/view/x"})
    assert register(BASE, TOKEN, BODY) == "https://mr.example/view/x"
    sent = requests_mock.last_request
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
def test_a_view_url_may_be_a_path(requests_mock: requests_mock.Mocker, given: str, opened: str) -> None:
    requests_mock.post(BASE + REGISTER, json={"view_url": given})
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
        {"view_url": "http://[/"},
    ],
)
def test_an_answer_without_a_view_url_is_none(requests_mock: requests_mock.Mocker, answer: object) -> None:
    requests_mock.post(BASE + REGISTER, json=answer)
    with pytest.raises(WorkerError, match="no view_url that can be opened"):
        register(BASE, TOKEN, BODY)


@pytest.mark.parametrize("token", ["", "  ", "a\x00b"])
def test_a_token_that_is_none_is_called_the_admin_token(token: str) -> None:
    with pytest.raises(WorkerError, match=r"^the admin token "):
        register(BASE, token, BODY)


def test_that_it_travels_in_clear_is_said_of_the_admin_token(
    requests_mock: requests_mock.Mocker, caplog: pytest.LogCaptureFixture
) -> None:
    requests_mock.post("http://in-clear.example" + REGISTER, json={"view_url": "/v"})
    with caplog.at_level(logging.WARNING, "mr_celery"):
        register("http://in-clear.example", TOKEN, BODY)
    assert "the admin token travels in clear" in caplog.text
    assert TOKEN not in caplog.text
