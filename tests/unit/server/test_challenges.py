"""HTML pages instead of JSON: challenges of bot protection, and pages of proxies."""

from __future__ import annotations

import pytest

from mr_celery.bridge.state import Facts, states
from mr_celery.errors import WorkerError
from mr_celery.ledger import BridgeProcess, Trouble
from mr_celery.operations.diagnosis import server_hint
from mr_celery.server.failures import CHALLENGE, HTML_REFUSAL
from mr_celery.server.list_parser import NOT_JSON
from mr_celery.server.transport import Transport
from mr_celery.settings import Settings
from support.mocked_http import MockedHttp

URL = "https://mr.example"
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = "<!DOCTYPE html><html><title>Just a moment…</title><p>Checking your browser before you proceed.</p></html>"


@pytest.mark.parametrize(
    ("status", "text", "headers", "fault", "challenge"),
    [
        (403, PAGE, HTML, CHALLENGE, True),
        (200, PAGE, HTML, CHALLENGE, True),
        (429, "<html>Solve the CAPTCHA</html>", HTML, CHALLENGE, True),
        (503, "\n<html>Please verify you are human</html>", {}, CHALLENGE, True),
        (403, "<html>Your IP has been temporarily banned</html>", HTML, CHALLENGE, True),
        (403, "<html><h1>403 Forbidden</h1><hr>nginx</html>", HTML, HTML_REFUSAL, False),
        (502, "<html><h1>502 Bad Gateway</h1></html>", HTML, "", False),
        (404, PAGE, HTML, "", False),
        (401, '{"error": "unauthorized"}', {"Content-Type": "application/json"}, "", False),
        (401, '{"error": "solve the challenge"}', {"Content-Type": "application/json"}, "", False),
        (200, "<html>Welcome</html>", HTML, NOT_JSON, False),
    ],
)
def test_is_recognised_and_named(
    mocked_http: MockedHttp, status: int, text: str, headers: dict[str, str], fault: str, challenge: bool
) -> None:
    mocked_http.get(URL + "/x", status_code=status, text=text, headers=headers)
    with pytest.raises(WorkerError) as failed:
        Transport(URL, "token", "test/1").request("GET", "/x")
    assert (failed.value.fault, failed.value.challenge) == (fault, challenge)
    assert failed.value.unauthorized == (challenge or status in (401, 403))
    if challenge:
        assert failed.value.summary == f"GET /x -> {status}: {CHALLENGE}"
        assert "challenge page for people" in server_hint(failed.value, Settings())


def test_is_a_state_with_its_own_advice() -> None:
    trouble = Trouble(f"PUT /presence -> 403: {CHALLENGE}", 60.0)
    bridge = BridgeProcess("a", "a", "1", uptime=1.0, at=1000.0, answer_age=1.0, token=trouble)
    (state, *_) = states(Facts(now=1000.0, bridges=(bridge,), runnable=1, capacity=1))
    assert state.kind == "token_refused"
    assert CHALLENGE in state.text
    assert "ban" in state.advice
