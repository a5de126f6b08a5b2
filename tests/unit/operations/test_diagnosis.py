"""The likely cause of a failed connection."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from mr_celery.errors import WorkerError
from mr_celery.operations import diagnosis
from mr_celery.operations.diagnosis import (
    clock_difference,
    clock_shown,
    missing_for_http,
    missing_for_page,
    request_shown,
    server_hint,
    tls_hint,
    tracing_without_extra,
)
from mr_celery.settings import Settings


@pytest.mark.parametrize(
    ("url", "speaks", "hint"),
    [
        ("https://mr.example", False, "does not speak TLS: write http:// instead of https://"),
        ("http://mr.example", True, "speaks TLS: write https:// instead of http://"),
        ("rediss://mr.example", False, "write redis://"),
        ("redis://mr.example/0", True, "write rediss://"),
        ("amqp://mr.example//", True, "write amqps://"),
        ("https://mr.example", True, ""),
        ("http://mr.example", None, ""),
        ("memory://", True, ""),
        ("http://mr.example:port", True, ""),
    ],
)
def test_tls_on_the_wrong_port(monkeypatch: pytest.MonkeyPatch, url: str, speaks: bool | None, hint: str) -> None:
    monkeypatch.setattr(diagnosis, "speaks_tls", lambda host, port: speaks)
    found = tls_hint(url)
    assert hint in found
    assert bool(found) == bool(hint)


@pytest.mark.parametrize(
    ("url", "status", "hint"),
    [
        ("https://mr.example", 401, "is MODELREINS_TOKEN the token of 'painter'"),
        ("https://mr.example", 403, "without quotes and without 'Bearer'"),
        ("https://mr.example/api", 404, "is the path /api in MODELREINS_URL right?"),
        ("https://mr.example", 404, "the address of a ModelReins server?"),
        ("https://mr.example", None, "does this host reach it"),
    ],
)
def test_hints_about_the_server(monkeypatch: pytest.MonkeyPatch, url: str, status: int | None, hint: str) -> None:
    monkeypatch.setattr(diagnosis, "speaks_tls", lambda host, port: None)
    assert hint in server_hint(WorkerError("GET /my-jobs -> …", status=status), Settings(url=url, name="painter"))


def test_a_request_is_shown_with_its_whole_address() -> None:
    error = WorkerError("GET /my-jobs?worker=w -> 502: <html>\n  <body>" + "x" * 500, status=502)
    shown = request_shown(error, "https://mr.example/base")
    assert shown.startswith("GET https://mr.example/base/my-jobs?worker=w -> 502: <html> <body>x")
    assert len(shown) == 400
    assert request_shown(WorkerError("the worker's token is empty"), "http://x") == "the worker's token is empty"


def test_the_difference_of_the_clocks() -> None:
    difference = clock_difference(formatdate(time.time() - 100, usegmt=True))
    assert difference is not None
    assert 98 < difference < 103
    assert clock_difference("") is None
    assert clock_difference("yesterday") is None


@pytest.mark.parametrize(("ahead", "shown"), [(90.0, "2 min ahead of"), (-0.004, "4 ms behind"), (0.0, "0 ms behind")])
def test_the_difference_of_the_clocks_in_words(ahead: float, shown: str) -> None:
    assert clock_shown(ahead, "the server's") == f"this host's clock is {shown} the server's"


def test_requested_tracing_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tracing_without_extra(asked) == "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert tracing_without_extra({}) == ""
    assert tracing_without_extra({**asked, "OTEL_SDK_DISABLED": "true"}) == ""
    assert tracing_without_extra({**asked, "OTEL_TRACES_EXPORTER": "none"}) == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert tracing_without_extra(asked) == ""


@pytest.mark.parametrize("missing", ["", "prometheus_client", "starlette", "uvicorn", "jinja2"])
def test_a_package_that_the_pages_need_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert missing_for_http() == missing.replace("_", "-").replace("jinja2", "")
    assert missing_for_page() == missing.replace("_", "-")
